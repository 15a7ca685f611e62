"""ONNX models with calibrated values compute what the graph with these values does."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import small_network
from onnx import TensorProto, helper, numpy_helper

import runtime
from masktools.calibration import affine
from masktools.checkpoint import Checkpoint
from masktools.errors import GraphError
from masktools.network.onnx.altered import with_values
from masktools.network.onnx.reader import load_onnx, read_onnx


def compare(model, values, x):
    """Return max|Δ| / max|y| of both, and of the model as it was."""
    graph = affine.with_values(read_onnx(model), values)
    expected = runtime.prepare(Checkpoint(graph), backend="reference")(x)
    differences = []
    for one in (with_values(model, values), model):
        session = onnxruntime.InferenceSession(
            one.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        (made,) = session.run(None, {session.get_inputs()[0].name: x})
        differences.append(float(np.abs(made - expected).max() / np.abs(expected).max()))
    return differences


def changed(graph, name, seed=0):
    old = graph.constants[name]
    noise = np.random.default_rng(seed).uniform(0.5, 1.5, old.shape)
    return (old * noise + 0.1).astype(np.float32)


NAMES = ("conv.0.weight", "conv.1.running_mean", "conv.1.running_var", "last.0.bias", "head.bias")


@pytest.mark.parametrize("name", [*NAMES, "head.weight"])
def test_each_kind_of_value_is_put_in_place(name, tmp_path):
    model = load_onnx(small_network.saved(small_network.make(), tmp_path))
    before = model.SerializeToString()
    graph = read_onnx(model)
    same, other = compare(model, {name: changed(graph, name)}, small_network.IMAGES[:1])
    assert same < 1e-5 < 1e-3 < other
    assert model.SerializeToString() == before


def test_a_bias_is_added_where_there_was_none(tmp_path):
    model = load_onnx(small_network.saved(small_network.make(), tmp_path))
    bias = np.arange(16, dtype=np.float32)
    same, other = compare(model, {"conv.0.bias": bias}, small_network.IMAGES[:1])
    assert same < 1e-5 < 1e-3 < other


def product(op, **attributes):
    """Return a matrix product with its weight as (in, out), and a bias."""
    rng = np.random.default_rng(0)
    tensors = {"w": rng.standard_normal((6, 4)), "b": rng.standard_normal(4)}
    inputs = ["x", "w", "b"] if op == "Gemm" else ["x", "w"]
    nodes = [helper.make_node(op, inputs, ["h"], **attributes)]
    nodes += [helper.make_node("Add", ["h", "b"], ["y"])] if op == "MatMul" else []
    end = "y" if op == "MatMul" else "h"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [helper.make_tensor_value_info(end, TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("case", [("MatMul", {}), ("Gemm", {"alpha": 2.0, "beta": 0.5})])
def test_products_are_turned_and_scaled(case):
    op, attributes = case
    model = product(op, **attributes)
    graph = read_onnx(model)
    x = np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)
    gemm = next(node for node in graph.nodes if node.op == "Gemm")
    values = {name: changed(graph, name) for name in gemm.inputs[1:]}
    same, other = compare(model, values, x)
    assert same < 1e-5 < 1e-3 < other


def test_a_value_that_is_no_weight_bias_or_statistic_is_refused():
    with pytest.raises(GraphError, match="calibrated value 'lost': the file has no such weight"):
        with_values(product("MatMul"), {"lost": np.zeros(4, np.float32)})
    assert onnx.checker.check_model(product("Gemm")) is None
