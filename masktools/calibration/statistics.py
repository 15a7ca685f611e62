"""Match the means and variances of each layer's outputs to the source's, layer after layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.calibration.affine import Place
from masktools.calibration.linear import Float64
from masktools.calibration.patches import by_position
from masktools.calibration.samples import Samples
from masktools.calibration.walk import Run, Step, side_by_side
from masktools.network.graph import Graph

Array = NDArray[Any]


def match_statistics(
    graph: Graph,
    start: Mapping[str, Array],
    places: Mapping[str, Place],
    samples: Samples,
    run: Run,
    step: Step,
) -> dict[str, Array]:
    """Give each row of layers the mean and variance that it has in the source network.

    Parameters
    ----------
    graph, start, places, samples, run, step
        As `masktools.calibration.refit.refit`; `places` of the layers to match.

    Returns
    -------
    dict of str to ndarray
        All constants of the matched network.
    """
    constants = dict(start)
    for layer, place, source, network in side_by_side(
        graph, start, places, samples, samples.fitted, run
    ):
        want_mean, want = _spread(by_position(y, place.node) for y in source.values(place.output))
        have_mean, have = _spread(by_position(y, place.node) for y in network.outputs(place.node))
        # A row that does not vary has no spread to stretch.
        alive = (have > _least(have_mean)) & (want > _least(want_mean))
        scale = np.sqrt(np.divide(want, have, out=np.ones_like(want), where=alive))
        network.constants.update(place.matched(network.constants, scale, have_mean, want_mean))
        constants = network.constants
        step(layer)
    return constants


def _least(mean: Float64) -> Float64:
    """Return the variance below which a row of float32 counts as constant."""
    return np.square(mean * np.finfo(np.float32).eps)


def _spread(arrays: Iterable[Array]) -> tuple[Float64, Float64]:
    """Return mean and variance by row of arrays (samples, rows, positions)."""
    pieces = iter(arrays)
    first = next(pieces)
    shift = first.mean(axis=(0, 2), keepdims=True, dtype=np.float64)
    count, total, squares = 0, np.zeros(first.shape[1]), np.zeros(first.shape[1])
    for piece in chain([first], pieces):
        off = piece - shift
        count += off.shape[0] * off.shape[2]
        total += off.sum(axis=(0, 2))
        squares += np.square(off).sum(axis=(0, 2))
    mean = total / count
    return shift.ravel() + mean, np.maximum(squares / count - np.square(mean), 0)
