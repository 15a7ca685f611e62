"""Weights to groups, as the kernels take them."""

from __future__ import annotations

import numpy as np

from masktools.checkpoint import SparseWeight
from runtime.cpu.weights.blocks import pack_blocks
from runtime.cpu.weights.nonzeros import compressed, pack_rows
from runtime.cpu.weights.row_groups import (
    WEIGHT_PADDING,
    Int64,
    Packed,
    Scheme,
    Shape,
    group_flags,
    line_aligned,
    narrow_columns,
    starts_of,
)
from runtime.plan.steps import Weight


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
        return _dense(weight, shape, scheme)
    if scheme.form == "blocks" and isinstance(weight, SparseWeight):
        return pack_blocks(weight, shape, scheme)
    return pack_rows(compressed(weight), shape, scheme.channels)


def _dense(weight: Weight, shape: Shape, scheme: Scheme) -> Packed:
    """Return groups of neighbouring rows that read all columns of their convolution group."""
    dense = weight if isinstance(weight, np.ndarray) else weight.to_dense()
    width = shape.group_channels * shape.taps
    matrix = dense.reshape(shape.groups, shape.group_rows, shape.group_channels, shape.taps)
    heights = scheme.heights(shape.group_rows)
    weights = line_aligned(dense.size + WEIGHT_PADDING)
    start = first = 0
    per_group = shape.group_rows * width
    by_group = weights[: dense.size].reshape(shape.groups, per_group)
    # Groups of one height are neighbours: all of them are packed in one go.
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
    row_starts = starts_of(heights * shape.groups)
    taps = np.arange(shape.taps + 1, dtype=np.int32) * shape.group_channels
    return Packed(
        rows=np.arange(shape.rows, dtype=np.int32),
        row_starts=row_starts,
        columns=narrow_columns(_all_columns(shape), shape),
        column_starts=np.repeat(np.arange(shape.groups) * width, len(heights)),
        tap_starts=np.broadcast_to(taps, (number, len(taps))).copy(),
        weights=weights,
        weight_starts=row_starts[:-1] * width,
        flags=group_flags(np.ones(number, np.bool_), np.ones(number, np.bool_)),
        part_ends=np.arange(1, number + 1),
        panel_ends=np.array([number]),
    )


def _all_columns(shape: Shape) -> Int64:
    """Return all columns of each convolution group, tap by tap."""
    taps = np.arange(shape.taps)[:, None] * shape.channels
    channels = np.arange(shape.channels).reshape(shape.groups, 1, shape.group_channels)
    return (taps + channels).ravel()
