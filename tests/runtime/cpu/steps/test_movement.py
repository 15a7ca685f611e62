"""Copies, fills, gathers and interpolation of the compiled CPU backend, against NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cpu_native import Layouts, assert_written, executed, module, variants
from hypothesis import given
from hypothesis import strategies as st

EPS = float(np.finfo(np.float32).eps)

pytestmark = pytest.mark.parametrize("variant", variants())

shapes = st.lists(st.sampled_from([1, 2, 3, 5, 16, 17, 33]), min_size=1, max_size=4).map(tuple)
seeds = st.integers(0, 1 << 20)
threads = st.integers(1, 3)


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
