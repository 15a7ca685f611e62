"""Networks of half and double precision, and inputs of integers: computed in float32."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_models import model, node, run, torch_onnx, weight
from torch import nn

import masktools
import runtime
from masktools.cli.export import export
from masktools.errors import GraphError
from masktools.network.onnx.precision import FLOAT, in_float32
from masktools.network.onnx.reader import load_onnx, read_onnx

KINDS = {
    "float16": (TensorProto.FLOAT16, torch.float16),
    "float64": (TensorProto.DOUBLE, torch.float64),
}
MODULE = nn.Sequential(
    nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)
).eval()
X = weight(3, 3, 6, 6, seed=3)


def ends(net, inputs=None, outputs=None):
    for values, kind in ((net.graph.input, inputs), (net.graph.output, outputs)):
        for value in values if kind else ():
            value.type.tensor_type.elem_type = kind
    return net


def of_kind(kind):
    """Return a module and the file of it, all in one precision."""
    module = copy.deepcopy(MODULE).to(KINDS[kind][1])
    return torch_onnx(module, torch.zeros(1, 3, 6, 6, dtype=KINDS[kind][1]))


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_and_outputs_keep_their_type(tmp_path, kind):
    net, said = of_kind(kind), []
    onnx.save(net, tmp_path / "net.onnx")
    report, _ = export(tmp_path / "net.onnx", tmp_path / "net.safetensors")
    assert kind in report["notes"][0]
    assert "float32" in report["notes"][0]
    network = runtime.load(tmp_path / "net.safetensors", backend="reference")
    assert {v.dtype for v in (*network.inputs, *network.outputs)} == {kind}
    y = MODULE(torch.from_numpy(X)).detach().numpy()
    tolerance = 1e-2 if kind == "float16" else 1e-4
    for x in (X, X.astype(kind)):
        assert network(x).dtype == kind
        np.testing.assert_allclose(network(x), y, tolerance, tolerance)
    with pytest.raises(TypeError, match=rf"expected {kind} or float32, got int64"):
        network(X.astype(np.int64))
    load_onnx(load_onnx(net, say=said.append), say=said.append)
    assert len(said) == 1  # What is read once is not changed again.


def test_bfloat16_is_float32_outside(tmp_path):
    w = numpy_helper.to_array(helper.make_tensor("w", TensorProto.BFLOAT16, [4, 3], weight(12)))
    net = model([node("Gemm", ["x", "w"], ["y"], transB=1)], {}, [("x", ["N", 3])])
    net.graph.initializer.append(numpy_helper.from_array(w, "w"))
    ends(net, TensorProto.BFLOAT16, TensorProto.BFLOAT16)
    said = []
    assert not load_onnx(net, say=said.append).graph.value_info
    assert "NumPy has no bfloat16" in said[0]
    graph = read_onnx(net)
    assert {v.dtype for v in (*graph.inputs, *graph.outputs)} == {"float32"}
    np.testing.assert_allclose(graph.constants["my_Gemm.weight"], weight(4, 3), rtol=1e-2)


def test_casts_between_floats_disappear():
    nodes = [
        node("Cast", ["x"], ["a"], to=10), node("Relu", ["a"], ["b"]),
        node("Cast", ["b"], ["c"], to=16), node("Mul", ["c", "half"], ["d"]),
        node("Cast", ["d"], ["e"], to=11), node("Cast", ["e"], ["y"], to=1),
    ]  # fmt: skip
    graph = read_onnx(model(nodes, {"half": np.float16(0.5)}))
    assert [n.op for n in graph.nodes] == ["Relu", "Mul"]
    np.testing.assert_array_equal(run(graph, X[:1]), np.maximum(X[:1], 0) / 2)


def test_an_output_that_is_read_too_keeps_its_type():
    nodes = [node("Relu", ["x"], ["y"]), node("Neg", ["y"], ["z"])]
    net = ends(model(nodes, outputs=("y", "z")), TensorProto.FLOAT16, TensorProto.FLOAT16)
    found = run(read_onnx(net), X[:1].astype(np.float16))
    assert {a.dtype for a in found.values()} == {np.dtype(np.float16)}
    np.testing.assert_array_equal(found["z"], -found["y"])


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64])
def test_integers_that_are_cast_first_are_taken_as_they_are(tmp_path, kind):
    nodes = [
        node("Cast", ["x"], ["f"], to=1), node("Div", ["f", "most"], ["s"]),
        node("Conv", ["s", "w"], ["y"]),
    ]  # fmt: skip
    net = ends(model(nodes, {"most": np.float32(255), "w": weight(4, 3, 3, 3)}), kind)
    onnx.save(net, tmp_path / "net.onnx")
    export(tmp_path / "net.onnx", tmp_path / "net.safetensors")
    network = runtime.load(tmp_path / "net.safetensors", backend="reference")
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind))
    assert network.inputs[0].dtype == dtype.name
    x = np.random.default_rng(0).integers(0, 256, (2, 3, 6, 6))
    y = network(x.astype(dtype))
    np.testing.assert_array_equal(y, network(x.astype(np.float32)))
    assert y.dtype == np.float32


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("Gather", ["table", "x"], ["y"])], "token ids"),
        ([node("Cast", ["x"], ["f"], to=1), node("Gather", ["table", "x"], ["y"])], "token ids"),
    ],
)
def test_token_ids_are_refused(nodes, message):
    net = ends(model(nodes, {"table": weight(10, 4)}, [("x", ["N", 3])]), TensorProto.INT64)
    with pytest.raises(GraphError, match=rf"'x': dtype int64.*{message}"):
        read_onnx(net)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_are_refused_with_a_way_around(op):
    nodes = [node(op, ["x", "w", "r"], ["y"], hidden_size=4)]
    net = model(nodes, {"w": weight(1, 16, 3), "r": weight(1, 16, 4)}, [("x", [5, "N", 3])])
    with pytest.raises(GraphError, match=rf"my_{op}.*operator '{op}'.*export the layers before"):
        read_onnx(net)


def test_a_half_module_is_exported_by_torch(tmp_path):
    module = copy.deepcopy(MODULE).half()
    masktools.export.from_torch(module, torch.zeros(2, 3, 6, 6).half(), tmp_path / "n.safetensors")
    network = runtime.load(tmp_path / "n.safetensors", backend="reference")
    assert network(X.astype(np.float16)).dtype == np.float16


def test_masks_of_half_precision_are_verified(tmp_path):
    net = of_kind("float16")
    onnx.save(net, tmp_path / "net.onnx")
    masks = {"0": np.random.default_rng(0).random((8, 3, 3, 3)) < 0.4}
    masktools.save_masks(tmp_path / "m.safetensors", masks)
    report, _ = export(
        tmp_path / "net.onnx",
        tmp_path / "n.safetensors",
        tmp_path / "m.safetensors",
        residual="keep",
    )
    assert report["verification"]


def test_weights_that_are_only_stored_in_half_precision_are_no_matter():
    weight = numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float16), "half")
    nodes = [
        helper.make_node("Cast", ["half"], ["weight"], to=FLOAT),
        helper.make_node("Shape", ["half"], ["unread"]),
        helper.make_node("Conv", ["x", "weight"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(n, FLOAT, ("N", c, 4, 4)) for n, c in (("x", 3), ("y", 4))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    said = []
    assert in_float32(model, said.append) is model
    assert not said
