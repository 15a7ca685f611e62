"""Comparisons, booleans and Where of ONNX in the normal form, against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx_models import model, node, run, torch_onnx, weight
from torch import nn
from torch.nn import functional

from masktools.checkpoint import Checkpoint
from masktools.errors import GraphError
from masktools.network.onnx.reader import read_onnx

FLOAT, BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.BOOL


def check(nodes, constants, **given):
    """Compare with onnxruntime, NaN and infinities among the numbers; return the operators."""
    net = model(nodes, constants, [(name, ["N", *x.shape[1:]]) for name, x in given.items()])
    wanted = onnxruntime.InferenceSession(net.SerializeToString()).run(None, given)[0]
    graph = read_onnx(net)
    Checkpoint(graph).check()
    got = run(graph, given)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    return [n.op for n in graph.nodes]


def wild(*shape, seed=0):
    """Return small whole numbers, many of them equal, with NaN and infinities among them."""
    x = np.round(weight(*shape, seed=seed))
    x.ravel()[:: max(1, x.size // 5)] = np.nan
    x.ravel()[1 :: max(2, x.size // 5)] = np.inf
    x.ravel()[2 :: max(3, x.size // 5)] = -np.inf
    return x


OPS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("shape", [(), (4,), (3, 1), (1, 3, 4), (2, 3, 4)])
@pytest.mark.parametrize("first", [False, True])
def test_comparisons_with_constants(op, shape, first):
    inputs = ["k", "x"] if first else ["x", "k"]
    nodes = [node(op, inputs, ["c"]), node("Cast", ["c"], ["y"], to=FLOAT)]
    assert len(check(nodes, {"k": np.round(weight(*shape, seed=1))}, x=wild(5, 2, 3, 4))) == 1


@pytest.mark.parametrize("op", OPS)
def test_comparisons_of_values(op):
    nodes = [node(op, ["x", "z"], ["c"]), node("Cast", ["c"], ["y"], to=FLOAT)]
    assert len(check(nodes, {}, x=wild(5, 2, 3, 4), z=wild(5, 2, 1, 4, seed=1))) == 1


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_what_is_made_of_comparisons(op):
    nodes = [
        node("Greater", ["x", "k"], ["a"], name="a"),
        node("Less", ["x", "z"], ["b"], name="b"),
        node(op, ["a", "b"], ["c"], name="c"),
        node("Not", ["c"], ["d"], name="d"),
        node(op, ["d", "mask"], ["e"], name="e"),
        node("Cast", ["e"], ["y"], name="f", to=FLOAT),
    ]
    constants = {"k": np.float32(0), "mask": weight(3, 4, seed=2) > 0}
    check(nodes, constants, x=wild(5, 2, 3, 4), z=wild(5, 2, 3, 1, seed=1))


def test_casts_to_booleans():
    nodes = [
        node("Cast", ["x"], ["a"], name="a", to=BOOL),
        node("Cast", ["a"], ["b"], name="b", to=BOOL),
        node("IsNaN", ["x"], ["c"], name="c"),
        node("Not", ["c"], ["d"], name="d"),
        node("And", ["b", "d"], ["e"], name="e"),
        node("Where", ["e", "x", "zero"], ["y"], name="f"),
    ]
    ops = check(nodes, {"zero": np.float32(0)}, x=wild(5, 2, 3, 4))
    assert ops.count("Equal") == 2  # What is a boolean already is not cast again.


@pytest.mark.parametrize("shape", [(), (4,), (3, 1), (1, 3, 4), (2, 3, 4)])
@pytest.mark.parametrize("constants", ["c", "a", "b", "ca", "cb", "ab"])
def test_where(shape, constants):
    kinds = {"c": weight(*shape, seed=1) > 0, "a": weight(*shape), "b": weight(*shape, seed=2)}
    known = {name: np.asarray(kinds[name]) for name in constants}
    given = {name: wild(5, 2, 3, 4, seed=i) for i, name in enumerate("ab") if name not in known}
    given |= {} if "c" in known else {"z": wild(5, 2, 3, 4, seed=3)}
    nodes = [] if "c" in known else [node("Greater", ["z", "zero"], ["c"])]
    nodes.append(node("Where", ["c", "a", "b"], ["y"]))
    check(nodes, known | ({} if "c" in known else {"zero": np.float32(0)}), **given)


INFINITE = (
    np.float32(-np.inf),
    np.float32(np.inf),
    np.float32([np.nan]),
    np.where(np.tri(4, dtype=bool), 0, -np.inf).astype(np.float32),
    np.float32([np.nan, np.inf, -np.inf, 3]),
)


@pytest.mark.parametrize("array", INFINITE, ids=str)
def test_infinite_constants_are_chosen(array):
    nodes = [node("Where", ["mask", "x", "k"], ["y"])]
    check(nodes, {"mask": np.tri(4, dtype=bool), "k": array}, x=wild(5, 2, 4, 4))
    flat = [node("Where", ["mask", "k", "x"], ["y"])]
    check(
        flat, {"mask": np.array([True, False, True, False]), "k": array.ravel()[:4]}, x=wild(5, 4)
    )


@pytest.mark.parametrize("op", ["Add", "Sub", "Div", "Less"])
@pytest.mark.parametrize("array", INFINITE[3:], ids=str)
def test_infinite_constants_of_arithmetic(op, array):
    x = wild(5, 2, 4, 4)
    nodes = [node(op, ["x", "k"], ["c"]), node("Cast", ["c"], ["y"], to=FLOAT)]
    check(nodes, {"k": array}, x=x)


def test_a_causal_mask_hides_what_comes_later():
    mask = np.where(np.tri(4, dtype=bool), 0, -np.inf).astype(np.float32)
    nodes = [node("Add", ["x", "m"], ["a"]), node("Softmax", ["a"], ["y"])]
    x = weight(3, 2, 4, 4)
    assert "Softmax" in check(nodes, {"m": mask}, x=x)
    y = run(read_onnx(model(nodes, {"m": mask}, [("x", ["N", 2, 4, 4])])), x)
    assert not y[..., ~np.tri(4, dtype=bool)].any()


def test_a_boolean_is_no_output():
    net = model([node("Greater", ["x", "k"], ["y"])], {"k": np.float32(0)})
    net.graph.output[0].type.tensor_type.elem_type = BOOL
    with pytest.raises(GraphError, match=r"output 'y': dtype bool, .* cast it to float32"):
        read_onnx(net)


def test_comparisons_where_the_batch_is_elsewhere():
    """With the batch as the second axis, as attention has it."""
    nodes = [
        node("Transpose", ["x"], ["t"], name="t", perm=[1, 0, 2]),
        node("LessOrEqual", ["t", "k"], ["c"], name="c"),
        node("Not", ["c"], ["d"], name="d"),
        node("And", ["c", "d"], ["e"], name="e"),
        node("Or", ["e", "d"], ["f"], name="f"),
        node("Where", ["f", "t", "k"], ["w"], name="w"),
        node("Transpose", ["w"], ["y"], name="u", perm=[1, 0, 2]),
    ]
    check(nodes, {"k": weight(3, 1, 4, seed=1)}, x=wild(5, 3, 4))


def softplus(x):
    return torch.where(x > 20, x, torch.log1p(torch.exp(torch.clamp(x, max=30.0))))


class Applied(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


FUNCTIONS = {
    "where": lambda x: torch.where(x > 0.3, x, x * 0.1 - 1),
    "masked_fill": lambda x: x.masked_fill(x < -0.5, -1.0),
    "masked softmax": lambda x: (
        (x - 1).masked_fill(torch.ones(4, 4).triu(1) > 0, -torch.inf).softmax(-1)
    ),
    "hardshrink": functional.hardshrink,
    "softshrink": functional.softshrink,
    "hardtanh": functional.hardtanh,
    "logical": lambda x: torch.where((x > 0) & ~(x > 1) | (x == -1), x, -x),
    "counted": lambda x: (x > 0.5).float().sum(-1, keepdim=True) * x,
    "abs": lambda x: torch.where(x < 0, -x, x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_pytorch(name):
    x = torch.from_numpy(np.round(4 * weight(2, 3, 4, 4)) / 4)
    graph = read_onnx(torch_onnx(Applied(FUNCTIONS[name]), x))
    Checkpoint(graph).check()
    with torch.no_grad():
        wanted = FUNCTIONS[name](x).numpy()
    np.testing.assert_allclose(run(graph, x.numpy()), wanted, rtol=1e-5, atol=1e-6)


INT64 = onnx.TensorProto.INT64
COUNT = [node("Greater", ["x", "k"], ["g"]), node("Cast", ["g"], ["i"], "cast", to=INT64)]


@pytest.mark.parametrize(
    ("between", "constants"),
    [
        ([node("ReduceSum", ["i", "a"], ["n"])], {"a": np.array([1])}),
        ([node("ReduceSum", ["i", "a"], ["n"])], {"a": np.array([2, 3])}),
        ([node("ReduceMax", ["i"], ["n"], axes=[1])], {}),
        (
            [node("ReduceSum", ["i", "a"], ["s"]), node("Clip", ["s", "one"], ["c"]),
             node("Unsqueeze", ["c", "a"], ["u"]), node("Squeeze", ["u", "a"], ["n"])],
            {"a": np.array([-1]), "one": np.array(1)},
        ),
        ([node("Identity", ["i"], ["n"])], {}),
    ],
)  # fmt: skip
def test_counts_of_booleans(between, constants):
    """As PyTorch writes ``(x > 0).sum()``."""
    nodes = [*COUNT, *between, node("Cast", ["n"], ["f"], "back", to=FLOAT),
             node("Div", ["f", "two"], ["y"])]  # fmt: skip
    constants = {"k": np.float32(0), "two": np.float32(2), **constants}
    check(nodes, constants, x=weight(5, 2, 3, 4))


def test_a_count_is_compared():
    more = node("Greater", ["n", "one"], ["m"], "more")
    nodes = [*COUNT, node("ReduceSum", ["i", "a"], ["n"]), more,
             node("Cast", ["m"], ["y"], "back", to=FLOAT)]  # fmt: skip
    check(nodes, {"k": np.float32(0), "a": np.array([1]), "one": np.array(1)}, x=weight(5, 2, 3, 4))


@pytest.mark.parametrize("op", ["Div", "Mod", "Pow", "Mul", "ReduceMean"])
def test_other_arithmetic_of_counts_is_refused(op):
    """A whole number is divided to a whole number."""
    last = node(op, ["n"] if op == "ReduceMean" else ["n", "two"], ["q"], "last")
    nodes = [*COUNT, node("ReduceSum", ["i", "a"], ["n"]), last,
             node("Cast", ["q"], ["y"], "back", to=FLOAT)]  # fmt: skip
    constants = {"k": np.float32(0), "a": np.array([1]), "two": np.array(2)}
    net = model(nodes, constants, [("x", ["N", 2, 3, 4])])
    said = "not supported" if op == "Mod" else r"\(\w+\): input 'n' is a count of booleans.*cast"
    with pytest.raises(GraphError, match=said):
        read_onnx(net)


def test_what_float32_cannot_count_is_refused():
    sums, constants = node("ReduceSum", ["i", "a"], ["n"]), {"k": np.float32(0), "a": np.array([1])}
    nodes = [*COUNT, sums, node("Cast", ["n"], ["y"], to=FLOAT)]
    net = model(nodes, constants, [("x", ["N", 2, 4096, 4096])])
    with pytest.raises(GraphError, match="16777216 booleans cannot be counted"):
        read_onnx(net)
    net = model([*COUNT, node("ReduceSum", ["i", "a"], ["y"])], constants, [("x", ["N", 2, 3])])
    net.graph.output[0].type.tensor_type.elem_type = INT64
    with pytest.raises(GraphError, match="output 'y' is a count of booleans"):
        read_onnx(net)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_pytorch_counts(exporter):
    class Share(nn.Module):
        def forward(self, x):
            return (x > 0).sum((2, 3), keepdim=True) / 12 + (x < -1).sum(1, keepdim=True).clamp(1)

    module, x = Share().eval(), torch.from_numpy(weight(1, 2, 3, 4))
    if exporter == "torchscript":
        net = torch_onnx(module, (x,))
    else:
        net = torch.onnx.export(module, (x,), dynamo=True, verbose=False).model_proto
    np.testing.assert_allclose(run(read_onnx(net), x.numpy()), module(x).numpy(), rtol=1e-6)
