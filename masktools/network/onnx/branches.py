"""If nodes, of which one branch is read: where shapes alone decide between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from masktools.network.onnx.node import Source

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto


def branch(proto: NodeProto, source: Source, condition: NDArray[Any] | None) -> GraphProto:
    """Return the branch of an If that its condition chooses.

    Parameters
    ----------
    proto : NodeProto
    source : Source
        The same node.
    condition : ndarray or None
        None where it depends on the network's inputs.

    Raises
    ------
    GraphError
        If the condition depends on the network's inputs, or is not one boolean.
    """
    if condition is None:
        raise source.refuse("its condition depends on the network's inputs, not on shapes alone")
    if condition.size != 1:
        raise source.refuse(f"its condition has the shape {condition.shape}, not one boolean")
    wanted = "then_branch" if condition.item() else "else_branch"
    found = next((a.g for a in proto.attribute if a.name == wanted), None)
    if found is None or len(found.output) != len(proto.output):
        raise source.refuse(f"attribute {wanted} must have an output for each of the node's")
    return found
