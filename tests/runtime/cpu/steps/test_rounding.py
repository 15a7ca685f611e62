"""Operations on bfloat16 of the compiled CPU backend, against float32."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_native import Layouts, View, activation, executed, module, variants
from hypothesis import given
from hypothesis import strategies as st

from runtime.cpu.memory.window import Window
from runtime.plan import steps as s
from runtime.reference import activations

EPS = float(np.finfo(np.float32).eps)

pytestmark = pytest.mark.parametrize("variant", variants())

shapes = st.lists(st.sampled_from([1, 2, 3, 5, 16, 17, 33]), min_size=1, max_size=4).map(tuple)
seeds = st.integers(0, 1 << 20)
threads = st.integers(1, 3)


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
    exact = activations.activated(s.Activation("HardSwish"), 2 * x.of(kept))
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
            p.mean(0, x=x, y=View(y.offset, (5, 7, 1, 1), y.strides), pixels=72)
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
