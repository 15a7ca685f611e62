"""Every operator that a checkpoint may hold, and the check that a node is one of them.

The exporters write this normal form and every reader checks it. docs/format.md gives the meaning
of each operator; docs/contributing/operator.md says how to add one.
"""

from __future__ import annotations

from collections.abc import Mapping

from masktools.errors import GraphError
from masktools.network.graph import Node, Shape, where
from masktools.network.operators.arithmetic import ROWS
from masktools.network.operators.elementwise import ELEMENTWISE
from masktools.network.operators.layers import LAYERS
from masktools.network.operators.movement import MOVEMENT
from masktools.network.operators.operator import Kind, Operator
from masktools.network.operators.products import PRODUCTS
from masktools.network.operators.reductions import REDUCTIONS
from masktools.network.operators.reshaping import RESHAPING
from masktools.network.operators.resizing import RESIZING
from masktools.network.operators.windows import WINDOWS

OPERATORS: Mapping[str, Operator] = {
    **LAYERS,
    **PRODUCTS,
    **ROWS,
    **ELEMENTWISE,
    **WINDOWS,
    **REDUCTIONS,
    **MOVEMENT,
    **RESHAPING,
    **RESIZING,
}


def operator_of(node: Node) -> Operator:
    """Return the entry of `OPERATORS` for a node.

    Raises
    ------
    GraphError
        Naming the node, if its operator is not supported.
    """
    if node.op not in OPERATORS:
        raise GraphError(f"{where(node)}: operator {node.op!r} is not supported")
    return OPERATORS[node.op]


def version_of(node: Node) -> int:
    """Return the first version of the checkpoint that knows a node.

    Raises
    ------
    GraphError
        Naming the node, if its operator is not supported.
    """
    operator = operator_of(node)
    return operator.since(node) if operator.since else operator.version


def check_node(node: Node, shapes: list[Shape | None]) -> None:
    """Raise `GraphError` unless one node is in the normal form.

    Parameters
    ----------
    node : Node
    shapes : list of tuple of int or None
        Of each input: its shape where it is a constant, else None.

    Raises
    ------
    GraphError
        Naming the node, its operator, and the attribute or tensor that is wrong.
    """
    operator = operator_of(node)
    least, most = operator.inputs
    if len(node.inputs) < least or (most and len(node.inputs) > most):
        raise GraphError(f"{where(node)}: it has {len(node.inputs)} inputs")
    _check_attributes(node, operator.attributes)
    constant = {index for index, shape in enumerate(shapes) if shape is not None}
    missing = sorted({c for c in operator.constants if c < len(shapes)} - constant)
    if missing:
        raise GraphError(f"{where(node)}: input {node.inputs[missing[0]]!r} must be a constant")
    spare = sorted(constant - set(operator.constants))
    if spare and (not operator.either or len(spare) == len(shapes)):
        raise GraphError(f"{where(node)}: input {node.inputs[spare[0]]!r} must not be a constant")
    if operator.outputs and len(node.outputs) != operator.outputs:
        raise GraphError(f"{where(node)}: it has {len(node.outputs)} outputs")
    wrong = operator.check(node, shapes) if operator.check else None
    if wrong:
        raise GraphError(f"{where(node)}: {wrong}")


def _check_attributes(node: Node, kinds: Mapping[str, Kind]) -> None:
    for name, value in node.attributes.items():
        if name not in kinds:
            raise GraphError(f"{where(node)}: attribute {name}={value!r} is not supported")
        if not kinds[name].accepts(value):
            raise GraphError(
                f"{where(node)}: attribute {name} must be {kinds[name]}, got {value!r}"
            )
    for name, kind in kinds.items():
        if name not in node.attributes and not kind.optional:
            raise GraphError(f"{where(node)}: attribute {name} is missing")
