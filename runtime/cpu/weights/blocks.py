"""Dense blocks to groups: the rows of a block, cut to the heights of the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.checkpoint import Residual, SparseWeight
from runtime.cpu.weights.nonzeros import pack_rows
from runtime.cpu.weights.row_groups import (
    WEIGHT_PADDING,
    Int32,
    Int64,
    Packed,
    Scheme,
    Shape,
    ends_of,
    group_flags,
    line_aligned,
    narrow_columns,
    stable_order,
    starts_of,
)


def pack_blocks(weight: SparseWeight, shape: Shape, scheme: Scheme) -> Packed:
    """Return groups of the rows of each block; after a block, the residual of its rows."""
    blocks = weight.layout.blocks
    if not blocks:
        return pack_rows(weight.residual or _nothing(shape), shape, 0)
    kept = np.diff(weight.residual.row_offsets) if weight.residual else np.zeros(shape.rows, int)
    packed, component = _block_groups(weight, shape, scheme, kept)
    block_of = np.full(shape.rows, -1)
    block_of[packed.rows] = np.repeat(component, packed.heights)
    alone = np.flatnonzero((kept > 0) | (block_of < 0))
    if not len(alone):
        return packed
    rows = pack_rows(weight.residual or _nothing(shape), shape, 0)
    last = group_flags(block_of[alone] < 0, np.ones(len(alone), np.bool_))
    # A row of no block is parted from all others; such rows come last.
    own = np.where(block_of[alone] >= 0, block_of[alone], shape.rows + np.arange(len(alone)))
    return _merged(packed, component, _chosen(rows, alone, last), own)


def _block_groups(
    weight: SparseWeight, shape: Shape, scheme: Scheme, kept: Int64
) -> tuple[Packed, Int64]:
    """Return the groups of all blocks, and of each the blocks that it must not be parted from."""
    blocks = weight.layout.blocks
    member = np.concatenate([b.rows for b in blocks])
    left = np.bincount(member, minlength=shape.rows)
    shared = bool((left > 1).any())
    begun = np.zeros(shape.rows, np.bool_)
    orders, columns, tap_starts = _block_columns(weight, shape)
    widths = np.array([len(b.columns) for b in blocks])
    list_starts = starts_of(widths)
    weights = line_aligned(weight.values.size + WEIGHT_PADDING)
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
        state = group_flags(~begun[block.rows], ~open_)
        begun[block.rows] = True
        for part in _parts(state, scheme):
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
        row_starts=starts_of(heights),
        columns=narrow_columns(columns, shape),
        column_starts=list_starts[of_group],
        tap_starts=tap_starts[of_group],
        weights=weights,
        weight_starts=starts_of(heights * widths[of_group])[:-1],
        flags=np.array(flags, np.int32),
        part_ends=ends_of(component),
        panel_ends=np.array([len(rows)]),
    )
    return packed, component


def _parts(state: NDArray[Any], scheme: Scheme) -> list[Int64]:
    """Return which rows of a block make each group: rows whose flags differ never share one."""
    order = np.argsort(state, kind="stable")
    parts: list[Int64] = []
    for among in np.split(order, np.flatnonzero(np.diff(state[order])) + 1):
        parts += np.split(among, np.cumsum(scheme.heights(len(among)))[:-1])
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
    order = stable_order(key, len(counts))
    columns = (tap * np.int64(shape.channels) + channel)[order]
    return order - np.repeat(starts_of(widths)[:-1], widths), columns, taps


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
        row_starts=starts_of(made),
        columns=np.concatenate([a.columns, b.columns]),
        column_starts=np.concatenate([a.column_starts, b.column_starts + len(a.columns)])[order],
        tap_starts=np.concatenate([a.tap_starts, b.tap_starts])[order],
        weights=np.concatenate([a.weights, b.weights]),
        weight_starts=np.concatenate([a.weight_starts, b.weight_starts + a.weights.size])[order],
        flags=np.concatenate([a.flags, b.flags])[order],
        part_ends=ends_of(component[order]),
        panel_ends=np.array([len(order)]),
    )


def _nothing(shape: Shape) -> Residual:
    return Residual(
        np.empty(0, np.float32), np.empty(0, np.int32), np.zeros(shape.rows + 1, np.int64)
    )
