"""Refine row groups for what counts: the saliency that the blocks retain within the budget."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from masktools.budget import price
from masktools.layout import FloatArray, IndexArray
from masktools.spectral import assign

_STEPS = 20


def group_sums(saliency: FloatArray, labels: IndexArray, k: int) -> NDArray[np.float32]:
    """Return the saliency of each (group, column), shape (k, columns)."""
    order = np.argsort(labels, kind="stable")
    present, first = np.unique(labels[order], return_index=True)
    sums = np.zeros((k, saliency.shape[1]), np.float32)
    if present.size:
        sums[present] = np.add.reduceat(saliency[order], first, axis=0)
    return sums


def by_assignment(
    saliency: FloatArray,
    labels: IndexArray,
    heights: NDArray[np.int64],
    column_cost: NDArray[np.int64],
    budget: int,
) -> IndexArray:
    """Alternate the two halves of the problem: columns for the rows, rows for the columns.

    Columns are chosen over all groups by the price at which the budget is spent; each row then
    goes where the chosen columns keep most of it. It stops when the value no longer rises.
    """
    best, best_value = labels, -np.inf
    for _ in range(_STEPS):
        sums = group_sums(saliency, labels, len(heights))
        cost = heights[:, None] * column_cost
        at = price(sums.ravel(), cost.ravel(), budget)
        surplus = sums - at * cost
        value = float(np.maximum(surplus, 0).sum(dtype=np.float64)) + at * budget
        if value <= best_value:
            break
        best, best_value = labels, value
        labels = assign(saliency @ (surplus > 0).T.astype(np.float32), heights)
    return best
