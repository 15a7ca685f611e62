"""Which layers of a network stay dense unless they are asked for, and why."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from masktools.checks import listed
from masktools.errors import MaskError
from masktools.named_layers import NamedLayers
from masktools.names import Known, Shape, match, module_path
from masktools.network.graph import Graph
from masktools.network.layers import PHASES, ROLES, Layer, layers

_IMAGE_CHANNELS = 3

logger = logging.getLogger("masktools.roles")


def dense_because(
    shapes: Mapping[str, Shape], known: Mapping[str, Layer] | None, named: NamedLayers
) -> dict[str, str]:
    """Say of each layer why it stays dense: its role in the network, or that it is skipped.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Of the weights, in the order of the file that they come from.
    known : mapping of str to Layer, or None
        The layers of the network's graph, which tell the first layer, the classifier and depthwise
        convolutions; at least those in `shapes`.
    named : NamedLayers

    Returns
    -------
    dict of str to str
        By layer; empty where nothing speaks for leaving it dense.

    Raises
    ------
    MaskError
        If `named` has a layer that is not in `shapes`.

    Notes
    -----
    Without a graph, a convolution that reads at most three channels is taken for the first layer
    or a depthwise convolution, and the last two-dimensional weight for the classifier.

    Examples
    --------
    >>> shapes = {"conv": (16, 8, 3, 3), "fc": (10, 16)}
    >>> dense_because(shapes, None, NamedLayers())
    {'conv': '', 'fc': 'taken for the classifier: no graph says otherwise'}
    """
    named.check(shapes)
    classifier = next((name for name in reversed(list(shapes)) if len(shapes[name]) == 2), None)
    reasons = {}
    for name, shape in shapes.items():
        if name in named.skip:
            reasons[name] = "named in skip"
        elif name in named.include:
            reasons[name] = ""
        elif known is not None:
            reasons[name] = ROLES.get(known[name].role, "")
        else:
            reasons[name] = _guess(shape, name == classifier)
    return reasons


def _guess(shape: Shape, last_matrix: bool) -> str:
    """Return why a layer stays dense as far as its shape tells."""
    if last_matrix:
        return "taken for the classifier: no graph says otherwise"
    if len(shape) > 2 and shape[1] <= _IMAGE_CHANNELS:
        which = "the first layer" if shape[1] > 1 else "the first layer or depthwise"
        return f"taken for {which}: no graph says otherwise"
    return ""


def layers_under(graph: Graph, shapes: Mapping[str, Shape], what: str) -> dict[str, Layer]:
    """Return the layers of a network under the names that a file has for them.

    Parameters
    ----------
    graph : Graph
    shapes : mapping of str to tuple of int
        What the file has, by its names: masks or weights. They tell the shape of a weight that
        the graph does not hold.
    what : {"masks", "weights"}
        For the log: how names that differ were matched is said there.

    Returns
    -------
    dict of str to Layer
        All layers of the graph; under the graph's own names unless all of `shapes` are matched.
        Transposed convolutions are not matched: see `transposed`.
    """
    sparse = {f"{name}.weight": shape for name, shape in shapes.items()}
    found = layers(graph, {k: v for k, v in sparse.items() if k not in graph.constants})
    phases = transposed(found, shapes)
    known = {name: Known(layer.shape, _paths(layer)) for name, layer in found.items()}
    met = match({name: s for name, s in shapes.items() if name not in phases}, known)
    if met.unused:
        return found
    for line in met.notes:
        logger.warning("%s were matched %s", what, line)
    return {
        called: layer for name, layer in found.items() for called in met.layers.get(name, [name])
    }


def transposed(found: Mapping[str, Layer], shapes: Mapping[str, Shape]) -> dict[str, str]:
    """Return which of a file's names are transposed convolutions, and the graph's names of these.

    Parameters
    ----------
    found : mapping of str to Layer
        The layers of the graph, which has a transposed convolution in another shape.
    shapes : mapping of str to tuple of int
        By the file's names.
    """
    return {
        called: name
        for name, layer in found.items()
        if name.endswith(PHASES)
        for called in sorted({name.removesuffix(PHASES), *_paths(layer)} & shapes.keys())
    }


def _paths(layer: Layer) -> tuple[str, ...]:
    return tuple(path for path in map(module_path, layer.nodes) if path)


def fitting(name: str, shape: Shape, known: Mapping[str, Layer], what: str) -> Layer:
    """Return a layer of the graph by name; raise `MaskError` if it is not there or another.

    Parameters
    ----------
    name : str
    shape : tuple of int
        What its mask, or its weights, have.
    known : mapping of str to Layer
    what : str
        For the message: ``"a mask"`` or ``"weights"``.
    """
    if name not in known:
        raise MaskError(f"the graph has no layer {name!r}; {listed(known)}")
    if known[name].shape != shape:
        raise MaskError(
            f"layer {name!r}: expected {what} of shape {known[name].shape}, got {shape}"
        )
    return known[name]
