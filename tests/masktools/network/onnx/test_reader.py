"""Reading ONNX: the names of layers, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zoo
from onnx import TensorProto, helper
from onnx_models import ints, model, node, run, torch_onnx, weight
from torch import nn

from masktools.errors import FormatError, GraphError, MaskError
from masktools.export import from_onnx
from masktools.export.exporting import prepare
from masktools.network.layers import layers
from masktools.network.onnx.reader import load_onnx, read_onnx, with_masks

# --- names --------------------------------------------------------------------------------------


def test_layers_are_named_by_their_parameters():
    graph = read_onnx(zoo.to_onnx(zoo.make("densenet"), 16))
    names = list(layers(graph))
    modules = dict(zoo.make("densenet").named_modules())
    assert len(names) == 28
    assert all(isinstance(modules[name], nn.Conv2d | nn.Linear) for name in names)


def test_layers_are_named_by_their_nodes_where_parameters_lost_their_names():
    module = zoo.make("mobilenet-v1")
    found = layers(read_onnx(torch_onnx(module, torch.zeros(1, 3, 40, 40))))
    names = list(found)
    assert names[:2] == ["/0/0.0/Conv", "/1/1.0/Conv"]
    assert names[-1] == "27.2"  # Nothing was folded into the classifier.


def test_matrices_are_turned_and_products_are_layers():
    w, v = weight(8, 5), weight(5, 4, seed=1)
    net = model(
        [
            node("Gemm", ["x", "a.weight", "c"], ["t"], alpha=2.0, beta=0.5),
            node("Transpose", ["b.weight"], ["turned"], perm=[1, 0]),
            node("MatMul", ["t", "turned"], ["y"]),
        ],
        {"a.weight": w, "b.weight": v.T, "c": np.float32(3)},
        [("x", ["N", 8])],
    )
    graph = read_onnx(net)
    assert {name: layer.shape for name, layer in layers(graph).items()} == {
        "a": (5, 8), "b": (4, 5),
    }  # fmt: skip
    x = weight(3, 8, seed=2)
    np.testing.assert_allclose(run(graph, x), (2 * x @ w + 1.5) @ v, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (1, 5), (3, 1), (5, 1), (3, 5)])
@pytest.mark.parametrize("beta", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("constant", [True, False])
def test_whatever_is_added_to_a_matrix_product(shape, beta, constant):
    import onnxruntime

    batch = 5 if shape == (5, 1) else 3
    c = weight(*shape, seed=1)
    net = model(
        [node("Gemm", ["x", "w", "c"], ["y"], beta=beta)],
        {"w": weight(4, 5), **({"c": c} if constant else {})},
        [("x", [batch, 4]), *([] if constant else [("c", list(shape))])],
    )
    feeds = {"x": weight(batch, 4, seed=2), **({} if constant else {"c": c})}
    if not constant and not shape:
        with pytest.raises(GraphError, match="input 'c': shape"):
            read_onnx(net)
        return
    wanted = onnxruntime.InferenceSession(net.SerializeToString()).run(None, feeds)[0]
    np.testing.assert_allclose(run(read_onnx(net), feeds), wanted, rtol=1e-4, atol=1e-5)


def test_shared_weights_stay_one():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(6, 6)

        def forward(self, x):
            return self.one(torch.relu(self.one(x)))

    graph = read_onnx(torch_onnx(Twice(), torch.zeros(2, 6)))
    assert [n.inputs[1] for n in graph.nodes if n.op == "Gemm"] == ["one.weight"] * 2
    assert [layer.nodes for layer in layers(graph).values()] == [("/one/Gemm", "/one_1/Gemm")]


def test_pruning_masks_in_the_graph_are_folded_and_the_name_survives():
    w, mask = weight(4, 3, 3, 3), np.ones((4, 3, 3, 3), np.float32)
    mask[1:3] = 0
    net = model(
        [
            node("Mul", ["conv.weight_orig", "conv.weight_mask"], ["masked"]),
            node("Conv", ["x", "masked"], ["y"]),
        ],
        {"conv.weight_orig": w, "conv.weight_mask": mask},
    )
    graph = read_onnx(net)
    np.testing.assert_array_equal(graph.constants["conv.weight"], w * mask)


def test_layers_that_would_have_one_name_are_told_apart():
    w = weight(5, 5)
    net = model(
        [
            node("Gemm", ["x", "a.weight"], ["t"]),
            node("Gemm", ["t", "a.weight"], ["u"], transB=1),
            node("Add", ["u", "a.weight"], ["v"]),
            node("Gemm", ["v", "a.weight"], ["y"]),
        ],
        {"a.weight": w},
        [("x", [5, 5])],
    )
    graph = read_onnx(net)
    found = {name: layer.nodes for name, layer in layers(graph).items()}
    assert found == {"a": ("my_Gemm", "my_Gemm_2"), "a_1": ("my_Gemm_1",)}
    x = weight(5, 5, seed=1)
    np.testing.assert_allclose(run(graph, x), (x @ w @ w.T + w) @ w, rtol=1e-4, atol=1e-4)
    masks = {"a": np.ones((5, 5), bool), "a_1": np.ones((5, 5), bool)}
    masks["a"][:, ::2] = False
    prepare(net, masks=masks)[0].check()


def test_node_names_are_made_unique_and_never_empty():
    net = model([
        node("Relu", ["x"], ["t"], name="same"), node("Sigmoid", ["t"], ["u"], name="same"),
        helper.make_node("Relu", ["u"], ["y"]),
    ])  # fmt: skip
    assert [n.name for n in read_onnx(net).nodes] == ["same", "same_1", "y"]


# --- refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("Hardmax", ["x"], ["y"])], r"node 'my_Hardmax' \(Hardmax\): operator 'Hardmax'"),
        (
            [helper.make_node("Relu", ["x"], ["y"], name="n", domain="com.other")],
            r"node 'n' \(com.other.Relu\): operator",
        ),
        ([node("Relu", ["x"], ["y"], slope=1.0)], r"\(Relu\): attribute slope=1.0"),
        (
            [node("BatchNormalization", ["x", "v", "v", "v", "v"], ["y"], training_mode=1)],
            r"attribute training_mode=1",
        ),
        ([node("Resize", ["x", "", "s"], ["y"], mode="lanczos")], "attribute mode='lanczos'"),
        (
            [node("Resize", ["x", "", "s"], ["y"], mode="linear", antialias=1)],
            r"\(Resize\): attribute antialias=1",
        ),
        (
            [
                node(
                    "Resize",
                    ["x", "", "s"],
                    ["y"],
                    mode="cubic",
                    coordinate_transformation_mode="tf_crop_and_resize",
                )
            ],
            "'tf_crop_and_resize' with mode='cubic' is not supported, only with mode='nearest'",
        ),
        ([node("Conv", ["x", "x"], ["y"])], "the weight, input 1, must be a constant"),
        ([node("Conv", ["x", "w5"], ["y"])], "one or two are supported"),
        (
            [node("MatMul", ["w5", "x"], ["y"])],
            r"factors of 4 and 5 axes, the second of a constant",
        ),
        ([node("MatMul", ["x", "w5"], ["y"])], "factors of 4 and 5 axes"),
        ([node("Pad", ["x", "p"], ["y"], mode="wild")], "attribute mode"),
        ([node("Reshape", ["x", "r"], ["y"])], r"\(Reshape\): inputs of shape .* do not fit"),
        (
            [
                node("MaxPool", ["x"], ["p", "at"], kernel_shape=[2, 2]),
                node("Add", ["p", "at"], ["y"]),
            ],
            r"\(MaxPool\): output 'at', the places of the maxima, is read",
        ),
        ([node("ReduceMean", ["x"], ["y"], axes=[4])], r"attribute axes=\(4,\).*of 4 axes"),
        ([node("Relu", ["nothing"], ["y"])], "input 'nothing' is made by nothing before it"),
        ([node("ConstantOfShape", ["huge"], ["y"])], "makes a constant of"),
        ([node("RandomNormal", [], ["y"], shape=[2])], "'RandomNormal' on constants"),
        ([node("Neg", ["v"], ["y"])], "output 'y' does not depend on the inputs"),
        ([node("Cast", ["x"], ["y"], to=7)], "attribute to=7"),
    ],
)
def test_one_error_names_node_operator_and_attribute(nodes, message):
    constants = {
        "v": weight(3), "s": np.array([1, 1, 2, 2], np.float32), "w5": weight(2, 3, 3, 3, 3),
        "p": ints(*(1,) * 8), "r": ints(5, 5), "huge": ints(2**40),
    }  # fmt: skip
    with pytest.raises(GraphError, match=message):
        read_onnx(model(nodes, constants))


def test_all_operators_that_cannot_be_read_are_said_at_once():
    nodes = [
        node("Shape", ["x"], ["s"]), node("Exp", ["v"], ["e"]), node("Add", ["x", "e"], ["a"]),
        node("Identity", ["a"], ["i"]), node("Det", ["i"], ["b"]), node("Relu", ["b"], ["c"]),
        node("Hardmax", ["c"], ["d"]), node("RandomNormal", [], ["r"], shape=[2]),
        helper.make_node("Hardmax", ["d"], ["f"]),
        helper.make_node("Fused", ["f"], ["y"], domain="com.other"),
    ]  # fmt: skip
    with pytest.raises(GraphError) as caught:
        read_onnx(model(nodes, {"v": weight(6)}))
    assert "operator 'Det' is not supported" in str(caught.value)
    assert str(caught.value).endswith(
        "operators that cannot be read: Det (1), Hardmax (2), RandomNormal (1), com.other.Fused (1)"
    )


def test_another_refusal_says_them_too():
    nodes = [node("Relu", ["x"], ["b"], slope=1.0), node("Hardmax", ["b"], ["y"])]
    with pytest.raises(GraphError, match=r"slope=1\.0 .*cannot be read: Hardmax \(1\)"):
        read_onnx(model(nodes))
    with pytest.raises(GraphError) as caught:
        read_onnx(model(nodes[:1], outputs=("b",)))
    assert "cannot be read" not in str(caught.value)


def test_weights_that_are_not_finite_are_told_where_the_batch_is_open(tmp_path):
    bad = weight(4, 3, 3, 3)
    bad[1, 2, 0, 0] = np.nan
    net = model([node("Conv", ["x", "w"], ["y"])], {"w": bad}, inputs=(("x", ["N", 3, 6, 6]),))
    with pytest.raises(MaskError, match=r"finite.*nan"):
        from_onnx(net, tmp_path / "out.safetensors")


def test_files_that_are_none_are_refused(tmp_path):
    path = tmp_path / "net.onnx"
    with pytest.raises(FileNotFoundError):
        read_onnx(path)
    for data in (b"", b"not a protocol buffer", b"\x08\x07"):
        path.write_bytes(data)
        with pytest.raises(FormatError, match="not an ONNX file"):
            read_onnx(path)
    with pytest.raises(FormatError, match="operator set 8 is too old"):
        read_onnx(model([node("Relu", ["x"], ["y"])], opset=8))


def test_other_types_are_refused():
    net = model([node("Relu", ["x"], ["y"])])
    net.graph.input[0].type.tensor_type.elem_type = TensorProto.COMPLEX64
    with pytest.raises(
        GraphError, match=r"input 'x': dtype complex64.* export the network in float32"
    ):
        read_onnx(net)
    net.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    with pytest.raises(GraphError, match=r"dtype int64.*token ids.*embedding") as caught:
        read_onnx(net)
    assert "in float32" not in str(caught.value).split(";")[1]


def test_masks_are_put_into_the_source():
    import onnxruntime

    w, v = weight(4, 3, 3, 3), weight(144, 5, seed=1)
    net = model(
        [
            node("Conv", ["x", "a.weight"], ["t"], pads=[1, 1, 1, 1]),
            node("Flatten", ["t"], ["f"]),
            node("MatMul", ["f", "b.weight"], ["y"]),
        ],
        {"a.weight": w, "b.weight": v},
    )
    rng = np.random.default_rng(0)
    masks = {"a": rng.random(w.shape) < 0.5, "b": rng.random((5, 144)) < 0.5}
    before = net.SerializeToString()
    masked = with_masks(load_onnx(net), masks)
    assert net.SerializeToString() == before
    x = weight(1, 3, 6, 6, seed=2)
    expected = model(
        list(net.graph.node), {"a.weight": w * masks["a"], "b.weight": v * masks["b"].T}
    )
    found, wanted = (
        onnxruntime.InferenceSession(m.SerializeToString()).run(None, {"x": x})[0]
        for m in (masked, expected)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
