"""Remove channels from every tensor, weight and attribute of a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.export.shrink.edit import subset
from masktools.export.stored import BoolArray, Stored
from masktools.network.graph import Attribute, Graph, Node, fresh, integer, ints
from masktools.network.operators import ARITHMETIC
from masktools.network.shapes import Shape, slices


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
    cutting = _Cutting(graph, stored, kept, shapes)
    nodes = tuple(cutting.node(node) for node in graph.nodes)
    read = {name for node in nodes for name in node.inputs}
    constants = {name: array for name, array in cutting.constants.items() if name in read}
    return replace(graph, nodes=nodes, constants=constants), cutting.stored


class _Cutting:
    def __init__(
        self,
        graph: Graph,
        stored: Mapping[str, Stored],
        kept: Mapping[str, BoolArray],
        shapes: Mapping[str, Shape],
    ) -> None:
        self.before = graph.constants
        self.uses = Counter(name for node in graph.nodes for name in node.inputs)
        self.constants = dict(graph.constants)
        self.stored = dict(stored)
        self.kept = kept
        self.shapes = shapes

    def node(self, node: Node) -> Node:
        """Return a node with its constants and attributes cut."""
        if node.op in ("Conv", "Gemm"):
            return self._layer(node)
        if node.op in ARITHMETIC:
            return self._arithmetic(node)
        attributes = self._attributes(node)
        return replace(node, attributes={**node.attributes, **attributes})

    def _layer(self, node: Node) -> Node:
        x, weight = node.inputs[:2]
        rows, channels = self.kept[node.outputs[0]], self.kept[x]
        if (rows.all() and channels.all()) or len(self.shapes[x]) != self.stored[
            weight.removesuffix(".weight")
        ].weight.ndim:
            return node
        name = weight.removesuffix(".weight")
        groups = integer(node, "group", 1)
        attributes: dict[str, Attribute] = dict(node.attributes)
        if groups > 1:  # Depthwise: a group goes with its one channel.
            attributes["group"] = groups = int(channels.sum())
            channels = np.ones(1, np.bool_)
        self.stored[name] = subset(self.stored[name], rows, channels, groups)
        inputs = list(node.inputs)
        if len(inputs) > 2:
            inputs[2] = self._constant(inputs[2], self.before[inputs[2]][rows])
        return replace(node, inputs=tuple(inputs), attributes=attributes)

    def _arithmetic(self, node: Node) -> Node:
        rank = len(self.shapes[node.outputs[0]])
        inputs = list(node.inputs)
        for i, name in enumerate(inputs):
            array = self.before.get(name)
            axis = 1 if array is None else 1 - rank + array.ndim
            if array is not None and axis >= 0 and array.shape[axis] > 1:
                kept = self.kept[node.outputs[0]]
                inputs[i] = self._constant(name, array.compress(kept, axis))
        return replace(node, inputs=tuple(inputs))

    def _constant(self, name: str, array: NDArray[Any]) -> str:
        """Store what is left of a constant, under a new name if other nodes read it too."""
        new = fresh(name, self.constants) if self.uses[name] > 1 else name
        self.constants[new] = array
        return new

    def _attributes(self, node: Node) -> dict[str, Attribute]:
        if node.op == "Reshape":
            return self._reshape(node)
        if node.op == "Split" and node.attributes["axis"] == 1:
            return {"split": tuple(int(self.kept[name].sum()) for name in node.outputs)}
        if node.op == "Slice":
            return self._slice(node)
        return {}

    def _reshape(self, node: Node) -> dict[str, Attribute]:
        shape = ints(node, "shape")
        kept = self.kept.get(node.outputs[0])
        if kept is None or kept.all() or shape[1] <= 0:
            return {}  # An entry of 0 or -1 follows the input by itself.
        return {"shape": (shape[0], int(kept.sum()), *shape[2:])}

    def _slice(self, node: Node) -> dict[str, Attribute]:
        axes = ints(node, "axes")
        kept = self.kept[node.inputs[0]] if node.inputs[0] in self.kept else np.ones(1, np.bool_)
        if 1 not in axes or kept.all():
            return {}
        part = slices(node, self.shapes[node.inputs[0]])[1]
        start, end, _ = part.indices(len(kept))
        bounds = {"starts": int(kept[:start].sum()), "ends": int(kept[:end].sum())}
        at = axes.index(1)
        return {
            name: tuple(value if i == at else n for i, n in enumerate(ints(node, name)))
            for name, value in bounds.items()
        }
