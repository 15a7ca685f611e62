"""Regrouping as the code that was released with the paper does it, with all that is odd in it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from masktools.checks import BoolArray, FloatArray
from masktools.layout import DenseBlock
from masktools.partition.partitioners import partition
from masktools.transform.algorithm3 import nonzeros

_BISECTIONS = 3  # which make eight parts
_LARGER_HALF = 0.6  # of the rows at most: hMETIS with an imbalance (UBfactor) of 10
_MIN_ROWS = 17
_WIDTH = 1.5  # columns that a block takes for each nonzero that a row has left


def released_blocks(
    keep: BoolArray, saliency: FloatArray, partitioner: str, seed: int
) -> list[DenseBlock]:
    """Return the blocks that the paper's released code finds, by our partitioner.

    Parameters
    ----------
    keep : ndarray of bool, shape (rows, columns)
        Not changed.
    saliency : ndarray of float, shape (rows, columns)
        For partitioners that heed it. Not changed.
    partitioner : {"kahypar", "mtkahypar", "spectral"}
    seed : int

    Returns
    -------
    list of DenseBlock
        At most one for each of eight parts of the rows. A part has none, and loses its rows, if it
        has 16 rows or fewer, or if no width passes (see `width`).

    Notes
    -----
    Rows that keep nothing are left out; the others are divided in eight parts, which need not be
    equal; in each, the columns of most nonzeros are taken, equals in their order, as many as
    `width` says. There is one pass.

    Departures: KaHyPar, or the partitioner that was asked for, stands in for hMETIS. It halves the
    rows three times, with at most six tenths of them in either half, as hMETIS does at the
    imbalance that the code asks for. Both minimise the columns that are cut, but find other parts.
    And a part is one block, where the code stores parts of more than 32 rows as two: the mask is
    the same, and the runtime cuts blocks to what its kernels like.

    References
    ----------
    Chen et al., ICML 2022; github.com/VITA-Group/Structure-LTH, commit 8b10a76,
    ``pruning_utils.regroup``, with which masks are made for training.
    """
    blocks = []
    seen = nonzeros(keep, saliency)
    for rows in _parts(seen, np.flatnonzero(keep.any(axis=1)), _BISECTIONS, partitioner, seed):
        columns = width(keep[rows])
        if columns is not None and len(rows) >= _MIN_ROWS:
            order = np.argsort(-keep[rows].sum(axis=0), kind="stable")
            blocks.append(DenseBlock(rows, np.sort(order[:columns])))
    return blocks


def width(part: BoolArray) -> int | None:
    """Return how many columns the released code gives the block of a part of the rows.

    Parameters
    ----------
    part : ndarray of bool, shape (rows, columns)
        The mask of those rows. Not changed.

    Returns
    -------
    int or None
        The first i, from 1 and below the number of columns, that is above 1.5 times each row's
        counter; None where there is none.

    Notes
    -----
    A counter starts at the nonzeros of its row. At each i the rows are gone through in their
    order: a nonzero in column i lowers the counter, and then the test ends at the first row that
    fails it. So the counters of later rows stand still until all rows before them have passed:
    the block becomes about 1.5 times as wide as the fullest row, and where rows keep more than two
    thirds of the columns there is mostly none. Column i is the i-th of the layer,
    counted from 0, not the i-th of those that the block takes.

    Examples
    --------
    >>> width(np.array([[1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0, 0, 0]], bool))
    4
    >>> width(np.ones((2, 8), bool)) is None
    True
    """
    columns = part.shape[1]
    if columns < 2:
        return None
    i = 1
    for row in part:
        taken = np.cumsum(row)
        left = int(row.sum()) - (taken[i:] - taken[i - 1])
        passed = np.flatnonzero(np.arange(i, columns) > _WIDTH * left)
        if not passed.size:
            return None
        i += int(passed[0])
    return i


def _parts(
    saliency: FloatArray, rows: NDArray[np.intp], bisections: int, partitioner: str, seed: int
) -> Iterator[NDArray[np.intp]]:
    """Yield the parts of some rows, halved so often."""
    if bisections == 0 or len(rows) < 2:
        yield rows
        return
    most = max(int(_LARGER_HALF * len(rows)), -(-len(rows) // 2))
    half = partition(saliency[rows], np.array([most, most]), partitioner, seed)
    for which in (0, 1):
        yield from _parts(saliency, rows[half == which], bisections - 1, partitioner, seed)
