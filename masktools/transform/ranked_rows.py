"""A layer's rows as candidates for a budget: refill over a whole network."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masktools.checks import BoolArray
from masktools.layout import BlockLayout, DenseBlock
from masktools.transform.refill import best_rows, with_extra


@dataclass(frozen=True, eq=False)
class RankedRows:
    """Rows of a layer, best first, and what keeping one more of them retains and costs.

    Parameters
    ----------
    shape : tuple of int
        The weight's own shape.
    groups : int
        Convolution groups: the rows of a block lie in one of them.
    scores : ndarray of float, shape (rankings, rows in each)
        What ranks the rows: those of each convolution group by themselves, or all in one.
    saliency : ndarray of float, shape (rankings, rows in each)
        What the mask leaves in each row.
    row_cost : int
        What a whole row costs.
    extra : float
        refill+: share of the rows that are not chosen to keep as well.
    """

    shape: tuple[int, ...]
    groups: int
    scores: NDArray[np.float64]
    saliency: NDArray[np.float64]
    row_cost: int
    extra: float

    def candidates(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the gain and the cost of each further row, best first, ranking after ranking.

        Where the scores are not the saliency, a row of little saliency may stand before one of
        much: the two then share their gain (the slopes of the concave majorant), so that a
        price buys the best beginning of the ranking.
        """
        from scipy.optimize import isotonic_regression

        order = np.argsort(-self.scores, axis=1, kind="stable")
        ranked = np.take_along_axis(self.saliency, order, axis=1)
        gain = [isotonic_regression(one, increasing=False).x for one in ranked if one.size]
        return (
            np.concatenate([*gain, np.empty(0)]),
            np.full(self.scores.size, self.row_cost, np.int64),
        )

    def layout(self, chosen: BoolArray) -> BlockLayout:
        """Return as many of the best rows as candidates are chosen, and the extra ones, whole.

        Parameters
        ----------
        chosen : ndarray of bool, shape (rows,)
            Of each ranking, the number that is chosen counts.
        """
        return self.keep(chosen.reshape(self.scores.shape).sum(axis=1))

    def keep(self, kept: NDArray[np.integer]) -> BlockLayout:
        """Return the best rows whole: `kept`, shape (rankings,), and the extra ones."""
        rows = self.scores.shape[1]
        kept = np.array([with_extra(int(k), rows, self.extra) for k in kept], np.int64)
        best = np.flatnonzero(best_rows(self.scores, kept))
        columns = np.arange(math.prod(self.shape[1:]))
        group = best // max(self.shape[0] // self.groups, 1)
        parts = [best[group == g] for g in np.unique(group)] if columns.size else []
        return BlockLayout(self.shape, [DenseBlock(part, columns) for part in parts], self.groups)
