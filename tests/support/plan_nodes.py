"""Plans of a few nodes, built without a file."""

from __future__ import annotations

from typing import Any

import numpy as np
from draws import RANDOM

from masktools.checkpoint import Checkpoint
from masktools.network.graph import Graph, Node, Value
from runtime.plan import plan

SHAPE = (None, 4, 6, 6)


def conv(name: str, x: str, weight: str | None = None, **attributes: Any) -> Node:
    window = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "group": 1}
    return Node(name, "Conv", (x, weight or f"{name}.weight"), (name,), window | attributes)


def node(op: str, name: str, *inputs: str, **attributes: Any) -> Node:
    return Node(name, op, inputs, (name,), attributes)


def build(
    *nodes: Node,
    outputs: dict[str, tuple[int | None, ...]] | None = None,
    constants: dict[str, Any] | None = None,
    shape: tuple[int | None, ...] = SHAPE,
) -> plan.Plan:
    """Return the plan of nodes that read x and, unless told, end in y of x's shape."""
    arrays = {
        name: RANDOM.standard_normal((4, 4, 3, 3)).astype(np.float32)
        for n in nodes
        for name in n.inputs
        if name.endswith(".weight")
    }
    border = tuple(Value(n, s) for n, s in (outputs or {nodes[-1].outputs[0]: shape}).items())
    graph = Graph((Value("x", shape),), border, nodes, arrays | (constants or {}))
    checkpoint = Checkpoint(graph)
    checkpoint.check()
    return plan.build(checkpoint)


def operators(made: plan.Plan) -> list[str]:
    return [step.operator for step in made.steps]
