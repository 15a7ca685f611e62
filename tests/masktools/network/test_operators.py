"""Every operator of the format against onnxruntime."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from draws import RANDOM
from hypothesis import given
from hypothesis import strategies as st

from masktools.checkpoint import Checkpoint
from masktools.errors import GraphError
from masktools.network.graph import Graph, Node, Value
from masktools.network.operators import COORDINATES, OPERATORS, ROUNDINGS
from masktools.network.operators.rules import Known
from masktools.network.shapes import infer_shapes
from runtime.errors import PlanError
from runtime.model import Model
from runtime.plan import plan
from runtime.reference import ReferenceBackend

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnx.reference")
onnxruntime = pytest.importorskip("onnxruntime")


def normal(*shape: int) -> Any:
    return RANDOM.standard_normal(shape).astype(np.float32)


def network(node: Node, inputs: dict[str, Any], constants: dict[str, Any]) -> Checkpoint:
    """Return a network of one node, open to any batch."""
    values = tuple(Value(name, (None, *x.shape[1:])) for name, x in inputs.items())
    graph = Graph(values, (), (node,), constants)
    shapes = infer_shapes(graph, {name: x.shape for name, x in inputs.items()})
    outputs = tuple(Value(name, (None, *shapes[name][1:])) for name in node.outputs)
    return Checkpoint(Graph(values, outputs, (node,), constants))


# Attributes of the normal form that ONNX has as inputs, in their order.
AS_INPUTS = {
    "Clip": ("min", "max"),
    "ReduceMean": ("axes",),
    "ReduceSum": ("axes",),
    "ReduceMax": ("axes",),
    "ReduceMin": ("axes",),
    "ReduceL2": ("axes",),
    "Gather": ("indices",),
    "Split": ("split",),
    "Slice": ("starts", "ends", "axes", "steps"),
    "Pad": ("pads", "value"),
    "Reshape": ("shape",),
    "Squeeze": ("axes",),
    "Unsqueeze": ("axes",),
    "Resize": ("roi", "scales", "sizes"),
}


COMPARISONS = ("Greater", "GreaterOrEqual", "Equal")


def to_onnx(checkpoint: Checkpoint) -> Any:
    """Return the ONNX model of a checkpoint without sparse weights: names mean what they mean."""
    helper, graph = onnx.helper, checkpoint.graph
    initializers = {name: np.asarray(array) for name, array in graph.constants.items()}
    nodes = []
    for node in graph.nodes:
        attributes = dict(node.attributes)
        inputs = list(node.inputs)
        for name in AS_INPUTS.get(node.op, ()):
            value = attributes.pop(name, None)
            inputs.append("" if value is None else f"{node.name}.{name}")
            if value is not None:
                floats = name in ("min", "max", "value", "roi", "scales")
                initializers[inputs[-1]] = np.array(value, np.float32 if floats else np.int64)
        if node.op == "Where":  # Conditions are booleans there, and ones and zeros here.
            nodes.append(helper.make_node("Cast", [inputs[0]], [f"{node.name}.condition"], to=9))
            inputs[0] = f"{node.name}.condition"
        outputs = [f"{name}.boolean" if node.op in COMPARISONS else name for name in node.outputs]
        nodes.append(helper.make_node(node.op, inputs, outputs, node.name, **attributes))
        if node.op in COMPARISONS:
            nodes.append(helper.make_node("Cast", outputs, node.outputs, to=1))
    values = [
        [
            helper.make_tensor_value_info(v.name, 1, ["N" if n is None else n for n in v.shape])
            for v in side
        ]
        for side in (graph.inputs, graph.outputs)
    ]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in initializers.items()]
    proto = helper.make_graph(nodes, "graph", *values, tensors)
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)


def expected(checkpoint: Checkpoint, inputs: dict[str, Any]) -> dict[str, Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(to_onnx(checkpoint).SerializeToString(), options)
    names = [value.name for value in checkpoint.graph.outputs]
    return dict(zip(names, session.run(names, inputs), strict=True))


def assert_equal(node: Node, inputs: dict[str, Any], constants: dict[str, Any]) -> None:
    checkpoint = network(node, inputs, constants)
    checkpoint.check()
    got = Model(plan.build(checkpoint), ReferenceBackend())(inputs)
    got = got if isinstance(got, dict) else {node.outputs[0]: got}
    for name, want in expected(checkpoint, inputs).items():
        assert got[name].shape == want.shape
        assert got[name].dtype == np.float32
        np.testing.assert_allclose(got[name], want, rtol=1e-5, atol=1e-5)


def assert_one(op: str, x: Any, attributes: dict[str, Any] | None = None, **constants: Any) -> None:
    outputs = tuple(f"y{i}" for i in range(len((attributes or {}).get("split", (1,)))))
    node = Node("node", op, ("x", *constants), outputs, attributes or {})
    assert_equal(node, {"x": x}, constants)


# --- windows -----------------------------------------------------------------------------------


@given(data=st.data(), spatial=st.integers(1, 2), batch=st.integers(1, 5))
def test_conv(data, spatial, batch):
    draw = data.draw
    group = draw(st.sampled_from([1, 2, 3]))
    rows = group * draw(st.integers(1, 3))
    channels = group * draw(st.integers(1, 2))
    kernel = [draw(st.integers(1, 3)) for _ in range(spatial)]
    attributes = {
        "strides": tuple(draw(st.integers(1, 3)) for _ in range(spatial)),
        "dilations": tuple(draw(st.integers(1, 2)) for _ in range(spatial)),
        "pads": tuple(draw(st.integers(0, 3)) for _ in range(2 * spatial)),
        "group": group,
    }
    sizes = [draw(st.integers(5, 9)) for _ in range(spatial)]
    constants = {"w": normal(rows, channels // group, *kernel)}
    if draw(st.booleans()):
        constants["b"] = normal(rows)
    assert_one("Conv", normal(batch, channels, *sizes), attributes, **constants)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@given(data=st.data(), spatial=st.integers(1, 2), batch=st.integers(1, 3))
def test_pool(op, data, spatial, batch):
    draw = data.draw
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(spatial))
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": tuple(draw(st.integers(1, 3)) for _ in range(spatial)),
        "dilations": tuple(draw(st.integers(1, 2)) for _ in range(spatial)),
        "pads": tuple(draw(st.integers(0, k - 1)) for k in kernel * 2),
        "ceil_mode": draw(st.integers(0, 1)),
    }
    if op == "AveragePool":
        attributes["count_include_pad"] = draw(st.integers(0, 1))
    sizes = [draw(st.integers(7, 10)) for _ in range(spatial)]
    assert_one(op, normal(batch, 3, *sizes), attributes)


def test_padding_never_wins_a_maximum():
    attributes = {"kernel_shape": (3, 3), "strides": (2, 2), "dilations": (1, 1)}
    x = -1 - np.abs(normal(2, 3, 5, 5))
    assert_one("MaxPool", x, {**attributes, "pads": (1, 1, 1, 1), "ceil_mode": 0})


@pytest.mark.parametrize("shape", [(1, 3, 5), (2, 3, 5, 4)])
def test_means(shape):
    axes = tuple(range(2, len(shape)))
    assert_one("GlobalAveragePool", normal(*shape))
    for keepdims in (0, 1):
        assert_one("ReduceMean", normal(*shape), {"axes": axes, "keepdims": keepdims})


REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2")


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("axes", [(1,), (3,), (1, 3), (3, 1), (2, 3), (1, 2, 3)])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reductions(op, axes, keepdims):
    assert_one(op, normal(2, 3, 5, 4), {"axes": axes, "keepdims": keepdims})


def test_an_extreme_is_nan_where_a_number_is():
    x = normal(2, 3, 5)
    x[0, 1, 2] = np.nan
    for op in ("ReduceMax", "ReduceMin"):
        node = Node("node", op, ("x",), ("y",), {"axes": (2,), "keepdims": 0})
        y = Model(plan.build(network(node, {"x": x}, {})), ReferenceBackend())(x)
        assert np.argwhere(np.isnan(y)).tolist() == [[0, 1]]


@pytest.mark.parametrize(("axes", "shape"), [((2,), (2, 3, 4, 5)), ((2, 3), (2, 3, 4, 5, 6))])
def test_a_mean_over_a_part_of_the_image_is_no_operator_of_version_1(axes, shape):
    node = Node("node", "ReduceMean", ("x",), ("y",), {"axes": axes, "keepdims": 1})
    with pytest.raises(GraphError, match="must be the whole image"):
        network(node, {"x": normal(*shape)}, {})


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("value", [0.0, 2.0, -2.0])
def test_constants_pass_through_reductions(op, value):
    """What is said to be known is what the network computes."""
    x = np.full((1, 2, 3, 4), value, np.float32)
    for axes in [(2, 3), (3,), (1,), (1, 2)]:
        node = Node("node", op, ("x",), ("y",), {"axes": axes, "keepdims": 1})
        known = Known({}, {}, {"x": x.shape}, {"x": np.array([value, np.nan])})
        made = OPERATORS[op].constant(known, node)
        if 1 in axes:
            assert made is None
            continue
        y = Model(plan.build(network(node, {"x": x}, {})), ReferenceBackend())(x)
        assert np.isnan(made[0][1])
        assert made[0][0] == y.flat[0] or (op in ("ReduceSum", "ReduceL2") and value)


# --- numbers -----------------------------------------------------------------------------------


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


# --- shapes ------------------------------------------------------------------------------------


def test_concat():
    inputs = {"a": normal(2, 3, 4), "b": normal(2, 1, 4), "c": normal(2, 2, 4)}
    assert_equal(Node("node", "Concat", tuple(inputs), ("y",), {"axis": 1}), inputs, {})
    assert_equal(Node("node", "Concat", ("a", "a"), ("y",), {"axis": 2}), {"a": inputs["a"]}, {})
    assert_equal(Node("node", "Concat", ("a",), ("y",), {"axis": 2}), {"a": inputs["a"]}, {})


@pytest.mark.parametrize("split", [(6,), (1, 5), (2, 3, 1)])
def test_split(split):
    assert_one("Split", normal(2, 6, 3), {"axis": 1, "split": split})


@given(data=st.data())
def test_slice(data):
    shape, axes = (2, 5, 6, 7), data.draw(st.permutations([1, 2, 3])) [: data.draw(st.integers(1, 3))]  # fmt: skip # noqa: E501
    cuts = []
    for axis in axes:
        ends = st.one_of(st.integers(-9, 9), st.sampled_from([2**63 - 1, -(2**63)]))
        cut = (data.draw(ends), data.draw(ends), data.draw(st.sampled_from([1, 2, 3, -1, -2])))
        if not np.arange(shape[axis])[_numpy_slice(*cut, shape[axis])].size:
            cut = (0, 2**63 - 1, 1)
        cuts.append(cut)
    starts, ends_, steps = zip(*cuts, strict=True)
    attributes = {"starts": starts, "ends": ends_, "axes": tuple(axes), "steps": steps}
    assert_one("Slice", normal(*shape), attributes)


def _numpy_slice(start: int, end: int, step: int, size: int) -> slice:
    return slice(start, None if step < 0 and end < -size else end, step)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize(
    "pads", [(0, 0, 1, 2, 0, 0, 2, 1), (0, 1, 0, 0, 0, 1, 0, 0), (0, 0, 0, 0, 0, 0, 0, 0)]
)
def test_pad(mode, pads):
    value = 1.5 if mode == "constant" else 0.0
    assert_one("Pad", normal(2, 3, 4, 5), {"mode": mode, "pads": pads, "value": value})


def test_negative_pads_crop():
    attributes = {"mode": "constant", "pads": (0, 0, -1, 2, 0, 0, 1, -2), "value": 0.5}
    assert_one("Pad", normal(2, 3, 4, 5), attributes)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("Flatten", {"axis": 1}),
        ("Reshape", {"shape": (0, -1)}),
        ("Reshape", {"shape": (0, -1, 0, 1)}),
        ("Reshape", {"shape": (-1, 24)}),
        ("Reshape", {"shape": (0, 3, 2, 4, 1)}),
        ("Squeeze", {"axes": (2,)}),
        ("Unsqueeze", {"axes": (4,)}),
        ("Unsqueeze", {"axes": (1, 3)}),
        ("Transpose", {"perm": (0, 1, 2, 3)}),
        ("Transpose", {"perm": (0, 3, 1, 2)}),
    ],
)
def test_reshaping(op, attributes):
    shape = (2, 3, 1, 8) if op != "Reshape" or attributes["shape"][2:3] != (0,) else (2, 3, 4, 2)
    assert_one(op, normal(*shape), attributes)


CUBIC: dict[str, Any] = {"mode": "cubic", "cubic_coeff_a": -0.75, "exclude_outside": 0}
SIZES = [(5, 3), (4, 8), (3, 7), (7, 4), (2, 5), (6, 1), (3, 3)]


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_resize(coordinates, rounding):
    modes = {
        "mode": "nearest",
        "coordinate_transformation_mode": coordinates,
        "nearest_mode": rounding,
    }
    for (h, h2), (w, w2) in itertools.pairwise(SIZES):
        attributes: dict[str, Any] = {"axes": (2, 3), "sizes": (h2, w2), **modes}
        if coordinates == "tf_crop_and_resize":
            attributes |= {"roi": (0.1, -0.2, 0.8, 1.3), "extrapolation_value": 7.5}
            assert_crop(normal(2, 3, h, w), attributes)
        else:
            assert_resized(normal(2, 3, h, w), attributes)
    if coordinates == "tf_crop_and_resize":
        return
    for scales in [(2.0, 3.0), (0.625, 0.625), (1.5, 0.5), (1.0, 2.0)]:
        assert_resized(normal(1, 2, 5, 7), {"axes": (2, 3), "scales": scales, **modes})
    assert_resized(normal(2, 3, 5), {"axes": (2,), "scales": (2.0,), **modes})


@pytest.mark.parametrize("coordinates", COORDINATES[:-1])
@pytest.mark.parametrize(
    "modes",
    [
        {"mode": "linear"},
        {"mode": "cubic", "cubic_coeff_a": -0.75, "exclude_outside": 0},
        {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1},
    ],
)
def test_resize_by_interpolation(coordinates, modes):
    modes = {**modes, "coordinate_transformation_mode": coordinates}
    for (h, h2), (w, w2) in itertools.pairwise(SIZES):
        attributes = {"axes": (2, 3), "sizes": (h2, w2), **modes}
        assert_one("Resize", normal(2, 3, h, w), attributes)
    for scales in [(2.0, 3.0), (0.625, 0.625), (1.5, 0.5), (1.0, 2.0)]:
        assert_one("Resize", normal(1, 2, 5, 7), {"axes": (2, 3), "scales": scales, **modes})


@pytest.mark.parametrize("modes", [{"mode": "linear"}, CUBIC, {**CUBIC, "exclude_outside": 1}])
@pytest.mark.parametrize("axes", [(2,), (1,), (3, 1), (2, 4)])
def test_interpolation_along_any_axes(modes, axes):
    """Of any rank, as onnx's evaluator has it."""
    attributes = {
        **modes,
        "coordinate_transformation_mode": "half_pixel",
        "axes": axes,
        "scales": (1.5, 0.6)[: len(axes)],
    }
    x = normal(2, 3, 5, 6, 4)[(..., *(0,) * (4 - max(axes)))]
    checkpoint = network(Node("node", "Resize", ("x",), ("y",), attributes), {"x": x}, {})
    want = onnx.reference.ReferenceEvaluator(to_onnx(checkpoint)).run(None, {"x": x})[0]
    got = Model(plan.build(checkpoint), ReferenceBackend())(x)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"mode": "linear", "nearest_mode": "floor"}, "nearest_mode goes with mode nearest"),
        ({"mode": "nearest"}, "nearest_mode goes with mode nearest"),
        ({"mode": "cubic", "exclude_outside": 0}, "cubic_coeff_a goes with mode cubic"),
        ({**CUBIC, "mode": "linear"}, "cubic_coeff_a goes with mode cubic"),
        ({"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"},
         "mode linear with tf_crop_and_resize is not supported"),
        ({"mode": "lanczos"}, "one of nearest, linear, cubic"),
    ],
)  # fmt: skip
def test_attributes_of_one_mode_stand_with_it_alone(attributes, message):
    given = {"axes": (2,), "scales": (2.0,), "coordinate_transformation_mode": "half_pixel"}
    node = Node("node", "Resize", ("x",), ("y",), given | attributes)
    checkpoint = network(node, {"x": normal(1, 2, 3)}, {})
    with pytest.raises(GraphError, match=message):
        checkpoint.check()


def test_weights_that_cannot_be_divided_by_their_sum_are_refused():
    attributes = {"axes": (2,), "sizes": (2,), "coordinate_transformation_mode": "asymmetric"}
    modes = {"mode": "cubic", "cubic_coeff_a": 4.0, "exclude_outside": 1}  # of an axis of size 1
    node = Node("node", "Resize", ("x",), ("y",), {**attributes, **modes})
    with pytest.raises(PlanError, match=r"'node' \(Resize\): attribute cubic_coeff_a=4.0: .* to 0"):
        plan.build(network(node, {"x": normal(1, 2, 1)}, {}))


def assert_resized(x: Any, attributes: dict[str, Any]) -> None:
    """Compare sizes with onnx's evaluator, scales with onnxruntime.

    onnxruntime turns sizes into float32 scales, and floors 2.9999998; the evaluator means
    something else by scales whose output was rounded, and lacks tf_half_pixel_for_nn.
    """
    if "scales" in attributes or "tf_" in attributes["coordinate_transformation_mode"]:
        assert_one("Resize", x, attributes)
        return
    checkpoint = network(Node("node", "Resize", ("x",), ("y",), attributes), {"x": x}, {})
    want = onnx.reference.ReferenceEvaluator(to_onnx(checkpoint)).run(None, {"x": x})[0]
    got = Model(plan.build(checkpoint), ReferenceBackend())(x)
    np.testing.assert_array_equal(got, want)


def assert_crop(x: Any, attributes: dict[str, Any]) -> None:
    """Compare with the formula: onnxruntime and onnx's evaluator have no nearest crop in common."""
    node = Node("node", "Resize", ("x",), ("y",), attributes)
    checkpoint = network(node, {"x": x}, {})
    got = Model(plan.build(checkpoint), ReferenceBackend())(x)
    assert got.shape == (*x.shape[:2], *attributes["sizes"])
    np.testing.assert_array_equal(got, crop_by_hand(x, attributes))


def crop_by_hand(x: Any, attributes: dict[str, Any]) -> Any:
    """Return the crop by the formula of docs/format.md, pixel by pixel."""
    roi = attributes["roi"]
    rounded = {
        "round_prefer_floor": lambda v: np.ceil(v - 0.5),
        "round_prefer_ceil": lambda v: np.floor(v + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }[attributes["nearest_mode"]]
    fill = np.float32(attributes["extrapolation_value"])
    out = np.full((*x.shape[:2], *attributes["sizes"]), fill)
    for at in np.ndindex(*attributes["sizes"]):
        source = []
        for axis, i in enumerate(at):
            last, size = x.shape[2 + axis] - 1, attributes["sizes"][axis]
            start, end = roi[axis], roi[axis + 2]
            where = (start + end) / 2 * last
            if size > 1:
                where = start * last + i * (end - start) * last / (size - 1)
            source.append(int(rounded(where)) if 0 <= where <= last else None)
        if None not in source:
            out[..., at[0], at[1]] = x[..., source[0], source[1]]
    return out


def test_every_operator_of_the_format_is_tested_here():
    source = Path(__file__).read_text(encoding="utf-8")
    assert not [op for op in OPERATORS if f'"{op}"' not in source]


@pytest.mark.parametrize(("axis", "indices"), [(1, (2, 0, 2)), (3, (0, 0)), (2, (4,))])
def test_gather(axis, indices):
    assert_one("Gather", normal(2, 3, 5, 4), {"axis": axis, "indices": indices})


@pytest.mark.parametrize("indices", [(), (0, 3)])
def test_entries_that_are_not_there_are_not_gathered(indices):
    node = Node("node", "Gather", ("x",), ("y",), {"axis": 1, "indices": indices})
    with pytest.raises((GraphError, ValueError)):
        network(node, {"x": normal(2, 3)}, {}).check()
