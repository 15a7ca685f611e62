"""Weights to groups: rows of the output that read the same columns, as the kernels take them.

Nothing here depends on the shape of an input: columns are (tap, channel), and become offsets when
a layer is placed in an arena. So one packing serves every batch and every image size.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from masktools.checkpoint import Residual, SparseWeight
from runtime.steps import Weight

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]

FIRST, LAST = 1, 2
LARGEST_HEIGHT = 8


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
    """

    form: Literal["blocks", "rows", "dense"]
    height: int = LARGEST_HEIGHT
    channels: int = 0


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
    weights : ndarray of float32
        Of each group, columns x rows.
    weight_starts : ndarray of int64, shape (groups,)
    flags : ndarray of int32, shape (groups,)
        FIRST where the group begins its rows, LAST where it ends them.
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
    weights: Float32
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


def pack(weight: Weight, scheme: Scheme, shape: Shape) -> Packed:
    """Return a weight as groups.

    Parameters
    ----------
    weight : ndarray or SparseWeight
        Not changed; float16 is widened.
    scheme : Scheme
        "blocks" needs a SparseWeight.
    shape : Shape

    Returns
    -------
    Packed
    """
    if scheme.form == "dense":
        return _dense(weight, shape, scheme.height)
    if scheme.form == "blocks" and isinstance(weight, SparseWeight):
        return _blocks(weight, shape, scheme.height)
    return _rows(_compressed(weight), shape, scheme.channels)


# --- dense ---------------------------------------------------------------------------------------


def _dense(weight: Weight, shape: Shape, height: int) -> Packed:
    """Return groups of neighbouring rows that read all columns of their convolution group."""
    dense = weight if isinstance(weight, np.ndarray) else weight.to_dense()
    width = shape.group_channels * shape.taps
    matrix = dense.reshape(shape.groups, shape.group_rows, shape.group_channels, shape.taps)
    heights = balanced(shape.group_rows, height)
    weights = np.empty(dense.size, np.float32)
    start = first = 0
    per_group = shape.group_rows * width
    by_group = weights.reshape(shape.groups, per_group)
    # Heights differ by one at most: all groups of one height are packed in one go.
    for rows in sorted(set(heights), reverse=True):
        count = heights.count(rows)
        part = matrix[:, first : first + count * rows].reshape(
            shape.groups, count, rows, shape.group_channels, shape.taps
        )
        size = count * rows * width
        into = by_group[:, start : start + size].reshape(
            shape.groups, count, shape.taps, shape.group_channels, rows
        )
        into[...] = part.transpose(0, 1, 4, 3, 2)
        first, start = first + count * rows, start + size
    number = shape.groups * len(heights)
    row_starts = _starts(heights * shape.groups)
    taps = np.arange(shape.taps + 1, dtype=np.int32) * shape.group_channels
    return Packed(
        rows=np.arange(shape.rows, dtype=np.int32),
        row_starts=row_starts,
        columns=_narrow(_all_columns(shape), shape),
        column_starts=np.repeat(np.arange(shape.groups) * width, len(heights)),
        tap_starts=np.broadcast_to(taps, (number, len(taps))).copy(),
        weights=weights,
        weight_starts=row_starts[:-1] * width,
        flags=np.full(number, FIRST | LAST, np.int32),
        part_ends=np.arange(1, number + 1),
        panel_ends=np.array([number]),
    )


def _all_columns(shape: Shape) -> Int64:
    """Return all columns of each convolution group, tap by tap."""
    taps = np.arange(shape.taps)[:, None] * shape.channels
    channels = np.arange(shape.channels).reshape(shape.groups, 1, shape.group_channels)
    return (taps + channels).ravel()


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


# --- rows of nonzeros ----------------------------------------------------------------------------


def _compressed(weight: Weight) -> Residual:
    """Return all stored weights as compressed rows; those of a dense weight that are not zero."""
    if isinstance(weight, SparseWeight):
        if weight.residual is not None and not weight.layout.blocks:
            return weight.residual
        weight = weight.to_dense()
    matrix = weight.reshape(len(weight), -1)
    rows, columns = np.nonzero(matrix)
    counts = np.bincount(rows, minlength=len(matrix))
    return Residual(matrix[rows, columns], columns.astype(np.int32), _starts(counts))


def _rows(stored: Residual, shape: Shape, panel: int) -> Packed:
    """Return a group of one row for each row, and for each panel of channels of it."""
    panel = panel or shape.group_channels
    panels = -(-shape.group_channels // panel)
    counts, columns, weights = _sorted_rows(stored, shape, panel)
    # Groups are ordered by panel, then by row: every row has one in every panel.
    per_group = counts.reshape(-1, shape.taps)
    number = len(per_group)
    rows = np.tile(np.arange(shape.rows, dtype=np.int32), panels)
    flags = np.zeros((panels, shape.rows), np.int32)
    flags[0] |= FIRST
    flags[-1] |= LAST
    taps = np.zeros((number, shape.taps + 1), np.int32)
    np.cumsum(per_group, axis=1, out=taps[:, 1:])
    starts = _starts(per_group.sum(axis=1))[:-1]
    ends = np.arange(1, panels + 1) * shape.rows
    return Packed(
        rows=rows,
        row_starts=np.arange(number + 1),
        columns=_narrow(columns, shape),
        column_starts=starts,
        tap_starts=taps,
        weights=weights,
        weight_starts=starts,
        flags=flags.ravel(),
        part_ends=np.arange(1, number + 1) if panels == 1 else ends[-1:],
        panel_ends=ends,
    )


def _sorted_rows(
    stored: Residual, shape: Shape, panel: int
) -> tuple[Int64, NDArray[Any], Float32]:
    """Return counts by (panel, row, tap), and columns and weights in that order."""
    column = stored.column_indices
    rows = np.repeat(np.arange(shape.rows, dtype=np.int32), np.diff(stored.row_offsets))
    weights = stored.values.astype(np.float32, copy=False)
    panels = -(-shape.group_channels // panel)
    if shape.taps == 1 and panels == 1:
        counts = np.diff(stored.row_offsets)
        channel = column
        if shape.groups > 1:
            channel = column + rows // shape.group_rows * shape.group_channels
        return counts, channel, weights
    channel, tap = np.divmod(column, np.int32(shape.taps))
    key = ((channel // np.int32(panel)) * shape.rows + rows) * shape.taps + tap
    counts = np.bincount(key, minlength=panels * shape.rows * shape.taps)
    if shape.groups > 1:
        channel += rows // shape.group_rows * shape.group_channels
    order = _argsort(key, len(counts))
    return counts, (tap * np.int32(shape.channels) + channel)[order], weights[order]


# --- blocks --------------------------------------------------------------------------------------


def _blocks(weight: SparseWeight, shape: Shape, height: int) -> Packed:
    """Return groups of the rows of each block; after a block, the residual of its rows."""
    blocks = weight.layout.blocks
    if not blocks:
        return _rows(weight.residual or _nothing(shape), shape, 0)
    kept = np.diff(weight.residual.row_offsets) if weight.residual else np.zeros(shape.rows, int)
    packed, component = _block_groups(weight, shape, height, kept)
    block_of = np.full(shape.rows, -1)
    block_of[packed.rows] = np.repeat(component, packed.heights)
    alone = np.flatnonzero((kept > 0) | (block_of < 0))
    if not len(alone):
        return packed
    rows = _rows(weight.residual or _nothing(shape), shape, 0)
    last = np.where(block_of[alone] >= 0, LAST, FIRST | LAST).astype(np.int32)
    # A row of no block is parted from all others; such rows come last.
    own = np.where(block_of[alone] >= 0, block_of[alone], shape.rows + np.arange(len(alone)))
    return _merged(packed, component, _chosen(rows, alone, last), own)


def _block_groups(
    weight: SparseWeight, shape: Shape, height: int, kept: Int64
) -> tuple[Packed, Int64]:
    """Return the groups of all blocks, and of each the blocks that it must not be parted from."""
    blocks = weight.layout.blocks
    member = np.concatenate([b.rows for b in blocks])
    left = np.bincount(member, minlength=shape.rows)
    shared = bool((left > 1).any())
    begun = np.zeros(shape.rows, np.bool_)
    orders, columns, tap_starts = _block_columns(weight, shape)
    widths = np.array([len(b.columns) for b in blocks])
    list_starts = _starts(widths)
    weights = np.empty(weight.values.size, np.float32)
    start = at = 0
    rows: list[Int32] = []
    flags: list[int] = []
    block_of: list[int] = []
    for number, block in enumerate(blocks):
        width = len(block.columns)
        values = weight.values[start : start + block.size].reshape(-1, width)
        start += block.size
        if orders is not None:
            values = values[:, orders[list_starts[number] : list_starts[number + 1]]]
        left[block.rows] -= 1
        open_ = (left[block.rows] > 0) | (kept[block.rows] > 0)
        state = np.where(begun[block.rows], 0, FIRST) | np.where(open_, 0, LAST)
        begun[block.rows] = True
        for part in _parts(state, height):
            size = len(part) * width
            weights[at : at + size].reshape(width, len(part))[...] = values[part].T
            at += size
            rows.append(block.rows[part])
            flags.append(int(state[part[0]]))
            block_of.append(number)
    heights = np.array([len(r) for r in rows])
    of_group = np.array(block_of)
    component = np.zeros_like(of_group) if shared else of_group
    packed = Packed(
        rows=np.concatenate(rows),
        row_starts=_starts(heights),
        columns=_narrow(columns, shape),
        column_starts=list_starts[of_group],
        tap_starts=tap_starts[of_group],
        weights=weights,
        weight_starts=_starts(heights * widths[of_group])[:-1],
        flags=np.array(flags, np.int32),
        part_ends=_ends(component),
        panel_ends=np.array([len(rows)]),
    )
    return packed, component


def _parts(state: NDArray[Any], height: int) -> list[Int64]:
    """Return which rows of a block make each group: rows whose flags differ never share one."""
    order = np.argsort(state, kind="stable")
    parts: list[Int64] = []
    for among in np.split(order, np.flatnonzero(np.diff(state[order])) + 1):
        parts += np.split(among, np.cumsum(balanced(len(among), height))[:-1])
    return parts


def _block_columns(weight: SparseWeight, shape: Shape) -> tuple[Int64 | None, Int64, Int32]:
    """Return, for all blocks end to end, the order of columns by tap, columns, and tap starts.

    The order counts from the beginning of each block; None where every block is in order.
    """
    blocks = weight.layout.blocks
    widths = np.array([len(b.columns) for b in blocks])
    column = np.concatenate([b.columns for b in blocks])
    block = np.repeat(np.arange(len(blocks)), widths)
    channel, tap = np.divmod(column, np.int32(shape.taps))
    if shape.groups > 1:
        first = np.array([b.rows[0] // shape.group_rows for b in blocks])
        channel = channel + (first * shape.group_channels)[block]
    key = block * shape.taps + tap
    counts = np.bincount(key, minlength=len(blocks) * shape.taps)
    taps = np.zeros((len(blocks), shape.taps + 1), np.int32)
    np.cumsum(counts.reshape(len(blocks), -1), axis=1, out=taps[:, 1:])
    if shape.taps == 1:
        return None, channel, taps
    order = _argsort(key, len(counts))
    columns = (tap * np.int64(shape.channels) + channel)[order]
    return order - np.repeat(_starts(widths)[:-1], widths), columns, taps


def _chosen(packed: Packed, groups: Int64, flags: Int32) -> Packed:
    """Return some groups of one row each, with other flags; weights and columns stay."""
    return Packed(
        rows=packed.rows[groups],
        row_starts=np.arange(len(groups) + 1),
        columns=packed.columns,
        column_starts=packed.column_starts[groups],
        tap_starts=packed.tap_starts[groups],
        weights=packed.weights,
        weight_starts=packed.weight_starts[groups],
        flags=flags,
        part_ends=packed.part_ends,
        panel_ends=packed.panel_ends,
    )


def _merged(a: Packed, of_a: Int64, b: Packed, of_b: Int64) -> Packed:
    """Return the groups of both, those of one component together, those of `a` first in it."""
    component = np.concatenate([of_a, of_b])
    order = np.argsort(component, kind="stable")
    heights = np.concatenate([a.heights, b.heights])
    starts = np.concatenate([a.row_starts[:-1], b.row_starts[:-1] + len(a.rows)])
    made = heights[order]
    within = np.arange(made.sum()) - np.repeat(np.cumsum(made) - made, made)
    return Packed(
        rows=np.concatenate([a.rows, b.rows])[np.repeat(starts[order], made) + within],
        row_starts=_starts(made),
        columns=np.concatenate([a.columns, b.columns]),
        column_starts=np.concatenate([a.column_starts, b.column_starts + len(a.columns)])[order],
        tap_starts=np.concatenate([a.tap_starts, b.tap_starts])[order],
        weights=np.concatenate([a.weights, b.weights]),
        weight_starts=np.concatenate([a.weight_starts, b.weight_starts + a.weights.size])[order],
        flags=np.concatenate([a.flags, b.flags])[order],
        part_ends=_ends(component[order]),
        panel_ends=np.array([len(order)]),
    )


# --- small parts -----------------------------------------------------------------------------------


def _nothing(shape: Shape) -> Residual:
    return Residual(
        np.empty(0, np.float32), np.empty(0, np.int32), np.zeros(shape.rows + 1, np.int64)
    )


def _starts(lengths: Any) -> Int64:  # noqa: ANN401 - list or array
    """Return where parts of the given lengths start, and the end of the last."""
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def _ends(component: Int64) -> Int64:
    """Return where neighbours differ, and the number of entries."""
    return np.append(np.flatnonzero(np.diff(component)) + 1, len(component))


def _argsort(key: NDArray[Any], keys: int) -> Int64:
    """Return the order of whole numbers below `keys`; those that are equal keep theirs.

    Few keys are sorted by their digits, in time that grows with the number of entries alone.
    """
    return np.argsort(key.astype(np.uint16) if keys <= 1 << 16 else key, kind="stable")


def _narrow(columns: NDArray[Any], shape: Shape) -> NDArray[Any]:
    """Return columns in as few bytes as hold them: they are kept beside their offsets."""
    small = shape.channels * shape.taps <= 1 << 16
    return columns.astype(np.uint16 if small else np.int32)
