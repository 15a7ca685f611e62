"""Lower operators that give the same numbers another shape."""

from __future__ import annotations

from masktools.network.graph import Node
from runtime.plan.lowering.context import Context, Rows, border
from runtime.plan.steps import Reshape, Step


def _reshape(context: Context, node: Node) -> list[Step]:
    if context.shapes[node.inputs[0]] == context.shapes[node.outputs[0]]:
        return []
    return [Reshape(**border(node))]


RESHAPING: Rows = dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _reshape)
