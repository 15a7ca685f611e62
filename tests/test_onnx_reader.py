"""Reading ONNX: names, folding, operator sets, open batches, and what is refused."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import pytest
import torch
import zoo
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from masktools.checkpoint import Checkpoint
from masktools.errors import FormatError, GraphError
from masktools.export.network import prepare
from masktools.layers import layers
from masktools.onnx_reader import load_onnx, read_onnx, with_masks
from runtime import plan
from runtime.backend import choose
from runtime.model import Model


def model(nodes, constants=None, inputs=(("x", [1, 3, 6, 6]),), outputs=("y",), opset=17, **extra):
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **extra)


def node(op, inputs, outputs, name=None, **attributes):
    return helper.make_node(op, inputs, outputs, name=name or f"my_{op}", **attributes)


def ints(*values):
    return np.array(values, np.int64)


def weight(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(graph, x):
    return Model(plan.build(Checkpoint(graph)), choose("reference"))(x)


def torch_onnx(module, x, opset=17, path=None, **options):
    path = path or zoo.io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, x, path, dynamo=False, opset_version=opset, **options)
    return None if isinstance(path, str) else onnx.load_from_string(path.getvalue())


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


# --- folding and normalising --------------------------------------------------------------------


# The exporter writes hard sigmoids from operator set 10 on.
OPSETS = [("inception", 9), *((n, o) for n in ("inception", "mobilenet-v3") for o in range(10, 21))]


@pytest.mark.parametrize(("name", "opset"), OPSETS)
def test_every_operator_set_gives_the_same_network(name, opset):
    module = zoo.make(name)
    x = zoo.images(name, zoo.ZOO[name][1])
    with torch.no_grad():
        y = module(torch.from_numpy(x)).numpy()
    graph = read_onnx(zoo.to_onnx(module, zoo.ZOO[name][1], opset))
    np.testing.assert_allclose(run(graph, x), y, rtol=1e-4, atol=1e-4)


def test_the_newest_operator_set_is_read():
    opset = onnx.defs.onnx_opset_version()
    net = model([
        node("Squeeze", ["x", "axes"], ["t"]), node("ReduceMean", ["t", "image"], ["u"]),
        node("Split", ["u", "sizes"], ["v", "w"]), node("Clip", ["v", "", "top"], ["y"]),
    ], {"axes": ints(1), "image": ints(-1, -2), "sizes": ints(1, 2), "top": np.float32(0.1)},
        [("x", ["N", 1, 3, 6, 6])], opset=opset,
    )  # fmt: skip
    with pytest.raises(GraphError, match=r"node 'my_Split' \(Split\).*axis 0"):
        read_onnx(net)
    net.graph.node[2].attribute.append(helper.make_attribute("axis", 1))
    x = weight(2, 1, 3, 6, 6)
    y = np.minimum(x[:, 0, :1].mean((2, 3), keepdims=True), np.float32(0.1))
    np.testing.assert_allclose(run(read_onnx(net), x), y, rtol=1e-5)


def test_outputs_that_nothing_reads_are_left_out():
    nodes = [
        node("Dropout", ["x"], ["d", "mask"], ratio=0.5),
        node("MaxPool", ["d"], ["p", "indices"], kernel_shape=[2, 2]),
        node("Relu", ["p"], ["y"]),
    ]
    assert [n.op for n in read_onnx(model(nodes, opset=9)).nodes] == ["MaxPool", "Relu"]


@pytest.mark.parametrize("opset", [9, 11, 13])
def test_constants_are_folded_by_the_rules_of_their_own_operator_set(opset):
    axes = {"axes": [1, 2]} if opset < 13 else {}
    read = ["s"] if opset < 13 else ["s", "at"]
    nodes = [node("Unsqueeze", read, ["u"], **axes), node("Mul", ["x", "u"], ["y"])]
    scale = np.float32([1, 2, 3])
    constants = {"s": scale} if opset < 13 else {"s": scale, "at": ints(1, 2)}
    x = weight(1, 3, 6, 6)
    y = run(read_onnx(model(nodes, constants, opset=opset)), x)
    np.testing.assert_allclose(y, x * scale[:, None, None], rtol=1e-6)


def test_shape_arithmetic_is_folded():
    class View(nn.Module):
        def forward(self, x):
            y = x.view(x.size(0), 2, x.size(1) // 2, -1)
            return y.permute(0, 2, 1, 3).reshape(x.size(0), -1)

    x = torch.randn(3, 4, 2, 2)
    for axes in ({"x": {0: "N"}}, {}):
        net = torch_onnx(View(), x, input_names=["x"], dynamic_axes=axes)
        graph = read_onnx(net)
        assert {n.op for n in graph.nodes} == {"Reshape", "Transpose"}
        assert graph.inputs[0].shape == (None, 4, 2, 2)
        np.testing.assert_array_equal(run(graph, x.numpy()), View()(x).numpy())


def test_softmax_before_operator_set_13_spans_all_later_axes():
    x = weight(2, 3, 4)
    net = model([node("Softmax", ["x"], ["y"])], inputs=[("x", [2, 3, 4])], opset=11)
    e = np.exp(x.reshape(2, 12))
    y = (e / e.sum(1, keepdims=True)).reshape(2, 3, 4)
    np.testing.assert_allclose(run(read_onnx(net), x), y, rtol=1e-5)


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_auto_pads_become_pads(auto):
    import onnxruntime

    net = model(
        [node("Conv", ["x", "w"], ["y"], auto_pad=auto, strides=[2, 3], kernel_shape=[3, 4])],
        {"w": weight(2, 3, 3, 4)},
    )
    x = weight(1, 3, 6, 6, seed=1)
    session = onnxruntime.InferenceSession(net.SerializeToString())
    np.testing.assert_allclose(
        run(read_onnx(net), x), session.run(None, {"x": x})[0], rtol=1e-4, atol=1e-5
    )


def test_an_output_that_is_an_input_or_named_twice_is_kept():
    net = model(
        [
            node("Relu", ["x"], ["t"], name="r"),
            node("Identity", ["t"], ["y"], name="i1"),
            node("Dropout", ["t"], ["z"], name="i2"),
            node("Identity", ["x"], ["w"], name="i3"),
        ],
        outputs=("y", "z", "w"),
    )
    graph = read_onnx(net)
    x = weight(2, 3, 6, 6)
    found = run(graph, x)
    np.testing.assert_array_equal(found["y"], np.maximum(x, 0))
    np.testing.assert_array_equal(found["z"], np.maximum(x, 0))
    np.testing.assert_array_equal(found["w"], x)


def test_local_functions_are_written_out():
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)],
    )  # fmt: skip
    net = model([helper.make_node("Twice", ["x"], ["y"], domain="mine")], functions=[function])
    net.opset_import.append(helper.make_opsetid("mine", 1))
    x = weight(1, 3, 6, 6)
    np.testing.assert_array_equal(run(read_onnx(net), x), 2 * x)


def test_sparse_initializers_are_spread():
    net = model([node("Gemm", ["x", "w"], ["y"], transB=1)], inputs=[("x", [1, 3])])
    sparse = net.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(np.array([2, 5], np.float32), "w"))
    sparse.indices.CopyFrom(numpy_helper.from_array(ints(1, 5), "at"))
    sparse.dims.extend([2, 3])
    assert read_onnx(net).constants["my_Gemm.weight"].tolist() == [[0, 2, 0], [0, 0, 5]]


# --- the batch ----------------------------------------------------------------------------------


def test_a_fixed_batch_is_opened_where_that_is_sound():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 5))
    graph = read_onnx(torch_onnx(module, torch.zeros(1, 3, 6, 6)))
    assert graph.inputs[0].shape == (None, 3, 6, 6)
    assert graph.outputs[0].shape == (None, 5)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Transpose", ["x"], ["y"], perm=[1, 0, 2, 3])],
        [node("Concat", ["x", "x"], ["y"], axis=0)],
        [node("Add", ["x", "c"], ["y"])],
        [
            node("Shape", ["x"], ["s"]),
            node("Cast", ["s"], ["f"], to=1),
            node("Mul", ["x", "first"], ["t"]),
            node("Slice", ["f", "zero", "one"], ["n"]),
            node("Div", ["t", "n"], ["y"]),
        ],
    ],
)
def test_it_stays_fixed_where_images_would_mix(nodes):
    constants = {
        "c": weight(2, 3, 6, 6), "zero": ints(0), "one": ints(1), "first": np.float32(1),
    }  # fmt: skip
    net = model(nodes, constants, [("x", [2, 3, 6, 6])])
    assert read_onnx(net).inputs[0].shape == (2, 3, 6, 6)
    net.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    with pytest.raises(GraphError, match=r"batch|do not fit"):
        read_onnx(net)


def test_a_softmax_over_the_batch_is_opened_only_by_the_file_itself():
    net = model([node("Softmax", ["x"], ["y"], axis=0)], inputs=[("x", [2, 3])])
    assert read_onnx(net).inputs[0].shape == (2, 3)
    net.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    assert read_onnx(net).inputs[0].shape == (None, 3)


def test_open_image_sizes_are_refused_with_advice():
    net = model([node("Relu", ["x"], ["y"])], inputs=[("x", ["N", 3, "H", "W"])])
    with pytest.raises(GraphError, match=r"input 'x': shape .* leaves more open than the batch"):
        read_onnx(net)


# --- refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("Erf", ["x"], ["y"])], r"node 'my_Erf' \(Erf\): operator 'Erf'"),
        (
            [helper.make_node("Relu", ["x"], ["y"], name="n", domain="com.other")],
            r"node 'n' \(com.other.Relu\): operator",
        ),
        ([node("Relu", ["x"], ["y"], slope=1.0)], r"\(Relu\): attribute slope=1.0"),
        (
            [node("BatchNormalization", ["x", "v", "v", "v", "v"], ["y"], training_mode=1)],
            r"attribute training_mode=1",
        ),
        ([node("Resize", ["x", "", "s"], ["y"], mode="linear")], "attribute mode='linear'"),
        ([node("Conv", ["x", "x"], ["y"])], "the weight, input 1, must be a constant"),
        ([node("Conv", ["x", "w5"], ["y"])], "one or two are supported"),
        ([node("MatMul", ["x", "x"], ["y"])], "the right factor, input 1, must be a constant"),
        ([node("Pad", ["x", "p"], ["y"], mode="wild")], "attribute mode"),
        ([node("Reshape", ["x", "r"], ["y"])], r"\(Reshape\): inputs of shape .* do not fit"),
        (
            [
                node("MaxPool", ["x"], ["p", "at"], kernel_shape=[2, 2]),
                node("Add", ["p", "at"], ["y"]),
            ],
            r"\(MaxPool\): output 'at' is not supported",
        ),
        ([node("ReduceMean", ["x"], ["y"], axes=[1])], r"attribute axes=\(1,\).*over the image"),
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
    net.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    with pytest.raises(
        GraphError, match=r"input 'x': dtype float16.* export the network in float32"
    ):
        read_onnx(net)


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
