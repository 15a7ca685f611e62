"""Calibrate a whole network: fit its layers, or match their means and variances."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from masktools.calibration.affine import Place, places
from masktools.calibration.choice import MOST, choosable, multiplications
from masktools.calibration.measure import Distance, distances
from masktools.calibration.refit import Fitted, refit
from masktools.calibration.report import Calibration, CalibrationReport, LayerCalibration
from masktools.calibration.samples import Samples, samples, sized
from masktools.calibration.scope import Scope, scope
from masktools.calibration.statistics import match_statistics
from masktools.calibration.walk import Run, Step
from masktools.checks import BoolArray, as_array
from masktools.errors import CalibrationError, MaskError
from masktools.layout import BlockLayout
from masktools.network.graph import Graph
from masktools.network.layers import layers

Array = NDArray[Any]
# Takes the number of steps, and gives what to call with a layer's name after each.
Progress = Callable[[int], AbstractContextManager[Step]]

METHODS = ("refit", "values", "statistics")


def calibrate_graph(
    graph: Graph,
    layouts: Mapping[str, BlockLayout],
    inputs: Mapping[str, ArrayLike] | ArrayLike,
    run: Run,
    *,
    labels: ArrayLike | None = None,
    method: str = "refit",
    residual: str = "drop",
    skip: Iterable[str] = (),
    progress: Progress | None = None,
) -> Calibration:
    """Fit a converted network to its source.

    Parameters
    ----------
    graph : Graph
        The source network in the normal form. Not changed.
    layouts : mapping of str to BlockLayout
        What is stored of the layers that were converted.
    inputs, run, labels, method, residual, skip
        See `masktools.calibrate`.
    progress : callable, default None
        What to show; None shows nothing.

    Returns
    -------
    Calibration

    Raises
    ------
    TypeError, CalibrationError, MaskError, GraphError
        See `masktools.calibrate`.
    """
    check_method(method)
    graph = sized(graph, inputs)
    known = layers(graph)
    chosen = scope(graph, known, layouts, residual, skip, dense=method != "statistics")
    kept = chosen.fitted
    given = samples(graph, inputs)
    classes = None if labels is None else _held_labels(labels, given)
    source_constants = graph.constants
    graph, found = places(graph, known)
    as_is = dict(graph.constants)
    for name, mask in chosen.stored.items():
        as_is[known[name].weight] = graph.constants[known[name].weight] * mask
    wanted = {name: place for name, place in found.items() if name in kept}
    if not wanted:
        raise MaskError("there is no layer to calibrate")
    moving = method == "refit" and residual == "drop"
    free = {n: one for n, one in layouts.items() if moving and n in wanted and choosable(one)}
    fitted: dict[str, Fitted] = {}
    steps = (
        wanted
        if method != "statistics"
        else {n: p for n, p in found.items() if n in wanted or p.norm is not None}
    )
    source, before = distances(graph, [as_is], wanted.values(), given, run)
    errors = {name: before.errors[place.output] for name, place in wanted.items()}
    with (progress or _silent)(len(steps)) as step:
        if method != "statistics":
            cheap = {n: one for n, one in free.items() if multiplications(one) <= MOST}
            values, fitted = refit(graph, as_is, wanted, kept, cheap, errors, given, run, step)
        else:
            values = match_statistics(graph, as_is, steps, given, run, step)
    moved = {name: one.layout for name, one in fitted.items() if one.layout is not None}
    _, after = distances(graph, [values], wanted.values(), given, run)
    ends = [value.name for value in graph.outputs]
    fit_on, held_back = given.counts
    report = CalibrationReport(
        method=method,
        samples=fit_on,
        held_back=held_back,
        error_before=_error(before, ends),
        error_after=_error(after, ends),
        agreement_before=_share(before.classes, source.classes),
        agreement_after=_share(after.classes, source.classes),
        accuracy_source=_share(source.classes, classes),
        accuracy_before=_share(before.classes, classes),
        accuracy_after=_share(after.classes, classes),
        layers=tuple(
            _row(p, kept[n], fitted.get(n), _replaced(moved.get(n), kept[n]), before, after)
            for n, p in wanted.items()
        ),
        notes=tuple(_notes(chosen, wanted, free, fitted, given)),
    )
    weights = {layer.weight for layer in known.values()}
    return Calibration(
        {n: a for n, a in values.items() if n in weights or _differs(a, source_constants.get(n))},
        report,
        moved,
    )


def check_method(method: str) -> None:
    """Raise `CalibrationError` unless there is such a method."""
    if method not in METHODS:
        raise CalibrationError(f"method must be one of {', '.join(METHODS)}, got {method!r}")


@contextmanager
def _silent(_: int) -> Iterator[Step]:
    yield lambda _: None


def _held_labels(labels: ArrayLike, given: Samples) -> NDArray[Any]:
    """Return the labels of the samples that are held back."""
    total = len(next(iter(given.inputs.values())))
    array = as_array(labels, "labels")
    if array.dtype.kind not in "iu":
        raise TypeError(f"labels must be whole numbers, got {array.dtype}")
    if array.shape != (total,):
        raise CalibrationError(f"expected a label for each of {total} samples, got {array.shape}")
    return np.asarray(array[np.concatenate(given.held)])


def _error(distance: Distance, ends: list[str]) -> float | None:
    """Return the mean error of the outputs; None where an output of the source does not vary."""
    return _finite(float(np.mean([distance.errors[name] for name in ends])))


def _finite(error: float) -> float | None:
    return error if np.isfinite(error) else None


def _share(found: NDArray[Any] | None, expected: NDArray[Any] | None) -> float | None:
    if found is None or expected is None:
        return None
    return float((found == expected).mean())


def _replaced(layout: BlockLayout | None, kept: BoolArray) -> int:
    """Return how many columns of a layout's blocks were not stored before."""
    if layout is None:
        return 0
    before = kept.reshape(len(kept), -1)
    return sum(int((~before[b.rows[0], b.columns]).sum()) for b in layout.blocks)


def _row(
    place: Place, mask: BoolArray, fitted: Fitted | None, replaced: int, *distances: Distance
) -> LayerCalibration:
    before, after = (_finite(one.errors[place.output]) for one in distances)
    refitted = fitted is not None and np.isfinite(fitted.ridge)
    return LayerCalibration(
        layer=place.layer,
        columns=int(mask.reshape(len(mask), -1).sum(axis=1).max(initial=0)),
        replaced=replaced,
        positions=0 if fitted is None else fitted.positions,
        ridge=fitted.ridge if fitted and refitted else None,
        condition=_finite(fitted.condition) if fitted and refitted else None,
        error_before=before,
        error_after=after,
    )


def _notes(
    chosen: Scope,
    wanted: Mapping[str, Place],
    free: Mapping[str, BlockLayout],
    fitted: Mapping[str, Fitted],
    given: Samples,
) -> Iterator[str]:
    total = len(next(iter(given.inputs.values())))
    if sum(given.counts) < total:
        yield f"{total - sum(given.counts)} samples in excess of whole batches were left out"
    for name in chosen.large:
        yield f"layer {name!r}: it stayed dense, and is too large to be fitted along"
    for name in chosen.fitted:
        if name not in wanted:
            yield f"layer {name!r}: several nodes read its weight or bias, so it was left as it is"
    for name, layout in free.items():
        if multiplications(layout) > MOST:
            yield f"layer {name!r}: its columns stayed, there are too many to choose among"
    if any(one.layout is not None for one in fitted.values()):
        yield "columns were chosen anew; what a conversion retains was reported before"
    for name, one in fitted.items():
        if not one.varies:
            yield (
                f"layer {name!r}: its input, or the output that it should make, is the same for "
                "all samples; its values were left as they are"
            )
        elif one.positions < one.columns:
            enough = -(-one.columns * total // one.positions)
            yield (
                f"layer {name!r}: {one.positions} positions for {one.columns} columns; "
                f"{enough} samples would do"
            )
        if one.fallbacks:
            yield f"layer {name!r}: {one.fallbacks} systems are singular; solved by eigenvalues"


def _differs(array: Array, before: Array | None) -> bool:
    return bool(array.any()) if before is None else not np.array_equal(array, before)
