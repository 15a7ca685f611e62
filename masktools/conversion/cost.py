"""The multiplications of a network before and after a conversion."""

from __future__ import annotations

from collections.abc import Mapping

from masktools.checks import BoolArray
from masktools.network.cost import Multiplications, multiplications, total
from masktools.network.graph import Graph
from masktools.network.layers import Layer


def cost_of(
    graph: Graph,
    known: Mapping[str, Layer],
    before: Mapping[str, BoolArray],
    after: Mapping[str, BoolArray],
) -> dict[str, Multiplications]:
    """Return the multiplications of a whole network: dense, under its masks, and converted.

    Parameters
    ----------
    graph : Graph
    known : mapping of str to Layer
        Its layers, by the names that masks have.
    before, after : mapping of str to ndarray of bool
        Masks; a layer without one keeps all. Not changed.

    Returns
    -------
    dict of str to Multiplications
        ``"dense"``, ``"before"``, ``"after"``.
    """
    shapes = {layer.weight: layer.shape for layer in known.values()}
    sparse = {name: shape for name, shape in shapes.items() if name not in graph.constants}
    cases = {"dense": {}, "before": before, "after": after}
    return {
        case: total(
            multiplications(graph, {known[n].name: mask for n, mask in masks.items()}, sparse)
        )
        for case, masks in cases.items()
    }
