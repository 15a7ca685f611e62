"""Which rows depend on each other."""

from __future__ import annotations

import networkx
import zoo
from builder import SIZE, Builder

from masktools.network.channels import channel_graph
from masktools.network.graph import Node
from masktools.network.onnx.reader import read_onnx


def tied(graph):
    """Return the connected components of more than one channel, largest first."""
    parts = networkx.connected_components(channel_graph(graph))
    return sorted((sorted(p) for p in parts if len(p) > 1), key=lambda p: (-len(p), p))


def test_a_skip_add_ties_channel_by_channel():
    b = Builder()
    x = b.conv("x", 4, layer="a")
    y = b.conv(b.act("Relu", x), 4, layer="b")
    graph = b.graph(b.conv(b.add_skip(x, y), 2, layer="c"))
    assert tied(graph) == [[("a", i), ("b", i)] for i in range(4)]
    assert set(channel_graph(graph)) >= {("x", 0), ("c", 1)}


def test_concatenation_moves_channels_and_ties_none():
    b = Builder()
    both = b.concat(b.conv("x", 2, layer="a"), b.conv("x", 3, layer="b"))
    assert tied(b.graph(both)) == []
    graph = b.graph(b.add_skip(both, b.conv("x", 5, layer="c")))
    assert tied(graph) == [
        [("a", 0), ("c", 0)], [("a", 1), ("c", 1)],
        [("b", 0), ("c", 2)], [("b", 1), ("c", 3)], [("b", 2), ("c", 4)],
    ]  # fmt: skip


def test_depthwise_convolutions_and_gates_pass_channels_on():
    b = Builder()
    x = b.conv("x", 3, layer="a")
    y = b.depthwise(b.act("HardSwish", x), layer="dw")
    pooled = b.add("GlobalAveragePool", [y], 3, 1)
    gate = b.act("Sigmoid", b.conv(pooled, 3, 1, layer="gate"))
    assert tied(b.graph(b.add_skip(y, gate, "Mul"))) == [
        [("a", i), ("dw", i), ("gate", i)] for i in range(3)
    ]


def test_other_convolutions_tie_nothing():
    b = Builder()
    grouped = b.conv(b.conv("x", 4, layer="a"), 4, groups=2, layer="g")
    assert tied(b.graph(b.fc(grouped, 3))) == []


def test_splits_and_slices_keep_track():
    b = Builder()
    x = b.conv("x", 6, layer="a")
    b.nodes.append(Node("split", "Split", (x,), ("u", "v"), {"axis": 1, "split": (2, 4)}))
    b.channels.update(u=2, v=4)
    b.size.update(u=SIZE, v=SIZE)
    part = b.add("Slice", ["v"], 2, axes=(1, 2), starts=(-2, 0), ends=(9, 6), steps=(1, 1))
    assert tied(b.graph(b.add_skip("u", part))) == [[("a", i), ("a", i + 4)] for i in (0, 1)]


def test_shared_weights_tie_the_layers_that_read_them():
    b = Builder(channels=3)
    x = b.conv("x", 3, layer="a")
    y = b.add("Conv", [x, "a.weight", "a.bias"], 3, **b.nodes[0].attributes)
    graph = b.graph(b.add_skip(y, b.conv("x", 3, layer="b")))
    assert tied(graph) == [[("a", i), ("b", i)] for i in range(3)]


def test_a_residual_network():
    graph = read_onnx(zoo.to_onnx(zoo.make("resnet18-cifar"), 16))
    parts = tied(graph)
    # Two blocks a stage, and the stem or the shortcut that joins them.
    assert {len(part) for part in parts} == {3}
    assert len(parts) == 64 + 128 + 256 + 512
    assert parts[0] == [("0.0", 0), ("1.body.1.0", 0), ("2.body.1.0", 0)]


def test_a_densely_connected_network_is_free():
    assert tied(read_onnx(zoo.to_onnx(zoo.make("densenet"), 16))) == []
