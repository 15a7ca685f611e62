"""Weights that an ONNX file computes: masks are read of the layers that networks have."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import ints, model, node, weight

import masktools
from masktools.errors import FormatError
from masktools.network.onnx.reader import read_onnx

MASK = np.random.default_rng(1).random((16, 3, 3, 3)) < 0.3
ONES = MASK.astype(np.float32)
W = (abs(weight(16, 3, 3, 3)) + 1) * ONES
LARGEST = W.max((1, 2, 3))
EACH, ALL = LARGEST / 127, LARGEST.max() / 127
CONV = {"conv.weight": W}
SHAPE = ints(16, 3, 3, 3)


def chain(*steps):
    """Return nodes, each (op, inputs, output) or with attributes behind."""
    return [
        node(op, reads.split(), [made], **dict(*attributes))
        for op, reads, made, *attributes in steps
    ]


# What nodes make "w" of, by what writes them.
FORMS = {
    "a mask": (chain(("Mul", "conv.weight m", "w")), CONV | {"m": ONES}),
    "tf2onnx": (
        chain(("Transpose", "t", "w", {"perm": [3, 2, 0, 1]})),
        {"t": W.transpose(2, 3, 1, 0)},
    ),
    "a reshape": (chain(("Reshape", "t s", "w")), {"t": W.reshape(16, 27), "s": SHAPE}),
    "half precision": (
        chain(("Cast", "conv.weight", "w", {"to": 1})),
        {"conv.weight": W.astype(np.float16)},
    ),
    "quantisation by channel": (
        chain(("DequantizeLinear", "q s z", "w", {"axis": 0})),
        {
            "q": (W / EACH[:, None, None, None]).round().astype(np.int8),
            "s": EACH,
            "z": np.zeros(16, np.int8),
        },
    ),
    "quantisation": (
        chain(("DequantizeLinear", "q s z", "w")),
        {"q": (W / ALL).round().astype(np.int8), "s": ALL, "z": np.int8(0)},
    ),
    "a weight norm": (
        chain(
            ("ReduceL2", "v", "n", {"axes": [1, 2, 3]}), ("Div", "v n", "u"), ("Mul", "u g", "w")
        ),
        {"v": W, "g": LARGEST.reshape(16, 1, 1, 1)},
    ),
    "low rank": (
        chain(
            ("MatMul", "a b", "ab"), ("Reshape", "ab s", "d"), ("Add", "conv.weight d", "e"),
            ("Mul", "e m", "w"),
        ),
        CONV | {"a": weight(16, 2), "b": weight(2, 27), "s": SHAPE, "m": ONES},
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_weights_that_are_computed_have_masks(tmp_path, form):
    nodes, constants = FORMS[form]
    net = model([*nodes, node("Conv", ["x", "w"], ["y"], "conv1")], constants, opset=13)
    onnx.save(net, tmp_path / "net.onnx")
    masks, weights = (
        f(tmp_path / "net.onnx") for f in (masktools.load_masks, masktools.load_weights)
    )
    graph = read_onnx(net)
    (layer,) = weights
    assert list(graph.constants) == [f"{layer}.weight"]
    assert layer == ("conv" if "conv.weight" in constants else "conv1")
    np.testing.assert_array_equal(weights[layer], graph.constants[f"{layer}.weight"])
    np.testing.assert_array_equal(masks[layer], MASK)


def test_layers_of_one_parameter_are_told_apart_as_in_the_network(tmp_path):
    nodes = [
        node("Mul", ["conv.weight", "m"], ["w1"]), node("Conv", ["x", "w1"], ["a"], "c1"),
        node("Mul", ["conv.weight", "n"], ["w2"]), node("Conv", ["x", "w2"], ["b"], "c2"),
        node("Identity", ["w2"], ["w3"]), node("Conv", ["x", "w3"], ["c"], "c3"),
        node("Sum", ["a", "b", "c"], ["y"]),
    ]  # fmt: skip
    net = model(nodes, {"conv.weight": W, "m": np.float32(2), "n": np.float32(3)})
    onnx.save(net, tmp_path / "net.onnx")
    weights = masktools.load_weights(tmp_path / "net.onnx")
    graph = read_onnx(net)
    assert {f"{name}.weight" for name in weights} == set(graph.constants)
    assert list(weights) == ["conv", "conv_1"]
    for name, array in weights.items():
        np.testing.assert_array_equal(array, graph.constants[f"{name}.weight"])


def test_layers_inside_local_functions_are_found(tmp_path):
    function = helper.make_function(
        "mine", "Layer", ["a", "b"], ["c"],
        [helper.make_node("Conv", ["a", "b"], ["c"])], [helper.make_opsetid("", 17)],
    )  # fmt: skip
    call = helper.make_node("Layer", ["x", "conv.weight"], ["y"], domain="mine")
    net = model([call], {"conv.weight": W}, functions=[function])
    net.opset_import.append(helper.make_opsetid("mine", 1))
    onnx.save(net, tmp_path / "net.onnx")
    np.testing.assert_array_equal(masktools.load_masks(tmp_path / "net.onnx")["conv"], MASK)


def test_why_a_weight_cannot_be_computed_is_said(tmp_path):
    nodes = [node("Det", ["t"], ["w"]), node("Conv", ["x", "w"], ["y"], "conv1")]
    onnx.save(model(nodes, {"t": W}), tmp_path / "net.onnx")
    with pytest.raises(FormatError, match=r"'conv1' was left out.*'Det' on constants"):
        masktools.load_masks(tmp_path / "net.onnx")


def test_what_would_fill_the_memory_is_not_computed(tmp_path):
    nodes = [node("Expand", ["t", "s"], ["w"]), node("Conv", ["x", "w"], ["y"], "conv1")]
    constants = {"t": np.float32(1).reshape(1, 1, 1, 1), "s": ints(1 << 20, 1 << 20, 3, 3)}
    onnx.save(model(nodes, constants), tmp_path / "net.onnx")
    with pytest.raises(FormatError, match=r"it makes a constant of \d+ elements"):
        masktools.load_masks(tmp_path / "net.onnx")
