"""Row groups by balanced k-means on the rows' leading singular vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from masktools.checks import FloatArray, IndexArray

_RANK = 32
_STEPS = 10


def spectral_groups(saliency: FloatArray, heights: NDArray[np.int64], seed: int = 0) -> IndexArray:
    """Return row groups whose rows point the same way.

    Parameters
    ----------
    saliency : ndarray of float, shape (rows, columns)
        Not negative, 0 where pruned. Not changed.
    heights : ndarray of int64, shape (k,)
        Rows of each group, or the most of them, as in `partition`.
    seed : int, default 0
        Of the random subspace and of the first centres.

    Returns
    -------
    ndarray of int32, shape (rows,)
        Label `g` occurs ``heights[g]`` times, or at most so often.

    Notes
    -----
    Rows are scaled to unit length, so that which columns count, not how much. O(rows x columns)
    for the singular vectors, O(rows x k) a step of k-means.
    """
    random = np.random.default_rng(seed)
    points = _embed(saliency, random)
    centres = points[_spread(points, len(heights), random)]
    labels = assign(points @ centres.T, heights)
    for _ in range(_STEPS):
        centres = np.zeros_like(centres)
        np.add.at(centres, labels, points)
        centres /= np.maximum(np.bincount(labels, minlength=len(heights)), 1)[:, None]
        nearer = points @ centres.T - (centres**2).sum(axis=1) / 2
        changed = assign(nearer, heights)
        if np.array_equal(changed, labels):
            break
        labels = changed
    return labels


def assign(gain: FloatArray, heights: NDArray[np.int64]) -> IndexArray:
    """Give each row to a group of fixed height so that the gains' sum is large.

    Parameters
    ----------
    gain : ndarray of float, shape (rows, k)
        What a row gains in each group. Not changed.
    heights : ndarray of int64, shape (k,)
        The most rows that each group takes; their sum is at least the number of rows.

    Returns
    -------
    ndarray of int32, shape (rows,)
        The group of each row. Rows choose in rounds: where more want a group than it has room
        for, those go first that would lose most by their second choice.

    Notes
    -----
    A linear assignment problem, solved greedily: exact methods cost O(rows³).

    Examples
    --------
    >>> assign(np.array([[3.0, 0.0], [2.0, 1.9], [1.0, 0.5]]), np.array([2, 1]))
    array([0, 1, 0], dtype=int32)
    """
    rows = np.arange(len(gain))
    labels = np.zeros(len(gain), np.int32)
    room = heights.copy()
    while rows.size:
        wish = np.where(room > 0, gain[rows], -np.inf)
        best = wish.argmax(axis=1)
        top = wish[np.arange(len(rows)), best]
        wish[np.arange(len(rows)), best] = -np.inf
        regret = top - wish.max(axis=1, initial=-np.inf)
        order = np.lexsort((-regret, best))
        first = np.searchsorted(best[order], np.arange(len(room)))
        place = np.empty_like(order)
        place[order] = np.arange(len(order)) - first[best[order]]
        served = place < room[best]
        labels[rows[served]] = best[served]
        room -= np.bincount(best[served], minlength=len(room))
        rows = rows[~served]
    return labels


def _spread(points: FloatArray, k: int, random: np.random.Generator) -> list[int]:
    """Return rows to start from, each likely to be far from those before (k-means++)."""
    chosen = [int(random.integers(len(points)))]
    distance = np.full(len(points), np.inf)
    while len(chosen) < k:
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
        total = distance.sum()
        chance = distance / total if total > 0 else None
        chosen.append(int(random.choice(len(points), p=chance)))
    return chosen


def _embed(saliency: FloatArray, random: np.random.Generator) -> NDArray[np.float32]:
    """Return the rows' coordinates in about their 32 leading right singular directions.

    A randomised range finder (Halko, Martinsson, Tropp 2011) with two power iterations: rows and
    columns in the thousands cost a few matrix products.
    """
    length = np.sqrt(np.einsum("ij,ij->i", saliency, saliency))
    unit = saliency / np.maximum(length, np.finfo(np.float32).tiny)[:, None]
    rank = min(_RANK, *unit.shape)
    basis = random.standard_normal((unit.shape[1], rank), dtype=np.float32)
    for _ in range(3):
        basis = np.linalg.qr(unit.T @ (unit @ basis))[0]
    points: NDArray[np.float32] = unit @ basis
    return points
