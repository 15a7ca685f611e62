"""Find the rows of a mask that keep the same columns, or the same but for a few accidental zeros.

A weight that was kept may be zero all the same: half precision loses the smallest ones, and a
random float32 is exactly zero now and then. A mask read from the zeros of weights then has rows
that miss a column of their group's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]

# Parts into which the columns are divided: rows that are nearly the same have one in common.
_BANDS = 16
# Patterns of the same part that a row is compared with.
_COMPARED = 8


@dataclass(eq=False)
class Pattern:
    """Rows, and the columns that they share.

    Parameters
    ----------
    rows : list of int
    columns : ndarray of bool, shape (columns,)
    fewest : int
        Columns that the poorest of the rows keeps.
    settled : bool
        Whether its columns stand, because enough rows keep exactly these.

    Attributes
    ----------
    keeps : int
        How many columns it has.
    """

    rows: list[int]
    columns: BoolArray
    fewest: int
    settled: bool

    def __post_init__(self) -> None:
        self.keeps = _count(self.columns)

    def join(self, row: int, columns: BoolArray, keeps: int) -> None:
        """Add a row, its columns and their number."""
        self.rows.append(row)
        self.columns = self.columns | columns
        self.keeps = _count(self.columns)
        self.fewest = min(self.fewest, keeps)


def few(columns: int) -> int:
    """Return how many of a block's columns a row may lack and still belong to it.

    Examples
    --------
    >>> few(4), few(9), few(576)
    (0, 1, 36)
    """
    return max(columns // 16, int(columns >= 8))


def find_patterns(matrix: BoolArray, min_rows: int, whole: bool) -> list[Pattern]:
    """Return the patterns that enough rows have, in the order of their first rows.

    Parameters
    ----------
    matrix : ndarray of bool, shape (rows, columns)
        The mask of one convolution group. Not changed.
    min_rows : int
        Rows that a pattern needs. With 1 every row has exactly its own columns.
    whole : bool
        Rows that keep all columns are a pattern however few they are.

    Returns
    -------
    list of Pattern
        No row lies in two. A row lacks at most `few` of its pattern's columns, and keeps no others.

    Notes
    -----
    Rows with exactly the same columns come first. What is left joins the smallest of these that
    holds it, or makes new ones of unions. Only patterns that have one of `_BANDS` parts in common
    are compared, so that the time grows with the rows and not with their square.
    """
    groups: dict[bytes, list[int]] = {}
    packed = np.packbits(matrix, axis=1)
    for row in np.flatnonzero(matrix.any(axis=1)).tolist():
        groups.setdefault(packed[row].tobytes(), []).append(row)
    kept = matrix.sum(axis=1)
    patterns = []
    loose = []
    for rows in groups.values():
        keeps = int(kept[rows[0]])
        if len(rows) >= min_rows or (whole and keeps == matrix.shape[1]):
            patterns.append(Pattern(rows, matrix[rows[0]], keeps, True))
        else:
            loose += rows
    if loose:
        patterns = _joined(matrix, packed, sorted(loose), patterns, whole)
    enough = [
        Pattern(sorted(p.rows), p.columns, p.fewest, p.settled)
        for p in patterns
        if len(p.rows) >= min_rows or (whole and p.rows and p.columns.all())
    ]
    return sorted(enough, key=lambda pattern: pattern.rows[0])


def _joined(
    matrix: BoolArray,
    packed: NDArray[np.uint8],
    loose: list[int],
    patterns: list[Pattern],
    whole: bool,
) -> list[Pattern]:
    """Let each loose row join a pattern, or begin one."""
    near: dict[tuple[int, bytes], list[Pattern]] = {}
    full = [pattern for pattern in patterns if whole and pattern.columns.all()]
    if whole and not full:
        full = [Pattern([], np.ones(matrix.shape[1], np.bool_), matrix.shape[1], True)]
        patterns = [*patterns, *full]
    standing = np.array([p.columns for p in patterns], np.bool_).reshape(-1, matrix.shape[1])
    for pattern, keys in zip(patterns, _bands(np.packbits(standing, axis=1)), strict=True):
        for key in keys:
            near.setdefault(key, []).append(pattern)
    for row, keys in zip(loose, _bands(packed[loose]), strict=True):
        close = [*full, *(p for key in keys for p in near.get(key, [])[:_COMPARED])]
        keeps = _count(matrix[row])
        fitting = [p for p in dict.fromkeys(close) if _fits(matrix[row], keeps, p)]
        if fitting:
            pattern = min(fitting, key=_preference)
            pattern.join(row, matrix[row], keeps)
        else:
            pattern = Pattern([row], matrix[row], keeps, False)
            patterns.append(pattern)
        for key in keys:
            known = near.setdefault(key, [])
            if pattern not in known:
                known.append(pattern)
    return patterns


def _bands(packed: NDArray[np.uint8]) -> list[list[tuple[int, bytes]]]:
    """Return for each packed row the parts that keep anything, with their places."""
    found: list[list[tuple[int, bytes]]] = [[] for _ in packed]
    parts = np.array_split(packed, min(_BANDS, packed.shape[1]), axis=1)
    for place, part in enumerate(parts):
        for row in np.flatnonzero(part.any(axis=1)).tolist():
            found[row].append((place, part[row].tobytes()))
    return found


def _fits(row: BoolArray, keeps: int, pattern: Pattern) -> bool:
    """Tell whether a row and a pattern's rows lack at most a few of their common columns."""
    fewest, most = min(keeps, pattern.fewest), max(keeps, pattern.keeps)
    if fewest < most - few(most):
        return False  # For most pairs, and at once: together they have still more columns.
    together = _count(row | pattern.columns)
    if pattern.settled and together > pattern.keeps:
        return False
    return fewest >= together - few(together)


def _preference(pattern: Pattern) -> tuple[bool, int]:
    """Prefer patterns that stand, and among them the one with the fewest columns."""
    return not pattern.settled, pattern.keeps


def _count(columns: BoolArray) -> int:
    return int(np.count_nonzero(columns))
