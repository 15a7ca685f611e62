"""Take out transpositions that cancel, as exporters of channels-last networks put around layers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.network.graph import Node, Shape, integer, ints
from masktools.network.operators import ARITHMETIC
from masktools.network.operators.elementwise import FUNCTIONS

Order = tuple[int, ...]


def without_transposes(
    nodes: Sequence[Node],
    shapes: dict[str, Shape],
    constants: dict[str, NDArray[Any]],
    outputs: Collection[str],
    fresh: Callable[[str], str],
    fresh_node: Callable[[str], str],
) -> list[Node]:
    """Return the nodes, with transpositions moved behind what works element by element.

    Parameters
    ----------
    nodes : sequence of Node
        In execution order, in the normal form. Not changed.
    shapes : dict of str to tuple of int
        Of every value; those that are made are added.
    constants : dict of str to ndarray
        Those that are made are added.
    outputs : collection of str
        Of the network.
    fresh, fresh_node : callable
        Return a name that no value, or no node, has, like the one that they are given.

    Returns
    -------
    list of Node
        As given, unless there are fewer transpositions afterwards.
    """
    before = sum(node.op == "Transpose" for node in nodes)
    if before < 2:
        return list(nodes)
    mover = _Mover(shapes, constants, fresh, fresh_node)
    for node in nodes:
        mover.move(node)
    for name in outputs:
        mover.make(name, end=True)
    after = sum(node.op == "Transpose" for node in mover.nodes)
    return mover.nodes if after < before else list(nodes)


class _Mover:
    """Holds transpositions back until something needs what they make."""

    def __init__(
        self,
        shapes: dict[str, Shape],
        constants: dict[str, NDArray[Any]],
        fresh: Callable[[str], str],
        fresh_node: Callable[[str], str],
    ) -> None:
        self.nodes: list[Node] = []
        self._shapes, self._constants = shapes, constants
        self._fresh, self._fresh_node = fresh, fresh_node
        self._held: dict[str, tuple[str, Order, str]] = {}  # By value: of what, order, node's name.

    def move(self, node: Node) -> None:
        """Take the next node."""
        if node.op == "Transpose":
            order = ints(node, "perm")
            plain = (node.inputs[0], tuple(range(len(order))), "")
            source, first, _ = self._held.get(node.inputs[0], plain)
            whole = tuple(first[axis] for axis in order)
            self._held[node.outputs[0]] = source, whole, node.name
            return
        common = self._order(node)
        if common is not None:
            self._before(node, common)
            return
        inputs = tuple(self.make(name) for name in node.inputs)
        self.nodes.append(replace(node, inputs=inputs))

    def make(self, name: str, end: bool = False) -> str:
        """Make a value that is held back; return its name, or that of an equal one."""
        if name not in self._held:
            return name
        source, order, node = self._held[name]
        same = order == tuple(range(len(order)))
        if same and not end:
            return source
        del self._held[name]
        op, attributes = ("Identity", {}) if same else ("Transpose", {"perm": order})
        self.nodes.append(Node(node, op, (source,), (name,), attributes))
        return name

    def _order(self, node: Node) -> Order | None:
        """Return the order that all values have which a node reads, if it can do without it."""
        if node.op not in FUNCTIONS and node.op not in ARITHMETIC and node.op != "Concat":
            return None
        values = [name for name in node.inputs if name not in self._constants]
        orders = {self._held[name][1] if name in self._held else None for name in values}
        order = orders.pop() if len(orders) == 1 else None
        if order is None or any(len(self._shapes[name]) != len(order) for name in values):
            return None
        ranks = [self._constants[n].ndim for n in node.inputs if n in self._constants]
        movable = not ranks if node.op == "Concat" else all(rank <= len(order) for rank in ranks)
        return order if movable else None

    def _before(self, node: Node, order: Order) -> None:
        """Let a node read what was not transposed yet, and hold back the order of its output."""
        back = tuple(int(axis) for axis in np.argsort(order))
        made, shape = node.outputs[0], self._shapes[node.outputs[0]]
        inner = self._fresh(f"{made}_turned")
        self._shapes[inner] = tuple(shape[axis] for axis in back)
        attributes: Mapping[str, Any] = node.attributes
        if node.op == "Concat":
            attributes = {**attributes, "axis": order[integer(node, "axis")]}
        inputs = tuple(
            self._held[name][0] if name in self._held else self._turned(name, back)
            for name in node.inputs
        )
        self.nodes.append(Node(node.name, node.op, inputs, (inner,), attributes))
        self._held[made] = inner, order, self._fresh_node(f"{node.name}_transpose")

    def _turned(self, name: str, back: Order) -> str:
        array = self._constants[name]
        if array.size == 1:
            return name
        whole = array.reshape((1,) * (len(back) - array.ndim) + array.shape)
        made = self._fresh(f"{name}_turned")
        self._constants[made] = np.ascontiguousarray(whole.transpose(back))
        return made
