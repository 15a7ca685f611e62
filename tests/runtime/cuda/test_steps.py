"""Every step of a plan on the device, emulated or real, against the reference."""

from __future__ import annotations

import fake_cupy
import numpy as np
import pytest
from builder import Builder
from draws import RANDOM

from masktools.checkpoint import Checkpoint, SparseWeight
from masktools.errors import GraphError
from masktools.layout import BlockLayout, DenseBlock
from masktools.network.graph import Graph, Node, Value
from masktools.network.shapes import infer_shapes
from runtime.cuda import layers
from runtime.cuda.backend import CudaBackend
from runtime.errors import PlanError
from runtime.model import Model
from runtime.plan import plan as plans
from runtime.reference.backend import ReferenceBackend

BATCHES = (1, 3, 9, 64)  # fewer lanes than a copy, an odd few, a remainder of eight, whole ones
# What a step may differ by, of its largest number: roundings of the type, and sums.
TOLERANCE = {"float32": 2e-6, "tf32": 2e-3, "float16": 3e-3}


@pytest.fixture(params=fake_cupy.places())
def cupy(request, monkeypatch, tmp_path):
    yield from fake_cupy.installed(request.param, monkeypatch, tmp_path)


def normal(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def positive(*shape):
    return np.abs(normal(*shape)) + np.float32(0.5)


def assert_equal(checkpoint, inputs, dtype="float32", tolerance=None):
    """Run a network on both backends; outputs that are NaN or infinite must be so on both."""
    network = plans.build(checkpoint)
    wanted = Model(network, ReferenceBackend())(inputs)
    got = Model(network, CudaBackend(), dtype)(inputs)
    if not isinstance(wanted, dict):
        wanted, got = {"y": wanted}, {"y": got}
    for name, want in wanted.items():
        assert got[name].shape == want.shape
        assert got[name].dtype == np.float32
        finite = np.isfinite(want)
        np.testing.assert_array_equal(np.isfinite(got[name]), finite)
        np.testing.assert_array_equal(got[name][~finite], want[~finite])
        scale = np.abs(want[finite]).max(initial=0)
        error = np.abs(got[name][finite] - want[finite]).max(initial=0)
        assert error <= scale * (tolerance or TOLERANCE[dtype]), name
    return network


def one(op, inputs, constants=None, *, order=None, fixed=False, **attributes):
    """Return a network of one node; `fixed`: its first axis is no batch."""
    constants = constants or {}
    outputs = tuple(f"y{i}" for i in range(len(attributes.get("split", (1,)))))
    node = Node("node", op, tuple(order or (*inputs, *constants)), outputs, attributes)

    def open_(shape):
        return shape if fixed else (None, *shape[1:])

    values = tuple(Value(name, open_(x.shape)) for name, x in inputs.items())
    bare = Graph(values, (), (node,), constants)
    shapes = infer_shapes(bare, {name: x.shape for name, x in inputs.items()})
    results = tuple(Value(name, open_(shapes[name])) for name in outputs)
    return Checkpoint(Graph(values, results, (node,), constants))


def assert_one(op, inputs, constants=None, **how):
    """Try one operator in both precisions, on numbers that float16 holds: all else is its own."""
    inputs = {name: x.astype(np.float16).astype(np.float32) for name, x in inputs.items()}
    checkpoint = one(op, inputs, constants, **how)
    for dtype in ("float32", "float16"):
        assert_equal(checkpoint, inputs, dtype)


# --- windows and reductions ----------------------------------------------------------------------

WINDOWS = [
    {"kernel_shape": (2, 2), "strides": (2, 2), "dilations": (1, 1), "pads": (0, 0, 0, 0)},
    {"kernel_shape": (3, 2), "strides": (2, 1), "dilations": (1, 2), "pads": (1, 0, 2, 1)},
    {"kernel_shape": (3,), "strides": (2,), "dilations": (1,), "pads": (1, 2)},
]


@pytest.mark.sanitized
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("ceil_mode", [0, 1])
def test_pools(cupy, batch, window, ceil_mode):
    x = {"x": normal(batch, 3, *(7, 6)[: len(window["kernel_shape"])])}
    assert_one("MaxPool", x, **window, ceil_mode=ceil_mode)
    for counted in (0, 1):
        assert_one("AveragePool", x, **window, ceil_mode=ceil_mode, count_include_pad=counted)


@pytest.mark.sanitized
def test_a_pool_keeps_nan_and_finds_minus_infinity_where_no_tap_is_inside(cupy):
    x = normal(8, 1, 4, 4)
    x[0, 0, 1, 1] = np.nan
    window = {"kernel_shape": (2, 2), "strides": (2, 2), "pads": (0,) * 4, "dilations": (1, 1)}
    assert_equal(one("MaxPool", {"x": x}, ceil_mode=0, **window), {"x": x})
    outside = {**window, "dilations": (2, 2), "pads": (1,) * 4, "strides": (1, 1)}
    small = {"x": normal(8, 1, 1, 1)}
    assert_equal(one("MaxPool", small, ceil_mode=0, **outside), small)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("size", [(7, 6), (1, 1), (300,), (16, 17)])
def test_global_averages(cupy, batch, size):
    assert_one("GlobalAveragePool", {"x": normal(batch, 5, *size) + 3})


@pytest.mark.sanitized
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2"])
def test_reductions(cupy, batch, op):
    x = normal(batch, 3, 5, 4) + 1
    for axes in [(1,), (3,), (1, 3), (1, 2, 3), (2, 3)]:
        assert_one(op, {"x": x}, axes=axes, keepdims=batch % 2)
    assert_one(op, {"x": x}, axes=(0, 2), keepdims=1, fixed=True)
    assert_one(op, {"x": normal(batch, 2, 300) + 1}, axes=(1, 2), keepdims=0)


def test_an_extreme_is_nan_where_a_number_is(cupy):
    x = normal(3, 5, 300)
    x[0, 1, 299], x[1, 2, 0], x[2, 0, 7] = np.nan, np.inf, -np.inf
    for op in ("ReduceMax", "ReduceMin"):
        assert_equal(one(op, {"x": x}, axes=(2,), keepdims=1), {"x": x})


@pytest.mark.sanitized
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("axis", [1, 2, 3])
def test_layer_normalisations(cupy, batch, axis):
    x = 3 * normal(batch, 3, 5, 4) + 1
    scale, shift = normal(*x.shape[axis:]), normal(*x.shape[axis:])
    how = {"axis": axis, "epsilon": 1e-3}
    assert_one("LayerNormalization", {"x": x}, **how)
    assert_one("LayerNormalization", {"x": x}, {"s": scale}, **how)
    assert_one("LayerNormalization", {"x": x}, {"s": scale, "b": shift}, **how)
    assert_one("LayerNormalization", {"x": normal(batch, 2, 300)}, axis=2, epsilon=1e-5)


@pytest.mark.sanitized
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("axis", [1, 2, 3, -1])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_softmax_of_images(cupy, op, batch, axis):
    assert_one(op, {"x": 4 * normal(batch, 5, 4, 3)}, axis=axis)


@pytest.mark.sanitized
@pytest.mark.parametrize("classes", [1, 2, 255, 256, 1000])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_softmax_of_classes(cupy, op, classes):
    x = normal(9, classes)
    assert_one(op, {"x": x}, axis=1)
    assert_one(op, {"x": x}, axis=0, fixed=True)
    # Large numbers overflow unless the largest is taken off first; rounded to float16, they mean
    # other numbers.
    assert_equal(one(op, {"x": x}, axis=1), {"x": 100 * x}, tolerance=1e-5)


# --- element by element --------------------------------------------------------------------------

ACTIVATIONS = {
    "Relu": {},
    "Clip": {"min": -0.5, "max": 0.7},
    "LeakyRelu": {"alpha": 0.1},
    "Sigmoid": {},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "HardSwish": {},
    "Softplus": {},
    "Elu": {"alpha": -1.5},
    "Tanh": {},
    "Erf": {},
    "Gelu": {"approximate": "none"},
    "Swish": {"alpha": 1.5},
    "Mish": {},
    "Exp": {},
    "Log": {},
    "Sqrt": {},
    "ThresholdedRelu": {"alpha": 0.5},
    "Sin": {},
    "Cos": {},
    "Floor": {},
    "Ceil": {},
    "Round": {},
    "Sign": {},
}


@pytest.mark.parametrize("op", ACTIVATIONS)
def test_activations(cupy, op):
    x = (2 if op == "Exp" else 3) * normal(9, 3, 4, 5)  # float16 ends at exp(11)
    assert_one(op, {"x": x}, **ACTIVATIONS[op])
    x[0, 0, 0] = [np.nan, np.inf, -np.inf, 0, 1]
    assert_equal(one(op, {"x": x}, **ACTIVATIONS[op]), {"x": x})


@pytest.mark.parametrize("op", ["Sin", "Cos"])
def test_waves_of_large_numbers(cupy, op):
    sizes = np.geomspace(1e-3, 3e38, 9 * 60).astype(np.float32)
    x = np.where(np.arange(len(sizes)) % 2, sizes, -sizes).reshape(9, 3, 4, 5)
    assert_equal(one(op, {"x": x}), {"x": x})


@pytest.mark.parametrize("op", ["Floor", "Ceil", "Round", "Sign"])
def test_steps_between_whole_numbers(cupy, op):
    halves = np.concatenate(
        [np.arange(-8, 8) / 2, [0.0, -0.0, 2**22 + 0.5, 2**23 + 1, -1e30, 3e38]]
    )
    x = np.resize(halves, (9, 3, 4, 5)).astype(np.float32)
    near = np.nextafter(x, np.float32([np.inf, -np.inf, 0])[:, None, None])
    for given in (x, near):
        assert_equal(one(op, {"x": given}), {"x": given}, tolerance=0)


@pytest.mark.parametrize("alpha", [1.0, -1e30])
def test_elu_keeps_its_digits_about_zero(cupy, alpha):
    x = np.float32(1e-6) * normal(9, 3, 4, 5)
    assert_equal(one("Elu", {"x": x}, alpha=alpha), {"x": x})


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min"])
def test_arithmetic_of_values_and_constants(cupy, batch, op):
    x = positive(batch, 3, 4, 5)
    assert_one(op, {"x": x, "z": positive(batch, 3, 4, 5)})
    assert_one(op, {"x": x, "z": positive(batch, 3, 1, 1)})
    for constant in (positive(3, 1, 1), positive(4, 5), np.float32([3]), positive(1, 3, 4, 1)):
        assert_one(op, {"x": x}, {"c": constant})
        assert_one(op, {"x": x}, {"c": constant}, order=("c", "x"))


@pytest.mark.parametrize("batch", BATCHES)
def test_slopes(cupy, batch):
    x = normal(batch, 3, 4, 5)
    assert_one("PRelu", {"x": x, "z": normal(batch, 3, 1, 1)})
    for slope in (normal(3, 1, 1), normal(4, 5), normal(1, 3, 4, 1)):
        assert_one("PRelu", {"x": x}, {"c": slope})


def test_the_larger_and_the_smaller_of_two_numbers_are_nan_where_either_is(cupy):
    x, z = normal(2, 9, 3, 4, 5)
    x[0, 0, 0], z[0, 0, 0] = [np.nan, 1, np.inf, np.nan, 0], [1, np.nan, np.nan, np.nan, -np.inf]
    for op in ("Max", "Min", "PRelu"):
        assert_equal(one(op, {"x": x, "z": z}), {"x": x, "z": z})


def chosen_from(*shape):
    """Return small whole numbers, many of them equal."""
    return np.round(normal(*shape))


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("op", ["Greater", "GreaterOrEqual", "Equal"])
def test_comparisons(cupy, batch, op):
    x, z = chosen_from(batch, 3, 4, 5), chosen_from(batch, 3, 4, 5)
    assert_one(op, {"x": x, "z": z})
    assert_one(op, {"x": x, "z": chosen_from(batch, 3, 1, 1)})
    for constant in (chosen_from(3, 1, 1), chosen_from(4, 5), chosen_from(1, 3, 4, 1)):
        assert_one(op, {"x": x}, {"c": constant})
        assert_one(op, {"x": x}, {"c": constant}, order=("c", "x"))
    x[0, 0, 0], z[0, 0, 0] = [np.nan, 1, np.inf, -np.inf, np.inf], [1, np.nan, np.inf, 0, np.nan]
    assert_equal(one(op, {"x": x, "z": z}), {"x": x, "z": z})


@pytest.mark.sanitized
@pytest.mark.parametrize("batch", BATCHES)
def test_choices(cupy, batch):
    condition, x = chosen_from(batch, 3, 4, 5), normal(batch, 3, 4, 5)
    assert_one("Where", {"c": condition, "x": x, "z": normal(batch, 3, 1, 5)})
    assert_one("Where", {"c": chosen_from(batch, 3, 1, 1), "x": x}, {"k": normal(4, 5)})
    assert_one("Where", {"c": condition, "x": x}, {"k": normal(1)}, order=("c", "k", "x"))
    assert_one(
        "Where", {"x": x}, {"k": chosen_from(3, 1, 1), "l": normal(5)}, order=("k", "x", "l")
    )
    assert_one("Where", {"c": condition}, {"k": normal(1, 3, 1, 5), "l": normal(1)})
    x[0, 0, 0], z = [np.nan, 1, np.inf, -np.inf, 0], normal(batch, 3, 4, 5)
    condition[0, 0, 0] = [0, np.nan, 1, 1, 0]
    z[0, 0, 0] = [1, np.nan, np.nan, 2, np.inf]
    given = {"c": condition, "x": x, "z": z}
    assert_equal(one("Where", given), given)


@pytest.mark.sanitized
def test_operands_of_other_ranks_and_batches(cupy):
    assert_one("Mul", {"x": positive(9, 2, 3), "z": positive(2, 1)}, fixed=True)
    assert_one("Add", {"x": positive(1, 2, 3), "z": positive(9, 2, 3)}, fixed=True)
    assert_one("Sub", {"x": positive(9, 2, 3)}, {"c": positive(9, 1, 1)}, fixed=True)
    assert_one("Div", {"x": positive(4), "z": positive(9, 2, 4)}, fixed=True)
    choice = {"c": chosen_from(9, 2, 1), "x": normal(4)}
    assert_one("Where", choice, {"k": normal(9, 1, 4)}, fixed=True)


@pytest.mark.parametrize("shape", [(9, 3), (3, 3, 4), (1, 3, 4, 5)])
def test_normalisations(cupy, shape):
    parts = {"scale": normal(3), "shift": normal(3), "mean": normal(3), "variance": positive(3)}
    assert_one("BatchNormalization", {"x": normal(*shape)}, parts, epsilon=1e-5)


@pytest.mark.sanitized
@pytest.mark.parametrize("batch", BATCHES)
def test_products_of_two_values(cupy, batch):
    assert_one("MatMul", {"a": normal(batch, 5, 7), "b": normal(batch, 7, 4)})
    assert_one("MatMul", {"a": normal(batch, 2, 33, 40), "b": normal(batch, 2, 40, 34)})
    assert_one("MatMul", {"a": normal(batch, 3, 4, 5), "b": normal(batch, 1, 5, 2)})
    assert_one("MatMul", {"a": normal(batch, 3, 4, 5), "b": normal(3, 5, 2)}, fixed=True)
    assert_one("MatMul", {"a": normal(batch, 7), "b": normal(7, 4)}, fixed=True)


def test_an_infinity_reaches_the_numbers_that_read_it(cupy):
    a, b = normal(3, 5, 7), normal(3, 7, 4)
    a[0, 1, 6], b[1, 0, 2] = np.inf, np.nan
    assert_equal(one("MatMul", {"a": a, "b": b}), {"a": a, "b": b})


def test_attention_of_turned_values(cupy):
    """Queries, keys and values as slices of one product, turned: strides of every kind."""
    b = Builder(channels=4)
    parts = [b.conv("x", 4, 1) for _ in range(3)]
    q, k, v = (b.add("Reshape", [p], 4, shape=(0, 2, 2, 36)) for p in parts)
    q, v = (b.add("Transpose", [p], 4, perm=(0, 1, 3, 2)) for p in (q, v))
    soft = b.add("Softmax", [b.add("MatMul", [q, k], 2)], 2, axis=3)
    mixed = b.add("Transpose", [b.add("MatMul", [soft, v], 2)], 2, perm=(0, 1, 3, 2))
    y = b.conv(b.add("Reshape", [mixed], 4, shape=(0, 4, 6, 6)), 3)
    for batch in (1, 9):
        assert_equal(Checkpoint(b.graph(y)), {"x": normal(batch, 4, 6, 6)}, tolerance=2e-5)


# --- moves ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", BATCHES)
def test_parts_joined_and_cut(cupy, batch):
    parts = {"x": normal(batch, 2, 3, 3), "z": normal(batch, 4, 3, 3), "w": normal(batch, 1, 3, 3)}
    assert_one("Concat", parts, axis=1)
    assert_one("Concat", {"x": normal(batch, 2, 3), "z": normal(batch, 2, 4)}, axis=-1 % 3)
    x = {"x": normal(batch, 6, 5, 7)}
    assert_one("Slice", x, axes=(1, 3), starts=(1, 0), ends=(4, 7), steps=(1, 2))
    assert_one("Slice", x, axes=(2,), starts=(4,), ends=(-100,), steps=(-2,))
    assert_one("Split", x, axis=1, split=(1, 2, 3))


@pytest.mark.sanitized
@pytest.mark.parametrize("batch", BATCHES)
def test_entries_chosen_in_any_order(cupy, batch):
    x = {"x": normal(batch, 5, 4, 3)}
    assert_one("Gather", x, axis=1, indices=(4, 0, 0, 2))
    assert_one("Gather", x, axis=3, indices=(2, 2))


@pytest.mark.sanitized
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pads(cupy, batch, mode):
    fill = {"value": 2.5} if mode == "constant" else {}
    x = {"x": normal(batch, 3, 4, 5)}
    assert_one("Pad", x, pads=(0, 0, 1, 2, 0, 0, 2, 1), mode=mode, **fill)
    assert_one("Pad", x, pads=(0, 0, -1, 2, 0, 0, 2, -1), mode=mode, **fill)


def test_resize_reads_the_nearest_and_fills_what_is_outside(cupy):
    nearest = {"mode": "nearest", "nearest_mode": "floor", "axes": (2, 3)}
    asymmetric = {**nearest, "coordinate_transformation_mode": "asymmetric"}
    assert_one("Resize", {"x": normal(9, 2, 3, 4)}, scales=(2.0, 1.5), **asymmetric)


@pytest.mark.sanitized
@pytest.mark.parametrize("batch", BATCHES)
def test_resize_by_interpolation(cupy, batch):
    linear = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    cubic = {**linear, "mode": "cubic", "cubic_coeff_a": -0.75, "exclude_outside": 1}
    x = {"x": normal(batch, 2, 3, 4)}
    assert_one("Resize", x, axes=(2, 3), scales=(2.0, 1.5), **linear)
    assert_one("Resize", x, axes=(3, 1), sizes=(7, 3), **cubic)
    assert_one("Resize", {"x": normal(batch, 3, 5)}, axes=(2,), scales=(0.6,), **linear)


def test_interpolation_in_half_and_of_what_is_not_finite(cupy):
    x = normal(9, 2, 3, 4)
    attributes = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    network = one("Resize", {"x": x}, axes=(2, 3), scales=(2.0, 1.5), **attributes)
    assert_equal(network, {"x": x}, "float16")
    x[0, 0, 1, 1], x[8, 1, 2, 3] = np.nan, np.inf
    assert_equal(network, {"x": x})


@pytest.mark.sanitized
def test_the_first_axis_is_interpolated_where_it_is_no_batch(cupy):
    attributes = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    assert_one("Resize", {"x": normal(9, 4, 2)}, axes=(0,), sizes=(5,), fixed=True, **attributes)


@pytest.mark.sanitized
@pytest.mark.parametrize("batch", BATCHES)
def test_axes_are_turned_and_regrouped(cupy, batch):
    x = {"x": normal(batch, 6, 4, 5)}
    for perm in [(0, 2, 3, 1), (0, 1, 3, 2), (0, 3, 2, 1)]:
        assert_one("Transpose", x, perm=perm)
    assert_one("Flatten", x, axis=1)
    assert_one("Reshape", x, shape=(0, 5, 4, 6))
    assert_one("Reshape", {"x": normal(batch, 12)}, shape=(0, 3, 2, 2))


@pytest.mark.sanitized
def test_the_first_axis_is_turned_and_regrouped_where_it_is_no_batch(cupy):
    x = {"x": normal(9, 4, 2)}
    for perm in [(1, 0, 2), (2, 1, 0), (1, 2, 0)]:
        assert_one("Transpose", x, perm=perm, fixed=True)
    for shape in [(4, 2, 9), (72,), (8, 9), (1, 9, 8)]:
        assert_one("Reshape", x, shape=shape, fixed=True)
    assert_one("Concat", {"x": normal(9, 2), "z": normal(2, 2)}, axis=0, fixed=True)
    assert_one("Slice", x, axes=(0,), starts=(1,), ends=(8,), steps=(3,), fixed=True)
    assert_one("Pad", x, pads=(1, 0, 0, 2, 0, 1), mode="constant", value=1.0, fixed=True)


def test_a_channel_shuffle(cupy):
    b = Builder(channels=6)
    apart = b.add("Reshape", ["x"], 6, shape=(0, 2, 3, 6, 6))
    turned = b.add("Transpose", [apart], 6, perm=(0, 2, 1, 3, 4))
    whole = b.add("Reshape", [turned], 6, shape=(0, 6, 6, 6))
    assert_equal(Checkpoint(b.graph(whole)), {"x": normal(9, 6, 6, 6)})


def test_more_axes_than_a_device_walks_are_refused_before_any_plan():
    x = {"x": normal(1, *(2,) * 8)}
    with pytest.raises(GraphError, match="9 axes; 8 are supported"):
        one("Transpose", x, perm=(0, 8, 7, 6, 5, 4, 3, 2, 1))


def test_a_value_with_a_halo_is_also_flattened_and_normalised(cupy):
    """Read by a padded convolution and by steps that see its numbers in other shapes."""
    b = Builder(channels=3)
    a = b.act("Relu", "x")
    conv = b.conv(a, 4)
    softmax = b.add("Softmax", [a], 3, axis=2)
    again = b.conv(b.add("Reshape", [b.add("Flatten", [a], 108, 1, axis=1)], 3, 6,
                         shape=(0, 3, 6, 6)), 2)  # fmt: skip
    pooled = b.add("GlobalAveragePool", [a], 3, 1)
    assert_equal(
        Checkpoint(b.graph(conv, softmax, again, pooled, b.fc(a, 5))), {"x": normal(9, 3, 6, 6)}
    )


# --- layers --------------------------------------------------------------------------------------


def layer(shape, x, weight=None, bias=True, skip=False, activation=None, **window):
    """Return a network of one convolution, with what follows it."""
    spatial = len(shape) - 2
    window = {
        "strides": (1,) * spatial, "dilations": (1,) * spatial, "pads": (0,) * 2 * spatial,
        "group": 1, **window,
    }  # fmt: skip
    constants = {} if isinstance(weight, SparseWeight) else {"l.weight": normal(*shape)}
    inputs = ["x", "l.weight"]
    if bias:
        constants["l.bias"] = normal(shape[0])
        inputs.append("l.bias")
    nodes = [Node("l", "Conv", tuple(inputs), ("a",), window)]
    values = [Value("x", (None, *x.shape[1:]))]
    sparse = {"l": weight} if isinstance(weight, SparseWeight) else {}
    out = "a"
    shapes = infer_shapes(
        Graph(tuple(values), (), tuple(nodes), constants), {"x": x.shape}, {"l.weight": shape}
    )
    if skip:
        values.append(Value("skip", (None, *shapes["a"][1:])))
        nodes.append(Node("add", "Add", (out, "skip"), ("b",), {}))
        out = "b"
    if activation:
        nodes.append(Node("act", activation, (out,), ("c",), ACTIVATIONS[activation]))
        out = "c"
    result = (Value(out, (None, *shapes["a"][1:])),)
    return Checkpoint(Graph(tuple(values), result, tuple(nodes), constants), sparse), shapes["a"]


def run_layer(shape, x, dtype="float32", **how):
    checkpoint, out = layer(shape, x, **how)
    inputs = {"x": x} | ({"skip": normal(*out)} if how.get("skip") else {})
    return assert_equal(checkpoint, inputs, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("batch", [1, 9])
def test_a_convolution_with_everything_around_it(cupy, dtype, batch):
    network = run_layer(
        (40, 5, 3, 2), normal(batch, 5, 7, 8), dtype, skip=True, activation="LeakyRelu",
        strides=(2, 1), dilations=(1, 2), pads=(1, 0, 2, 3),
    )  # fmt: skip
    assert len(network.steps) == 1


@pytest.mark.parametrize("groups", [2, 6])
def test_grouped_and_depthwise_convolutions(cupy, groups):
    x = normal(8, 6, 5, 5)
    run_layer((6, 6 // groups, 3, 3), x, group=groups, pads=(1,) * 4, activation="Relu")
    run_layer((12, 6 // groups, 3, 3), x, group=groups, bias=False)


def test_convolutions_along_one_axis(cupy):
    run_layer((7, 3, 5), normal(9, 3, 11), pads=(2, 1), strides=(2,), skip=True)


@pytest.mark.sanitized
@pytest.mark.parametrize("batch", [1, 8, 9])
def test_products_of_every_rank(cupy, batch):
    weights = {"w": normal(40, 7), "b": normal(40)}
    assert_one("Gemm", {"x": normal(batch, 7)}, weights, transB=1)


def structured(shape, blocks, residual=(), groups=1):
    """Return a layer's weights: blocks, and single weights beside them."""
    layout = BlockLayout(shape, tuple(DenseBlock(*block) for block in blocks), groups)
    mask = np.zeros((layout.rows, layout.columns), bool)
    for row, column in residual:
        mask[row, column] = True
    return SparseWeight.from_dense(normal(*shape), layout, mask.reshape(shape))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("batch", [3, 8])
def test_blocks_a_residual_and_rows_of_neither(cupy, dtype, batch):
    blocks = [
        (range(0, 70, 2), range(0, 45, 2)),
        (range(1, 36, 2), [1, 3, 44]),
        (range(0, 8, 2), [5, 7, 9, 11]),
    ]
    weight = structured((71, 5, 3, 3), blocks, [(0, 1), (1, 2), (69, 0), (69, 40)])
    run_layer(
        (71, 5, 3, 3), normal(batch, 5, 6, 5), dtype, weight=weight, skip=True, pads=(1,) * 4,
        activation="HardSwish",
    )  # fmt: skip


def test_more_rows_to_finish_than_a_grid_has_blocks(cupy, monkeypatch):
    monkeypatch.setattr(layers, "MOST_ROWS", 3)
    weight = structured((9, 4, 1, 1), [(range(9), [0, 1]), (range(8), [2])])
    run_layer((9, 4, 1, 1), normal(8, 4, 5, 5), weight=weight, skip=True)


def test_blocks_of_convolution_groups(cupy):
    weight = structured((8, 3, 3, 3), [([0, 1, 3], [0, 5, 9]), ([4, 7], [0, 5, 9])], groups=2)
    run_layer((8, 3, 3, 3), normal(8, 6, 5, 5), weight=weight, group=2)


def test_an_infinity_that_no_row_reads_changes_nothing(cupy):
    """Padded columns read what their row reads anyway, and zeros around the image stay zeros."""
    x = normal(8, 4, 5, 5)
    x[:, 0] = np.inf
    weight = structured((33, 4, 3, 3), [(range(33), range(9, 30))])
    run_layer((33, 4, 3, 3), x, weight=weight, pads=(1,) * 4)


@pytest.mark.parametrize("where", ["dense", "block", "residual"])
def test_a_weight_beyond_float16_is_refused_when_a_model_is_made(cupy, where):
    x = normal(8, 4, 4, 4)
    weight = structured((32, 4, 1, 1), [(range(32), [0, 1])], [(3, 2)])
    checkpoint, _ = layer((32, 4, 1, 1), x, weight=None if where == "dense" else weight)
    stored = {
        "dense": checkpoint.graph.constants.get("l.weight"),
        "block": weight.values,
        "residual": weight.residual.values,
    }
    plan = plans.build(checkpoint)
    Model(plan, CudaBackend(), "float16")
    stored[where].flat[0] = -1e5
    plan = plans.build(checkpoint)
    Model(plan, CudaBackend())
    with pytest.raises(PlanError, match="layer 'l': a weight of 100000 is beyond float16"):
        Model(plan, CudaBackend(), "float16")
