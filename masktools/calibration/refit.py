"""Choose the columns of each layer's blocks and fit its values, layer after layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.calibration.affine import Place
from masktools.calibration.choice import choose_columns
from masktools.calibration.least_squares import Fit, best_bias, error, fits, restored
from masktools.calibration.linear import one_thread
from masktools.calibration.moments import Observed, observed
from masktools.calibration.patches import by_position, groups_of, position_count, windows
from masktools.calibration.samples import Samples
from masktools.calibration.walk import Run, Step, side_by_side
from masktools.checks import BoolArray
from masktools.layout import BlockLayout
from masktools.network.graph import Graph

Array = NDArray[Any]

# How strongly values are held to what they were: the one that is best on the samples held back.
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
# As strongly, while columns are chosen.
CHOICE_RIDGE = 1e-1


@dataclass(frozen=True)
class Fitted:
    """The fit of one layer, for the report.

    Parameters
    ----------
    columns : int
        The most that a row stores.
    positions : int
        That its values were fitted on.
    ridge : float
        Infinite where no fit was better, on the samples held back, than the values as they were.
    condition : float
    fallbacks : int
        As in `Fit`.
    varies : bool
        Whether the outputs that are wanted vary at all, and the inputs that there are.
    layout : BlockLayout or None
        With the columns that were chosen; None where they are the old ones.
    """

    columns: int
    positions: int
    ridge: float
    condition: float
    fallbacks: int
    varies: bool = True
    layout: BlockLayout | None = None


def refit(
    graph: Graph,
    start: Mapping[str, Array],
    places: Mapping[str, Place],
    kept: Mapping[str, BoolArray],
    layouts: Mapping[str, BlockLayout],
    before: Mapping[str, float],
    samples: Samples,
    run: Run,
    step: Step,
) -> tuple[dict[str, Array], dict[str, Fitted]]:
    """Fit the values of layers, one after the other, to what the source network's layers make.

    Parameters
    ----------
    graph : Graph
        The source.
    start : mapping of str to ndarray
        The constants of the converted network. Not changed.
    places : mapping of str to Place
        Of the layers to fit, in the order of execution.
    kept : mapping of str to ndarray of bool
        What these layers store.
    layouts : mapping of str to BlockLayout
        Of the layers whose blocks may store other columns, as many as now.
    before : mapping of str to float
        The error of these layers in the converted network, on the samples held back.
    samples : Samples
    run : callable
        See `Walk`.
    step : callable
        Called with each layer's name once it is done.

    Returns
    -------
    dict of str to ndarray
        All constants of the fitted network.
    dict of str to Fitted
    """
    constants, done = dict(start), {}
    for layer, place, source, network in side_by_side(
        graph, start, places, samples, samples.pieces, run
    ):
        pairs = zip(network.values(place.node.inputs[0]), source.values(place.output), strict=True)
        fitted, held = _observe(place, graph.constants[place.weight].shape, pairs, samples)
        with one_thread():
            changed, done[layer] = _refit(
                place,
                network.constants,
                graph.constants,
                kept[layer],
                layouts.get(layer),
                before[layer],
                fitted,
                held,
            )
        network.constants.update(changed)
        constants = network.constants
        step(layer)
    return constants, done


def _observe(
    place: Place,
    shape: tuple[int, ...],
    pairs: Iterator[tuple[Array, Array]],
    samples: Samples,
) -> tuple[Observed, Observed]:
    """Return the inputs and wanted outputs of a layer: to fit on, and those held back."""
    groups = groups_of(place.node)
    seen: list[Observed] = []
    for pieces in (samples.fitted, samples.held):
        part: Observed | None = None
        for _, (x, y) in zip(pieces, pairs, strict=False):
            wanted = by_position(y, place.node)
            if part is None:
                share = sum(map(len, pieces)) / len(pieces[0])
                positions = int(position_count(y, place.node) * share)
                part = observed(groups, prod(shape[1:]), shape[0], positions)
            for which, matrix in windows(x, place.node, shape[2:]):
                lines = wanted[which]
                grouped = lines.reshape(len(lines), groups, -1, lines.shape[2])
                rows = grouped.transpose(1, 0, 3, 2).reshape(groups, matrix.shape[1], -1)
                part.add(matrix, rows)
        assert part is not None
        seen.append(part)
    return seen[0], seen[1]


def _refit(
    place: Place,
    constants: Mapping[str, Array],
    source: Mapping[str, Array],
    kept: BoolArray,
    layout: BlockLayout | None,
    before: float,
    fitted: Observed,
    held: Observed,
) -> tuple[dict[str, Array], Fitted]:
    """Return the constants that miss least on the samples held back, and how they were found."""
    keep = kept.reshape(len(kept), -1)
    wanted = source[place.weight].reshape(keep.shape).astype(np.float64)
    bias, gain = place.bias(constants), place.gain(source)
    columns = int(keep.sum(axis=1).max(initial=0))
    inputs_vary = any(fitted.variance_x(group) > 0 for group in range(groups_of(place.node)))
    if not (inputs_vary and fitted.variance_y.any()):
        # Nothing to fit the values to, but the mean is known.
        shift = best_bias(fitted, wanted * keep) - bias
        return place.shifted(constants, shift), Fitted(
            columns, fitted.count, np.inf, 1.0, 0, varies=False
        )
    candidates = [
        Fit(wanted * keep, bias, np.inf),
        Fit(wanted * keep, best_bias(fitted, wanted * keep), np.inf),
    ]

    def missed(fit: Fit) -> float:
        return error(held, fit.weight, fit.bias, gain)

    if layout is not None:
        moved = choose_columns(fitted, wanted, gain, layout, CHOICE_RIDGE)
        other = moved.to_mask().reshape(keep.shape)
        ways = [fits(fitted, wanted * one, one, [CHOICE_RIDGE])[0] for one in (keep, other)]
        layout, keep = (None, keep) if missed(ways[0]) <= missed(ways[1]) else (moved, other)
    candidates += fits(fitted, wanted * keep, keep, RIDGES)
    best = min(candidates, key=missed)
    layout = layout if np.isfinite(best.ridge) else None
    if np.isfinite(best.ridge):
        scaled = restored(fitted, best)
        # Where little is explained, rows of full variance would miss more than before the fit.
        best = scaled if missed(scaled) < before else best
    changed = place.shifted(constants, best.bias - bias)
    changed[place.weight] = best.weight.reshape(kept.shape).astype(np.float32)
    return changed, Fitted(
        columns, fitted.count, best.ridge, best.condition, best.fallbacks, layout=layout
    )
