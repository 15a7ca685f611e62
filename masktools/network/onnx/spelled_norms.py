"""Find LayerNormalization that exporters spell out by means, and write it as the one node it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from masktools.network.graph import Node, Shape, ints

# By what it makes, a node; what has several readers is none.
Nodes = dict[str, Node]


def with_layer_norms(
    nodes: Sequence[Node],
    constants: Mapping[str, NDArray[Any]],
    shapes: Mapping[str, Shape],
    outputs: Collection[str],
) -> list[Node]:
    """Return the nodes, with a LayerNormalization in place of those that spell one out.

    These are (x - mean) / sqrt(mean of squares + epsilon) over the last axes, then perhaps a
    product and a sum with constants in the shape of these axes.

    Parameters
    ----------
    nodes : sequence of Node
        In execution order, in the normal form. Not changed.
    constants : mapping of str to ndarray
    shapes : mapping of str to tuple of int
        Of every value.
    outputs : collection of str
        Of the network: what makes these stays, and so does what other nodes read.
    """
    finder = _Finder(nodes, constants, shapes, outputs)
    replaced: dict[str, Node] = {}  # By the name of the last node of each.
    gone: set[str] = set()
    for node in nodes:
        found = finder.norm(node)
        if found is not None:
            norm, inner = finder.with_constants(*found)
            replaced[inner[-1].name] = norm
            gone.update(n.name for n in inner)
    return [replaced.get(n.name, n) for n in nodes if n.name in replaced or n.name not in gone]


class _Finder:
    def __init__(
        self,
        nodes: Sequence[Node],
        constants: Mapping[str, NDArray[Any]],
        shapes: Mapping[str, Shape],
        outputs: Collection[str],
    ) -> None:
        self._made_by = {name: node for node in nodes for name in node.outputs}
        self._reads = Counter(name for node in nodes for name in node.inputs)
        self._readers = {name: node for node in nodes for name in node.inputs}
        self._constants, self._shapes, self._outputs = constants, shapes, outputs

    def norm(self, node: Node) -> tuple[Node, list[Node]] | None:
        """Return the normalisation that a division ends, and its nodes; None if it is another."""
        parts = self._quotient(node)
        if parts is None:
            return None
        centred, deviation, inverse = parts
        root = self._made(deviation, "Sqrt", 1)
        variance = root and self._made(root.inputs[0], "Add", 1)
        epsilon, square = self._constant_and_value(variance) if variance else (None, "")
        mean = self._made(square, "ReduceMean", 1)
        product = mean and self._made(mean.inputs[0], "Mul", 1)
        less = self._made(centred, "Sub", 3)  # the product reads it twice
        if not (root and variance and mean and product and less):
            return None
        x = less.inputs[0]
        first = self._made(less.inputs[1], "ReduceMean", 1)
        if first is None or first.inputs != (x,) or product.inputs != (centred, centred):
            return None
        axes, rank = ints(mean, "axes"), len(self._shapes[x])
        last = tuple(range(rank - len(axes), rank))
        alike = first.attributes == mean.attributes and mean.attributes["keepdims"] == 1
        if not alike or tuple(sorted(axes)) != last:
            return None
        if epsilon is None or epsilon.size != 1 or epsilon.ndim > rank or epsilon.item() < 0:
            return None
        made = Node(
            node.name,
            "LayerNormalization",
            (x,),
            node.outputs,
            {"axis": last[0], "epsilon": float(epsilon.item())},
        )
        return made, [first, less, product, mean, variance, root, *inverse, node]

    def _quotient(self, node: Node) -> tuple[str, str, list[Node]] | None:
        """Return what a node divides, by what, and the node that makes the inverse of that."""
        if node.op == "Div":
            return node.inputs[0], node.inputs[1], []
        for x, y in (node.inputs, node.inputs[::-1]) if node.op == "Mul" else ():
            inverse = self._made(y, "Div", 1)
            one = self._constants.get(inverse.inputs[0]) if inverse else None
            if inverse and one is not None and one.size == 1 and one.item() == 1:
                return x, inverse.inputs[1], [inverse]
        return None

    def with_constants(self, norm: Node, inner: list[Node]) -> tuple[Node, list[Node]]:
        """Take in the product and the sum with constants that follow."""
        axis = norm.attributes["axis"]
        assert isinstance(axis, int)
        shape = self._shapes[norm.inputs[0]][axis:]
        for op in ("Mul", "Add"):
            last = inner[-1]
            name = last.outputs[0]
            reader = self._readers.get(name)
            if reader is None or reader.op != op or self._made(name, last.op, 1) is None:
                break
            known = [n for n in reader.inputs if n in self._constants]
            if len(known) != 1 or self._constants[known[0]].shape != shape:
                break
            norm = Node(
                last.name, norm.op, (*norm.inputs, known[0]), reader.outputs, norm.attributes
            )
            inner = [*inner, reader]
        return norm, inner

    def _made(self, name: str, op: str, reads: int) -> Node | None:
        """Return the node of a value if it has this operator and this many readers."""
        node = self._made_by.get(name)
        if node is None or node.op != op or name in self._outputs or self._reads[name] != reads:
            return None
        return node

    def _constant_and_value(self, node: Node) -> tuple[NDArray[Any] | None, str]:
        """Return a sum's constant and its value."""
        a, b = node.inputs
        a, b = (b, a) if a in self._constants else (a, b)
        return self._constants.get(b), a
