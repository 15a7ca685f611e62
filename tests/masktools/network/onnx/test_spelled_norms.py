"""LayerNormalization that exporters spell out by means becomes one node, and only that."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from onnx_models import model, node, run, torch_onnx, weight
from torch import nn

import runtime
from masktools.checkpoint import Checkpoint
from masktools.network.onnx.reader import read_onnx

CONSTANTS = {
    "two": np.float32(2), "three": np.float32(3), "one": np.float32(1), "eps": np.float32([1e-3]),
    "minus": np.float32(-1e-3), "scale": weight(6, seed=1), "shift": weight(6, seed=2),
    "row": weight(5, 1, seed=3), "many": np.float32([[1e-3], [1e-2], [1e-3], [1e-2], [1e-3]]),
}  # fmt: skip


def spelled(square=("Pow", "d two"), divide=(("Div", "d s", "n"),), last=(-1,), epsilon="eps",
            ends=(("Mul", "n scale", "a"), ("Add", "a shift", "y")), first=None):  # fmt: skip
    """Return the nodes of a normalisation of x, some of them in another form."""
    mean = {"axes": list(last), "keepdims": 1}
    parts = [
        ("ReduceMean", "x", "m", {"axes": list(first or last), "keepdims": 1}),
        ("Sub", "x m", "d", {}),
        (*square, "q", {}),
        ("ReduceMean", "q", "v", mean),
        ("Add", f"v {epsilon}", "e", {}),
        ("Sqrt", "e", "s", {}),
        *((op, inputs, output, {}) for op, inputs, output in (*divide, *ends)),
    ]
    return [
        node(op, inputs.split(), [output], name=f"n{i}", **attributes)
        for i, (op, inputs, output, attributes) in enumerate(parts)
    ]


def check(nodes, outputs=("y",), shape=(5, 6)):
    used = {name for n in nodes for name in n.input}
    constants = {name: array for name, array in CONSTANTS.items() if name in used}
    net = model(nodes, constants, [("x", ["N", *shape])], outputs, opset=13)
    x = 3 * weight(4, *shape) + 1
    wanted = onnxruntime.InferenceSession(net.SerializeToString()).run(None, {"x": x})
    graph = read_onnx(net)
    got = run(graph, x)
    got = got if isinstance(got, dict) else {outputs[0]: got}
    for name, want in zip(outputs, wanted, strict=True):
        np.testing.assert_allclose(got[name], want, rtol=1e-4, atol=1e-4)
    return graph


RECIPROCAL = (("Reciprocal", "s", "r"), ("Mul", "d r", "n"))
WHOLE = {
    "as PyTorch writes it": {},
    "by a product": {"square": ("Mul", "d d")},
    "by a reciprocal": {"divide": RECIPROCAL},
    "by a reciprocal, turned": {"divide": (RECIPROCAL[0], ("Mul", "r d", "n"))},
    "constants first": {"ends": (("Mul", "scale n", "a"), ("Add", "shift a", "y"))},
    "scale alone": {"ends": (("Mul", "n scale", "y"),)},
    "neither": {"divide": (("Div", "d s", "y"),), "ends": ()},
    "two axes": {"divide": (("Div", "d s", "y"),), "ends": (), "last": (1, 2)},
    "two axes, turned": {"divide": (("Div", "d s", "y"),), "ends": (), "last": (-1, 1)},
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_spelled_out_becomes_one_node(name):
    how = WHOLE[name]
    graph = check(spelled(**how))
    assert [n.op for n in graph.nodes] == ["LayerNormalization"]
    assert len(graph.nodes[0].inputs) == 1 + len(how.get("ends", (0, 0)))
    assert graph.nodes[0].attributes == {
        "axis": 3 - len(how.get("last", (0,))),
        "epsilon": float(np.float32(1e-3)),
    }


PART = {
    "a shift alone": ({"ends": (("Add", "n shift", "y"),)}, ["LayerNormalization", "Add"]),
    "a scale of another shape": (
        {"ends": (("Mul", "n row", "a"), ("Add", "a shift", "y"))},
        ["LayerNormalization", "Mul", "Add"],
    ),
    "a shift of another shape": (
        {"ends": (("Mul", "n scale", "a"), ("Add", "a row", "y"))},
        ["LayerNormalization", "Add"],
    ),
    "a scale that is read again": (
        {"ends": (("Mul", "n scale", "a"), ("Mul", "a n", "y"))},
        ["LayerNormalization", "Mul", "Mul"],
    ),
}


@pytest.mark.parametrize("name", PART)
def test_what_does_not_belong_to_it_stays(name):
    how, ops = PART[name]
    assert [n.op for n in check(spelled(**how)).nodes] == ops


RESEMBLING = {
    "another power": {"square": ("Pow", "d three")},
    "the square of x": {"square": ("Mul", "x x")},
    "no square": {"square": ("Mul", "d three"), "epsilon": "one", "ends": (("Mul", "n d", "y"),)},
    "x over the deviation": {"divide": (("Div", "x s", "n"),)},
    "upside down": {"divide": (("Div", "s d", "n"),)},
    "twice the inverse": {"divide": (("Div", "two s", "r"), ("Mul", "d r", "n"))},
    "other axes for the mean": {"first": (1,)},
    "an axis in the middle": {"last": (1,)},
    "an epsilon for each row": {"epsilon": "many"},
    "an epsilon below zero": {"epsilon": "minus"},
    "a mean that is read again": {"ends": (("Mul", "n m", "y"),)},
    "a difference that is read again": {"ends": (("Mul", "n d", "y"),)},
    "a deviation that is read again": {"ends": (("Mul", "n s", "y"),)},
}


@pytest.mark.parametrize("name", RESEMBLING)
def test_what_only_resembles_it_stays(name):
    nodes = spelled(**RESEMBLING[name])
    # A mean of cubes may be below zero, and a difference that is divided by close to it.
    graph = read(nodes) if name in ("another power", "upside down") else check(nodes)
    assert "LayerNormalization" not in [n.op for n in graph.nodes]


def read(nodes):
    used = {name for n in nodes for name in n.input}
    constants = {name: array for name, array in CONSTANTS.items() if name in used}
    return read_onnx(model(nodes, constants, [("x", ["N", 5, 6])], opset=13))


def test_a_fixed_batch_may_be_normalised_too():
    nodes = spelled(last=(0, 1, 2), ends=(("Mul", "n two", "y"),))
    constants = {name: CONSTANTS[name] for name in ("two", "eps")}
    net = model(nodes, constants, [("x", [4, 5, 6])], opset=13)
    x = 3 * weight(4, 5, 6) + 1
    (wanted,) = onnxruntime.InferenceSession(net.SerializeToString()).run(None, {"x": x})
    graph = read_onnx(net)
    assert [n.op for n in graph.nodes] == ["LayerNormalization", "Mul"]
    for backend in ("reference", "cpu"):
        got = runtime.prepare(Checkpoint(graph), backend=backend)(x)
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("inner", ["m", "d", "q", "v", "e", "s"])
def test_what_is_an_output_of_the_network_stays(inner):
    graph = check(spelled(), ("y", inner))
    assert "LayerNormalization" not in [n.op for n in graph.nodes]


def test_an_output_ends_it():
    graph = check(spelled(), ("y", "n"))
    assert [n.op for n in graph.nodes] == ["LayerNormalization", "Mul", "Add"]
    graph = check(spelled(), ("y", "a"))
    assert [n.op for n in graph.nodes] == ["LayerNormalization", "Add"]


def test_it_is_found_more_than_once_and_between_layers():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = (
                nn.LayerNorm(6),
                nn.LayerNorm((5, 6), elementwise_affine=False),
            )
            self.layer = nn.Linear(6, 6)

        def forward(self, x):
            return x + self.layer(self.second(self.layer(self.first(x))))

    module = Block()
    nn.init.normal_(module.first.weight)
    x = torch.from_numpy(weight(2, 5, 6))
    graph = read_onnx(torch_onnx(module, x, opset=13))
    layer = ["LayerNormalization", "Gemm", "Add"]
    assert [n.op for n in graph.nodes] == [*layer, *layer, "Add"]
    with torch.no_grad():
        wanted = module(x).numpy()
    np.testing.assert_allclose(run(graph, x.numpy()), wanted, rtol=1e-4, atol=1e-5)


def test_a_norm_by_the_root_of_mean_squares_runs_as_it_is_written():
    """As RMSNorm is: no mean is taken off."""
    nodes = [
        node("Mul", ["x", "x"], ["q"], name="q"),
        node("ReduceMean", ["q"], ["v"], name="v", axes=[-1], keepdims=1),
        node("Add", ["v", "eps"], ["e"], name="e"),
        node("Sqrt", ["e"], ["s"], name="s"),
        node("Reciprocal", ["s"], ["r"], name="r"),
        node("Mul", ["x", "r"], ["n"], name="n"),
        node("Mul", ["n", "scale"], ["y"], name="y"),
    ]
    assert "LayerNormalization" not in [n.op for n in check(nodes).nodes]
