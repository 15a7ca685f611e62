"""A network with what follows from its graph: the shape of every tensor, and its layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from masktools.forks import unlocked_property
from masktools.network.graph import Graph, Shape
from masktools.network.layers import Layer, layers_of
from masktools.network.shapes import shapes_of


@dataclass(frozen=True, eq=False)
class Network:
    """A graph, the shape of every tensor in it, and its layers.

    Whoever changes the graph says which shapes that adds: nobody works them out again.

    Parameters
    ----------
    graph : Graph
        In the normal form of docs/format.md.
    shapes : mapping of str to tuple of int
        Of every tensor, as `masktools.network.shapes.shapes_of` returns them; perhaps of others,
        which the graph had before.

    Examples
    --------
    >>> from masktools.network.graph import Node, Value
    >>> node = Node("relu", "Relu", ("x",), ("y",))
    >>> network = Network.of(Graph((Value("x", (None, 3)),), (Value("y", (None, 3)),), (node,)))
    >>> network.shapes["y"], network.layers
    ((2, 3), {})
    """

    graph: Graph
    shapes: Mapping[str, Shape]

    @classmethod
    def of(cls, graph: Graph, weights: Mapping[str, Shape] | None = None) -> Network:
        """Work out the shapes of a graph.

        Parameters
        ----------
        graph : Graph
        weights : mapping of str to tuple of int, default none
            Shapes of the weights that are sparse, by constant's name.

        Raises
        ------
        GraphError
            If the shapes do not fit each other.
        """
        return cls(graph, shapes_of(graph, weights))

    @unlocked_property
    def layers(self) -> dict[str, Layer]:
        """The layers that have weights, by name, in execution order."""
        return layers_of(self.graph, self.shapes)
