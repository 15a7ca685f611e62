"""Lower each node of a graph to steps, by a table of all operators."""

from __future__ import annotations

from masktools.network.graph import Node
from runtime.plan.lowering.context import Context, Rows
from runtime.plan.lowering.elementwise import ELEMENTWISE
from runtime.plan.lowering.layers import LAYERS
from runtime.plan.lowering.movement import MOVEMENT
from runtime.plan.lowering.reductions import REDUCTIONS
from runtime.plan.lowering.reshaping import RESHAPING
from runtime.plan.lowering.resizing import RESIZING
from runtime.plan.lowering.windows import WINDOWS
from runtime.plan.steps import Step

# For each operator, the function that turns a node of it into steps.
LOWERING: Rows = {
    **LAYERS,
    **ELEMENTWISE,
    **WINDOWS,
    **REDUCTIONS,
    **MOVEMENT,
    **RESHAPING,
    **RESIZING,
}


def lower(context: Context, node: Node) -> list[Step]:
    """Return the steps that do what a node says, the last of them making its output.

    Parameters
    ----------
    context : Context
        Shapes of values between the steps of one node are added to it.
    node : Node
        In the normal form of docs/format.md.

    Returns
    -------
    list of Step
        Empty where the node changes nothing: its output is its input.

    Raises
    ------
    PlanError
        If the node works across a batch of any size.
    """
    return LOWERING[node.op](context, node)
