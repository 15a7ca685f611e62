"""Find the channels that depend on each other: added, multiplied or filtered together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from masktools.network.graph import Graph, Node, Shape
from masktools.network.operators import operator_of
from masktools.network.operators.rules import Flow
from masktools.network.shapes import shapes_of
from masktools.network.sizes import Size

if TYPE_CHECKING:
    import networkx


def channel_graph(
    graph: Graph, weights: Mapping[str, Shape] | None = None
) -> networkx.Graph[tuple[str, int]]:
    """Return which rows of which layers depend on each other.

    Parameters
    ----------
    graph : Graph
        In the normal form of docs/format.md.
    weights : mapping of str to tuple of int, default none
        Shapes of the weights that are sparse, by constant's name.

    Returns
    -------
    networkx.Graph
        A node (layer, row) for each output channel, (input, channel) for each channel of an input.
        An edge joins channels that are added, subtracted, multiplied or divided with each other,
        that pass through one group of a depthwise convolution, or that are joined along another
        axis than the channels'. Rows can be removed from the network only with all of their
        connected component. Concatenation and flattening move channels and join nothing.

    Raises
    ------
    GraphError
        If the shapes do not fit each other.
    """
    import networkx

    flow = trace(graph, shapes_of(graph, weights))
    dependencies: networkx.Graph[tuple[str, int]] = networkx.Graph()
    dependencies.add_nodes_from(flow.made)
    for a, b in flow.ties:
        dependencies.add_edges_from(
            (flow.made[i], flow.made[j])
            for i, j in zip(a.tolist(), b.tolist(), strict=True)
            if i != j
        )
    return dependencies


def trace(graph: Graph, shapes: Mapping[str, Shape]) -> Flow:
    """Follow the channels of a network from where they are made.

    Parameters
    ----------
    graph : Graph
        In the normal form.
    shapes : mapping of str to tuple of int
        Of every tensor.
    """
    flow = Flow(graph.constants.keys(), shapes)
    for value in graph.inputs:
        if len(value.shape) > 1:
            flow.labels[value.name] = flow.new(value.name, shapes[value.name][1])
            flow.fixed.append(flow.labels[value.name])
    for node in graph.nodes:
        passed = operator_of(node).channels(flow, node)
        # Channels whose number is open are none of a layer's.
        if passed is None or any(isinstance(n, Size) for o in node.outputs for n in shapes[o][1:2]):
            _stop(flow, node)
        else:
            flow.labels.update(zip(node.outputs, passed, strict=True))
    flow.fixed.extend(flow.labels[v.name] for v in graph.outputs if v.name in flow.labels)
    return flow


def _stop(flow: Flow, node: Node) -> None:
    """Give the outputs channels of their own, and fix those of the inputs."""
    flow.fixed.extend(flow.labels[name] for name in node.inputs if name in flow.labels)
    for name in node.outputs:
        if len(flow.shapes[name]) > 1:
            flow.labels[name] = flow.new(name, flow.shapes[name][1])
            flow.fixed.append(flow.labels[name])
