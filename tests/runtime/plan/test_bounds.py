"""Networks of a kilobyte that would take gigabytes: refused when they are planned, with sizes."""

from __future__ import annotations

import re
import subprocess
import sys
from math import prod

import numpy as np
import pytest
from paths import ROOT

from masktools import limits
from masktools.checkpoint import Checkpoint, Residual, SparseWeight, write
from masktools.checkpoint.inventory import inventory
from masktools.errors import GraphError
from masktools.layout import BlockLayout, DenseBlock
from masktools.network.graph import Graph, Node, Value
from masktools.network.operators import COORDINATES, ROUNDINGS
from masktools.network.shapes import pixels_inside
from runtime.errors import PlanError
from runtime.plan import plan
from runtime.plan.positions import is_whole, padded_positions, resized_positions

WINDOW = {"strides": (1,), "dilations": (1,), "pads": (0, 0)}
NEAREST = {
    "mode": "nearest",
    "nearest_mode": "floor",
    "coordinate_transformation_mode": "asymmetric",
}


def checkpoint(nodes, x, outputs, sparse=None, constants=None):
    border = tuple(Value(name, (None, *shape)) for name, shape in outputs.items())
    graph = Graph((Value("x", (None, *x)),), border, tuple(nodes), constants or {})
    made = Checkpoint(graph, sparse or {})
    made.check()
    return made


def empty(*shape):
    """Return a weight of a shape that stores one number."""
    return SparseWeight(BlockLayout(shape, [DenseBlock([0], [0])]), np.ones(1, np.float32))


def node(op, name, *inputs, **attributes):
    return Node(name, op, inputs, (name,), attributes)


def refused(made, message):
    with pytest.raises(PlanError, match=message):
        plan.build(made)


# --- positions ---------------------------------------------------------------------------------


def picked(op, size):
    """Return a node that picks `size` entries along axis 2 of x, (N, 1, size / 2)."""
    half = size // 2
    attributes = {
        "Resize": {"axes": (2,), "sizes": (size,), **NEAREST},
        "Pad": {"mode": "reflect", "pads": (0, 0, half - 1, 0, 0, 1), "value": 0.0},
    }
    return node(op, "y", "x", **attributes[op])


@pytest.mark.parametrize("op", ["Resize", "Pad"])
def test_positions_are_bounded_before_they_are_listed(op, monkeypatch):
    monkeypatch.setattr(limits, "PICKED", 2**20)
    for at in ("resizing.resized", "movement.padded"):
        monkeypatch.setattr(f"runtime.plan.lowering.{at}_positions", None)
    size = 2**21
    network = checkpoint([picked(op, size)], (1, size // 2), {"y": (1, size)})
    refused(network, rf"node 'y' \({op}\): it picks \({size},\) entries")


@pytest.mark.parametrize(("mode", "taps"), [("linear", 2), ("cubic", 4)])
def test_taps_are_bounded_before_they_are_listed(mode, taps, monkeypatch):
    monkeypatch.setattr(limits, "PICKED", 2**20)
    monkeypatch.setattr("runtime.plan.lowering.resizing.resized_taps", None)
    size = 2**18
    attributes = {"mode": mode, "coordinate_transformation_mode": "half_pixel"}
    if mode == "cubic":
        attributes |= {"cubic_coeff_a": -0.75, "exclude_outside": 0}
    resize = node("Resize", "y", "x", axes=(2,), sizes=(size,), **attributes)
    network = checkpoint([resize], (1, size // 2), {"y": (1, size)})
    refused(network, rf"node 'y' \(Resize\): it picks \({3 * taps * size},\) entries")


def test_positions_of_a_slice_backwards_are_bounded(monkeypatch):
    monkeypatch.setattr(limits, "PICKED", 99)
    cut = node("Slice", "y", "x", axes=(2,), starts=(-1,), ends=(-(2**40),), steps=(-1,))
    refused(checkpoint([cut], (1, 100), {"y": (1, 100)}), r"\(100,\) entries along its axes")


PLAN = """
import resource, sys
from masktools.checkpoint import read
from runtime.plan.plan import build
checkpoint = read(sys.argv[1])
limit = 3 * 2**28 + 4096 * int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
(step,) = build(checkpoint).steps
print(step.indices[0][-1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of memory")
@pytest.mark.parametrize("op", ["Resize", "Pad"])
def test_positions_take_no_more_than_they_are(tmp_path, op):
    size = 2**26  # 256 MiB of int32; listed at once, several times as much in float64 and int64.
    network = checkpoint([picked(op, size)], (1, size // 2), {"y": (1, size)})
    write(tmp_path / "a.safetensors", network)
    done = subprocess.run(
        [sys.executable, "-c", PLAN, str(tmp_path / "a.safetensors")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert int(done.stdout) == {"Resize": size // 2 - 1, "Pad": size // 2 - 2}[op]


@pytest.mark.parametrize("mode", [*COORDINATES, "reflect", "edge", "wrap"])
def test_positions_by_pieces_are_those_in_one(monkeypatch, mode):
    def positions(rounding):
        if mode not in COORDINATES:
            return padded_positions(mode, 7, 5, -2)
        scale = None if mode == "tf_crop_and_resize" else 2.5
        return resized_positions((mode, rounding), 7, 17, scale, (-0.3, 1.2))

    for rounding in ROUNDINGS:
        whole = positions(rounding)
        assert whole.dtype == np.int32
        with monkeypatch.context() as patch:
            patch.setattr("runtime.plan.positions.PIECE", 3)
            assert positions(rounding).tolist() == whole.tolist()
            assert is_whole(np.arange(7, dtype=np.int32), 7)
            assert not is_whole(np.array([0, 1, 2, 3, 4, 5, 5], np.int32), 7)


def test_positions_are_bounded_over_all_nodes(monkeypatch):
    monkeypatch.setattr(limits, "PICKED", 100)
    sizes = [40, 20, 50]
    resizes = [
        node("Resize", f"y{i}", "x", axes=(2,), sizes=(n,), **NEAREST) for i, n in enumerate(sizes)
    ]
    outputs = {f"y{i}": (1, n) for i, n in enumerate(sizes)}
    allowed = checkpoint(resizes[:2], (1, 4), dict(list(outputs.items())[:2]))
    assert len(plan.build(allowed).steps) == 2
    refused(checkpoint(resizes, (1, 4), outputs), r"'y2'.*with those of nodes before it 110; 100")


def test_regions_of_any_size_read_nothing():
    modes = ("tf_crop_and_resize", "floor")
    for region in ((1e308, 1.3), (-1e308, 1e308), (0.1, 1e308)):
        positions = resized_positions(modes, 6, 4, None, region)
        assert set(positions.tolist()) <= {-1, *range(6)}
    # Beyond the axis at the one end, and within at the other.
    assert resized_positions(modes, 6, 3, None, (0.0, 2.0)).tolist() == [0, 5, -1]


# --- values ------------------------------------------------------------------------------------


def test_a_value_is_bounded_for_one_sample():
    many = limits.VALUE // 64
    assert plan.build(checkpoint([node("Relu", "y", "x")], (64, many), {"y": (64, many)}))
    wide = checkpoint([node("Relu", "y", "x")], (64, many + 1), {"y": (64, many + 1)})
    refused(wide, r"value 'x' of shape .* has 268435520 numbers in a sample; 268435456")


def test_values_that_live_at_once_are_bounded():
    size = limits.VALUE // 2
    nodes = [node("Sigmoid", f"y{i}", "x") for i in range(4)]
    outputs = {f"y{i}": (size,) for i in range(4)}
    assert plan.build(checkpoint(nodes[:3], (size,), dict(list(outputs.items())[:3])))
    refused(checkpoint(nodes, (size,), outputs), f"values of {5 * size} numbers are live at once")


def test_padding_counts_as_part_of_the_image():
    attributes = {"strides": (2**20,) * 2, "dilations": (1, 1), "pads": (2**14,) * 4, "group": 1}
    conv = node("Conv", "y", "x", "y.weight", **attributes)
    weight = {"y.weight": np.ones((1, 1, 1, 1), np.float32)}
    network = checkpoint([conv], (1, 4, 4), {"y": (1, 1, 1)}, constants=weight)
    refused(network, r"node 'y' \(Conv\): an image of shape \(1, 1, 4, 4\) with pads .* numbers")


def test_padding_beyond_any_image_is_refused():
    window = {"strides": (2**62,), "dilations": (2**62,), "pads": (2**62, 2**62 - 3)}
    conv = node("Conv", "y", "x", "y.weight", **window, group=1)
    weight = {"y.weight": np.ones((1, 1, 2), np.float32)}
    network = checkpoint([conv], (1, 4), {"y": (1, 2)}, constants=weight)
    refused(network, r"node 'y' \(Conv\).*an image of 9223372036854775809 pixels along an axis")


def test_axes_are_bounded(monkeypatch):
    deep = (1,) * limits.RANK
    with pytest.raises(GraphError, match="input 'x': 9 axes; 8 are supported"):
        checkpoint([node("Relu", "y", "x")], deep, {"y": deep})
    unsqueeze = node("Unsqueeze", "u", "x", axes=tuple(range(1, 8)))
    nodes = [unsqueeze, node("Relu", "y", "u")]
    refused(checkpoint(nodes, (2,), {"y": (2,)}), r"'u' \(Unsqueeze\): a tensor of 9 axes")
    constant = {"c": np.ones((1,) * 40, np.float32)}
    network = checkpoint([node("Add", "y", "x", "c")], (2,), {"y": (2,)}, constants=constant)
    refused(network, r"'y' \(Add\): a tensor of 40 axes")


# --- weights -----------------------------------------------------------------------------------


def gemms(*shapes):
    """Return products with sparse weights that all read x."""
    nodes = [node("Gemm", f"y{i}", "x", f"w{i}.weight", transB=1) for i in range(len(shapes))]
    sparse = {f"w{i}": empty(*shape) for i, shape in enumerate(shapes)}
    outputs = {f"y{i}": (shape[0],) for i, shape in enumerate(shapes)}
    return checkpoint(nodes, shapes[0][1:], outputs, sparse)


def test_rows_are_bounded_over_all_layers():
    half = limits.ROWS // 2
    assert plan.build(gemms((half, 1), (half, 1)))
    refused(
        gemms((half, 1), (half, 1), (1, 1)),
        rf"node 'y2' \(Gemm\): a weight of shape \(1, 1\), .* {2 * half + 1} rows; {limits.ROWS}",
    )


def test_positions_of_weights_are_bounded_by_what_is_stored():
    columns = limits.POSITIONS // 4
    assert plan.build(gemms((2, columns), (2, columns)))
    refused(gemms((2, columns), (3, columns)), r"'y1'.*\(3, 33554432\).*of which 2 are stored")


def test_a_weight_counts_for_each_layer_that_reads_it(monkeypatch):
    monkeypatch.setattr(limits, "POSITIONS", 0)
    weight = {"w.weight": np.ones((2, 2), np.float32)}

    def network(times):
        nodes = [node("Gemm", f"y{i}", "x", "w.weight", transB=1) for i in range(times)]
        outputs = {f"y{i}": (2,) for i in range(times)}
        return checkpoint(nodes, (2,), outputs, constants=weight)

    assert plan.build(network(limits.POSITIONS_FOR_EACH))
    refused(network(limits.POSITIONS_FOR_EACH + 1), "'y128'.*516 positions, of which 4 are stored")


def test_blocks_count_for_each_tap(monkeypatch):
    monkeypatch.setattr(limits, "POSITIONS_FOR_EACH", 0)
    monkeypatch.setattr(limits, "POSITIONS", 100)
    # Four blocks in one row: a table of four times 25 taps, where the weight has 25 positions.
    shape = (1, 1, 1, 25)
    blocks = [DenseBlock([0], [column]) for column in range(5)]
    attributes = {"strides": (1, 1), "dilations": (1, 1), "pads": (0,) * 4, "group": 1}
    conv = node("Conv", "y", "x", "w.weight", **attributes)

    def network(number):
        weight = SparseWeight(BlockLayout(shape, blocks[:number]), np.ones(number, np.float32))
        return checkpoint([conv], (1, 1, 25), {"y": (1, 1, 1)}, {"w": weight})

    assert plan.build(network(4))
    refused(network(5), "125 positions")


def test_taps_are_bounded():
    side = 40_000
    attributes = {
        "strides": (1, 1),
        "dilations": (1, 1),
        "pads": (side - 1, side - 1, 0, 0),
        "group": 1,
    }
    conv = node("Conv", "y", "x", "w.weight", **attributes)
    network = checkpoint([conv], (1, 1, 1), {"y": (1, 1, 1)}, {"w": empty(1, 1, side, side)})
    message = r"node 'y' \(Conv\).*a window of \(40000, 40000\) has more than 1048576 taps"
    refused(network, message)
    with pytest.raises(GraphError, match=message):
        inventory(network)
    pool = {"kernel_shape": (2**31,), **WINDOW, "pads": (2**31 - 1,) * 2, "ceil_mode": 0}
    network = checkpoint([node("MaxPool", "y", "x", **pool)], (1, 4), {"y": (1, 2**30)})
    refused(network, r"node 'y' \(MaxPool\).*a window of \(2147483648,\)")


def test_taps_are_counted_by_arithmetic():
    rng = np.random.default_rng(0)
    for _ in range(200):
        size, kernel, stride, dilation = (int(n) for n in rng.integers(1, 7, 4))
        pad, after = (int(n) for n in rng.integers(0, 9, 2))
        room = size + pad + after - dilation * (kernel - 1) - 1
        if room < 0:
            continue
        pixels = room // stride + 1
        at = np.arange(kernel)[:, None] * dilation - pad + np.arange(pixels) * stride
        wanted = ((at >= 0) & (at < size)).sum(axis=1)
        found = pixels_inside(size, pixels, kernel, stride, dilation, pad)
        assert found.tolist() == wanted.tolist()


def test_pixels_are_not_listed():
    # 2**48 pairs of a tap and a pixel; also beyond 64 bits.
    assert pixels_inside(2**28, 2**28, 2**10, 1, 1, 2**9)[2**9] == 2**28
    assert pixels_inside(4, 2, 2, 2**62, 2**62, 2**62).tolist() == [1, 1]


INSPECT = """
import resource, sys
from masktools.checkpoint import read
from masktools.checkpoint.inventory import inventory
limit = 2**30 + 4096 * int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
(layer,) = inventory(read(sys.argv[1]))
print(layer.size, layer.multiplications, layer.multiplications_stored)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of memory")
def test_columns_are_not_listed(tmp_path):
    columns = 2**31 - 1
    layout = BlockLayout((3, columns), [DenseBlock([0, 2], [1, columns - 1])])
    csr = Residual(np.ones(1, np.float32), np.array([5], np.int32), np.array([0, 0, 1, 1]))
    weight = SparseWeight(layout, np.ones(4, np.float32), csr)
    gemm = node("Gemm", "y", "x", "w.weight", transB=1)
    write(tmp_path / "a.safetensors", checkpoint([gemm], (columns,), {"y": (3,)}, {"w": weight}))
    done = subprocess.run(
        [sys.executable, "-c", INSPECT, str(tmp_path / "a.safetensors")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.split() == [str(3 * columns), str(3 * columns), "5"]


def test_multiplications_of_what_is_stored_are_counted_by_tap():
    shape = (2, 3, 2, 3)
    layout = BlockLayout(shape, [DenseBlock([0, 1], [0, 4, 17])])
    csr = Residual(np.ones(1, np.float32), np.array([7], np.int32), np.array([0, 0, 1]))
    weight = SparseWeight(layout, np.ones(6, np.float32), csr)
    attributes = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 0, 1), "group": 1}
    conv = node("Conv", "y", "x", "w.weight", **attributes)
    (layer,) = inventory(checkpoint([conv], (3, 4, 5), {"y": (2, 4, 5)}, {"w": weight}))
    stored = np.zeros(shape)
    flat = stored.reshape(2, -1)
    flat[:, [0, 4, 17]] = 1
    flat[1, 7] = 1
    wanted = np.multiply.outer(pixels_inside(4, 4, 2, 1, 1, 1), pixels_inside(5, 5, 3, 1, 1, 1))
    assert layer.multiplications_stored == int((stored * wanted).sum())
    assert layer.multiplications == int(wanted.sum()) * 6
    assert layer.size == prod(shape)


# --- counts ------------------------------------------------------------------------------------


def test_nodes_and_their_ends_are_bounded(monkeypatch):
    monkeypatch.setattr(limits, "NODES", 3)
    chain = [node("Relu", f"v{i + 1}", f"v{i}" if i else "x") for i in range(4)]
    assert checkpoint(chain[:3], (2,), {"v3": (2,)})
    with pytest.raises(GraphError, match="4 nodes; 3 are supported"):
        checkpoint(chain, (2,), {"v4": (2,)})
    with pytest.raises(GraphError, match=r"node 'y' \(Concat\): 4097 inputs and outputs; 4096"):
        checkpoint([node("Concat", "y", *["x"] * 4096, axis=1)], (1,), {"y": (4096,)})
    monkeypatch.setattr(limits, "ALL_ENDS", 7)
    with pytest.raises(GraphError, match="8 inputs and outputs of nodes; 7"):
        checkpoint(chain[:3], (2,), {"v3": (2,)})


def test_every_limit_is_documented_with_its_value():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (?:(\d+)\*\*)?(\d+) \|", text, re.MULTILINE)
    listed = {name: int(base) ** int(n) if base else int(n) for name, base, n in rows}
    assert listed == {name: value for name, value in vars(limits).items() if name.isupper()}
