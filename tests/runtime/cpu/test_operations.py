"""Each operation of the compiled CPU backend, in every variant, against NumPy on the same arena."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict

import numpy as np
import pytest
from cpu_native import Layouts, View, activation, assert_written, executed, module, variants
from hypothesis import given
from hypothesis import strategies as st

from runtime import reference
from runtime.cpu.memory.window import Window, window_of
from runtime.plan import steps as s

EPS = float(np.finfo(np.float32).eps)

pytestmark = pytest.mark.parametrize("variant", variants())

shapes = st.lists(st.sampled_from([1, 2, 3, 5, 16, 17, 33]), min_size=1, max_size=4).map(tuple)
seeds = st.integers(0, 1 << 20)
threads = st.integers(1, 3)


# --- moving ------------------------------------------------------------------------------------


@given(shape=shapes, seed=seeds, threads=threads)
def test_copies_between_any_two_layouts(variant, shape, seed, threads):
    layouts = Layouts(seed)
    x, y = layouts.add(*shape), layouts.add(*shape)
    arena = layouts.arena()
    out = executed(module(variant), arena, lambda p: p.copy(0, x=x, y=y), threads)
    assert_written(out, arena, y, x.of(arena))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("shape", [(64, 33, 48), (1, 100, 257), (3, 1, 40000), (70, 2, 1)])
def test_copies_of_many_items(variant, shape, order):
    layouts = Layouts(0)
    x, y = layouts.add(*shape, order=(0, 1, 2)), layouts.add(*shape, order=order)
    arena = layouts.arena()
    out = executed(module(variant), arena, lambda p: p.copy(0, x=x, y=y), 3)
    assert_written(out, arena, y, x.of(arena))


@pytest.mark.parametrize("shape", [(64, 3, 32, 32), (1, 3, 30, 31), (5, 7), (33, 2, 19), ()])
def test_inputs_and_outputs_in_any_layout(variant, shape):
    for order in itertools.islice(itertools.permutations(range(len(shape))), 0, None, 3):
        layouts = Layouts(1)
        view = layouts.add(*shape, order=order)
        program = module(variant).Program(layouts.elements + 1, 2)
        program.copy_in(-1, index=0, y=view)
        program.copy_out(-1, x=view, index=0)
        x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        x = np.asarray(x, np.float32)
        out = np.empty(shape, np.float32)
        program.run([x], [out])
        np.testing.assert_array_equal(out, x)


@given(shape=shapes, seed=seeds, threads=threads)
def test_fills_any_layout(variant, shape, seed, threads):
    layouts = Layouts(seed)
    y = layouts.add(*shape)
    arena = layouts.arena()
    out = executed(module(variant), arena, lambda p: p.fill(0, y=y, value=2.5), threads)
    assert_written(out, arena, y, np.full(shape, 2.5))


@given(shape=shapes, seed=seeds, threads=threads, data=st.data())
def test_gathers_along_any_axes(variant, shape, seed, threads, data):
    random = np.random.default_rng(seed)
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True, min_size=1))
    out_shape, indices = list(shape), []
    for axis in axes:
        out_shape[axis] = data.draw(st.sampled_from([1, 4, 19]))
        indices.append(random.integers(-1, shape[axis], out_shape[axis]).astype(np.int32))
    layouts = Layouts(seed)
    x, y = layouts.add(*shape), layouts.add(*out_shape)
    arena = layouts.arena()
    out = executed(
        module(variant),
        arena,
        lambda p: p.gather(0, x=x, y=y, axes=axes, indices=indices, fill=-7.0),
        threads,
    )
    expected = x.of(arena).copy()
    for axis, chosen in zip(axes, indices, strict=True):
        expected = np.take(expected, np.maximum(chosen, 0), axis=axis)
        expected[(slice(None),) * axis + (chosen < 0,)] = -7.0
    assert_written(out, arena, y, expected)


@given(shape=shapes, seed=seeds, threads=threads, data=st.data())
def test_interpolates_along_any_axis(variant, shape, seed, threads, data):
    random = np.random.default_rng(seed)
    axis = data.draw(st.integers(0, len(shape) - 1))
    size, taps = data.draw(st.sampled_from([1, 4, 19, 130])), data.draw(st.integers(1, 5))
    indices = random.integers(0, shape[axis], (size, taps)).astype(np.int32)
    weights = random.standard_normal((size, taps)).astype(np.float32)
    layouts = Layouts(seed)
    x, y = layouts.add(*shape), layouts.add(*shape[:axis], size, *shape[axis + 1 :])
    arena = layouts.arena()
    fields = {"axis": axis, "taps": taps, "indices": indices.ravel(), "weights": weights.ravel()}
    out = executed(module(variant), arena, lambda p: p.interpolate(0, x=x, y=y, **fields), threads)
    taken = np.moveaxis(np.take(x.of(arena).astype(np.float64), indices, axis), axis + 1, -1)
    factors = weights.reshape(size, *(1,) * (len(shape) - axis - 1), taps)
    most = (np.abs(taken) * np.abs(factors)).sum(-1)
    exact = (taken * factors).sum(-1)
    assert (np.abs(y.of(out) - exact) <= 8 * EPS * most).all()
    rest = out.copy()
    y.of(rest)[...] = y.of(arena)
    np.testing.assert_array_equal(rest, arena)


def test_interpolation_passes_on_what_is_not_finite(variant):
    layouts = Layouts(0)
    x, y = layouts.add(2, 3, 4), layouts.add(2, 3, 2)
    arena = layouts.arena()
    x.of(arena)[0, 0, 1], x.of(arena)[1, 2, 3] = np.nan, np.inf
    fields = {
        "axis": 2,
        "taps": 2,
        "indices": np.array([0, 1, 2, 3], np.int32),
        "weights": np.array([0.5, 0.5, 0.25, 0.75], np.float32),
    }
    out = y.of(executed(module(variant), arena, lambda p: p.interpolate(0, x=x, y=y, **fields)))
    assert np.argwhere(np.isnan(out)).tolist() == [[0, 0, 0]]
    assert np.argwhere(np.isinf(out)).tolist() == [[1, 2, 1]]


# --- element by element ------------------------------------------------------------------------


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
        expected = reference._ARITHMETIC[op](*values)
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
    assert_written(out, arena, views[2], reference._ARITHMETIC[op](*values))


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
        expected = reference._activated(given, x)
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
    np.testing.assert_allclose(reference._activated(given, x), expected, rtol=4 * EPS)
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
        by_reference = reference._activated(given, x)
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
    np.testing.assert_array_equal(got, reference.ACTIVATIONS[op](x, 0, 0))


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


# --- pooling and sums --------------------------------------------------------------------------


@st.composite
def pools(draw):
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    strides, dilations = draw(pair), draw(pair)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = tuple(draw(st.integers(0, 2)) for _ in range(4))
    counted = tuple(draw(st.integers(0, pad)) for pad in pads)
    sizes = [
        draw(st.integers(max(1, r - pads[i] - pads[i + 2]), r + 12)) for i, r in enumerate(reach)
    ]
    step = s.Pool(
        name="p",
        inputs=("x",),
        output="y",
        op=draw(st.sampled_from(["MaxPool", "AveragePool"])),
        kernel=kernel,
        strides=strides,
        dilations=dilations,
        pads=pads,
        counted=counted,
    )
    x = (draw(st.sampled_from([1, 2, 4, 8, 16, 33])), draw(st.integers(1, 4)), *sizes)
    out = [(n + pads[i] + pads[i + 2] - reach[i]) // strides[i] + 1 for i, n in enumerate(sizes)]
    return step, x, (*x[:2], *out)


@given(
    pool=pools(),
    order=st.sampled_from([(1, 2, 3, 0), (0, 1, 2, 3), (0, 2, 3, 1)]),
    seed=seeds,
    threads=threads,
)
def test_pools(variant, pool, order, seed, threads):
    step, x_shape, y_shape = pool
    layouts = Layouts(seed)
    x, y = layouts.add(*x_shape, order=order), layouts.add(*y_shape, order=order)
    arena = layouts.arena()
    arena[np.random.default_rng(seed).random(arena.size) < 0.02] = np.nan
    out = executed(
        module(variant),
        arena,
        lambda p: p.pool(
            0,
            op=step.op,
            x=x,
            y=y,
            window=window_of(step).fields,
            pads_after=step.pads[2:],
            counted=step.counted,
        ),
        threads,
    )
    with np.errstate(all="ignore"):
        expected = reference._pool(step, y_shape, [x.of(arena)])
    assert_written(out, arena, y, expected, tolerance=16 * EPS)


@given(
    shape=st.tuples(
        st.sampled_from([1, 3, 8, 16, 70]),
        st.integers(1, 20),
        st.integers(1, 9),
        st.integers(1, 70),
    ),
    rank=st.integers(2, 4),
    seed=seeds,
    threads=threads,
)
def test_means(variant, shape, rank, seed, threads):
    shape = shape[:rank]
    layouts = Layouts(seed)
    x, y = layouts.add(*shape), layouts.add(*shape[:2], *(1,) * (rank - 2))
    arena = layouts.arena()
    out = executed(module(variant), arena, lambda p: p.mean(0, x=x, y=y), threads)
    expected = x.of(arena).astype(np.float64).mean(axis=tuple(range(2, rank)), keepdims=True)
    assert_written(out, arena, y, expected, tolerance=80 * EPS)


@given(
    op=st.sampled_from(["Sum", "Mean", "Max", "Min", "L2"]),
    shape=shapes,
    seed=seeds,
    threads=threads,
    data=st.data(),
)
def test_reductions_over_any_axes(variant, op, shape, seed, threads, data):
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True, min_size=1).map(tuple))
    layouts = Layouts(seed)
    x = layouts.add(*shape)
    y = layouts.add(*(1 if axis in axes else n for axis, n in enumerate(shape)))
    arena = layouts.arena() + np.float32(1)
    out = executed(module(variant), arena, lambda p: p.reduce(0, op=op, x=x, y=y), threads)
    wide = x.of(arena).astype(np.float64)
    expected = reference._REDUCTIONS[op](wide, axis=axes, keepdims=True)
    roundings = np.abs(wide).sum(axis=axes, keepdims=True).max() if op == "Sum" else 80
    assert_written(out, arena, y, expected, tolerance=roundings * EPS)


@pytest.mark.parametrize("op", ["Max", "Min"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_an_extreme_is_nan_where_a_number_is(variant, op, order):
    layouts = Layouts(0)
    x, y = layouts.add(40, 70, order=order), layouts.add(40, 1)
    arena = layouts.arena()
    for n, at in enumerate((0, 15, 64, 69)):
        x.of(arena)[n, at] = np.nan
    x.of(arena)[5, 3], x.of(arena)[6, 3] = np.inf, -np.inf
    out = executed(module(variant), arena, lambda p: p.reduce(0, op=op, x=x, y=y))
    expected = reference._REDUCTIONS[op](x.of(arena), axis=1, keepdims=True)
    assert np.isnan(expected).sum() == 4
    assert_written(out, arena, y, expected)


@given(shape=shapes, seed=seeds, threads=threads, data=st.data())
def test_softmax_along_any_axis(variant, shape, seed, threads, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    layouts = Layouts(seed)
    x, y = layouts.add(*shape), layouts.add(*shape)
    arena = 10 * layouts.arena()
    below = x.of(arena).astype(np.float64) - x.of(arena).max(axis=axis, keepdims=True)
    expected = below - np.log(np.exp(below).sum(axis=axis, keepdims=True))
    for logarithm in (False, True):
        out = executed(
            module(variant),
            arena,
            lambda p, logarithm=logarithm: p.softmax(0, x=x, y=y, axis=axis, logarithm=logarithm),
            threads,
        )
        assert_written(out, arena, y, expected if logarithm else np.exp(expected), 40 * EPS)


@pytest.mark.parametrize("axis", [0, 1])
def test_softmax_of_a_nan_is_nan_and_of_others_is_not(variant, axis):
    layouts = Layouts(0)
    x = layouts.add(40, 41, order=(0, 1), gap=0)
    arena = layouts.arena()
    x.of(arena)[3, 5] = np.nan
    out = x.of(
        executed(
            module(variant), arena, lambda p: p.softmax(0, x=x, y=x, axis=axis, logarithm=False)
        )
    )
    along = [3, 5][1 - axis]
    assert np.isnan(np.take(out, along, axis=1 - axis)).all()
    assert np.isfinite(np.delete(out, along, axis=1 - axis)).all()


@given(
    shape=shapes,
    seed=seeds,
    threads=threads,
    constants=st.tuples(st.booleans(), st.booleans()),
    data=st.data(),
)
def test_normalisations(variant, shape, seed, threads, constants, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    layouts = Layouts(seed)
    x, y = layouts.add(*shape), layouts.add(*shape)
    arena = layouts.arena() + np.float32(2)
    random = np.random.default_rng(seed)
    count = int(np.prod(shape[axis:]))
    scale, shift = (
        random.standard_normal(count if given else 0).astype(np.float32) for given in constants
    )
    fields = {"axis": axis, "epsilon": 0.1, "scale": scale, "shift": shift}
    out = executed(module(variant), arena, lambda p: p.normalize(0, x=x, y=y, **fields), threads)
    wide, axes = x.of(arena).astype(np.float64), tuple(range(axis, len(shape)))
    deviation = np.sqrt(wide.var(axis=axes, keepdims=True) + 0.1)
    expected = (wide - wide.mean(axis=axes, keepdims=True)) / deviation
    for constant, join in ((scale, np.multiply), (shift, np.add)):
        expected = join(expected, constant.reshape(shape[axis:])) if constant.size else expected
    assert_written(out, arena, y, expected, tolerance=200 * EPS)


# --- products ----------------------------------------------------------------------------------

sizes = st.sampled_from([1, 2, 5, 12, 13, 33, 130, 200])


@given(
    batch=st.lists(st.integers(1, 3), max_size=2),
    matrices=st.tuples(sizes, sizes, sizes),
    seed=seeds,
    threads=threads,
    data=st.data(),
)
def test_products_of_matrices(variant, batch, matrices, seed, threads, data):
    m, k, n = matrices
    layouts = Layouts(seed)

    def factor(*shape):
        repeated = [size if data.draw(st.booleans()) else 1 for size in batch]
        view = layouts.add(*repeated, *shape)
        strides = [
            0 if size == 1 else s for size, s in zip(repeated, view.strides[:-2], strict=False)
        ]
        return View(view.offset, (*batch, *shape), (*strides, *view.strides[-2:]))

    a, b, y = factor(m, k), factor(k, n), layouts.add(*batch, m, n)
    arena = layouts.arena()
    out = executed(module(variant), arena, lambda p: p.matmul(0, a=a, b=b, y=y), threads)
    expected = a.of(arena).astype(np.float64) @ b.of(arena).astype(np.float64)
    assert_written(out, arena, y, expected, tolerance=8 * (1 + k**0.5) * EPS)


def test_what_is_not_finite_reaches_the_numbers_that_read_it(variant):
    layouts = Layouts(0)
    a, b, y = layouts.add(3, 7), layouts.add(7, 21), layouts.add(3, 21)
    arena = layouts.arena()
    a.of(arena)[1, 6], b.of(arena)[0, 20] = np.inf, np.nan
    out = executed(module(variant), arena, lambda p: p.matmul(0, a=a, b=b, y=y))
    assert_written(out, arena, y, a.of(arena) @ b.of(arena), tolerance=1e-5)


# --- bfloat16 ----------------------------------------------------------------------------------


def rounded(x):
    """Return float32 numbers rounded to bfloat16, ties to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


@given(shape=shapes, seed=seeds)
def test_bfloat16_values_are_rounded_once(variant, shape, seed):
    layouts = Layouts(seed)
    x, y = layouts.add(*shape), layouts.add(*shape)
    arena = layouts.arena()
    out = executed(
        module(variant),
        arena,
        lambda p: p.elementwise(
            0, op="Add", operands=[x, x], y=y, activation=activation("HardSwish")
        ),
        dtype="bfloat16",
    )
    kept = rounded(arena)
    exact = reference._activated(s.Activation("HardSwish"), 2 * x.of(kept))
    np.testing.assert_allclose(y.of(out), rounded(exact), rtol=2**-7, atol=2**-20)
    rest = out.copy()
    y.of(rest)[...] = y.of(kept)
    np.testing.assert_array_equal(rest, kept)


@pytest.mark.parametrize(
    "kind",
    [
        "copy",
        "gather",
        "interpolate",
        "fill",
        "pool",
        "mean",
        "softmax",
        "matmul",
        "normalize",
        "Sum",
        "Max",
        "L2",
    ],
)
def test_bfloat16_operations_agree_with_float32(variant, kind):
    def add(p):
        if kind == "copy":
            p.copy(0, x=x, y=y)
        elif kind == "gather":
            backwards = np.arange(6, -1, -1, dtype=np.int32)
            p.gather(0, x=x, y=y, axes=[1], indices=[backwards], fill=0.0)
        elif kind == "interpolate":
            halves = {"taps": 2, "weights": np.full(14, 0.5, np.float32)}
            twice = np.array([0, *np.repeat(np.arange(6), 2), 6], np.int32)
            p.interpolate(0, x=x, y=y, axis=1, indices=twice, **halves)
        elif kind == "fill":
            p.fill(0, y=y, value=0.5)
        elif kind == "pool":
            taps = Window((3, 3), pads=(1, 1)).fields
            around = {"pads_after": (1, 1), "counted": (0,) * 4}
            p.pool(0, op="AveragePool", x=x, y=y, window=taps, **around)
        elif kind == "mean":
            p.mean(0, x=x, y=View(y.offset, (5, 7, 1, 1), y.strides))
        elif kind == "normalize":
            scale, none = np.linspace(-1, 1, 72, dtype=np.float32), np.empty(0, np.float32)
            p.normalize(0, x=x, y=y, axis=2, epsilon=0.1, scale=scale, shift=none)
        elif kind == "matmul":
            p.matmul(0, a=x, b=View(x.offset, (5, 7, 8, 9), transposed), y=square)
        elif kind in ("Sum", "Max", "L2"):
            p.reduce(0, op=kind, x=x, y=View(y.offset, (5, 1, 9, 1), y.strides))
        else:
            p.softmax(0, x=x, y=y, axis=1, logarithm=False)

    layouts = Layouts(4)
    x, y = layouts.add(5, 7, 9, 8), layouts.add(5, 7, 9, 8)
    transposed = (*x.strides[:2], x.strides[3], x.strides[2])
    square = layouts.add(5, 7, 9, 9)
    arena = rounded(layouts.arena())
    native = module(variant)
    wide, narrow = executed(native, arena, add), executed(native, arena, add, dtype="bfloat16")
    np.testing.assert_array_equal(narrow, rounded(wide))
