"""Functions of one number that exporters spell out become one node."""

from __future__ import annotations

import io
import math
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx_models import model, node, run, torch_onnx, weight
from torch import nn
from torch.nn import functional

from masktools.network.onnx.reader import read_onnx

ROOT, TANH = math.sqrt(2), math.sqrt(2 / math.pi)
CONSTANTS = {
    name: np.array(value, np.float32)
    for name, value in {
        "half": 0.5, "one": 1, "two": 2, "three": 3, "six": 6, "root": ROOT, "inverse": 1 / ROOT,
        "tanh": TANH, "cube": 0.044715, "minus": -1, "quick": 1.702, "sixth": 1 / 6, "zero": 0,
        "far": 20, "slope": 0.3, "small": 1e-4, "inside": 0.55, "below": 0.45,
    }.items()
}  # fmt: skip


def chain(*nodes):
    """Return nodes from (op, inputs, output), with a name each."""
    return [
        node(op, inputs.split(), [output], name=f"n{i}")
        for i, (op, inputs, output) in enumerate(nodes)
    ]


EXACT, ABOUT = ("Gelu", {"approximate": "none"}), ("Gelu", {"approximate": "tanh"})
ERF = (("Div", "x root", "a"), ("Erf", "a", "b"), ("Add", "b one", "c"))
INNER = (
    ("Mul", "x x", "p"), ("Mul", "p x", "q"), ("Mul", "q cube", "r"), ("Add", "x r", "s"),
    ("Mul", "s tanh", "t"), ("Tanh", "t", "u"), ("Add", "one u", "v"),
)  # fmt: skip
SPELLED = {
    "Sigmoid times x": ((("Sigmoid", "x", "s"), ("Mul", "x s", "y")), "Swish", {"alpha": 1.0}),
    "x times Sigmoid": ((("Sigmoid", "x", "s"), ("Mul", "s x", "y")), "Swish", {"alpha": 1.0}),
    "by Exp": (
        (("Neg", "x", "m"), ("Exp", "m", "e"), ("Add", "one e", "s"), ("Div", "x s", "y")),
        "Swish", {"alpha": 1.0},
    ),
    "quick": (
        (("Mul", "x quick", "q"), ("Sigmoid", "q", "s"), ("Mul", "x s", "y")),
        "Swish", {"alpha": float(np.float32(1.702))},
    ),
    "Erf, x first": ((*ERF, ("Mul", "x c", "d"), ("Mul", "d half", "y")), *EXACT),
    "Erf, half first": ((("Mul", "x half", "h"), *ERF, ("Mul", "h c", "y")), *EXACT),
    "Erf, half the sum": ((*ERF, ("Mul", "half c", "d"), ("Mul", "x d", "y")), *EXACT),
    "Erf of a product": (
        (("Mul", "x inverse", "a"), *ERF[1:], ("Mul", "x c", "d"), ("Div", "d two", "y")),
        *EXACT,
    ),
    "Tanh": ((*INNER, ("Mul", "x v", "w"), ("Mul", "half w", "y")), *ABOUT),
    "Tanh of a power": (
        (("Pow", "x three", "q"), *INNER[2:], ("Mul", "half x", "w"), ("Mul", "v w", "y")),
        *ABOUT,
    ),
    "Softplus": ((("Exp", "x", "e"), ("Add", "e one", "s"), ("Log", "s", "y")), "Softplus", {}),
    "Mish": ((("Softplus", "x", "s"), ("Tanh", "s", "t"), ("Mul", "x t", "y")), "Mish", {}),
    "Mish of everything": (
        (("Exp", "x", "e"), ("Add", "e one", "a"), ("Log", "a", "s"), ("Tanh", "s", "t"),
         ("Mul", "x t", "y")),
        "Mish", {},
    ),
    "HardSigmoid": (
        (("Add", "x three", "a"), ("Clip", "a zero six", "c"), ("Div", "c six", "y")),
        "HardSigmoid", {"alpha": 1 / 6, "beta": 0.5},
    ),
    "HardSwish": (
        (("Add", "x three", "a"), ("Clip", "a zero six", "c"), ("Mul", "x c", "d"),
         ("Div", "d six", "y")),
        "HardSwish", {},
    ),
    "HardSwish of its factor": (
        (("Add", "x three", "a"), ("Clip", "a zero six", "c"), ("Mul", "c sixth", "d"),
         ("Mul", "x d", "y")),
        "HardSwish", {},
    ),
    "Softplus with a threshold": (
        (("Greater", "x far", "g"), ("Softplus", "x", "s"), ("Where", "g x s", "y")),
        "Softplus", {},
    ),
    "Softplus of Exp with a threshold": (
        (("LessOrEqual", "x far", "g"), ("Exp", "x", "e"), ("Add", "e one", "a"), ("Log", "a", "s"),
         ("Where", "g s x", "y")),
        "Softplus", {},
    ),
    "Relu": ((("Less", "x zero", "c"), ("Where", "c zero x", "y")), "Relu", {}),
    "LeakyRelu": (
        (("Mul", "x slope", "m"), ("Greater", "x zero", "c"), ("Where", "c x m", "y")),
        "LeakyRelu", {"alpha": float(np.float32(0.3))},
    ),
    "Elu": (
        (("Exp", "x", "e"), ("Sub", "e one", "f"), ("Mul", "f slope", "m"),
         ("Greater", "x zero", "c"), ("Where", "c x m", "y")),
        "Elu", {"alpha": float(np.float32(0.3))},
    ),
    "Threshold": (
        (("LessOrEqual", "x inside", "c"), ("Where", "c zero x", "y")),
        "ThresholdedRelu", {"alpha": float(np.float32(0.55))},
    ),
    "Threshold by Not": (
        (("Greater", "x inside", "c"), ("Not", "c", "d"), ("Where", "d zero x", "y")),
        "ThresholdedRelu", {"alpha": float(np.float32(0.55))},
    ),
}  # fmt: skip


def read(nodes, outputs=("y",), **more):
    used = {name for n in nodes for name in n.input}
    constants = {name: array for name, array in {**CONSTANTS, **more}.items() if name in used}
    return read_onnx(model(nodes, constants, [("x", ["N", 3, 4, 5])], outputs, opset=18))


@pytest.mark.parametrize("name", SPELLED)
def test_what_is_spelled_out_becomes_one_node(name):
    spelled, op, attributes = SPELLED[name]
    nodes = chain(*spelled)
    graph = read(nodes)
    assert [(n.op, dict(n.attributes)) for n in graph.nodes] == [(op, attributes)]
    assert not graph.constants
    # With an output in the middle nothing can be put together: the same by every node.
    apart = read(nodes, ("y", spelled[-2][2]))
    assert len(apart.nodes) > 1
    x = 4 * weight(2, 3, 4, 5)
    by_each = run(apart, x)["y"]
    np.testing.assert_allclose(run(graph, x), by_each, rtol=1e-5, atol=1e-6)


def test_it_is_found_between_layers_and_more_than_once():
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        *chain(("Sigmoid", "c", "s"), ("Mul", "c s", "d")),
        *chain(("Sigmoid", "d", "t"), ("Mul", "t d", "e")),
        node("Conv", ["e", "w"], ["y"], name="last"),
    ]  # fmt: skip
    graph = read(nodes, w=weight(3, 3, 1, 1))
    assert [n.op for n in graph.nodes] == ["Conv", "Swish", "Swish", "Conv"]


@pytest.mark.parametrize(
    ("nodes", "wanted"),
    [
        # Other numbers: neither is the function that it resembles.
        ((*ERF, ("Mul", "x c", "d"), ("Mul", "d sixth", "y")), "Mul"),
        ((("Add", "x two", "a"), ("Clip", "a zero six", "c"), ("Div", "c six", "y")), "Div"),
        # Of two values, or of one and of what a layer makes of it.
        ((("Relu", "x", "r"), ("Sigmoid", "r", "s"), ("Mul", "x s", "y")), "Mul"),
        # By channel, not by number.
        ((("Mul", "x wide", "a"), ("Sigmoid", "a", "s"), ("Mul", "x s", "y")), "Mul"),
        # A threshold so close to zero that few numbers tell it from Relu; one that jumps.
        ((("Less", "x small", "c"), ("Where", "c zero x", "y")), "Where"),
        ((("Less", "x inside", "c"), ("Where", "c below x", "y")), "Where"),
        # A product is no Swish.
        ((("Mul", "x two", "a"), ("Div", "a six", "y")), "Div"),
    ],
)
def test_what_only_resembles_a_function_stays(nodes, wanted):
    graph = read(chain(*nodes), wide=np.ones((3, 1, 1), np.float32))
    assert len(graph.nodes) == len(nodes)
    assert graph.nodes[-1].op == wanted


def test_what_others_read_stays():
    nodes = chain(("Sigmoid", "x", "s"), ("Mul", "x s", "d"), ("Add", "d s", "y"))
    assert [n.op for n in read(nodes).nodes] == ["Sigmoid", "Mul", "Add"]


MODULES = {
    "SiLU": (nn.SiLU(), "Swish"),
    "GELU": (nn.GELU(), "Gelu"),
    "GELU by tanh": (nn.GELU("tanh"), "Gelu"),
    "Mish": (nn.Mish(), "Mish"),
    "Hardswish": (nn.Hardswish(), "HardSwish"),
    "Hardsigmoid": (nn.Hardsigmoid(), "HardSigmoid"),
    "Softplus": (nn.Softplus(), "Softplus"),
    "Tanh": (nn.Tanh(), "Tanh"),
    "PReLU": (nn.PReLU(init=0.3), "LeakyRelu"),
    "PReLU by channel": (nn.PReLU(3, init=0.3), "PRelu"),
    "CELU": (nn.CELU(), "Elu"),
    "ReLU6": (nn.ReLU6(), "Clip"),
}


class Applied(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("dynamo", [False, True])
def test_modules_of_pytorch_become_one_node(name, dynamo):
    module, op = MODULES[name]
    x = 3 * torch.from_numpy(weight(2, 3, 4, 5))
    graph = read_onnx(exported(module, x) if dynamo else torch_onnx(module, x))
    assert [n.op for n in graph.nodes] == [op]
    with torch.no_grad():
        np.testing.assert_allclose(run(graph, x.numpy()), module(x).numpy(), rtol=1e-4, atol=1e-5)


FUNCTIONS = {
    "selu": functional.selu,
    "celu": lambda x: functional.celu(x, 0.7),
    "softsign": functional.softsign,
    "log_softmax": lambda x: functional.log_softmax(x, 1),
    "softshrink": lambda x: x - torch.clamp(x, -0.5, 0.5),
    "logsigmoid": functional.logsigmoid,
    "abs": torch.abs,
    "neg": torch.neg,
    "reciprocal": lambda x: torch.reciprocal(x.abs() + 1),
    "sqrt": lambda x: torch.sqrt(x.abs()),
    "rsqrt": lambda x: torch.rsqrt(x.abs() + 1),
    "square": torch.square,
    "cube": lambda x: x**3,
    "seventh": lambda x: (x / 4) ** 7,
    "minus square": lambda x: (x.abs() + 1) ** -2,
    "one and a half": lambda x: x.abs() ** 1.5,
    "minus half": lambda x: (x.abs() + 1) ** -0.5,
    "any power": lambda x: x.abs() ** 2.7,
    "maximum": lambda x: torch.maximum(x, -x / 2),
    "minimum": lambda x: torch.minimum(torch.minimum(x, x * x), torch.tensor(0.5)),
    "threshold": lambda x: functional.relu(x - 0.5),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_pytorch(name):
    x = 3 * torch.from_numpy(weight(2, 3, 4, 5))
    graph = read_onnx(torch_onnx(Applied(FUNCTIONS[name]), x))
    with torch.no_grad():
        wanted = FUNCTIONS[name](x).numpy()
    np.testing.assert_allclose(run(graph, x.numpy()), wanted, rtol=1e-4, atol=1e-5)


def exported(module, x):
    """Return the ONNX model by the exporter that traces with torch.export, as it traced."""
    options = {"dynamo": True, "opset_version": 18, "optimize": False, "verbose": False}
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, x, file, **options)
    return onnx.load_from_string(file.getvalue())
