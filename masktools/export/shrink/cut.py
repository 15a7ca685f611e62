"""Remove channels from every tensor, weight and attribute of a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from masktools.export.shrink.edit import subset
from masktools.export.stored import BoolArray, Stored
from masktools.network.graph import Graph, Shape
from masktools.network.operators import operator_of
from masktools.network.operators.rules import Cutting


def cut(
    graph: Graph,
    stored: Mapping[str, Stored],
    kept: Mapping[str, BoolArray],
    shapes: Mapping[str, Shape],
) -> tuple[Graph, dict[str, Stored]]:
    """Return the network in which each tensor has the channels that are kept, and no others.

    Parameters
    ----------
    graph : Graph
        In the normal form. Not changed.
    stored : mapping of str to Stored
        The weights by layer. Not changed.
    kept : mapping of str to ndarray of bool
        Of each tensor the entries of axis 1 that stay; all of them in the network's inputs and
        outputs, and wherever an operator does not pass its channels on one by one.
    shapes : mapping of str to tuple of int
        Of every tensor before.
    """
    after = dict(stored)

    def cut_weight(name: str, rows: BoolArray, channels: BoolArray, groups: int) -> None:
        layer = name.removesuffix(".weight")
        after[layer] = subset(after[layer], rows, channels, groups)

    uses = Counter(name for node in graph.nodes for name in node.inputs)
    cutting = Cutting(graph.constants, uses, kept, shapes, dict(graph.constants), cut_weight)
    nodes = tuple(operator_of(node).cut(cutting, node) for node in graph.nodes)
    read = {name for node in nodes for name in node.inputs}
    constants = {name: array for name, array in cutting.constants.items() if name in read}
    return replace(graph, nodes=nodes, constants=constants), after
