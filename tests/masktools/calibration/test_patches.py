"""The windows of every kind of layer, against the runtime's own outputs."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest

import runtime
from masktools.calibration import patches
from masktools.calibration.patches import by_position, groups_of, position_count, windows
from masktools.checkpoint import Checkpoint
from masktools.network.graph import Graph, Node, Value
from masktools.network.shapes import infer_shapes


def conv(pads, strides, dilations, group=1):
    return {"pads": pads, "strides": strides, "dilations": dilations, "group": group}


CASES = {
    "plain": ((5, 4, 3, 3), (4, 7, 6), conv((1, 1, 1, 1), (1, 1), (1, 1))),
    "strided": ((5, 4, 3, 2), (4, 9, 8), conv((0, 2, 1, 0), (2, 3), (1, 1))),
    "dilated": ((5, 4, 3, 3), (4, 9, 9), conv((2, 0, 2, 1), (1, 2), (2, 3))),
    "grouped": ((6, 2, 3, 3), (4, 6, 6), conv((1, 1, 1, 1), (1, 1), (1, 1), 2)),
    "depthwise": ((4, 1, 3, 3), (4, 6, 6), conv((1, 1, 1, 1), (2, 2), (1, 1), 4)),
    "one axis": ((5, 4, 3), (4, 9), conv((1, 0), (2,), (1,))),
    "matrix": ((5, 7), (7,), {"transB": 1}),
    "matrix of sequences": ((5, 7), (3, 7), {"transB": 1}),
}


@pytest.mark.parametrize("pieces", [1, 4])
@pytest.mark.parametrize("case", CASES)
def test_a_layer_is_its_windows_times_its_rows(case, pieces, monkeypatch):
    shape, sample, attributes = CASES[case]
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(shape).astype(np.float32)
    x = rng.standard_normal((6, *sample)).astype(np.float32)
    op = "Gemm" if "transB" in attributes else "Conv"
    node = Node("l", op, ("x", "l.weight"), ("y",), attributes)
    graph = Graph((Value("x", (None, *sample)),), (), (node,), {"l.weight": weight})
    made = infer_shapes(graph, {"x": x.shape})["y"]
    graph = Graph(graph.inputs, (Value("y", (None, *made[1:])),), (node,), graph.constants)
    y = runtime.prepare(Checkpoint(graph), backend="reference")(x)

    columns = prod(shape[1:]) * groups_of(node)
    positions = position_count(y, node)
    monkeypatch.setattr(patches, "PIECE", columns * positions // pieces)
    matrix = weight.reshape(groups_of(node), -1, prod(shape[1:]))
    seen = []
    for part, lines in windows(x, node, shape[2:]):
        found = np.einsum("gpc,grc->gpr", lines, matrix)
        wanted = by_position(y, node)[part]
        rows = found.transpose(0, 2, 1).reshape(shape[0], len(wanted), -1).transpose(1, 0, 2)
        np.testing.assert_allclose(rows, wanted, rtol=1e-4, atol=1e-4)
        seen += range(*part.indices(len(x)))
        lines[:] = 0  # A copy: the input stays.
    assert seen == list(range(6))
    assert x.all()
    assert positions == y.size // shape[0]
