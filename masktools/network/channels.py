"""Which channels belong together: what is added, multiplied or filtered with what."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from masktools.network.graph import Graph, Node, integer, ints
from masktools.network.shapes import Shape, infer_shapes, slices

if TYPE_CHECKING:
    import networkx

Labels = NDArray[np.int64]


@dataclass
class Flow:
    """Where the channels of every tensor come from.

    A label stands for a channel as a layer, or an input, made it. Operators pass labels on; where
    they combine channels one by one, labels are tied.

    Parameters
    ----------
    constants : collection of str
        Names of the tensors that do not flow.
    labels : dict of str to ndarray of int64
        For each tensor of two or more axes, the label of each entry of axis 1.
    rows : dict of str to ndarray of int64
        For each layer, the labels of its rows.
    made : list of (str, int)
        For each label the layer and its row, or the tensor and its channel.
    ties : list of (ndarray, ndarray)
        Labels that are tied, pair by pair.
    fixed : list of ndarray
        Labels whose channels must stay where they are: the network's inputs and outputs, and
        what an operator combines in another way.
    """

    constants: Collection[str] = ()
    labels: dict[str, Labels] = field(default_factory=dict)
    rows: dict[str, Labels] = field(default_factory=dict)
    made: list[tuple[str, int]] = field(default_factory=list)
    ties: list[tuple[Labels, Labels]] = field(default_factory=list)
    fixed: list[Labels] = field(default_factory=list)

    def new(self, name: str, count: int) -> Labels:
        """Return labels for the rows of a layer, or the channels of a tensor."""
        start = len(self.made)
        self.made.extend((name, row) for row in range(count))
        return np.arange(start, start + count)

    def components(self) -> Labels:
        """Return for each label the number of the group of tied labels that it is in."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        a, b = (
            np.concatenate([np.empty(0, np.int64), *(pair[side] for pair in self.ties)])
            for side in (0, 1)
        )
        size = len(self.made)
        joined = coo_array((np.ones(len(a), np.int8), (a, b)), (size, size))
        component: Labels = connected_components(joined, directed=False)[1].astype(np.int64)
        return component


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

    flow = trace(graph, weights)
    dependencies: networkx.Graph[tuple[str, int]] = networkx.Graph()
    dependencies.add_nodes_from(flow.made)
    for a, b in flow.ties:
        dependencies.add_edges_from(
            (flow.made[i], flow.made[j])
            for i, j in zip(a.tolist(), b.tolist(), strict=True)
            if i != j
        )
    return dependencies


def trace(graph: Graph, weights: Mapping[str, Shape] | None = None) -> Flow:
    """Follow the channels of a network from where they are made.

    Parameters
    ----------
    graph : Graph
        In the normal form.
    weights : mapping of str to tuple of int, default none
        Shapes of the weights that are sparse, by constant's name.
    """
    shapes = infer_shapes(
        graph, {v.name: tuple(n or 2 for n in v.shape) for v in graph.inputs}, weights
    )
    flow = Flow(graph.constants.keys())
    for value in graph.inputs:
        if len(value.shape) > 1:
            flow.labels[value.name] = flow.new(value.name, shapes[value.name][1])
            flow.fixed.append(flow.labels[value.name])
    for node in graph.nodes:
        passed = _RULES.get(node.op, _same)(flow, node, shapes)
        if passed is None:
            _stop(flow, node, shapes)
        else:
            flow.labels.update(zip(node.outputs, passed, strict=True))
    flow.fixed.extend(flow.labels[v.name] for v in graph.outputs if v.name in flow.labels)
    return flow


Rule = Callable[[Flow, Node, Mapping[str, Shape]], "list[Labels] | None"]


def _stop(flow: Flow, node: Node, shapes: Mapping[str, Shape]) -> None:
    """Give the outputs channels of their own, and fix those of the inputs."""
    flow.fixed.extend(flow.labels[name] for name in node.inputs if name in flow.labels)
    for name in node.outputs:
        if len(shapes[name]) > 1:
            flow.labels[name] = flow.new(name, shapes[name][1])
            flow.fixed.append(flow.labels[name])


def _same(flow: Flow, node: Node, shapes: Mapping[str, Shape]) -> list[Labels] | None:
    before = flow.labels.get(node.inputs[0])
    return None if before is None else [before] * len(node.outputs)


def _layer(flow: Flow, node: Node, shapes: Mapping[str, Shape]) -> list[Labels] | None:
    x, weight = node.inputs[:2]
    name = weight.removesuffix(".weight")
    rows, per_group = shapes[weight][:2]
    # Layers that share a weight share their rows.
    made = flow.rows[name] = flow.rows[name] if name in flow.rows else flow.new(name, rows)
    if node.op == "Gemm" and len(shapes[x]) > 2:
        flow.fixed.append(made)
        return None  # Its channels lie on another axis.
    groups = integer(node, "group", 1)
    if groups > 1 and per_group == 1:
        flow.ties.append((np.repeat(flow.labels[x], rows // groups), made))
    return [made]


def _arithmetic(flow: Flow, node: Node, shapes: Mapping[str, Shape]) -> list[Labels] | None:
    output = shapes[node.outputs[0]]
    labels = []
    for name in node.inputs:
        if name in flow.constants:
            continue
        if len(shapes[name]) != len(output) or len(output) < 2 or shapes[name][1] != output[1]:
            return None
        labels.append(flow.labels[name])
    if len(labels) == 2:
        flow.ties.append((labels[0], labels[1]))
    return labels[:1]


def _concat(flow: Flow, node: Node, shapes: Mapping[str, Shape]) -> list[Labels] | None:
    parts = [flow.labels[name] for name in node.inputs if name in flow.labels]
    if len(parts) < len(node.inputs):
        return None
    if node.attributes["axis"] == 1:
        return [np.concatenate(parts)]
    flow.ties.extend((parts[0], other) for other in parts[1:])
    return [parts[0]]


def _split(flow: Flow, node: Node, shapes: Mapping[str, Shape]) -> list[Labels] | None:
    if node.attributes["axis"] != 1:
        return _same(flow, node, shapes)
    ends = np.cumsum(ints(node, "split"))[:-1]
    return list(np.split(flow.labels[node.inputs[0]], ends))


def _slice(flow: Flow, node: Node, shapes: Mapping[str, Shape]) -> list[Labels] | None:
    before = flow.labels.get(node.inputs[0])
    return None if before is None else [before[slices(node, shapes[node.inputs[0]])[1]]]


def _reshape(flow: Flow, node: Node, shapes: Mapping[str, Shape]) -> list[Labels] | None:
    before, after = shapes[node.inputs[0]], shapes[node.outputs[0]]
    labels = flow.labels.get(node.inputs[0])
    if labels is None or before[0] != after[0] or len(after) < 2:
        return None
    if before[1] == after[1]:
        return [labels]
    if len(after) == 2:  # Each channel becomes as many features as its image has pixels.
        return [np.repeat(labels, after[1] // before[1])]
    return None


def _across_channels(flow: Flow, node: Node, shapes: Mapping[str, Shape]) -> list[Labels] | None:
    """Pass channels on unless the node works along their axis."""
    if node.op == "Pad":
        pads, rank = ints(node, "pads"), len(shapes[node.inputs[0]])
        touched = pads[1] or pads[1 + rank]
    elif node.op == "Transpose":
        touched = ints(node, "perm")[:2] != (0, 1)
    elif node.op == "Resize":
        touched = 1 in ints(node, "axes")
    else:
        touched = node.attributes["axis"] == 1
    return None if touched else _same(flow, node, shapes)


_RULES: Mapping[str, Rule] = {
    "Conv": _layer,
    "Gemm": _layer,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _arithmetic),
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(("Pad", "Transpose", "Resize", "Softmax"), _across_channels),
}
