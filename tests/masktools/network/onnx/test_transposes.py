"""Channels-last networks: transpositions that cancel are taken out."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from onnx_models import model, node, run, torch_onnx, weight
from torch import nn

from masktools.network.onnx.reader import read_onnx

FIRST, LAST = [0, 3, 1, 2], [0, 2, 3, 1]


def layer(x, y, number):
    """Return a convolution between transpositions, as tf2onnx writes it."""
    return [
        node("Transpose", [x], [f"a{number}"], f"first{number}", perm=FIRST),
        node("Conv", [f"a{number}", f"w{number}"], [f"b{number}"], f"conv{number}", pads=[1] * 4),
        node("Transpose", [f"b{number}"], [y], f"last{number}", perm=LAST),
    ]


def check(nodes, constants, expected, x=None, **extra):
    net = model(nodes, constants, [("x", ["N", 6, 5, 3])], **extra)
    graph = read_onnx(net)
    assert [n.op for n in graph.nodes] == expected
    x = weight(2, 6, 5, 3, seed=5)
    found = run(graph, x)
    session = onnxruntime.InferenceSession(net.SerializeToString())
    wanted = dict(zip([v.name for v in graph.outputs], session.run(None, {"x": x}), strict=True))
    for name, array in (found if isinstance(found, dict) else {"y": found}).items():
        np.testing.assert_allclose(array, wanted[name], 1e-4, 1e-5)


CONSTANTS = {"w1": weight(4, 3, 3, 3), "w2": weight(4, 4, 3, 3), "c": weight(4), "s": np.float32(3)}


def test_they_cancel_through_functions_and_arithmetic():
    nodes = [
        *layer("x", "p", 1), node("Add", ["p", "c"], ["q"]), node("Relu", ["q"], ["r"]),
        node("Mul", ["s", "r"], ["t"]), *layer("t", "u", 2), node("Add", ["u", "r"], ["y"], "skip"),
    ]  # fmt: skip
    expected = ["Transpose", "Conv", "Add", "Relu", "Mul", "Conv", "Add", "Transpose"]
    check(nodes, CONSTANTS, expected)


def test_they_cancel_through_concatenations():
    nodes = [
        *layer("x", "p", 1), *layer("p", "q", 2), node("Concat", ["p", "q"], ["r"], axis=-1),
        node("Sigmoid", ["r"], ["s1"]), node("Transpose", ["s1"], ["y"], "t", perm=FIRST),
    ]  # fmt: skip
    check(nodes, CONSTANTS, ["Transpose", "Conv", "Conv", "Concat", "Sigmoid"])


def test_outputs_stay_where_they_are():
    nodes = [*layer("x", "p", 1), *layer("p", "y", 2), node("Tanh", ["p"], ["z"])]
    expected = ["Transpose", "Conv", "Conv", "Tanh", "Transpose", "Transpose"]
    check(nodes, CONSTANTS, expected, outputs=("y", "z"))


def test_a_network_that_gains_nothing_stays_as_it_is():
    nodes = [
        node("Transpose", ["x"], ["a"], "t1", perm=FIRST), node("Relu", ["a"], ["b"]),
        node("Flatten", ["b"], ["c"]), node("Transpose", ["x"], ["d"], "t2", perm=[0, 2, 1, 3]),
        node("Flatten", ["d"], ["e"], "flat"), node("Add", ["c", "e"], ["y"]),
    ]  # fmt: skip
    check(nodes, {}, ["Transpose", "Relu", "Flatten", "Transpose", "Flatten", "Add"])


@pytest.mark.parametrize("open_", [True, False])
def test_channels_last_modules_of_torch(open_):
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 5),
    ).eval().to(memory_format=torch.channels_last)  # fmt: skip
    x = torch.randn(2, 3, 9, 9).to(memory_format=torch.channels_last)
    axes = {"dynamic_axes": {"x": {0: "N"}}, "input_names": ["x"]} if open_ else {}
    graph = read_onnx(torch_onnx(module, x, **axes))
    assert "Transpose" not in [n.op for n in graph.nodes]
    np.testing.assert_allclose(run(graph, x.numpy()), module(x).detach().numpy(), 1e-4, 1e-5)
