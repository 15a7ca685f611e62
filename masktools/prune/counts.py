"""How many weights each layer keeps, so that the whole network keeps one number exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.checks import BoolArray, check_share
from masktools.errors import MaskError
from masktools.shares import erk, in_proportion, rounded

ACROSS = ("global", "uniform", "erk", "lamp")

Scores = NDArray[np.floating[Any]]


def number_kept(density: float | None, total: int) -> int:
    """Return how many of all weights to prune a density keeps, at least one.

    Parameters
    ----------
    density : float
        Above 0, at most 1.
    total : int
        The weights of all layers to prune.

    Raises
    ------
    TypeError, MaskError
        If the density is no number from 0 to 1, or keeps nothing.

    Examples
    --------
    >>> number_kept(0.3, 5)
    2
    """
    check_share("density", density)
    count = min(math.floor(float(density or 0) * total + 0.5), total)
    if count == 0:
        least = f"give at least {1 / total:.2g}" if total else "they are empty"
        raise MaskError(
            f"density {density} keeps none of the {total} weights in the layers to prune: {least}"
        )
    return count


def counts(
    scores: Sequence[Scores], shapes: Sequence[tuple[int, ...]], count: int, across: str
) -> list[int]:
    """Return how many weights each layer keeps of those that the network keeps.

    Parameters
    ----------
    scores : sequence of ndarray of float, each of shape (n,)
        Per layer; not negative, finite.
    shapes : sequence of tuple of int
        The weights' own shapes.
    count : int
        What all layers keep together: at most all of their weights.
    across : {"global", "uniform", "erk", "lamp"}
        See `masktools.prune.magnitude`.

    Returns
    -------
    list of int
        Their sum is `count`.

    Examples
    --------
    >>> scores = [np.array([9.0, 8, 7, 6]), np.array([5.0, 1, 1, 1])]
    >>> shapes = [(2, 2), (4, 1)]
    >>> [counts(scores, shapes, 4, across) for across in ACROSS]
    [[4, 0], [2, 2], [2, 2], [3, 1]]
    """
    if across in ("global", "lamp"):
        ranked = [_lamp(one) for one in scores] if across == "lamp" else scores
        kept = largest(np.concatenate(ranked), count)
        ends = np.cumsum([len(one) for one in ranked])
        return [int(np.count_nonzero(part)) for part in np.split(kept, ends[:-1])]
    sizes = [prod(shape) for shape in shapes]
    densities = [erk(shape) if across == "erk" else 1 for shape in shapes]
    parts = [density * size for density, size in zip(densities, sizes, strict=True)]
    return rounded(in_proportion(parts, sizes, count))


def largest(scores: Scores, count: int) -> BoolArray:
    """Mark the largest scores, a given number of them; of equals those that come first.

    Parameters
    ----------
    scores : ndarray of float, shape (n,)
        Finite. Not changed.
    count : int
        From 0 to n.

    Examples
    --------
    >>> largest(np.array([1.0, 2.0, 1.0, 1.0]), 3)
    array([ True,  True,  True, False])
    """
    if count == 0:
        return np.zeros(len(scores), np.bool_)
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    keep: BoolArray = scores > least
    tied = np.flatnonzero(scores == least)
    keep[tied[: count - np.count_nonzero(keep)]] = True
    return keep


def _lamp(scores: Scores) -> NDArray[np.float64]:
    """Return the LAMP scores of a layer, largest first.

    Of a weight w: w² / (the sum of v² over w and all larger v), equals in their order. They fall
    with the weights, so that a layer's largest weights are those of its largest scores; and the
    first is 1 in every layer that is not all zero.
    """
    ordered = np.sort(scores.astype(np.float64))[::-1]
    if not ordered.any():
        return ordered
    squares = (ordered / ordered[0]) ** 2  # of shares: no square overflows
    lamp: NDArray[np.float64] = squares / np.cumsum(squares)
    return lamp
