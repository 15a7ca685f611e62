"""Check that a graph is in the normal form of docs/format.md, section 3."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from masktools import limits
from masktools.errors import GraphError
from masktools.network.graph import Graph, Node, Shape, Value, where
from masktools.network.operators import check_node, operator_of

# What outputs may be given in, and inputs taken in; between them everything is float32.
FLOATS = ("float32", "float16", "float64")
DTYPES = (*FLOATS, "uint8", "int8", "uint16", "int16", "int32", "int64")


def check_graph(graph: Graph, sparse: Mapping[str, Shape] | None = None) -> None:
    """Raise `GraphError` unless the graph is in the normal form of docs/format.md.

    Parameters
    ----------
    graph : Graph
        Its constants are the dense tensors that its nodes read.
    sparse : mapping of str to tuple of int, default none
        The sparse weights that Conv and Gemm may read beside the constants: name and shape.

    Raises
    ------
    GraphError
        Naming the node, its operator, and the attribute or tensor that is wrong.
    """
    sparse = sparse or {}
    shapes: dict[str, Shape] = {name: array.shape for name, array in graph.constants.items()}
    both = sorted(shapes.keys() & sparse.keys())
    if both:
        raise GraphError(f"weight {both[0]!r} is both a constant and sparse")
    shapes.update(sparse)
    _check_size(graph)
    known = _check_border(graph)
    taken = sorted(known & shapes.keys())
    if taken:
        raise GraphError(f"input {taken[0]!r} has the name of a constant")
    names: set[str] = set()
    for node in graph.nodes:
        if not node.name or node.name in names:
            raise GraphError(f"{where(node)}: its name is empty or taken")
        names.add(node.name)
        operator_of(node)
        _check_inputs(node, known, shapes, sparse)
        check_node(node, [shapes.get(name) for name in node.inputs])
        for output in node.outputs:
            if not output or output in known or output in shapes:
                raise GraphError(f"{where(node)}: output {output!r} is empty or already made")
            known.add(output)
    for value in graph.outputs:
        if value.name not in known:
            raise GraphError(f"output {value.name!r}: no node makes it")
    unread = sorted(shapes.keys() - {name for node in graph.nodes for name in node.inputs})
    if unread:
        raise GraphError(f"constant {unread[0]!r}: no node reads it")


def _check_size(graph: Graph) -> None:
    """Limit the number of nodes and of their inputs and outputs, so that walks over them end."""
    if len(graph.nodes) > limits.NODES:
        raise GraphError(f"{len(graph.nodes)} nodes; {limits.NODES} are supported")
    for node in graph.nodes:
        ends = len(node.inputs) + len(node.outputs)
        if ends > limits.ENDS:
            raise GraphError(
                f"{where(node)}: {ends} inputs and outputs; {limits.ENDS} are supported"
            )
    ends = sum(len(node.inputs) + len(node.outputs) for node in graph.nodes)
    ends += len(graph.inputs) + len(graph.outputs)
    if ends > limits.ALL_ENDS:
        raise GraphError(f"{ends} inputs and outputs of nodes; {limits.ALL_ENDS} are supported")


def _check_border(graph: Graph) -> set[str]:
    """Check the inputs and outputs, and return the names of the inputs."""
    for word, values in (("input", graph.inputs), ("output", graph.outputs)):
        if not values:
            raise GraphError(f"the graph has no {word}")
        names = [value.name for value in values]
        if len(set(names)) < len(names) or "" in names:
            raise GraphError(f"{word} names must differ and not be empty, got {names}")
        for value in values:
            _check_value(word, value)
    return {value.name for value in graph.inputs}


def _check_value(word: str, value: Value) -> None:
    if value.dtype not in (FLOATS if word == "output" else DTYPES):
        raise GraphError(f"{word} {value.name!r}: dtype {value.dtype!r} is not supported")
    sizes = value.shape[1:] if value.shape[:1] == (None,) else value.shape
    if not value.shape or any(n is None or not 1 <= n < 2**31 for n in sizes):
        raise GraphError(
            f"{word} {value.name!r}: shape {value.shape} must hold sizes of at least 1, "
            "the first alone may be open"
        )
    if len(value.shape) > limits.RANK:
        raise GraphError(
            f"{word} {value.name!r}: {len(value.shape)} axes; {limits.RANK} are supported"
        )


def _check_inputs(
    node: Node, known: Collection[str], shapes: Mapping[str, Shape], sparse: Mapping[str, Shape]
) -> None:
    for index, name in enumerate(node.inputs):
        if name not in known and name not in shapes:
            raise GraphError(f"{where(node)}: input {name!r} is made by nothing before it")
        if name in sparse and (index != 1 or node.op not in ("Conv", "Gemm")):
            raise GraphError(f"{where(node)}: it cannot read the sparse weight {name!r}")
