"""Take out nodes that no output needs, and copies, from a network that was read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from masktools.network.graph import Node


def live(nodes: Sequence[Node], outputs: Sequence[str]) -> list[Node]:
    """Return the nodes that an output depends on."""
    wanted, live = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            live.append(node)
    return live[::-1]


def without_copies(nodes: list[Node], border: set[str]) -> list[Node]:
    """Let a node write an output itself where only an Identity stands between."""
    for copy in [node for node in nodes if node.op == "Identity"]:
        source, target = copy.inputs[0], copy.outputs[0]
        if source in border:
            continue
        border.add(source)
        nodes = [
            replace(
                node,
                inputs=tuple(target if name == source else name for name in node.inputs),
                outputs=tuple(target if name == source else name for name in node.outputs),
            )
            for node in nodes
            if node.name != copy.name
        ]
    return nodes
