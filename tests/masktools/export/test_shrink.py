"""Shrinking: the network gets smaller and computes the same, at padded borders too."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from builder import SIZE, Builder
from hypothesis import given, settings
from hypothesis import strategies as st

from masktools import BlockLayout, DenseBlock
from masktools.checkpoint import Checkpoint
from masktools.export.exporting import assemble
from masktools.export.fold import fold
from masktools.export.shrink.shrink import shrink
from masktools.export.stored import Stored
from masktools.network.graph import Node
from masktools.network.layers import layers
from masktools.network.network import Network
from masktools.network.shapes import shapes_of
from runtime.backend import choose
from runtime.model import Model
from runtime.plan import plan


def stored(graph, dropped=(), layouts=(), residual=()):
    """Return the weights of every layer, some rows dropped: {layer: rows}."""
    dropped, layouts, residual = dict(dropped), dict(layouts), dict(residual)
    found = {}
    for name in layers(graph):
        weight = graph.constants[f"{name}.weight"].copy()
        weight[list(dropped.get(name, ()))] = 0
        layout = layouts.get(name)
        if layout is not None:
            keep = layout.to_mask() | residual.get(name, False)
            weight[~keep] = 0
        found[name] = Stored(weight, layout, residual.get(name))
    return found


def run(graph, weights, x):
    constants = dict(graph.constants)
    constants.update({f"{name}.weight": w.weight for name, w in weights.items()})
    used = {name for node in graph.nodes for name in node.inputs}
    constants = {name: array for name, array in constants.items() if name in used}
    checkpoint = dataclasses.replace(graph, constants=constants)
    model = Model(plan.build(Checkpoint(checkpoint)), choose("reference"))
    y = model(x)
    return y if isinstance(y, dict) else {graph.outputs[0].name: y}


def check(graph, weights):
    """Shrink, compare the outputs, and return what is left."""
    x = np.random.default_rng(7).standard_normal((2, *graph.inputs[0].shape[1:])).astype("f4")
    before = run(graph, weights, x)
    small, left = shrink(Network.of(graph), weights)
    after = run(small, left, x)
    assert [v.name for v in small.outputs] == [v.name for v in graph.outputs]
    for name, y in before.items():
        assert after[name].shape == y.shape
        np.testing.assert_allclose(after[name], y, rtol=1e-4, atol=1e-5 * np.abs(y).max())
    for name, layer in left.items():
        if layer.layout is not None:
            layer.layout.check(full=True)
            outside = ~layer.kept()
            assert not layer.weight[outside].any(), name
    model = assemble(Network.of(graph), weights)  # As it is written, blocks and all.
    model.check()
    ready = Model(plan.build(model), choose("reference"))(x)
    ready = ready if isinstance(ready, dict) else {graph.outputs[0].name: ready}
    for name, y in before.items():
        np.testing.assert_allclose(ready[name], y, rtol=1e-4, atol=1e-5 * np.abs(y).max())
    return small, left


def shape(left, layer):
    return left[layer].weight.shape


def bias(graph, layer):
    node = next(n for n in graph.nodes if n.inputs[1:2] == (f"{layer}.weight",))
    return graph.constants[node.inputs[2]]


def test_zero_channels_go_with_the_columns_that_read_them():
    b = Builder()
    y = b.act("Relu", b.conv("x", 8, layer="a"))
    b.constants["a.bias"][[1, 4]] = -1
    graph = b.graph(b.conv(y, 5, layer="b"))
    _small, left = check(graph, stored(graph, {"a": [1, 4]}))
    assert shape(left, "a") == (6, 3, 3, 3)
    assert shape(left, "b") == (5, 6, 3, 3)


def test_other_constants_collapse_into_one_row_without_columns():
    b = Builder()
    y = b.act("Relu", b.conv("x", 8, layer="a"))
    b.constants["a.bias"][:] = np.abs(b.constants["a.bias"]) + 0.1
    graph = b.graph(b.conv(y, 5, layer="b"))
    small, left = check(graph, stored(graph, {"a": [1, 4, 6]}))
    assert shape(left, "a") == (6, 3, 3, 3)
    empty = ~left["a"].weight.any(axis=(1, 2, 3))
    assert empty.sum() == 1
    assert bias(small, "a")[empty] == 1


def test_without_padding_constants_move_into_the_bias():
    b = Builder()
    y = b.act("Relu", b.conv("x", 8, layer="a"))
    b.constants["a.bias"][:] = 0.7
    graph = b.graph(b.conv(y, 5, k=3, pad=0, layer="b", bias=False))
    small, left = check(graph, stored(graph, {"a": [1, 4, 6]}))
    assert shape(left, "b") == (5, 5, 3, 3)
    assert len(small.nodes[-1].inputs) == 3


def test_a_bias_of_one_is_not_used_where_the_activation_hides_it():
    b = Builder()
    y = b.act("Clip", b.conv("x", 8, layer="a"), max=-0.5)
    z = b.add("Add", [y, b.constant("half", 1)], 8)
    b.constants["half"][:] = 0.5
    b.constants["a.bias"][:] = -2.0
    graph = b.graph(b.conv(z, 5, layer="b"))
    small, left = check(graph, stored(graph, {"a": [1, 4]}))
    empty = ~left["a"].weight.any(axis=(1, 2, 3))
    assert empty.sum() == 1
    assert bias(small, "a")[empty] == -2


def test_a_skip_add_with_a_live_channel_keeps_it():
    b = Builder()
    first = b.act("Relu", b.conv("x", 6, layer="a"))
    total = b.add_skip(b.conv(first, 6, layer="b"), first)
    graph = b.graph(b.conv(b.act("Relu", total), 4, layer="c"))
    _, left = check(graph, stored(graph, {"a": [0, 1, 2], "b": [2, 3]}))
    assert shape(left, "a")[0] == shape(left, "b")[0] == shape(left, "c")[1]
    assert shape(left, "a")[0] in (5, 6)  # Channel 2 alone is constant on both sides.
    assert shape(left, "b")[1] == shape(left, "a")[0]


def test_concatenations_keep_their_order():
    b = Builder()
    parts = [b.act("Relu", b.conv("x", 4, layer=name)) for name in "abc"]
    for name in "abc":
        b.constants[f"{name}.bias"][:] = -1
    graph = b.graph(b.conv(b.concat(*parts), 4, layer="d"))
    _, left = check(graph, stored(graph, {"a": [0], "b": [1, 2], "c": [3]}))
    assert [shape(left, name)[0] for name in "abc"] == [3, 2, 3]
    assert shape(left, "d")[1] == 8


def test_a_branch_that_is_dropped_whole_leaves_one_channel():
    b = Builder()
    parts = [b.act("Relu", b.conv("x", 4, layer=name)) for name in "ab"]
    graph = b.graph(b.conv(b.concat(*parts), 4, layer="c"))
    _, left = check(graph, stored(graph, {"a": range(4)}))
    assert shape(left, "a")[0] == 1


def test_depthwise_convolutions_lose_groups():
    b = Builder()
    y = b.act("Relu", b.conv("x", 6, layer="a"))
    b.constants["a.bias"][[0, 3]] = -1
    z = b.act("Relu", b.depthwise(y, layer="dw"))
    graph = b.graph(b.conv(z, 4, 1, layer="c"))
    small, left = check(graph, stored(graph, {"a": [0, 3]}))
    assert shape(left, "dw") == (4, 1, 3, 3)
    assert [n.attributes["group"] for n in small.nodes if n.op == "Conv"] == [1, 4, 1]


def test_a_constant_that_padding_makes_uneven_stays():
    b = Builder()
    y = b.conv("x", 6, layer="a")
    graph = b.graph(b.conv(b.depthwise(y, layer="dw"), 4, 1, layer="c"))
    _, left = check(graph, stored(graph, {"a": [0, 3]}))
    assert shape(left, "dw")[0] == 6


def test_gates_pools_and_flattening_pass_channels_on():
    b = Builder()
    y = b.gate(b.act("Relu", b.conv("x", 6, layer="a")))
    pooled = b.add(
        "MaxPool", [y], 6, 3,
        kernel_shape=(2, 2), strides=(2, 2), dilations=(1, 1), pads=(0,) * 4, ceil_mode=0,
    )  # fmt: skip
    b.constants["a.bias"][[0, 3]] = -1
    graph = b.graph(b.fc(pooled, 5))
    _small, left = check(graph, stored(graph, {"a": [0, 3]}))
    assert shape(left, "a")[0] == 4
    assert shape(left, "fc") == (5, 4 * 9)


def test_splits_and_slices_are_cut():
    b = Builder()
    y = b.act("Relu", b.conv("x", 8, layer="a"))
    b.constants["a.bias"][[0, 1, 6]] = -1
    b.nodes.append(Node("split", "Split", (y,), ("u", "v"), {"axis": 1, "split": (3, 5)}))
    b.channels.update(u=3, v=5)
    b.size.update(u=SIZE, v=SIZE)
    part = b.add("Slice", ["v"], 3, axes=(1,), starts=(1,), ends=(4,), steps=(1,))
    graph = b.graph(b.conv(b.concat("u", part), 4, layer="c"))
    _small, left = check(graph, stored(graph, {"a": [0, 1, 6]}))
    assert shape(left, "a")[0] == 5 - 2  # Channels 3 and 7 are read by nobody.
    assert shape(left, "c")[1] == 3


def test_channels_in_another_order_are_cut():
    b = Builder()
    y = b.act("Relu", b.conv("x", 6, layer="a"))
    b.constants["a.bias"][[0, 3]] = -1
    graph = b.graph(b.conv(b.add("Gather", [y], 5, axis=1, indices=(5, 3, 1, 0, 5)), 4, layer="c"))
    small, left = check(graph, stored(graph, {"a": [0, 3]}))
    assert shape(left, "a")[0] == 2  # Nobody reads channels 2 and 4.
    assert shape(left, "c")[1] == 3
    assert [n.attributes["indices"] for n in small.nodes if n.op == "Gather"] == [(1, 0, 1)]


def test_a_layer_whose_weights_two_nodes_share_is_left_alone():
    b = Builder(channels=4)
    y = b.conv("x", 4, layer="a")
    z = b.add("Conv", [b.act("Relu", y), "a.weight", "a.bias"], 4, **b.nodes[0].attributes)
    graph = b.graph(b.conv(z, 3, layer="c"))
    _small, left = check(graph, stored(graph, {"a": [1, 2]}))
    assert shape(left, "a") == (4, 4, 3, 3)


def test_outputs_keep_all_channels():
    b = Builder()
    y = b.conv("x", 6, layer="a")
    graph = b.graph(y, b.conv(b.act("Relu", y), 4, layer="b"))
    _, left = check(graph, stored(graph, {"a": [0, 1], "b": [2]}))
    assert shape(left, "a")[0] == 6
    assert shape(left, "b")[0] == 4


def test_rows_that_nobody_reads_go_and_with_them_what_they_read():
    b = Builder()
    y = b.act("Relu", b.conv("x", 6, layer="a"))
    z = b.act("Relu", b.conv(y, 5, layer="b"))
    graph = b.graph(b.conv(z, 4, layer="c"))
    weights = stored(graph)
    weights["c"].weight[:, [1, 2]] = 0
    weights["b"].weight[[0, 3, 4], 5] = 0  # Only rows that go read channel 5.
    _, left = check(graph, weights)
    assert shape(left, "b")[:2] == (3, 5)
    assert shape(left, "a")[0] == 5


@pytest.mark.parametrize("overlap", [False, True])
def test_blocks_and_residual_follow(overlap):
    b = Builder()
    y = b.act("Relu", b.conv("x", 8, layer="a"))
    b.constants["a.bias"][:] = np.linspace(-1, 1, 8)
    graph = b.graph(b.conv(y, 6, layer="b"))
    blocks = [DenseBlock([0, 1, 4], range(0, 72, 2)), DenseBlock([2, 3], range(1, 50))]
    if overlap:
        blocks[1] = DenseBlock([1, 2], range(1, 49, 2))
    layout = BlockLayout((6, 8, 3, 3), blocks)
    residual = np.zeros((6, 72), np.bool_)
    residual[5, [3, 30, 60, 71]] = True
    weights = stored(graph, {"a": [1, 2, 5, 6]}, {"b": layout}, {"b": residual.reshape(6, 8, 3, 3)})
    _, left = check(graph, weights)
    assert shape(left, "b")[1] == 5
    assert left["b"].layout is not None
    assert left["b"].residual is not None


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2"])
def test_reductions_over_the_image_pass_channels_on_and_others_stop_them(op):
    b = Builder()
    y = b.act("Relu", b.conv("x", 6, layer="a"))
    b.constants["a.bias"][[0, 3]] = -1
    graph = b.graph(b.conv(b.add(op, [y], 6, 1, axes=(2, 3), keepdims=1), 4, 1, layer="c"))
    _, left = check(graph, stored(graph, {"a": [0, 3]}))
    assert shape(left, "a")[0] == 4
    b = Builder()
    y = b.act("Relu", b.conv("x", 6, layer="a"))
    b.constants["a.bias"][[0, 3]] = -1
    graph = b.graph(b.conv(b.add(op, [y], 1, axes=(1,), keepdims=1), 4, layer="c"))
    _, left = check(graph, stored(graph, {"a": [0, 3]}))
    assert shape(left, "a")[0] == 6


@pytest.mark.parametrize("apart", [False, True])
def test_channels_that_are_matrices_or_rows_pass_through_a_product(apart):
    """(N, C, H, W) by (N, C, W, H): a matrix each. (N, C, HW) by (N, HW, C): a row each."""
    b = Builder()
    y = b.act("Relu", b.conv("x", 6, layer="a"))
    b.constants["a.bias"][[0, 3]] = -1
    if apart:
        product = b.add("MatMul", [y, b.add("Transpose", [y], 6, perm=(0, 1, 3, 2))], 6)
    else:
        flat = b.add("Reshape", [y], 6, shape=(0, 6, 36))
        other = b.act("Relu", b.conv("x", 5, layer="b"))
        b.constants["b.bias"][2] = -1
        columns = b.add("Reshape", [other], 5, shape=(0, 5, 36))
        turned = b.add("Transpose", [columns], 36, perm=(0, 2, 1))
        product = b.add("MatMul", [flat, turned], 6)
        product = b.add("Unsqueeze", [product], 6, axes=(3,))
    graph = b.graph(b.conv(product, 4, 1, layer="c"))
    dropped = {"a": [0, 3]} if apart else {"a": [0, 3], "b": [2]}
    _, left = check(graph, stored(graph, dropped))
    assert shape(left, "a")[0] == shape(left, "c")[1] == 4
    assert apart or shape(left, "b")[0] == 5  # The product sums over nothing that may go.


@pytest.mark.parametrize(("axis", "rows"), [(1, 6), (2, 4), (3, 4)])
def test_normalisations_of_the_image_pass_channels_on_and_others_stop_them(axis, rows):
    b = Builder()
    y = b.act("Relu", b.conv("x", 6, layer="a"))
    b.constants["a.bias"][[0, 3]] = -1
    y = b.add("LayerNormalization", [y], 6, axis=axis, epsilon=0.5)
    graph = b.graph(b.conv(y, 4, layer="c"))
    _, left = check(graph, stored(graph, {"a": [0, 3]}))
    assert shape(left, "a")[0] == rows


def test_nothing_to_do_changes_nothing():
    b = Builder()
    graph = b.graph(b.conv(b.act("Relu", b.conv("x", 6)), 4))
    weights = stored(graph)
    small, left = shrink(Network.of(graph), weights)
    assert small is graph
    assert all(left[name] is weights[name] for name in weights)


ACTIVATIONS = (
    ("Relu", {}), ("Sigmoid", {}), ("HardSwish", {}), ("Softplus", {}), ("Identity", {}),
    ("Clip", {"min": 0.2, "max": 0.6}), ("LeakyRelu", {"alpha": 0.25}),
    ("HardSigmoid", {"alpha": 0.2, "beta": 0.5}), ("Elu", {"alpha": 0.7}), ("Tanh", {}),
    ("Erf", {}), ("Gelu", {"approximate": "none"}), ("Gelu", {"approximate": "tanh"}),
    ("Swish", {"alpha": 1.5}), ("Mish", {}), ("ThresholdedRelu", {"alpha": 0.25}),
    ("Sin", {}), ("Cos", {}),
)  # fmt: skip


@st.composite
def networks(draw):
    """A random network of 4 to 14 operators, and which rows of each layer are dropped."""
    b = Builder(draw(st.integers(0, 1000)))
    alive = [draw(st.sampled_from([b.conv("x", 4), b.conv("x", 6, 1)]))]
    for _ in range(draw(st.integers(4, 14))):
        x = draw(st.sampled_from(alive))
        kind = draw(st.sampled_from(("conv", "act", "skip", "choice", "concat", "other", "one")))
        if kind == "conv":
            y = b.conv(x, draw(st.sampled_from((2, 4, 5))), draw(st.sampled_from((1, 3))))
        elif kind == "one":
            y = draw(st.sampled_from((b.depthwise, b.gate)))(x)
        elif kind == "act":
            op, attributes = draw(st.sampled_from(ACTIVATIONS))
            y = b.act(op, x, **attributes)
        elif kind == "skip":
            others = [t for t in alive if b.channels[t] == b.channels[x]]
            op = draw(st.sampled_from(("Add", "Sub", "Mul", "Max", "Min", "PRelu")))
            y = b.add_skip(x, draw(st.sampled_from(others)), op)
        elif kind == "choice":
            others = [t for t in alive if b.channels[t] == b.channels[x]]
            y = choice(b, x, draw(st.sampled_from(others)))
        elif kind == "concat":
            y = b.concat(x, draw(st.sampled_from(alive)))
        else:
            others = (
                average,
                maximum,
                scale,
                reduced,
                pad_and_crop,
                upsample,
                shuffle,
                middle,
                gathered,
                normalised,
                grouped,
            )
            y = draw(st.sampled_from(others))(b, x)
        alive.append(y)
    last = b.fc(alive[-1], 3) if draw(st.booleans()) else b.conv(alive[-1], 3)
    outputs = {last, *(draw(st.sampled_from(alive)) for _ in range(draw(st.integers(0, 1))))}
    graph = b.graph(*sorted(outputs))
    dropped = {
        name: [row for row in range(layer.shape[0]) if draw(st.booleans())]
        for name, layer in layers(graph).items()
    }
    return graph, dropped, draw(st.booleans())


def average(b, x):
    return b.add(
        "AveragePool", [x], b.channels[x],
        kernel_shape=(3, 3), strides=(1, 1), dilations=(1, 1), pads=(1,) * 4, ceil_mode=0,
        count_include_pad=1,
    )  # fmt: skip


def maximum(b, x):
    return b.add(
        "MaxPool", [x], b.channels[x],
        kernel_shape=(3, 3), strides=(1, 1), dilations=(1, 1), pads=(1,) * 4, ceil_mode=0,
    )  # fmt: skip


def choice(b, x, other):
    """Where one value is above another: in both orders, with values and constants."""
    count = len(b.nodes)
    op = ("Greater", "GreaterOrEqual")[count % 2]
    bound = b.constant(f"c{count}", b.channels[x], 1, 1) if count % 3 else other
    condition = b.add(op, [x, bound][:: (-1, 1)[count % 5 > 1]], b.channels[x], b.size[x])
    chosen = [x, b.constant(f"d{count}", b.channels[x], 1, 1) if count % 2 else other]
    return b.add("Where", [condition, *chosen[:: (-1, 1)[count % 7 > 3]]], b.channels[x], b.size[x])


def scale(b, x):
    op = ("Mul", "Max", "Min", "PRelu")[len(b.nodes) % 4]
    return b.add(op, [x, b.constant(f"c{len(b.nodes)}", b.channels[x], 1, 1)], b.channels[x])


def reduced(b, x):
    """Take from each number what a reduction makes of its row, its channel or all channels."""
    op = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2")[len(b.nodes) % 5]
    axes = ((3,), (2, 3), (1,), (3, 1))[len(b.nodes) % 4]
    channels = 1 if 1 in axes else b.channels[x]
    made = b.add(op, [x], channels, 1, axes=axes, keepdims=1)
    return b.add("Sub", [x, made], b.channels[x])


def pad_and_crop(b, x):
    wide = b.add(
        "Pad", [x], b.channels[x], SIZE + 2, mode="constant", pads=(0, 0, 1, 1) * 2, value=0.0
    )
    return b.add(
        "Slice", [wide], b.channels[x], SIZE,
        axes=(2, 3), starts=(1, 0), ends=(7, 6), steps=(1, 1),
    )  # fmt: skip


def upsample(b, x):
    big = b.add(
        "Resize", [x], b.channels[x], 2 * SIZE, axes=(2, 3), scales=(2.0, 2.0), mode="nearest",
        coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip
    return b.add(
        "AveragePool", [big], b.channels[x], SIZE,
        kernel_shape=(2, 2), strides=(2, 2), dilations=(1, 1), pads=(0,) * 4, ceil_mode=0,
        count_include_pad=0,
    )  # fmt: skip


def shuffle(b, x):
    """Swap the halves of the channels."""
    if b.channels[x] % 2:
        return x
    half, name = b.channels[x] // 2, f"s{len(b.nodes)}"
    parts = (f"{name}a", f"{name}b")
    attributes = {"axis": 1, "split": (half, half)}
    b.nodes.append(Node(name, "Split", (x,), parts, attributes))
    for part in parts:
        b.channels[part], b.size[part] = half, b.size[x]
    return b.concat(*parts[::-1])


def middle(b, x):
    last = b.channels[x] - 1
    if last < 2:
        return x
    return b.add("Slice", [x], last - 1, axes=(1,), starts=(1,), ends=(last,), steps=(1,))


def gathered(b, x):
    """The channels backwards, the first of them twice."""
    order = (*range(b.channels[x])[::-1], 0)
    return b.add("Gather", [x], len(order), axis=1, indices=order)


def normalised(b, x):
    """Over the image, or over rows of it with a scale and a shift."""
    if len(b.nodes) % 2:
        return b.add("LayerNormalization", [x], b.channels[x], axis=2, epsilon=0.5)
    number = len(b.nodes)
    constants = [b.constant(f"{part}{number}", SIZE) for part in ("scale", "shift")]
    return b.add("LayerNormalization", [x, *constants], b.channels[x], axis=3, epsilon=0.5)


def grouped(b, x):
    return b.conv(x, 4, groups=2) if b.channels[x] % 2 == 0 else x


@settings(max_examples=150)
@given(networks())
def test_any_network_computes_the_same(case):
    graph, dropped, blocks = case
    graph = pruned(graph)
    dropped = {name: rows for name, rows in dropped.items() if f"{name}.weight" in graph.constants}
    weights = stored(graph, dropped)
    if blocks:
        weights = {
            name: Stored(w.weight, BlockLayout.from_mask(w.weight != 0, groups=groups(graph, name)))
            for name, w in weights.items()
        }
    network, weights = fold(Network.of(graph), weights)
    for name, shape in shapes_of(network.graph).items():
        assert network.shapes[name] == shape, name
    check(network.graph, weights)


def pruned(graph):
    """Return the graph without what no output depends on."""
    wanted, nodes = {v.name for v in graph.outputs}, []
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            nodes.append(node)
    constants = {name: array for name, array in graph.constants.items() if name in wanted}
    return dataclasses.replace(graph, nodes=tuple(nodes[::-1]), constants=constants)


def groups(graph, name):
    return layers(graph)[name].groups
