"""Spend a budget of stored weights, or of multiplications, on the columns that keep most."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.checks import BoolArray

Numbers = NDArray[np.floating[Any]] | NDArray[np.integer[Any]]


def choose(gain: Numbers, cost: NDArray[np.integer[Any]], budget: int) -> BoolArray:
    """Choose candidates of the largest gain per cost until the budget is spent.

    Parameters
    ----------
    gain : ndarray of float, shape (n,)
        Saliency that each candidate retains, not negative. A gain of 0 is never bought.
    cost : ndarray of int, shape (n,)
        Weights, or multiplications, that each candidate costs, not negative.
    budget : int
        What all chosen candidates may cost together.

    Returns
    -------
    ndarray of bool, shape (n,)
        The first candidates by gain per cost, equals in their order, until one does not fit;
        then those of the rest that still do. At most one candidate's gain below the optimum.

    Examples
    --------
    >>> choose(np.array([6.0, 5.0, 0.0, 1.0]), np.array([2, 4, 1, 1]), 3)
    array([ True, False, False,  True])
    """
    order, _ = by_gain_per_cost(gain, cost)
    chosen = np.zeros(len(gain), np.bool_)
    room = budget
    while True:
        order = order[cost[order] <= room]
        used = np.cumsum(cost[order], dtype=np.int64)
        fitting = int(np.searchsorted(used, room, side="right"))
        if fitting == 0:
            return chosen
        chosen[order[:fitting]] = True
        room -= int(used[fitting - 1])
        order = order[fitting:]


def price(gain: Numbers, cost: NDArray[np.integer[Any]], budget: int) -> float:
    """Return the gain per cost at which the budget is spent: the Lagrange multiplier.

    Candidates above it are bought, candidates below it are not. 0 where everything fits.
    """
    order, worth = by_gain_per_cost(gain, cost)
    used = np.cumsum(cost[order], dtype=np.int64)
    last = int(np.searchsorted(used, budget, side="right"))
    return float(worth[last]) if last < len(order) else 0.0


def by_gain_per_cost(
    gain: Numbers, cost: NDArray[np.integer[Any]]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the candidates that gain at all, best first, and their gain / cost.

    What costs nothing comes first, equals in their order.
    """
    some = np.flatnonzero(gain > 0)
    worth = np.full(len(some), np.inf)
    np.divide(gain[some], cost[some], out=worth, where=cost[some] > 0)
    order = np.argsort(-worth, kind="stable")
    return some[order], worth[order]
