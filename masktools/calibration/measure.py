"""How far a network is from its source, on samples that nothing was fitted on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.calibration.affine import Place
from masktools.calibration.linear import Float64
from masktools.calibration.samples import Samples
from masktools.calibration.walk import Run, named, tapped
from masktools.checkpoint import Checkpoint
from masktools.network.graph import Graph

Array = NDArray[Any]

# Samples whose values are all in memory at once, where the batch is open.
AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class Distance:
    """How far a network is from its source.

    Parameters
    ----------
    errors : dict of str to float
        By value, a layer's as the normalisation after it reads it: the mean square of the
        difference over the variance by row of the source's; infinite where only the source's does
        not vary, 0 where both agree.
    classes : ndarray of int, shape (samples,), or None
        The class of the largest output; None where the network makes no classes.
    """

    errors: Mapping[str, float]
    classes: NDArray[np.intp] | None


def distances(
    graph: Graph,
    networks: Sequence[Mapping[str, Array]],
    places: Collection[Place],
    samples: Samples,
    run: Run,
) -> list[Distance]:
    """Compare networks with their source on the samples that are held back.

    Parameters
    ----------
    graph : Graph
        The source, with its constants.
    networks : sequence of mapping of str to ndarray
        The constants of each network.
    places : collection of Place
        The layers to compare besides the network's outputs.
    samples : Samples
    run : callable
        See `Walk`.

    Returns
    -------
    list of Distance
        Of the source to itself, and of each network.
    """
    outputs = [value.name for value in graph.outputs]
    axes = dict.fromkeys(outputs, 1) | {place.output: place.axis for place in places}
    wanted = list(axes)
    tap = tapped(graph, wanted)
    every = [graph.constants, *networks]
    ready = [run(Checkpoint(replace(tap, constants=dict(constants)))) for constants in every]
    tables = [{name: _Sums(axis) for name, axis in axes.items()} for _ in ready]
    classes: list[list[Array]] = [[] for _ in ready]
    for piece in samples.held_at_once(AT_ONCE):
        inputs = samples.read(piece)
        expected: dict[str, Array] = {}
        for number, network in enumerate(ready):
            found = named(network(inputs), wanted)
            for place in places:
                made = place.read_as(found[place.output], every[number], graph.constants)
                found[place.output] = made
            expected = expected or found
            for name in wanted:
                tables[number][name].add(found[name], expected[name])
            classes[number].append(found[outputs[0]])
    voting = len(outputs) == 1 and all(y.ndim == 2 and y.shape[1] > 1 for y in classes[0])
    return [
        Distance(
            {name: sums.error for name, sums in table.items()},
            np.concatenate(made).argmax(axis=1) if voting else None,
        )
        for table, made in zip(tables, classes, strict=True)
    ]


class _Sums:
    """The squares of a value's differences, and what its variance by row needs."""

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._wrong, self._count = 0.0, 0
        self._shift: Float64 | None = None
        self._first = self._second = np.zeros(())

    def add(self, found: Array, expected: Array) -> None:
        self._wrong += float(np.square(found - expected, dtype=np.float64).sum())
        # A value of one axis has one row.
        rows = self._axis % expected.ndim if expected.ndim > 1 else 1
        axes = tuple(axis for axis in range(expected.ndim) if axis != rows)
        if self._shift is None:
            self._shift = expected.mean(axis=axes, keepdims=True, dtype=np.float64)
        off = expected - self._shift
        self._first = self._first + off.sum(axis=axes)
        self._second = self._second + np.square(off).sum(axis=axes)
        self._count += off.size // max(self._first.size, 1)

    @property
    def error(self) -> float:
        varied = self._second - np.square(self._first) / self._count
        total = float(np.maximum(varied, 0).sum())
        if total:
            return self._wrong / total
        return np.inf if self._wrong else 0.0
