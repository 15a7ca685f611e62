"""Matrix products of ONNX in the normal form, against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx_models import model, node, run, weight

from masktools.network.onnx.reader import read_onnx


def check(net, feeds):
    wanted = onnxruntime.InferenceSession(net.SerializeToString()).run(None, feeds)[0]
    graph = read_onnx(net)
    got = run(graph, feeds)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    return [n.op for n in graph.nodes]


@pytest.mark.parametrize("turned", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 2.0), (2.0, 0.0)])
@pytest.mark.parametrize("addend", [None, "constant", "value"])
def test_gemm_of_two_values(turned, alpha, beta, addend):
    a = weight(3, 3) if turned[0] else weight(4, 3)
    b = weight(5, 3, seed=1) if turned[1] else weight(3, 5, seed=1)
    c = weight(5, seed=2) if addend == "constant" else weight(len(a), 5, seed=2)
    inputs = ["a", "b"] + (["c"] if addend else [])
    given = {"a": a, "b": b} | ({"c": c} if addend == "value" else {})
    net = model(
        [node("Gemm", inputs, ["y"], alpha=alpha, beta=beta, transA=turned[0], transB=turned[1])],
        {"c": c} if addend == "constant" else {},
        [(name, list(x.shape)) for name, x in given.items()],
    )
    assert "MatMul" in check(net, given)


@pytest.mark.parametrize("shape", [(4, 5), (1, 4, 5), (1, 1, 4, 5), (4,)])
def test_one_constant_matrix_for_all(shape):
    net = model([node("MatMul", ["x", "w"], ["y"])], {"w": weight(*shape)}, [("x", ["N", 2, 3, 4])])
    assert check(net, {"x": weight(3, 2, 3, 4, seed=1)})[0] == "Gemm"


def test_matmul_of_two_values():
    net = model(
        [node("MatMul", ["x", "z"], ["y"])], {}, [("x", ["N", 2, 3, 4]), ("z", ["N", 1, 4, 5])]
    )
    assert check(net, {"x": weight(3, 2, 3, 4), "z": weight(3, 1, 4, 5)}) == ["MatMul"]
