"""Reading ONNX: constants, operator sets and open batches become one normal form."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import zoo
from onnx import helper, numpy_helper
from onnx_models import ints, model, node, run, torch_onnx, weight
from torch import nn

from masktools.errors import GraphError
from masktools.network.onnx.reader import read_onnx

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


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("Elu", {"alpha": 0.5}), ("Tanh", {}), ("Erf", {}), ("Gelu", {}), ("Mish", {}), ("Exp", {}),
        ("Gelu", {"approximate": "tanh"}), ("Swish", {"alpha": 1.5}), ("Swish", {}),
        ("ThresholdedRelu", {}), ("Selu", {}), ("Celu", {"alpha": 0.5}), ("Celu", {}),
        ("Softsign", {}), ("Softplus", {}), ("Abs", {}),
        ("HardSigmoid", {}), ("HardSwish", {}), ("LeakyRelu", {"alpha": 0.5}), ("Relu", {}),
    ],
)  # fmt: skip
def test_a_weight_may_pass_through_an_activation(op, attributes):
    """What is folded is what the same operator of a value is."""
    w, x = weight(4, 3), np.eye(3, dtype=np.float32)
    nodes = [node(op, ["w"], ["v"], **attributes), node("Gemm", ["x", "v"], ["y"], transB=1)]
    opset = 24 if op == "Swish" else 20
    graph = read_onnx(model(nodes, {"w": w}, [("x", ["N", 3])], opset=opset))
    assert [n.op for n in graph.nodes] == ["Gemm"]
    alone = model([node(op, ["x"], ["y"], **attributes)], {}, [("x", ["N", 3])], opset=opset)
    np.testing.assert_allclose(run(graph, x), run(read_onnx(alone), w).T, 1e-5, 1e-6)


def test_a_weight_may_be_chosen_by_its_size():
    """Pruned within the network: what is small becomes zero."""
    w, x = weight(4, 3), np.eye(3, dtype=np.float32)
    nodes = [
        node("Abs", ["w"], ["a"], name="a"),
        node("Less", ["a", "k"], ["b"], name="b"),
        node("Not", ["b"], ["c"], name="c"),
        node("LessOrEqual", ["w", "top"], ["d"], name="d"),
        node("And", ["c", "d"], ["e"], name="e"),
        node("Where", ["e", "w", "zero"], ["v"], name="f"),
        node("Gemm", ["x", "v"], ["y"], transB=1),
    ]
    constants = {"w": w, "k": np.float32(0.5), "top": np.float32(9), "zero": np.float32(0)}
    graph = read_onnx(model(nodes, constants, [("x", ["N", 3])]))
    assert [n.op for n in graph.nodes] == ["Gemm"]
    np.testing.assert_array_equal(run(graph, x), np.where(abs(w) >= 0.5, w, 0).T)


def test_a_standardised_weight_is_folded():
    """timm's ScaledStdConv2d takes the batch normalisation of its weight, as one of training."""

    class Standardised(nn.Conv2d):
        def forward(self, x):
            rows = self.weight.reshape(1, self.out_channels, -1)
            flat = nn.functional.batch_norm(rows, None, None, training=True, eps=1e-6)
            return self._conv_forward(x, flat.reshape_as(self.weight), self.bias)

    module, x = Standardised(3, 8, 3), torch.randn(2, 3, 6, 6)
    net = torch_onnx(
        module, x, do_constant_folding=False, training=torch.onnx.TrainingMode.TRAINING
    )
    assert any(n.op_type == "BatchNormalization" for n in net.graph.node)
    graph = read_onnx(net)
    assert [n.op for n in graph.nodes] == ["Conv"]
    assert "weight" in next(iter(graph.constants))
    np.testing.assert_allclose(run(graph, x.numpy()), module(x).detach().numpy(), 1e-4, 1e-5)


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((4, 3, 1, 1), {}),
        ((4, 3, 3, 2), {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
        ((6, 1, 3, 3), {"group": 3, "dilations": [1, 2], "pads": [1, 2, 1, 2]}),
        ((3, 3, 3, 4), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
        ((3, 3, 4, 3), {"auto_pad": "SAME_LOWER"}),
    ],
)
def test_a_convolution_of_constants_is_folded(shape, attributes):
    """Positions that are turned into channels, as EdgeNeXt has them."""
    constants = {"c": weight(1, 3, 7, 8), "w": weight(*shape, seed=1), "b": weight(shape[0])}
    nodes = [
        node("Conv", ["c", "w", "b"], ["p"], **attributes),
        node("Reshape", ["p", "row"], ["r"]), node("Mul", ["x", "r"], ["y"]),
    ]  # fmt: skip
    net = model(nodes, {**constants, "row": ints(1, -1)}, [("x", ["N", 1])])
    x = weight(2, 1)
    (wanted,) = onnxruntime.InferenceSession(net.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(run(read_onnx(net), x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", ["RandomUniformLike", "NonZero", "MaxPool", "Det"])
def test_what_has_no_known_cost_is_refused_by_name(op):
    nodes = [node(op, ["c"], ["d"]), node("Mul", ["x", "d"], ["y"])]
    with pytest.raises(GraphError, match=rf"node 'my_{op}' .*operator '{op}' on constants"):
        read_onnx(model(nodes, {"c": weight(1, 3, 6, 6)}))


def test_dropout_of_constants_may_not_be_in_training():
    nodes = [node("Dropout", ["c", "r", "t"], ["d"]), node("Mul", ["x", "d"], ["y"])]
    constants = {"c": weight(6), "r": np.float32(0.5), "t": np.array(False)}
    assert read_onnx(model(nodes, constants)).nodes[0].op == "Mul"
    with pytest.raises(GraphError, match="training_mode must be false"):
        read_onnx(model(nodes, constants | {"t": np.array(True)}))


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
