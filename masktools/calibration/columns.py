"""How large the columns of layers are on a network's inputs: what saliencies are made of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from math import prod

import numpy as np
from numpy.typing import ArrayLike

from masktools.calibration.linear import Float64
from masktools.calibration.moments import FloatArray, observed
from masktools.calibration.patches import windows
from masktools.calibration.samples import Samples, samples, sized
from masktools.calibration.walk import Run, Walk
from masktools.errors import CalibrationError, MaskError
from masktools.network.graph import Graph, Node
from masktools.network.layers import Layer, layers

# Added to the variance of each column, relative to the mean over all columns: a few samples tell no
# more. Of 0.001, 0.01 and 0.1 the last left the smallest error on a ticket for digits, 240 images.
RIDGE = 1e-1


def column_norms(
    graph: Graph,
    names: Collection[str],
    saliency: str,
    inputs: Mapping[str, ArrayLike] | ArrayLike,
    run: Run,
    step: Callable[[str], None] = lambda _: None,
) -> dict[str, Float64]:
    """Run a network on some inputs, and return the norms of the columns that layers read.

    Parameters
    ----------
    graph : Graph
        In the normal form. Not changed.
    names : collection of str
        The layers.
    saliency : {"input", "error"}
        What the norms are for: see `masktools.transform.saliency.weigh`.
    inputs : array_like, or mapping of str to array_like
        As `masktools.calibration.samples.samples` takes them. Those that it holds back from a fit
        are not looked at.
    run : callable
        Makes a network ready to run, as `runtime.prepare` does.
    step : callable
        Called with each layer's name once it is done.

    Returns
    -------
    dict of str to ndarray of float64
        By layer, shape (groups, columns): of each column the square root of its mean square, for
        ``"input"``; of the part of its variance that the other columns of its convolution group
        cannot make up for, for ``"error"``.

    Raises
    ------
    TypeError, GraphError
        As `samples` and the run.
    MaskError
        If the graph has no such layer.
    CalibrationError
        If the inputs do not fit, or a layer reads nothing that would tell its columns apart.

    Notes
    -----
    One layer is in memory at a time: float64 (groups, columns, columns) for ``"error"``, or its
    windows where there are fewer positions than columns.
    """
    graph = sized(graph, inputs)
    known = layers(graph)
    for name in names:
        if name not in known:
            raise MaskError(f"the network has no layer {name!r}; it has {', '.join(known)}")
    given = samples(graph, inputs)
    owners = {node: known[name] for name in names for node in known[name].nodes}
    found: dict[str, _Squares | _Products] = {}
    norms = {}
    with Walk(graph, given, given.fitted, run) as walk:
        for at, node in enumerate(graph.nodes):
            layer = owners.pop(node.name, None)
            if layer is None:
                continue
            walk.advance(at)
            for matrix, positions in _windows(walk, node, layer, given):
                if layer.name not in found:
                    kind = _Squares if saliency == "input" else _Products
                    found[layer.name] = kind(layer, positions * len(layer.nodes))
                found[layer.name].add(matrix)
            if layer not in owners.values():
                norms[layer.name] = _checked(layer, found.pop(layer.name).norms())
                step(layer.name)
    return {name: norms[name] for name in names}


class _Squares:
    """The mean square of each column."""

    def __init__(self, layer: Layer, _: int) -> None:
        self._sums = np.zeros((layer.groups, prod(layer.shape[1:])))
        self._count = 0

    def add(self, x: FloatArray) -> None:
        self._sums += np.square(x, dtype=np.float64).sum(axis=1)
        self._count += x.shape[1]

    def norms(self) -> Float64:
        return np.sqrt(self._sums / self._count)


class _Products:
    """The part of each column's variance that the others cannot make up for."""

    def __init__(self, layer: Layer, positions: int) -> None:
        self._groups = layer.groups
        self._seen = observed(layer.groups, prod(layer.shape[1:]), 0, positions)

    def add(self, x: FloatArray) -> None:
        self._seen.add(x, np.zeros((*x.shape[:2], 0), x.dtype))

    def norms(self) -> Float64:
        return np.stack([self._of_group(group) for group in range(self._groups)])

    def _of_group(self, group: int) -> Float64:
        variance = self._seen.variance_x(group)
        if not variance:
            return np.zeros(self._seen.mean_x.shape[1])
        return np.sqrt(self._seen.unexplained(group, RIDGE * variance))


def _windows(
    walk: Walk, node: Node, layer: Layer, given: Samples
) -> Iterator[tuple[FloatArray, int]]:
    """Yield the windows that a node reads, and how many positions there are in all."""
    total = sum(map(len, given.fitted))
    for x in walk.values(node.inputs[0]):
        for part, matrix in windows(x, node, layer.shape[2:]):
            yield matrix, matrix.shape[1] * total // len(x[part])


def _checked(layer: Layer, norms: Float64) -> Float64:
    if not norms.any():
        raise CalibrationError(
            f"layer {layer.name!r}: what it reads is the same for all samples, so that its weights "
            "cannot be told apart; skip it, give other samples, or take magnitudes"
        )
    return norms
