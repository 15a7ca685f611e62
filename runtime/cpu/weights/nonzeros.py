"""Rows of nonzeros: every row of a weight is a group by itself, exactly as it is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.checkpoint import Residual, SparseWeight
from runtime.cpu.weights.row_groups import (
    Float32,
    Int64,
    Packed,
    Shape,
    group_flags,
    narrow_columns,
    stable_order,
    starts_of,
)
from runtime.plan.steps import Weight


def compressed(weight: Weight) -> Residual:
    """Return all stored weights as compressed rows; those of a dense weight that are not zero."""
    if isinstance(weight, SparseWeight):
        if weight.residual is not None and not weight.layout.blocks:
            return weight.residual
        weight = weight.to_dense()
    matrix = weight.reshape(len(weight), -1)
    rows, columns = np.nonzero(matrix)
    counts = np.bincount(rows, minlength=len(matrix))
    return Residual(matrix[rows, columns], columns.astype(np.int32), starts_of(counts))


def pack_rows(stored: Residual, shape: Shape, panel: int) -> Packed:
    """Return a group of one row for each row, and for each panel of channels of it."""
    panel = panel or shape.group_channels
    panels = -(-shape.group_channels // panel)
    counts, columns, weights = _sorted_rows(stored, shape, panel)
    # Groups are ordered by panel, then by row: every row has one in every panel.
    per_group = counts.reshape(-1, shape.taps)
    number = len(per_group)
    rows = np.tile(np.arange(shape.rows, dtype=np.int32), panels)
    of_panel = np.repeat(np.arange(panels), shape.rows)
    taps = np.zeros((number, shape.taps + 1), np.int32)
    np.cumsum(per_group, axis=1, out=taps[:, 1:])
    starts = starts_of(per_group.sum(axis=1))[:-1]
    ends = np.arange(1, panels + 1) * shape.rows
    return Packed(
        rows=rows,
        row_starts=np.arange(number + 1),
        columns=narrow_columns(columns, shape),
        column_starts=starts,
        tap_starts=taps,
        weights=weights,
        weight_starts=starts,
        flags=group_flags(of_panel == 0, of_panel == panels - 1),
        part_ends=np.arange(1, number + 1) if panels == 1 else ends[-1:],
        panel_ends=ends,
    )


def _sorted_rows(stored: Residual, shape: Shape, panel: int) -> tuple[Int64, NDArray[Any], Float32]:
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
    order = stable_order(key, len(counts))
    return counts, (tap * np.int32(shape.channels) + channel)[order], weights[order]


@dataclass(frozen=True, eq=False)
class PackedRows:
    """Rows of nonzeros, by panels of channels; see cpu/rows.h.

    Parameters
    ----------
    weights : ndarray of float32, shape (nonzeros,)
    columns : ndarray of uint16, shape (nonzeros,)
        ``(channel within its panel) * taps + tap``.
    starts : ndarray of int32, shape (panels * rows + 1,)
        Where each row of each panel begins.
    """

    weights: Float32
    columns: NDArray[np.uint16]
    starts: NDArray[np.int32]


def pack_panels(stored: Residual, shape: Shape, channels: int) -> PackedRows:
    """Return nonzeros sorted by panels of ``channels`` input channels, then by rows.

    Parameters
    ----------
    stored : Residual
    shape : Shape
        Without convolution groups.
    channels : int
        Of a panel; times the taps less than 2**16.
    """
    width = channels * shape.taps
    panels = -(-shape.channels // channels)
    panel, column = np.divmod(stored.column_indices, np.int32(width))
    rows = np.repeat(np.arange(shape.rows, dtype=np.int32), np.diff(stored.row_offsets))
    key = panel * np.int32(shape.rows) + rows
    order = stable_order(key, panels * shape.rows)
    starts = starts_of(np.bincount(key, minlength=panels * shape.rows))
    return PackedRows(
        stored.values[order].astype(np.float32, copy=False),
        column[order].astype(np.uint16),
        starts.astype(np.int32),
    )
