"""Algorithm 3 of the paper: dense blocks by thresholds, pass after pass."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from masktools.checks import BoolArray, FloatArray, check_count
from masktools.layout import DenseBlock
from masktools.partition.partitioners import partition


@dataclass(frozen=True)
class Thresholds:
    """The paper's t1, t2, b1, b2, and a limit of passes; None does not restrict.

    Parameters
    ----------
    row_groups, min_column_nonzeros, min_rows, min_columns, passes : int or None
        As in `masktools.regroup`.

    Raises
    ------
    TypeError, MaskError
        If a value is no whole number, or below 1.
    """

    row_groups: int | None = None
    min_column_nonzeros: int | None = None
    min_rows: int | None = None
    min_columns: int | None = None
    passes: int | None = None

    def __post_init__(self) -> None:
        for name, value in self.given().items():
            check_count(name, value, 1)

    def given(self) -> dict[str, int]:
        """Return those that restrict, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def find_blocks(
    keep: BoolArray,
    saliency: FloatArray,
    partitioner: str,
    seed: int,
    *,
    group_rows: int,
    thresholds: Thresholds,
) -> list[DenseBlock]:
    """Return the blocks of all passes, in the order in which they were found.

    Parameters
    ----------
    keep : ndarray of bool, shape (rows, columns)
        Not changed.
    saliency : ndarray of float, shape (rows, columns)
        For partitioners that heed it. Not changed.
    partitioner : {"kahypar", "mtkahypar", "spectral"}
    seed : int
    group_rows : int
        Groups are multiples of it where the rows allow.
    thresholds : Thresholds
    """
    heights = even_heights(len(keep), group_rows, thresholds.row_groups)
    stored = np.zeros_like(keep)
    blocks: list[DenseBlock] = []
    left = thresholds.passes
    while left is None or left > 0:
        found = _one_pass(keep, stored, saliency, heights, thresholds, partitioner, seed)
        if not found:
            break
        blocks += found
        left = None if left is None else left - 1
    return blocks


def _one_pass(
    keep: BoolArray,
    stored: BoolArray,
    saliency: FloatArray,
    heights: NDArray[np.int64],
    thresholds: Thresholds,
    partitioner: str,
    seed: int,
) -> list[DenseBlock]:
    """Partition the nonzeros that are left; mark what the blocks found store in `stored`."""
    left = keep & ~stored
    labels = partition(nonzeros(left, saliency), heights, partitioner, seed)
    blocks = []
    for group, height in enumerate(heights.tolist()):
        if height < (thresholds.min_rows or 1):
            continue
        rows = np.flatnonzero(labels == group)
        enough = left[rows].sum(axis=0) >= (thresholds.min_column_nonzeros or 1)
        columns = np.flatnonzero(enough & ~stored[rows].any(axis=0))
        if len(columns) >= (thresholds.min_columns or 1):
            blocks.append(DenseBlock(rows, columns))
            stored[np.ix_(rows, columns)] = True
    return blocks


def nonzeros(keep: BoolArray, saliency: FloatArray) -> FloatArray:
    """Return a saliency that is above 0 wherever a weight is kept, even one of value 0."""
    return np.where(keep, np.maximum(saliency, np.finfo(np.float32).tiny), np.float32(0))


def even_heights(rows: int, group_rows: int, groups: int | None) -> NDArray[np.int64]:
    """Return the rows of each group, as even as multiples of `group_rows` allow.

    Examples
    --------
    >>> even_heights(100, 8, 4).tolist(), even_heights(5, 8, 2).tolist()
    ([24, 24, 24, 28], [3, 2])
    """
    if rows == 0:
        return np.zeros(0, np.int64)
    k = min(groups or max(rows // group_rows, 1), rows)
    unit = group_rows if rows // group_rows >= k else 1
    units, rest = divmod(rows, unit)
    heights = np.full(k, units // k, np.int64)
    heights[: units % k] += 1
    heights *= unit
    heights[-1] += rest
    return heights
