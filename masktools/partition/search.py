"""Refine row groups for what counts: the saliency that the blocks retain within the budget."""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from masktools.checks import FloatArray, IndexArray
from masktools.partition.budget import choose, price
from masktools.partition.spectral import assign

_STEPS = 20  # of the assignment; it settles in fewer
_EFFORT = 800  # visits of the swap search to each weight
_SMALL = 2**31  # visits, 0.3 s: layers that need fewer are searched longer, by this factor,
_PATIENCE, _MOST_RUNS = 4, 32  # and then several times, the best kept
_LEAST_WORK = 2**24  # visits of a run that cost too little to save on: milliseconds
_HOT, _COLD = 0.08, 0.1  # losing swaps accepted at first; last temperature over first


def group_sums(saliency: FloatArray, labels: IndexArray) -> NDArray[np.float32]:
    """Return the saliency of each (group, column); every label from 0 to the largest occurs."""
    if not labels.size:
        return np.zeros((0, saliency.shape[1]), np.float32)
    order = np.argsort(labels, kind="stable")
    first = np.flatnonzero(np.diff(labels[order], prepend=-1))
    sums: NDArray[np.float32] = np.add.reduceat(saliency[order], first, axis=0)
    return sums


def retained(
    saliency: FloatArray,
    labels: IndexArray,
    heights: NDArray[np.int64],
    column_cost: NDArray[np.int64],
    budget: int,
) -> float:
    """Return the saliency that the best columns of the groups keep within the budget."""
    gain = group_sums(saliency, labels).ravel()
    cost = (heights[:, None] * column_cost).ravel()
    return float(gain[choose(gain, cost, budget)].sum(dtype=np.float64))


def refine(
    saliency: FloatArray,
    start: IndexArray,
    heights: NDArray[np.int64],
    column_cost: NDArray[np.int64],
    budget: int,
    seed: int = 0,
    parts: int = 1,
) -> tuple[IndexArray, str]:
    """Exchange rows between groups so that the chosen columns retain more.

    Parameters
    ----------
    saliency : ndarray of float32, shape (rows, columns)
        Not negative, 0 where pruned. Not changed.
    start : ndarray of int32, shape (rows,)
        The groups to start from. Not changed.
    heights : ndarray of int64, shape (k,)
        Rows of each group; they stay.
    column_cost : ndarray of int64, shape (columns,)
        What a weight of each column costs.
    budget : int
        What all chosen (group, column) pairs may cost.
    seed : int, default 0
    parts : int, default 1
        Parts of the layer, of which this is one, that share the work a small layer is given.

    Returns
    -------
    labels : ndarray of int32, shape (rows,)
    how : {"swaps", "assignment", "none"}
        "assignment" alone, after a warning, if the native search was not built; "none" where
        nothing retains more than the start, which is returned then.

    Notes
    -----
    Not in the paper. First assignment (`by_assignment`), then simulated annealing over swaps of
    two rows, on the Lagrangian of the budget: the saliency of all columns above the price of
    their storage. The work is counted, never timed, so that results repeat.
    """
    if len(heights) < 2 or heights.max() == 1 or budget <= 0 or not saliency.any():
        return start, "none"
    labels = by_assignment(saliency, start, heights, column_cost, budget)
    found, how = [labels], "assignment"
    if native := _native():
        least = _EFFORT * saliency.size
        work = max(least, min(_PATIENCE * least, _SMALL // parts), _LEAST_WORK)
        runs = min(max(_SMALL // parts // work, 1), _MOST_RUNS)
        arguments = {"saliency": saliency, "labels": labels, "cost": column_cost}
        schedule = {"work": work, "hot": _HOT, "cold": _COLD}
        found, how = [], "swaps"
        for run in range(runs):
            # Where columns are few, the price moves in steps: look on both sides of the budget.
            aside = 0.01 * ((run + 1) // 2 % 5) * (-1) ** run
            once = {"budget": budget * (1 + aside), "seed": (seed * _MOST_RUNS + run) % 2**64}
            found.append(native.anneal(**arguments, **schedule, **once))
    kept = [retained(saliency, one, heights, column_cost, budget) for one in (start, *found)]
    best = int(np.argmax(kept))
    return (found[best - 1], how) if best else (start, "none")


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
    cost = heights[:, None] * column_cost
    for _ in range(_STEPS):
        sums = group_sums(saliency, labels)
        at = price(sums.ravel(), cost.ravel(), budget)
        surplus = sums - at * cost
        value = float(np.maximum(surplus, 0).sum(dtype=np.float64)) + at * budget
        if value <= best_value:
            break
        best, best_value = labels, value
        labels = assign(saliency @ (surplus > 0).T.astype(np.float32), heights)
    return best


@cache
def _native() -> ModuleType | None:
    """Return the compiled search; where it was not built, warn, once, and return None."""
    try:
        return import_module("masktools.partition._search")
    except ImportError:
        warnings.warn(
            "masktools was installed without its compiled search, so row groups are refined by "
            "assignment alone and retain less; to get it, install a C++17 compiler and then: "
            "pip install --force-reinstall --no-binary masktools masktools",
            RuntimeWarning,
            stacklevel=4,
        )
        return None
