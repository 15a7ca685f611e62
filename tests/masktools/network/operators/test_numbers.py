"""Functions of numbers of the normal form, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from draws import RANDOM
from onnx_operators import COMPARISONS, assert_equal, assert_one, expected, network, normal

from masktools.checkpoint import Checkpoint
from masktools.errors import GraphError
from masktools.network.graph import Graph, Node, Value
from masktools.network.operators import OPERATORS
from masktools.network.operators.rules import Known
from runtime.model import Model
from runtime.plan import plan
from runtime.reference.backend import ReferenceBackend


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("bias", [False, True])
def test_gemm(shape, bias):
    """Of rank 2 as ONNX has it; beyond, the last axis alone is contracted."""
    x, w, b = normal(*shape), normal(6, shape[-1]), normal(6)
    constants = {"w": w, "b": b} if bias else {"w": w}
    node = Node("node", "Gemm", ("x", *constants), ("y",), {"transB": 1})
    if len(shape) == 2:
        assert_equal(node, {"x": x}, constants)
    got = Model(plan.build(network(node, {"x": x}, constants)), ReferenceBackend())(x)
    np.testing.assert_allclose(got, x @ w.T + (b if bias else 0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize("constants", ["scale and shift", "scale"])
def test_layer_normalization(axis, constants):
    x = 3 * normal(2, 3, 5, 4) + 2
    given = {"s": normal(*x.shape[axis:]), "b": normal(*x.shape[axis:])}
    given = given if "shift" in constants else {"s": given["s"]}
    assert_one("LayerNormalization", x, {"axis": axis, "epsilon": 1e-2}, **given)


def test_layer_normalization_without_constants():
    x = 3 * normal(2, 3, 5, 4) + 2
    node = Node("node", "LayerNormalization", ("x",), ("y",), {"axis": 2, "epsilon": 1e-2})
    y = Model(plan.build(network(node, {"x": x}, {})), ReferenceBackend())(x)
    deviation = np.sqrt(x.var(axis=(2, 3), keepdims=True) + 1e-2)
    np.testing.assert_allclose(y, (x - x.mean(axis=(2, 3), keepdims=True)) / deviation, atol=1e-5)


@pytest.mark.parametrize("shape", [(4,), (5, 1), (1, 5, 4)])
def test_constants_of_a_normalization_are_as_large_as_what_is_normalised(shape):
    node = Node("n", "LayerNormalization", ("x", "s"), ("y",), {"axis": 2, "epsilon": 1e-2})
    with pytest.raises(GraphError, match=r"expected constants of shape \(5, 4\)"):
        network(node, {"x": normal(2, 3, 5, 4)}, {"s": normal(*shape)})


MATRICES = [
    ((2, 3, 4), (2, 4, 5)),
    ((2, 3, 4), (1, 4, 5)),
    ((2, 6, 3, 4), (2, 6, 4, 5)),
    ((2, 6, 3, 4), (2, 1, 4, 5)),
    ((2, 1, 3, 4), (6, 4, 5)),
    ((2, 3, 4), (4, 5)),
]


@pytest.mark.parametrize(("a", "b"), MATRICES)
def test_matmul(a, b):
    """Of two values, broadcast as in NumPy; those that lack a batch are fixed."""
    inputs = {"a": normal(*a), "b": normal(*b)}
    values = tuple(Value(name, (None if len(x.shape) == len(a) and x.shape[0] == 2 else x.shape[0],
                                *x.shape[1:])) for name, x in inputs.items())  # fmt: skip
    node = Node("node", "MatMul", ("a", "b"), ("y",), {})
    want = inputs["a"] @ inputs["b"]
    made = Checkpoint(Graph(values, (Value("y", (None, *want.shape[1:])),), (node,)))
    made.check()
    got = Model(plan.build(made), ReferenceBackend())(inputs)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(expected(made, inputs)["y"], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("a", "b"), [((2, 3, 4), (2, 3, 4)), ((2, 3), (3,)), ((2, 3, 4), (3, 4, 5))]
)
def test_factors_that_do_not_fit_are_refused(a, b):
    with pytest.raises(GraphError, match="do not fit"):
        network(Node("node", "MatMul", ("a", "b"), ("y",)), {"a": normal(*a), "b": normal(*b)}, {})


@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 5), (1, 4, 3, 2)])
def test_batch_normalization(shape):
    scale, shift, mean, variance = normal(4), normal(4), normal(4), np.abs(normal(4))
    constants = {"s": scale, "b": shift, "m": mean, "v": variance}
    assert_one("BatchNormalization", normal(*shape), {"epsilon": 1e-3}, **constants)


FUNCTIONS_OF_ONE_NUMBER = [
    ("Relu", {}),
    ("Sigmoid", {}),
    ("HardSwish", {}),
    ("Softplus", {}),
    ("Identity", {}),
    ("LeakyRelu", {"alpha": 0.2}),
    ("LeakyRelu", {"alpha": -1.5}),
    ("Elu", {"alpha": 1.0}),
    ("Elu", {"alpha": 0.3}),
    ("Elu", {"alpha": -2.5}),
    ("Elu", {"alpha": 0.0}),
    ("Tanh", {}),
    ("Erf", {}),
    ("Gelu", {"approximate": "none"}),
    ("Gelu", {"approximate": "tanh"}),
    ("Swish", {"alpha": 1.0}),
    ("Swish", {"alpha": 1.702}),
    ("Swish", {"alpha": -0.5}),
    ("Swish", {"alpha": 0.0}),
    ("Mish", {}),
    ("Exp", {}),
    ("Log", {}),
    ("Sqrt", {}),
    ("ThresholdedRelu", {"alpha": 0.5}),
    ("ThresholdedRelu", {"alpha": -1.0}),
    ("Sin", {}),
    ("Cos", {}),
    ("Floor", {}),
    ("Ceil", {}),
    ("Round", {}),
    ("Sign", {}),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
    ("Clip", {}),
    ("Clip", {"min": -0.5}),
    ("Clip", {"max": 0.5}),
    ("Clip", {"min": -0.5, "max": 0.25}),
    ("Clip", {"min": 0.5, "max": -0.5}),
]


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        *FUNCTIONS_OF_ONE_NUMBER,
        *((op, {"axis": axis}) for op in ("Softmax", "LogSoftmax") for axis in (1, 3)),
    ],
)
def test_functions_of_one_number(op, attributes):
    x = normal(2, 5, 3, 4) * 4
    x[0, 0, 0, :4] = [0, -3, 3, 1e4]  # where they bend, and where exp overflows
    x[0, 1, 0, :4] = [0.5, 1.5, -2.5, -0.0]  # halfway between whole numbers
    assert_one(op, x, attributes)


@pytest.mark.parametrize(("op", "attributes"), FUNCTIONS_OF_ONE_NUMBER)
def test_constants_pass_through_functions_of_one_number(op, attributes):
    """What is known of a channel becomes what the network would compute; NaN stays unknown."""
    x = np.array([[np.nan, -1e4, -3, -0.1, 0, 0.2, 3, 1e4]], np.float32)
    node = Node("node", op, ("x",), ("y",), attributes)
    with np.errstate(all="ignore"):
        (values,) = OPERATORS[op].constant(
            Known({}, {}, {"x": x.shape}, {"x": x[0].astype(np.float64)}), node
        )
    run = Model(plan.build(network(node, {"x": x}, {})), ReferenceBackend(), "float64")
    np.testing.assert_allclose(values, np.ravel(run(x)), rtol=1e-6)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (3, 1, 1), (1, 3, 1, 1), (5, 4), (3, 5, 4)])
@pytest.mark.parametrize("first", [False, True])
def test_arithmetic_with_a_constant(op, shape, first):
    names = ("c", "x") if first else ("x", "c")
    constant = np.where(RANDOM.random(shape) < 0.5, -1, 1) * (1 + RANDOM.random(shape))
    node = Node("node", op, names, ("y",), {})
    x = {"x": np.sign(normal(2, 3, 5, 4)) + normal(2, 3, 5, 4) / 8}
    assert_equal(node, x, {"c": np.asarray(constant, np.float32)})


@pytest.mark.parametrize("shape", [(1,), (3, 1, 1), (1, 3, 1, 1), (5, 4), (3, 5, 4)])
def test_slopes(shape):
    assert_one("PRelu", normal(2, 3, 5, 4), slope=normal(*shape))
    node = Node("node", "PRelu", ("a", "b"), ("y",), {})
    assert_equal(node, {"a": normal(2, 3, 5, 4), "b": normal(2, 3, 1, 1)}, {})


def test_a_slope_neither_widens_nor_precedes_what_it_is_for():
    x, slope = normal(2, 3), normal(4, 1, 3)
    with pytest.raises(GraphError, match=r"PRelu.*a slope of shape \(4, 1, 3\)"):
        network(Node("node", "PRelu", ("x", "slope"), ("y",), {}), {"x": x}, {"slope": slope})
    late = network(Node("node", "PRelu", ("c", "x"), ("y",), {}), {"x": x}, {"c": x})
    with pytest.raises(GraphError, match="the slope alone may be a constant"):
        late.check()


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
@pytest.mark.parametrize("other", [(2, 3, 5, 4), (2, 3, 1, 1), (2, 1, 5, 4)])
def test_arithmetic_of_values(op, other):
    y = np.sign(normal(*other)) + normal(*other) / 8
    node = Node("node", op, ("a", "b"), ("y",), {})
    assert_equal(node, {"a": normal(2, 3, 5, 4), "b": y}, {})
    assert_equal(Node("node", op, ("b", "a"), ("y",), {}), {"a": y, "b": y}, {})
    assert_equal(Node("node", op, ("a", "a"), ("y",), {}), {"a": y}, {})


def whole(*shape: int) -> Any:
    """Return small whole numbers, many of them equal, with NaN and infinities among them."""
    x = np.round(normal(*shape))
    x.ravel()[:: max(1, x.size // 7)] = np.resize(
        np.float32([np.nan, np.inf, -np.inf, -0.0]), x.ravel()[:: max(1, x.size // 7)].shape
    )
    return x.astype(np.float32)


@pytest.mark.parametrize("op", COMPARISONS)
@pytest.mark.parametrize("other", [(2, 3, 5, 4), (2, 3, 1, 1), (2, 1, 5, 4)])
def test_comparisons(op, other):
    node = Node("node", op, ("a", "b"), ("y",), {})
    a, b = whole(2, 3, 5, 4), whole(*other)
    assert_equal(node, {"a": a, "b": b}, {})
    assert_equal(Node("node", op, ("a", "a"), ("y",), {}), {"a": a}, {})
    for constant in (whole(), whole(1), whole(3, 1, 1), whole(1, 3, 1, 4), whole(5, 4)):
        constant = np.nan_to_num(constant, posinf=1, neginf=-1)  # which a checkpoint may hold
        assert_equal(node, {"a": a}, {"b": constant})
        assert_equal(node, {"b": a}, {"a": constant})


@pytest.mark.parametrize("constants", [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("shape", [(), (1,), (3, 1, 1), (1, 3, 1, 4), (5, 4)])
def test_where(constants, shape):
    """What is not chosen leaves no trace, be it infinite or NaN."""
    given = {"c": np.round(normal(2, 3, 5, 4)), "a": whole(2, 3, 5, 4), "b": whole(2, 3, 1, 4)}
    known = {
        name: np.nan_to_num(np.resize(given.pop(name), shape), posinf=1, neginf=-1)
        for name in ("cab"[at] for at in constants)
    }
    assert_equal(Node("node", "Where", ("c", "a", "b"), ("y",), {}), given, known)


@pytest.mark.parametrize("op", [*COMPARISONS, "Where"])
def test_constants_pass_through_comparisons_and_choices(op):
    """What is said to be known is what the network computes; close numbers are not compared."""
    a = np.array([[np.nan, 1, 2, 2, 0.1, 3, np.nan, 0]], np.float64)
    b = np.array([[1, np.nan, 1, 2, 0.1 + 1e-9, 4, np.nan, 0]], np.float64)
    given = {"a": a, "b": b} if op in COMPARISONS else {"c": a - 2, "a": a, "b": b}
    node = Node("node", op, tuple(given), ("y",), {})
    known = Known({}, {}, {"y": a.shape} | {n: x.shape for n, x in given.items()},
                  {name: x[0] for name, x in given.items()})  # fmt: skip
    with np.errstate(all="ignore"):
        (made,) = OPERATORS[op].constant(known, node)
    runs = []
    for unknown in (-5.0, 5.0):  # in place of what may be anything
        full = {n: np.nan_to_num(x, nan=unknown).astype(np.float32) for n, x in given.items()}
        runs.append(Model(plan.build(network(node, full, {})), ReferenceBackend())(full).ravel())
    assert np.isfinite(made[[2, 3, 5, 7]]).all()
    assert np.isnan(made[6])
    sure = np.isfinite(made)
    for run in runs:
        np.testing.assert_allclose(made[sure], run[sure], rtol=1e-6)
    assert op == "Where" or np.isnan(made[4])
