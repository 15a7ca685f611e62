"""The compiled variants of the CPU backend that run here, and arenas to try their operations on."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import pytest

from runtime.cpu import native
from runtime.errors import BackendUnavailable

NO_ACTIVATION = ("", 0.0, 0.0)


def activation(op: str, alpha: float = 0.0, beta: float = 0.0) -> dict[str, Any] | None:
    """Return an activation as the kernels take it; "" is none."""
    return {"op": op, "alpha": alpha, "beta": beta} if op else None


def image(
    offset: int, planes: int, plane: int, size: tuple[int, int], lanes: int, pitch: int, halo: int
) -> dict[str, int]:
    """Return an image as the kernels take it, whose rows are pixels without gaps.

    Parameters
    ----------
    offset, planes, plane : int
    size : (int, int)
        Rows and pixels.
    lanes : int
        Elements of a pixel.
    pitch : int
        Pixels from one row to the next.
    halo : int
    """
    return {
        "offset": offset, "planes": planes, "plane": plane, "height": size[0], "width": size[1],
        "row": pitch * lanes, "pixel": lanes, "lanes": lanes, "halo": halo,
    }  # fmt: skip


def variants() -> list[Any]:
    """Return a pytest parameter for each variant; those that cannot run here are skipped."""
    return [pytest.param(name, marks=_skipped(name)) for name in native.VARIANTS]


def _skipped(name: str) -> list[Any]:
    try:
        features = native.processor_features()
    except BackendUnavailable as error:
        return [pytest.mark.skip(reason=str(error))]
    missing = [need for need in native.VARIANTS[name] if not features.get(need)]
    return [pytest.mark.skip(reason=f"the processor lacks {missing}")] if missing else []


def module(name: str) -> Any:
    """Return the compiled module of a variant."""
    return import_module(f"runtime.cpu._{name}")


class View(NamedTuple):
    """A strided array within an arena, in elements."""

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def of(self, arena: np.ndarray) -> np.ndarray:
        """Return the array; a change of it is one of the arena."""
        strides = [stride * arena.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(arena[self.offset :], self.shape, strides)


class Layouts:
    """Views that share nothing, of any order of axes, with gaps: as plans have them and worse.

    Parameters
    ----------
    seed : int
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.elements = 0

    def add(self, *shape: int, order: tuple[int, ...] | None = None, gap: int = 3) -> View:
        """Return a new view; `order` names the axes from the outermost to the innermost."""
        if order is None:
            order = tuple(self._random.permutation(len(shape)).tolist())
        offset = self.elements + int(self._random.integers(gap + 1))
        strides, stride = [0] * len(shape), 1
        for axis in reversed(order):
            strides[axis] = stride
            stride *= shape[axis]
            stride += int(self._random.integers(gap + 1))
        self.elements = offset + stride
        return View(offset, shape, tuple(strides))

    def arena(self) -> np.ndarray:
        """Return an arena of numbers for all views."""
        return self._random.standard_normal(self.elements + 1, dtype=np.float32)


def executed(
    native: Any,
    arena: np.ndarray,
    add: Callable[[Any], None],
    threads: int = 2,
    dtype: str = "float32",
) -> np.ndarray:
    """Return what an operation makes of an arena.

    Parameters
    ----------
    native : module
    arena : ndarray of float32, shape (elements,)
        Not changed.
    add : callable
        Adds the operation to the program that it is given.
    threads : int
    dtype : str
        Of the program.
    """
    program = native.Program(arena.size, threads, dtype)
    whole = (0, (arena.size,), (1,))
    program.copy_in(-1, index=0, y=whole)
    add(program)
    program.copy_out(-1, x=whole, index=0)
    out = np.full_like(arena, np.nan)
    program.run([arena], [out])
    return out


def assert_written(
    out: np.ndarray, arena: np.ndarray, y: View, expected: np.ndarray, tolerance: float = 0.0
) -> None:
    """Check that `y` holds what is expected, and that nothing else of the arena has changed."""
    got = y.of(out)
    if tolerance == 0:
        np.testing.assert_array_equal(got, expected)
    else:
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)
    rest = out.copy()
    y.of(rest)[...] = y.of(arena)
    np.testing.assert_array_equal(rest, arena)
