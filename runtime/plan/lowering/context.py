"""Constants, weights and shapes of values, for the functions that lower one node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from masktools import limits
from masktools.checkpoint import Checkpoint
from masktools.network.graph import Node, fresh, where
from runtime.errors import PlanError
from runtime.plan.steps import Array, Step, Weight

Shape = tuple[int | None, ...]


class Context:
    """Constants, weights and shapes of values, for the functions that lower one node.

    Parameters
    ----------
    checkpoint : Checkpoint
        For the constants that nodes read.
    shapes : dict of str to tuple of int or None
        Of every value; None is the batch. Values between the steps of one node are added.
    """

    def __init__(self, checkpoint: Checkpoint, shapes: dict[str, Shape]) -> None:
        self.checkpoint = checkpoint
        self.shapes = shapes
        self._picked = 0

    def constant(self, name: str) -> Array:
        """Return a dense constant."""
        return self.checkpoint.graph.constants[name]

    def weight(self, name: str) -> Weight:
        """Return a layer's weight, dense or sparse."""
        dense = self.checkpoint.graph.constants.get(name)
        return self.checkpoint.sparse[name.removesuffix(".weight")] if dense is None else dense

    def between(self, node: Node, shape: Shape) -> str:
        """Return a new value between two steps of a node."""
        name = fresh(f"{node.outputs[0]}~", self.shapes)
        self.shapes[name] = shape
        return name

    def pick(self, node: Node, sizes: tuple[int, ...]) -> None:
        """Make sure that the entries which a node picks along its axes may be listed.

        Parameters
        ----------
        node : Node
        sizes : tuple of int
            How many entries, along each axis.

        Raises
        ------
        PlanError
            If all nodes together pick more than `masktools.limits.PICKED`.
        """
        self._picked += sum(sizes)
        if self._picked > limits.PICKED:
            raise PlanError(
                f"{where(node)}: it picks {sizes} entries along its axes, with "
                f"those of nodes before it {self._picked}; {limits.PICKED} are supported"
            )

    def sizes(self, node: Node, axes: tuple[int, ...]) -> tuple[int, ...]:
        """Return the input's shape where a node works along `axes`; an open batch counts as 1.

        Raises
        ------
        PlanError
            If the batch is open and one of `axes`.
        """
        shape = self.shapes[node.inputs[0]]
        if any(shape[axis] is None for axis in axes):
            raise PlanError(f"{where(node)}: it works across a batch of any size")
        return tuple(1 if n is None else n for n in shape)


def border(node: Node) -> dict[str, Any]:
    """Return the name, the input and the output of a step that a node becomes."""
    return {"name": node.name, "inputs": node.inputs[:1], "output": node.outputs[0]}


# For each operator of a family, the function that turns a node of it into steps, in the order of
# execution: none where the node changes nothing.
Rows: TypeAlias = Mapping[str, Callable[[Context, Node], list[Step]]]
