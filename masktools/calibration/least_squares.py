"""Stored values fitted by least squares, so that a layer makes the outputs that it should."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from masktools.calibration.linear import Float64, Solution, in_threads
from masktools.calibration.moments import Observed, Rows, patterns
from masktools.checks import BoolArray

# Of a row's variance: less of it explained is chance, and not to be scaled up.
NEGLIGIBLE = 1e-4


@dataclass(frozen=True, eq=False)
class Fit:
    """The values of a layer after a fit.

    Parameters
    ----------
    weight : ndarray of float64, shape (rows, columns)
        Zero where nothing is stored.
    bias : ndarray of float64, shape (rows,)
    ridge : float
        The weight of the distance to the old values, relative to the columns' mean variance;
        infinite where the values are the old ones.
    condition : float
        Of the worst system that was solved, estimated in the 1-norm.
    fallbacks : int
        Systems that Cholesky could not factor, and that were solved by their eigenvalues.
    """

    weight: Float64
    bias: Float64
    ridge: float
    condition: float = 1.0
    fallbacks: int = 0


def fits(seen: Observed, start: Float64, kept: BoolArray, ridges: Sequence[float]) -> list[Fit]:
    """Return, for each ridge, the stored values that come closest to the outputs wanted.

    For every row, ``mean |y - w x - b|^2 + ridge v |w - start|^2`` is least, over the columns that
    the row stores; `v` is the mean variance of the columns of its convolution group. The bias is
    free. Rows that store the same columns share one factorization.

    Parameters
    ----------
    seen : Observed
    start : ndarray of float64, shape (rows, columns)
        The values as they are. Not changed.
    kept : ndarray of bool, shape (rows, columns)
        What is stored. It does not matter whether a block stores it, one of several, or the
        residual.
    ridges : sequence of float
        Each at least 0.

    Returns
    -------
    list of Fit
        One for each ridge, in their order.

    Notes
    -----
    The error on the inputs that were seen never rises: it is at most that of `start`, with the
    best bias, for any ridge.
    """
    groups = len(seen.mean_x)
    height = len(start) // groups
    weights = [np.zeros_like(start) for _ in ridges]
    conditions, fallbacks = [1.0] * len(ridges), [0] * len(ridges)
    for group in range(groups):
        part = slice(group * height, (group + 1) * height)
        variance = seen.variance_x(group)
        if not variance:
            for weight in weights:
                weight[part] = start[part] * kept[part]
            continue
        dampings = [ridge * variance for ridge in ridges]
        together = list(patterns(kept[part]))
        solve = partial(_solve, seen, group, start[part], dampings)
        for (rows, columns), solutions in zip(together, in_threads(solve, together), strict=True):
            for i, found in enumerate(solutions):
                weights[i][part][np.ix_(rows, columns)] = found.values.T
                conditions[i] = max(conditions[i], found.condition)
                fallbacks[i] += found.fallback
    return [
        Fit(weight, best_bias(seen, weight), ridge, condition, failed)
        for weight, ridge, condition, failed in zip(
            weights, ridges, conditions, fallbacks, strict=True
        )
    ]


def _solve(
    seen: Observed, group: int, start: Float64, dampings: list[float], pattern: tuple[Rows, Rows]
) -> list[Solution]:
    rows, columns = pattern
    return seen.solve(group, rows, columns, start[np.ix_(rows, columns)], dampings)


def restored(seen: Observed, fit: Fit) -> Fit:
    """Return a fit each row of which has the variance that is wanted.

    Least squares explain a part of what is wanted and leave the rest out, so that outputs vary too
    little, from layer to layer less. Rows scaled up miss more each, but the layers after them get
    inputs of the size that they were made for.

    Parameters
    ----------
    seen : Observed
    fit : Fit
    """
    grouped = fit.weight.reshape(len(seen.mean_x), -1, fit.weight.shape[1])
    scales = []
    for group, (part, want) in enumerate(zip(grouped, seen.variance_y, strict=True)):
        have = seen.spread(group, part)
        alive = (have > NEGLIGIBLE * want) & (want > 0)
        scales.append(np.sqrt(np.divide(want, have, out=np.ones_like(want), where=alive)))
    weight = fit.weight * np.concatenate(scales)[:, None]
    return replace(fit, weight=weight, bias=best_bias(seen, weight))


def best_bias(seen: Observed, weight: Float64) -> Float64:
    """Return the bias of each row with which its outputs have the mean that is wanted."""
    means, wanted = seen.mean_x, seen.mean_y
    grouped = weight.reshape(len(means), -1, weight.shape[1])
    return np.asarray((wanted - np.einsum("grc,gc->gr", grouped, means)).ravel())


def error(seen: Observed, weight: Float64, bias: Float64, gain: Float64 | float = 1.0) -> float:
    """Return the mean square error of a layer, over the variance of its wanted outputs.

    Parameters
    ----------
    seen : Observed
    weight : ndarray of float64, shape (rows, columns)
    bias : ndarray of float64, shape (rows,)
    gain : ndarray of float64, shape (rows,), default 1
        What the outputs of each row are multiplied with before they count.

    Returns
    -------
    float
        0 where the wanted outputs do not vary.
    """
    squares = np.broadcast_to(np.square(gain), bias.shape)
    variance = float(seen.variance_y.ravel() @ squares)
    if not variance:
        return 0.0
    parts = np.split(weight, len(seen.mean_x))
    missed = np.concatenate([seen.missed(group, part) for group, part in enumerate(parts)])
    off = bias - best_bias(seen, weight)
    return float((missed + np.square(off)) @ squares) / variance
