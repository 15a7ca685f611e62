"""Find the channels that have the same value for every input, and these values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from masktools.export.stored import Stored
from masktools.network.graph import Graph, Node, Shape
from masktools.network.operators import operator_of
from masktools.network.operators.rules import Known, Values
from masktools.network.sizes import Size


def constant_channels(
    graph: Graph, stored: Mapping[str, Stored], shapes: Mapping[str, Shape]
) -> dict[str, Values]:
    """Return the value of every channel that is the same at all pixels for all inputs.

    Parameters
    ----------
    graph : Graph
        In the normal form, without BatchNormalization.
    stored : mapping of str to Stored
        The weights by layer.
    shapes : mapping of str to tuple of int
        Of every tensor.

    Returns
    -------
    dict of str to ndarray of float64, shape (channels,)
        For each tensor of two or more axes; NaN where a channel is not constant.
    """
    values: dict[str, Values] = {}
    weights = {f"{name}.weight": layer.weight for name, layer in stored.items()}
    known = Known(graph.constants, weights, shapes, values)
    values.update({value.name: known.unknown(value.name) for value in graph.inputs})
    for node in graph.nodes:
        with np.errstate(all="ignore"):
            made = _outputs(known, node)
        for name, value in zip(node.outputs, made, strict=True):
            values[name] = np.where(np.isfinite(value), value, np.nan)
    return values


def _outputs(known: Known, node: Node) -> list[Values]:
    unknown = [known.unknown(name) for name in node.outputs]
    values = [name for name in (*node.inputs, *node.outputs) if name in known.shapes]
    if any(len(known.shapes[name]) < 2 and name not in known.constants for name in values):
        return unknown  # Without an axis of channels.
    made = operator_of(node).constant(known, node)
    open_ = any(isinstance(size, Size) for o in node.outputs for size in known.shapes[o][1:2])
    if made is None or open_:
        return unknown
    if any(len(m) != len(u) for m, u in zip(made, unknown, strict=True)):
        return unknown
    return made
