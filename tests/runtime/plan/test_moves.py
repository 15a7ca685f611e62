"""Nodes that move numbers, on every backend that runs here, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_layers import convolved

from masktools.checkpoint import Checkpoint, SparseWeight
from masktools.layout import BlockLayout
from masktools.network.graph import Graph, Node, Value
from runtime.cpu.backend import CpuBackend
from runtime.model import Model
from runtime.plan import plan
from runtime.reference.backend import ReferenceBackend

BACKENDS = [ReferenceBackend, CpuBackend]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("shape", "pads"),
    [
        ((16, 1, 1, 1), (0, 2, 0, 2, 0, -1, 1, 0)),
        ((2, 1, 4, 4), (0, 0, -4, 0, 0, 0, 3, 0)),
        ((2, 1, 4, 4), (0, 1, 5, -1, 0, 0, -6, 0)),
        ((2, 2, 3, 3), (0, 0, 4, 0, 0, 0, -4, 0)),
        ((2, 2, 3, 3), (0, 0, 4, 0, 0, 0, -3, 0)),
        ((2, 2, 3, 3), (0, 0, -1, 1, 0, 0, 2, -2)),
    ],
)
def test_a_pad_may_crop_some_and_all_of_an_axis(shape, pads, backend):
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    sides = list(zip(pads[:4], pads[4:], strict=True))
    expected = np.pad(x, [(max(a, 0), max(b, 0)) for a, b in sides], constant_values=1.5)
    expected = expected[tuple(slice(max(-a, 0), b if b < 0 else None) for a, b in sides)]
    attributes = {"mode": "constant", "pads": pads, "value": 1.5}
    graph = Graph(
        (Value("x", (None, *shape[1:])),),
        (Value("y", (None, *expected.shape[1:])),),
        (Node("n", "Pad", ("x",), ("y",), attributes),),
    )
    np.testing.assert_array_equal(Model(plan.build(Checkpoint(graph)), backend())(x), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [1, 2, 16])
@pytest.mark.parametrize(("start", "step"), [(0, 3), (2, 1), (1, 5)])
def test_one_channel_cut_out_feeds_a_convolution(backend, batch, start, step):
    """How far the next channel would lie says nothing where there is none."""
    x = np.random.default_rng(0).standard_normal((batch, 3, 3, 7)).astype(np.float32)
    weight = np.ones((2, 1, 2, 2), np.float32)
    cut = {"starts": (start, 0), "ends": (3, 6), "axes": (1, 3), "steps": (step, 2)}
    window = {"strides": (2, 1), "dilations": (1, 1), "group": 1, "pads": (1, 1, 1, 1)}
    graph = Graph(
        (Value("x", (None, 3, 3, 7)),),
        (Value("y", (None, 2, 2, 4)),),
        (
            Node("s", "Slice", ("x",), ("a",), cut),
            Node("c", "Conv", ("a", "c.weight"), ("y",), window),
        ),
        {"c.weight": weight},
    )
    built = plan.build(Checkpoint(graph))
    padded = np.pad(x[:, start : start + 1, :, 0:6:2], ((0, 0), (0, 0), (1, 1), (1, 1)))
    sums = sum(padded[:, :, i : i + 3 : 2, j : j + 4] for i in range(2) for j in range(2))
    np.testing.assert_allclose(
        Model(built, backend())(x), np.repeat(sums, 2, axis=1), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [1, 2, 16])
@pytest.mark.parametrize("channels", [1, 3, 16])
@pytest.mark.parametrize("form", ["dense", "residual"])
def test_a_transposed_image_feeds_a_convolution(backend, batch, channels, form):
    """Its rows lie among those of other planes."""
    random = np.random.default_rng(0)
    x = random.standard_normal((batch, 16, channels, 12)).astype(np.float32)
    weight = random.standard_normal((16, channels, 3, 3)).astype(np.float32)
    window = {"strides": (1, 1), "dilations": (1, 1), "group": 1, "pads": (1, 1, 1, 1)}
    nodes = (
        Node("t", "Transpose", ("x",), ("a",), {"perm": (0, 2, 1, 3)}),
        Node("c", "Conv", ("a", "c.weight"), ("y",), window),
    )
    ends = (Value("x", (None, 16, channels, 12)),), (Value("y", (None, 16, 16, 12)),)
    if form == "dense":
        made = Checkpoint(Graph(*ends, nodes, {"c.weight": weight}))
    else:
        keep = random.random(weight.shape) < 0.3
        weight = np.where(keep, weight, 0)
        sparse = SparseWeight.from_dense(weight, BlockLayout(weight.shape), keep)
        made = Checkpoint(Graph(*ends, nodes), {"c": sparse})
    expected = convolved(x.transpose(0, 2, 1, 3), weight, window)
    np.testing.assert_allclose(
        Model(plan.build(made), backend())(x), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [1, 2, 16, 64])
@pytest.mark.parametrize("first", [True, False])
def test_a_value_joined_with_its_own_channel_shuffle(backend, batch, first):
    """Both lie where the whole does: the shuffled part must be copied from the other."""
    x = np.random.default_rng(0).standard_normal((batch, 15, 4, 19)).astype(np.float32)
    nodes = (
        Node("r", "Relu", ("x",), ("t",), {}),
        Node("a", "Reshape", ("t",), ("a",), {"shape": (0, 3, 5, 4, 19)}),
        Node("b", "Transpose", ("a",), ("b",), {"perm": (0, 2, 1, 3, 4)}),
        Node("c", "Reshape", ("b",), ("c",), {"shape": (0, -1, 4, 19)}),
        Node("y", "Concat", ("t", "c") if first else ("c", "t"), ("y",), {"axis": 1}),
    )
    graph = Graph((Value("x", (None, 15, 4, 19)),), (Value("y", (None, 30, 4, 19)),), nodes)
    t = np.maximum(x, 0)
    c = t.reshape(batch, 3, 5, 4, 19).transpose(0, 2, 1, 3, 4).reshape(batch, 15, 4, 19)
    expected = np.concatenate([t, c] if first else [c, t], axis=1)
    np.testing.assert_array_equal(Model(plan.build(Checkpoint(graph)), backend())(x), expected)
