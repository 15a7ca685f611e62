"""A packed weight: groups of rows that read the same columns.

Nothing here depends on the shape of an input: columns are (tap, channel), and become offsets when
a layer is placed in an arena. So one packing serves every batch and every image size.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.cpu import native
from runtime.plan.steps import Weight

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]

LARGEST_HEIGHT = 8
# Entries behind the last weight: rows as lanes are loaded in whole vectors.
WEIGHT_PADDING = 16
LINE_BYTES = 64  # of the processor's caches


class Scheme(NamedTuple):
    """How a weight is cut into groups.

    Parameters
    ----------
    form : str
        "blocks": as the checkpoint stores it, the residual row by row; "rows": every row by
        itself; "dense": all columns, zeros too.
    height : int
        Rows of a group, at most.
    channels : int
        Input channels that a row's group reads at most; 0: all. Only of "rows".
    unit : int
        Rows that the heights of groups are multiples of, where there are enough.
    """

    form: Literal["blocks", "rows", "dense"]
    height: int = LARGEST_HEIGHT
    channels: int = 0
    unit: int = 1

    def heights(self, rows: int) -> list[int]:
        """Return heights of the groups that ``rows`` rows are cut into, the taller first.

        Examples
        --------
        >>> Scheme("dense", 32, unit=16).heights(74)
        [32, 32, 10]
        >>> Scheme("dense", 8).heights(18)
        [6, 6, 6]
        """
        heights = [
            self.unit * units for units in balanced(-(-rows // self.unit), self.height // self.unit)
        ]
        if heights:
            heights[-1] -= sum(heights) - rows
        return heights


@dataclass(frozen=True, eq=False)
class Packed:
    """A weight as groups; see cpu/layer.h.

    Parameters
    ----------
    rows : ndarray of int32
        Of all groups, end to end.
    row_starts : ndarray of int64, shape (groups + 1,)
    columns : ndarray of uint16 or int32
        ``tap * channels + channel``, ascending within a list.
    column_starts : ndarray of int64, shape (groups,)
        Where the list of each group begins; groups may share one.
    tap_starts : ndarray of int32, shape (groups, taps + 1)
    weights : ndarray of float32, or of uint16
        Of each group, columns x rows; or its tiles of bfloat16 (`runtime.cpu.kernels.bfloat16`).
    weight_starts : ndarray of int64, shape (groups,)
    flags : ndarray of int32, shape (groups,)
        `group_flags`: which groups begin their rows, and which end them.
    part_ends : ndarray of int64
        Groups before which no row has all of its groups on one side: where work may be parted.
    panel_ends : ndarray of int64
        Groups before which a panel has to end: where the next channels begin.
    """

    rows: Int32
    row_starts: Int64
    columns: NDArray[Any]
    column_starts: Int64
    tap_starts: Int32
    weights: NDArray[Any]
    weight_starts: Int64
    flags: Int32
    part_ends: Int64
    panel_ends: Int64

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return len(self.flags)

    @property
    def heights(self) -> Int64:
        """Rows of each group."""
        heights: Int64 = np.diff(self.row_starts)
        return heights

    @property
    def widths(self) -> Int64:
        """Columns of each group."""
        return self.tap_starts[:, -1].astype(np.int64)

    @property
    def nbytes(self) -> int:
        """Memory of all arrays."""
        return sum(a.nbytes for a in vars(self).values())


class Shape(NamedTuple):
    """Of a layer: rows, channels that its input has, taps, convolution groups."""

    rows: int
    channels: int
    taps: int
    groups: int = 1

    @property
    def group_channels(self) -> int:
        """Channels that a row may read."""
        return self.channels // self.groups

    @property
    def group_rows(self) -> int:
        """Rows of a convolution group."""
        return self.rows // self.groups


def shape_of(weight: Weight, groups: int = 1, taps: int | None = None) -> Shape:
    """Return the shape of a layer.

    Parameters
    ----------
    weight : ndarray or SparseWeight
    groups : int, default 1
        Convolution groups.
    taps : int, default None
        Of a product that reads the pixels of an image in place, their number.
    """
    shape = weight.shape if isinstance(weight, np.ndarray) else weight.layout.shape
    taps = taps or prod(shape[2:])
    return Shape(shape[0], prod(shape[1:]) // taps * groups, taps, groups)


def line_aligned(size: int, dtype: type[np.generic] = np.float32) -> NDArray[Any]:
    """Return an array, not yet written, that begins on a cache line: no vector lies across two."""
    memory = np.empty(size * np.dtype(dtype).itemsize + LINE_BYTES, np.uint8)
    first = -memory.ctypes.data % LINE_BYTES
    made: NDArray[Any] = memory[first : first + size * np.dtype(dtype).itemsize].view(dtype)
    return made


def balanced(rows: int, height: int) -> list[int]:
    """Return heights of as few groups as hold `rows` rows, the taller first, one apart at most.

    Examples
    --------
    >>> balanced(18, 8)
    [6, 6, 6]
    """
    count = -(-rows // height)
    low, extra = divmod(rows, count) if count else (0, 0)
    return [low + 1] * extra + [low] * (count - extra)


def starts_of(lengths: Any) -> Int64:  # noqa: ANN401 - list or array
    """Return where parts of the given lengths start, and the end of the last."""
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def ends_of(component: Int64) -> Int64:
    """Return where neighbours differ, and the number of entries."""
    return np.append(np.flatnonzero(np.diff(component)) + 1, len(component))


def stable_order(key: NDArray[Any], keys: int) -> Int64:
    """Return the order of whole numbers below `keys`; those that are equal keep theirs.

    Few keys are sorted by their digits, in time that grows with the number of entries alone.
    """
    return np.argsort(key.astype(np.uint16) if keys <= 1 << 16 else key, kind="stable")


def narrow_columns(columns: NDArray[Any], shape: Shape) -> NDArray[Any]:
    """Return columns in as few bytes as hold them: they are kept beside their offsets."""
    small = shape.channels * shape.taps <= 1 << 16
    return columns.astype(np.uint16 if small else np.int32)


def group_flags(begins: NDArray[np.bool_], ends: NDArray[np.bool_]) -> Int32:
    """Return the flags of groups, as the kernels number them.

    Parameters
    ----------
    begins, ends : ndarray of bool, shape (groups,)
        Which groups are the first of their rows, and which are the last.
    """
    flags = native.numbers("flags")
    return (begins * flags["first"] | ends * flags["last"]).astype(np.int32)
