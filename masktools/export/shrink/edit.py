"""Take rows and channels out of a layer's weights, and add one, wherever they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.export.stored import BoolArray, FloatArray, Stored
from masktools.layout import BlockLayout, DenseBlock

Indices = NDArray[np.integer[Any]]


def without(
    stored: Stored, rows: BoolArray | None = None, channels: BoolArray | None = None
) -> Stored:
    """Return the weights, in the same shape, with some rows or input channels removed from storage.

    Parameters
    ----------
    stored : Stored
        Not changed.
    rows : ndarray of bool, shape (rows,), default None
    channels : ndarray of bool, shape (input channels within a group,), default None
    """
    shape = stored.weight.shape
    no_rows = np.zeros(shape[0], np.bool_) if rows is None else rows
    no_channels = np.zeros(shape[1], np.bool_) if channels is None else channels
    if not (no_rows.any() or no_channels.any()):
        return stored
    weight = stored.weight.copy()
    weight[no_rows] = 0
    weight[:, no_channels] = 0
    if stored.layout is None:
        return Stored(weight)
    no_columns = np.repeat(no_channels, int(np.prod(shape[2:])))
    blocks = [
        (b.rows[~no_rows[b.rows]], b.columns[~no_columns[b.columns]]) for b in stored.layout.blocks
    ]
    residual = stored.residual
    if residual is not None:
        residual = residual.copy()
        residual[no_rows] = False
        residual[:, no_channels] = False
    return Stored(weight, _layout(shape, blocks, stored.layout.groups), residual)


def with_channel(stored: Stored, channel: int, taps: FloatArray) -> Stored:
    """Return the weights with one empty input channel filled in.

    Parameters
    ----------
    stored : Stored
        Of one convolution group. Not changed.
    channel : int
    taps : ndarray of float32, shape (rows, taps)
        Its weights. They join the blocks that hold their rows; where rows lie in several blocks
        they make a block of their own; rows that lie in none get them beside the blocks.
    """
    shape = stored.weight.shape
    weight = stored.weight.copy()
    weight[:, channel] = taps.reshape(shape[0], *shape[2:])
    layout = stored.layout
    if layout is None:
        return Stored(weight)
    first = channel * taps.shape[1]
    left: BoolArray = np.asarray(taps.any(axis=1))
    blocks: list[tuple[Indices, Indices]] = [(b.rows, b.columns) for b in layout.blocks]
    every = np.concatenate([np.empty(0, np.int32), *(b.rows for b in layout.blocks)])
    if len(np.unique(every)) == len(every):
        for i, (rows, columns) in enumerate(blocks):
            new = first + np.flatnonzero(taps[rows].any(axis=0))
            blocks[i] = rows, np.union1d(columns, new)
            left[rows] = False
    elif left.any():
        blocks.append((np.flatnonzero(left), first + np.flatnonzero(taps[left].any(axis=0))))
        left[:] = False
    residual = stored.residual
    if left.any():
        residual = np.zeros(shape, np.bool_) if residual is None else residual.copy()
        residual[left, channel] = weight[left, channel] != 0
    return Stored(weight, _layout(shape, blocks, layout.groups), residual)


def subset(stored: Stored, rows: BoolArray, channels: BoolArray, groups: int) -> Stored:
    """Return the weights of some rows and input channels alone.

    Parameters
    ----------
    stored : Stored
        Not changed.
    rows : ndarray of bool, shape (rows,)
        Those that stay.
    channels : ndarray of bool, shape (input channels within a group,)
        Those that stay.
    groups : int
        Convolution groups afterwards.
    """
    weight = stored.weight[rows][:, channels]
    if stored.layout is None:
        return Stored(weight)
    columns = np.repeat(channels, int(np.prod(weight.shape[2:])))
    new_row, new_column = (np.cumsum(kept) - 1 for kept in (rows, columns))
    blocks = [
        (new_row[b.rows[rows[b.rows]]], new_column[b.columns[columns[b.columns]]])
        for b in stored.layout.blocks
    ]
    residual = stored.residual
    if residual is not None:
        residual = residual[rows][:, channels]
    return replace(
        stored, weight=weight, layout=_layout(weight.shape, blocks, groups), residual=residual
    )


def _layout(
    shape: tuple[int, ...],
    blocks: Sequence[tuple[Indices, Indices]],
    groups: int,
) -> BlockLayout:
    return BlockLayout(shape, [DenseBlock(r, c) for r, c in blocks if len(r) and len(c)], groups)
