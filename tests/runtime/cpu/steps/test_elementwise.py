"""Arithmetic, Where, activations and scales of the compiled CPU backend, against NumPy."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict

import numpy as np
import pytest
from cpu_native import Layouts, View, activation, assert_written, executed, module, variants
from hypothesis import given
from hypothesis import strategies as st

from runtime.plan import steps as s
from runtime.reference import activations
from runtime.reference import steps as reference_steps

EPS = float(np.finfo(np.float32).eps)

pytestmark = pytest.mark.parametrize("variant", variants())

shapes = st.lists(st.sampled_from([1, 2, 3, 5, 16, 17, 33]), min_size=1, max_size=4).map(tuple)
seeds = st.integers(0, 1 << 20)
threads = st.integers(1, 3)


@given(
    op=st.sampled_from(
        ["Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu", "Greater", "GreaterOrEqual", "Equal"]
    ),
    shape=shapes,
    seed=seeds,
    threads=threads,
    data=st.data(),
)
def test_arithmetic_broadcasts_as_numpy(variant, op, shape, seed, threads, data):
    def operand():
        kept = data.draw(st.integers(0, len(shape)))
        return tuple(n if data.draw(st.booleans()) else 1 for n in shape[kept:])

    layouts = Layouts(seed)
    first, second = layouts.add(*operand()), layouts.add(*operand())
    y = layouts.add(*shape)
    arena = layouts.arena()
    operands = [first, second]
    values = [v.of(arena) for v in operands]
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, 1))
        operands[at] = values[at] = np.ascontiguousarray(values[at]).reshape(operands[at].shape)
    out = executed(
        module(variant),
        arena,
        lambda p: p.elementwise(0, op=op, operands=operands, y=y, activation=None),
        threads,
    )
    with np.errstate(all="ignore"):
        expected = reference_steps.ARITHMETIC[op](*values)
    assert_written(out, arena, y, np.broadcast_to(expected, shape))


NUMBERS = np.float32([np.nan, np.inf, -np.inf, -0.0, 0.0, 1.0, -1.0, 2.0])


@pytest.mark.parametrize("op", ["Greater", "GreaterOrEqual", "Equal"])
def test_comparisons_with_what_is_not_finite(variant, op):
    values = np.stack(np.meshgrid(NUMBERS, NUMBERS)).reshape(2, -1)
    views = [View(64 * at, (64,), (1,)) for at in range(3)]
    arena = np.concatenate([*values, np.full(64, 5.0, np.float32)])
    out = executed(
        module(variant),
        arena,
        lambda p: p.elementwise(0, op=op, operands=views[:2], y=views[2], activation=None),
    )
    assert_written(out, arena, views[2], reference_steps.ARITHMETIC[op](*values))


@given(shape=shapes, seed=seeds, threads=threads, data=st.data())
def test_where_chooses_in_any_layout(variant, shape, seed, threads, data):
    """What is not chosen leaves no trace: NaN and infinities lie among the numbers."""

    def operand():
        kept = data.draw(st.integers(0, len(shape)))
        return tuple(n if data.draw(st.booleans()) else 1 for n in shape[kept:])

    layouts = Layouts(seed)
    operands = [layouts.add(*operand()) for _ in range(3)]
    y = layouts.add(*shape)
    arena = layouts.arena()
    random = np.random.default_rng(seed)
    for view in operands:
        view.of(arena)[...] = random.choice(NUMBERS, view.shape)
    values = [view.of(arena) for view in operands]
    for at in data.draw(st.sets(st.integers(0, 2), max_size=2)):
        operands[at] = values[at] = np.ascontiguousarray(values[at]).reshape(operands[at].shape)
    out = executed(
        module(variant),
        arena,
        lambda p: p.elementwise(0, op="Where", operands=operands, y=y, activation=None),
        threads,
    )
    condition, a, b = values
    assert_written(out, arena, y, np.broadcast_to(np.where(condition != 0, a, b), shape))


ACTIVATIONS = [
    s.Activation("Relu"),
    s.Activation("Clip", 0.0, 6.0),
    s.Activation("Clip", -0.5, 0.25),
    s.Activation("LeakyRelu", 0.1),
    s.Activation("Sigmoid"),
    s.Activation("HardSigmoid", 0.2, 0.5),
    s.Activation("HardSwish"),
    s.Activation("Softplus"),
    s.Activation("Elu", 1.0),
    s.Activation("Elu", -2.5),
    s.Activation("Tanh"),
    s.Activation("Erf"),
    s.Activation("Gelu"),
    s.Activation("Swish", 1.0, 0.0),
    s.Activation("Swish", -1.702, 0.0),
    s.Activation("Swish", 1.5957691, 0.071354814),
    s.Activation("Mish"),
    s.Activation("Exp"),
    s.Activation("Log"),
    s.Activation("Sqrt"),
    s.Activation("ThresholdedRelu", 0.5),
    s.Activation("ThresholdedRelu", -1.0),
    s.Activation("Sin"),
    s.Activation("Cos"),
    s.Activation("Floor"),
    s.Activation("Ceil"),
    s.Activation("Round"),
    s.Activation("Sign"),
]


@pytest.mark.parametrize("given", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("gap", [0, 1])
def test_activations(variant, given, gap):
    x = np.concatenate(
        [
            np.linspace(-120, 120, 4001),
            [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-38, -1e-38, 3e38, -3e38],
        ]
    ).astype(np.float32)
    stride = 1 + gap
    y = View(x.size * stride, x.shape, (stride,))
    arena = np.full(2 * x.size * stride, 5.0, np.float32)
    View(0, x.shape, (stride,)).of(arena)[...] = x
    fields = asdict(given)
    view = View(0, x.shape, (stride,))
    out = executed(
        module(variant),
        arena,
        lambda p: p.elementwise(0, op="Identity", operands=[view], y=y, activation=fields),
    )
    with np.errstate(all="ignore"):
        expected = activations.activated(given, x)
    assert_written(out, arena, y, expected, tolerance=4 * EPS)


@pytest.mark.parametrize("alpha", [1.0, -2.5, 1e30, 1e-30])
def test_elu_keeps_its_digits_about_zero(variant, alpha):
    """Where exp(x) - 1 loses them, however large or small alpha makes what is left."""
    x = -np.geomspace(1e-8, 100, 4001).astype(np.float32)
    given = s.Activation("Elu", alpha)
    view, y = View(0, x.shape, (1,)), View(x.size, x.shape, (1,))
    arena = np.concatenate([x, np.full(x.size, 5.0, np.float32)])
    out = executed(
        module(variant),
        arena,
        lambda p: p.elementwise(0, op="Identity", operands=[view], y=y, activation=asdict(given)),
    )
    expected = alpha * np.expm1(x.astype(np.float64))
    np.testing.assert_allclose(activations.activated(given, x), expected, rtol=4 * EPS)
    np.testing.assert_allclose(y.of(out), expected, rtol=4 * EPS)


def erf(x):
    return np.vectorize(math.erf)(x)


def erfc(x):
    return np.vectorize(math.erfc)(x)


def gated(x, z):
    return x * np.where(z < 0, np.exp(np.minimum(z, 0)), 1) / (1 + np.exp(-abs(z)))


# Each function with its definition in float64.
ABOUT_ZERO, POSITIVE = np.geomspace(1e-8, 80, 4001), np.geomspace(1e-40, 3e38, 4001)
PRECISE = {
    "Tanh": (s.Activation("Tanh"), ABOUT_ZERO, np.tanh),
    "Erf": (s.Activation("Erf"), ABOUT_ZERO, erf),
    "Gelu": (s.Activation("Gelu"), ABOUT_ZERO, lambda x: x * erfc(-x / math.sqrt(2)) / 2),
    "Swish": (s.Activation("Swish", 1.5, 0.0), ABOUT_ZERO, lambda x: gated(x, 1.5 * x)),
    "Gelu by tanh": (
        s.Activation("Swish", 1.5, 0.0625),
        ABOUT_ZERO,
        lambda x: gated(x, 1.5 * x + 0.0625 * x**3),
    ),
    "Mish": (s.Activation("Mish"), ABOUT_ZERO, lambda x: x * np.tanh(np.logaddexp(x, 0))),
    "Exp": (s.Activation("Exp"), ABOUT_ZERO, np.exp),
    "Log": (s.Activation("Log"), POSITIVE, np.log),
    "Log about 1": (s.Activation("Log"), 1 + np.linspace(-0.5, 0.5, 4001), np.log),
    "Sqrt": (s.Activation("Sqrt"), POSITIVE, np.sqrt),
}


@pytest.mark.parametrize("name", PRECISE)
def test_functions_keep_their_digits(variant, name):
    """Relative to what they make, also where that is small and where sums cancel."""
    given, sizes, function = PRECISE[name]
    x = (sizes if sizes is not ABOUT_ZERO else np.concatenate([-sizes, sizes])).astype(np.float32)
    view, y = View(0, x.shape, (1,)), View(x.size, x.shape, (1,))
    arena = np.concatenate([x, np.full(x.size, 5.0, np.float32)])
    out = executed(
        module(variant),
        arena,
        lambda p: p.elementwise(0, op="Identity", operands=[view], y=y, activation=asdict(given)),
    )
    with np.errstate(all="ignore"):
        exact = x.astype(np.float64)
        expected = function(exact)
        steep = abs(function(exact * (1 + 1e-6)) - expected) / 1e-6  # by a relative change of x
        by_reference = activations.activated(given, x)
    # Beyond the normal numbers nothing is promised but that it is as small.
    for got in (by_reference, y.of(out)):
        allowed = 3 * EPS * (abs(expected) + steep) + 2e-36
        assert np.all(abs(got - expected) <= allowed), name


def activated_by(variant, given, x):
    view, y = View(0, x.shape, (1,)), View(x.size, x.shape, (1,))
    arena = np.concatenate([x, np.full(x.size, 5.0, np.float32)])
    call = {"operands": [view], "y": y, "activation": asdict(given)}
    return y.of(executed(module(variant), arena, lambda p: p.elementwise(0, op="Identity", **call)))


@pytest.mark.parametrize(("op", "function"), [("Sin", np.sin), ("Cos", np.cos)])
def test_waves_of_any_number(variant, op, function):
    """Also of large ones, of multiples of pi / 2, and whatever lies beside them in a vector."""
    quarters = np.arange(-4000, 4000) * (math.pi / 2)
    sizes = np.concatenate([np.geomspace(1e-38, 3.4e38, 8001), [499999.97, 500000.0, 500000.03]])
    x = np.concatenate([quarters, 97 * quarters, sizes, -sizes]).astype(np.float32)
    x = np.concatenate([x, np.nextafter(x, np.float32(0)), x[::-1]])
    exact = function(x.astype(np.longdouble))
    got = activated_by(variant, s.Activation(op), x)
    assert np.all(abs(got - exact) <= 2 * EPS * abs(exact) + 1e-37)
    # A number's neighbours do not matter.
    shifted = activated_by(variant, s.Activation(op), np.roll(x, 5))
    np.testing.assert_array_equal(np.roll(shifted, -5), got)
    ends = activated_by(variant, s.Activation(op), np.float32([np.nan, np.inf, -np.inf, 0.0, -0.0]))
    np.testing.assert_array_equal(ends[:3], np.nan)
    np.testing.assert_array_equal(ends[3:], function(np.float32([0.0, -0.0])))


@pytest.mark.parametrize("op", ["Floor", "Ceil", "Round", "Sign"])
def test_steps_between_whole_numbers(variant, op):
    powers = 2.0 ** np.arange(-3, 30)
    sizes = np.concatenate(
        [np.arange(0, 300) / 4, powers, powers + 0.5, powers - 0.5, [1e30, 3e38]]
    )
    x = np.concatenate([sizes, -sizes, [np.nan, np.inf, -np.inf]]).astype(np.float32)
    x = np.concatenate([x, np.nextafter(x, np.float32(0)), np.nextafter(x, np.float32(np.inf))])
    got = activated_by(variant, s.Activation(op), x)
    np.testing.assert_array_equal(got, activations.ACTIVATIONS[op](x, 0, 0))


def test_operations_in_place(variant):
    layouts = Layouts(2)
    x = layouts.add(40, 300)
    arena = layouts.arena()
    out = executed(
        module(variant),
        arena,
        lambda p: p.elementwise(0, op="Add", operands=[x, x], y=x, activation=activation("Relu")),
    )
    assert_written(out, arena, x, np.maximum(2 * x.of(arena), 0))


@pytest.mark.parametrize("given", list(itertools.product([True, False], repeat=2)))
@pytest.mark.parametrize("order", [(1, 2, 3, 0), (0, 1, 2, 3), (0, 2, 3, 1)])
def test_scale_and_shift_along_axis_1(variant, given, order):
    layouts = Layouts(3)
    x, y = (layouts.add(5, 19, 6, 7, order=order) for _ in range(2))
    arena = layouts.arena()
    random = np.random.default_rng(0)
    scale, shift = (random.standard_normal(19).astype(np.float32) if g else None for g in given)
    out = executed(
        module(variant),
        arena,
        lambda p: p.scale_shift(
            0, x=x, scale=scale, shift=shift, y=y, activation=activation("Relu")
        ),
    )
    expected = x.of(arena).astype(np.float64)
    if scale is not None:
        expected = expected * scale[:, None, None]
    if shift is not None:
        expected = expected + shift[:, None, None]
    assert_written(out, arena, y, np.maximum(expected, 0), tolerance=4 * EPS)
