"""The nodes of an ONNX graph, those of its branches among them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import NodeProto


def with_branches(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Yield nodes, and behind each those of its branches.

    Parameters
    ----------
    nodes : iterable of NodeProto
    """
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from with_branches(attribute.g.node)
