"""Pools, reductions, normalisations and products of the compiled CPU backend, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_native import Layouts, View, assert_written, executed, module, variants
from hypothesis import given
from hypothesis import strategies as st

from runtime.cpu.memory.window import window_of
from runtime.plan import steps as s
from runtime.reference import steps as reference_steps

EPS = float(np.finfo(np.float32).eps)

pytestmark = pytest.mark.parametrize("variant", variants())

shapes = st.lists(st.sampled_from([1, 2, 3, 5, 16, 17, 33]), min_size=1, max_size=4).map(tuple)
seeds = st.integers(0, 1 << 20)
threads = st.integers(1, 3)


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
        expected = reference_steps.pool(step, y_shape, [x.of(arena)])
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
    beside=st.integers(0, 2),
)
def test_means(variant, shape, rank, seed, threads, beside):
    shape = shape[:rank]
    layouts = Layouts(seed)
    x, y = layouts.add(*shape), layouts.add(*shape[:2], *(1,) * (rank - 2))
    arena = layouts.arena()
    pixels = int(np.prod(shape[2:], dtype=int)) + beside
    out = executed(module(variant), arena, lambda p: p.mean(0, x=x, y=y, pixels=pixels), threads)
    sums = x.of(arena).astype(np.float64).sum(axis=tuple(range(2, rank)), keepdims=True)
    expected = sums / pixels
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
    expected = reference_steps.REDUCTIONS[op](wide, axis=axes, keepdims=True)
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
    expected = reference_steps.REDUCTIONS[op](x.of(arena), axis=1, keepdims=True)
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
