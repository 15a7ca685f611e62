"""The structures that kernels take by value, as NumPy sees them; the files of `cuda/` define them.

All members are 32 bits wide, so there is no padding to agree on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import PlanError
from runtime.plan.steps import ACTIVATIONS, Activation

Struct = NDArray[np.void]

# Axes that a kernel can walk, once those that lie together are merged: AXES in walk.cuh.
MOST_AXES = 6

_PLACE = np.dtype([(name, np.int32) for name in ("plane", "down", "across")])
_ACTIVATION = np.dtype([("op", np.int32), ("alpha", np.float32), ("beta", np.float32)])
_GEOMETRY = np.dtype(
    [
        *((n, np.int32) for n in ("positions", "lanes", "width", "block_tiles", "remainder_tiles")),
        *((name, _PLACE) for name in ("x", "y", "skip")),
        ("activation", _ACTIVATION),
    ]
)
_BORDER = np.dtype(
    [
        *((n, np.int32) for n in ("samples", "elements", "lanes", "height", "width")),
        *((n, np.int32) for n in ("tile_elements", "tile_lanes")),
        ("inside", _PLACE),
    ]
)
_WINDOW = np.dtype(
    [
        *((n, np.int32) for n in ("count", "lanes", "height", "width", "rows", "columns")),
        *((n, np.int32, 2) for n in ("kernel", "strides", "dilations", "pads")),
        ("counted", np.int32, 4),
        *((name, _PLACE) for name in ("x", "y")),
        ("none", np.float32),
    ]
)
_PRODUCT = np.dtype(
    [
        *((n, np.int32) for n in ("rows", "columns", "depth")),
        *((n, np.int32, 2) for n in ("a", "b", "y")),
    ]
)
_ROW = np.dtype([(name, np.int32, 2) for name in ("sizes", "x", "y")])
_TABLES = np.dtype([("starts", np.int32, MOST_AXES)])


def geometry(**members: Any) -> Struct:  # noqa: ANN401 - members differ in type
    """Return a `Geometry` of geometry.cuh."""
    return _filled(_GEOMETRY, members)


def border(**members: Any) -> Struct:  # noqa: ANN401
    """Return a `Border` of border.cu."""
    return _filled(_BORDER, members)


def window(**members: Any) -> Struct:  # noqa: ANN401
    """Return a `Window` of pool.cu."""
    return _filled(_WINDOW, members)


def row(**members: Any) -> Struct:  # noqa: ANN401
    """Return a `Row` of reduce.cu."""
    return _filled(_ROW, members)


def product(**members: Any) -> Struct:  # noqa: ANN401
    """Return a `Product` of matmul.cu."""
    return _filled(_PRODUCT, members)


def activation(given: Activation | None) -> tuple[int, float, float]:
    """Return the members of an `Activation` of activation.cuh."""
    if given is None:
        return (0, 0.0, 0.0)
    return (ACTIVATIONS[given.op], given.alpha, given.beta)


def activation_struct(given: Activation | None) -> Struct:
    """Return an `Activation` of activation.cuh."""
    return np.array([activation(given)], _ACTIVATION)


def walk(sizes: Sequence[int], *strides: Sequence[int]) -> Struct:
    """Return a `Walk` of walk.cuh.

    Parameters
    ----------
    sizes : sequence of int
        Of the axes, the last one walked fastest.
    *strides : sequence of int
        Of each operand, axis by axis.

    Raises
    ------
    PlanError
        If the axes, merged, are more than kernels walk.
    """
    axes = merged(sizes, *strides)
    made = np.zeros(1, _walk_type(len(strides)))
    made["count"] = int(np.prod(sizes, dtype=np.int64))
    made["axes"] = len(axes)
    for number, (size, steps) in enumerate(axes):
        made["sizes"][0, number] = size
        made["strides"][0, :, number] = steps
    return made


def move(
    sizes: Sequence[int], y: Sequence[int], x: Sequence[int], tables: Sequence[int]
) -> tuple[Struct, Struct]:
    """Return the `Walk` and the `Tables` of move.cu.

    Parameters
    ----------
    sizes, y, x : sequence of int
        Of the axes of the result; strides of either side.
    tables : sequence of int
        Where each axis' table starts; -1 where it has none.
    """
    if all(start < 0 for start in tables):
        return walk(sizes, y, x), np.array([((-1,) * MOST_AXES,)], _TABLES)
    starts = (*tables, *(-1,) * (MOST_AXES - len(tables)))
    return apart(sizes, y, x), np.array([(starts,)], _TABLES)


def apart(sizes: Sequence[int], y: Sequence[int], x: Sequence[int]) -> Struct:
    """Return the `Walk` of two operands with every axis by itself.

    Parameters
    ----------
    sizes, y, x : sequence of int
        Of the axes of the result; strides of either side.
    """
    if len(sizes) > MOST_AXES:
        raise PlanError(f"a gather along {len(sizes)} axes; the device walks {MOST_AXES}")
    made = np.zeros(1, _walk_type(2))
    made["count"] = int(np.prod(sizes, dtype=np.int64))
    made["axes"] = len(sizes)
    made["sizes"][0, : len(sizes)] = sizes
    made["strides"][0, 0, : len(sizes)] = y
    made["strides"][0, 1, : len(sizes)] = x
    return made


def merged(sizes: Sequence[int], *strides: Sequence[int]) -> list[tuple[int, tuple[int, ...]]]:
    """Return the axes, size and strides, with those that lie together as one, and none of size 1.

    Examples
    --------
    >>> merged((2, 3, 1, 4), (12, 4, 4, 1), (0, 8, 5, 2))
    [(2, (12, 0)), (12, (1, 2))]
    """
    axes: list[tuple[int, tuple[int, ...]]] = []
    for size, *steps in zip(sizes, *strides, strict=True):
        if size == 1:
            continue
        if axes and all(
            before == step * size for before, step in zip(axes[-1][1], steps, strict=True)
        ):
            axes[-1] = (axes[-1][0] * size, tuple(steps))
        else:
            axes.append((size, tuple(steps)))
    if len(axes) > MOST_AXES:
        raise PlanError(f"a step along {len(axes)} axes; the device walks {MOST_AXES}")
    return axes


def _walk_type(operands: int) -> np.dtype[np.void]:
    return np.dtype(
        [
            ("count", np.int32),
            ("axes", np.int32),
            ("sizes", np.int32, MOST_AXES),
            ("strides", np.int32, (operands, MOST_AXES)),
        ]
    )


def _filled(kind: np.dtype[np.void], members: dict[str, Any]) -> Struct:
    made = np.zeros(1, kind)
    missing = set(kind.names or ()) - set(members)
    if missing:
        raise TypeError(f"members without a value: {sorted(missing)}")
    for name, value in members.items():
        made[name] = value
    return made
