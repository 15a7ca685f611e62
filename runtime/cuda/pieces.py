"""Join a layer's blocks and rows that read the same columns into pieces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.checkpoint import Residual, SparseWeight
from runtime.plan.steps import Weight

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Piece:
    """Rows that share columns, with their weights.

    Parameters
    ----------
    rows : ndarray of int32, shape (r,)
        Output channels; each once.
    columns : ndarray of int32, shape (c,)
        Flattened (input channel, y, x), the channel counted over all convolution groups.
    values : ndarray of float, shape (r, c)
    """

    rows: Indices
    columns: Indices
    values: Floats


def pieces(weight: Weight, groups: int = 1) -> list[Piece]:
    """Return a layer's weights as pieces: rows that read the same columns are one.

    Parameters
    ----------
    weight : ndarray or SparseWeight
        Dense: a piece for each convolution group. Sparse: blocks that have the same columns in
        one group are put together, where no row lies in two of them; so are residual rows.
    groups : int, default 1
        Convolution groups.

    Returns
    -------
    list of Piece
        Blocks in their order, then the residual. Together they hold every stored weight once.

    Examples
    --------
    >>> [(p.rows.tolist(), p.columns.tolist()) for p in pieces(np.ones((4, 2)), groups=2)]
    [([0, 1], [0, 1]), ([2, 3], [2, 3])]
    """
    if isinstance(weight, np.ndarray):
        matrix = weight.reshape(groups, weight.shape[0] // groups, -1)
        each, width = matrix.shape[1:]
        return [
            Piece(_range(g * each, each), _range(g * width, width), matrix[g])
            for g in range(groups)
        ]
    blocks = _merged(_blocks(weight, groups))
    if weight.residual is None:
        return blocks
    return blocks + _merged(_residual_rows(weight, weight.residual, groups))


def _range(first: int, count: int) -> Indices:
    return np.arange(first, first + count, dtype=np.int32)


def _blocks(weight: SparseWeight, groups: int) -> Iterator[Piece]:
    layout, start = weight.layout, 0
    for block in layout.blocks:
        values = weight.values[start : start + block.size].reshape(len(block.rows), -1)
        start += block.size
        group = int(block.rows[0]) // (layout.rows // groups)
        yield Piece(block.rows, block.columns + np.int32(group * layout.columns), values)


def _residual_rows(weight: SparseWeight, residual: Residual, groups: int) -> Iterator[Piece]:
    layout, offsets = weight.layout, residual.row_offsets
    for row in np.flatnonzero(np.diff(offsets)):
        kept = slice(offsets[row], offsets[row + 1])
        group = int(row) // (layout.rows // groups)
        columns = residual.column_indices[kept] + np.int32(group * layout.columns)
        yield Piece(_range(int(row), 1), columns, residual.values[None, kept])


def _merged(parts: Iterator[Piece]) -> list[Piece]:
    """Put together the pieces that have the same columns: no row lies in two of them.

    A file stores no weight twice, and columns tell their convolution group.
    """
    alike: dict[bytes, list[Piece]] = {}
    for part in parts:
        alike.setdefault(part.columns.tobytes(), []).append(part)
    return [
        Piece(
            np.concatenate([part.rows for part in same]),
            same[0].columns,
            np.concatenate([part.values for part in same]),
        )
        for same in alike.values()
    ]
