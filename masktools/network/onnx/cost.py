"""Work out how much time and memory reading an ONNX model takes, before it is read.

A few nodes may stand for any number of others (functions that call functions twice), a constant
may be joined to itself over and over, and any number of tensors may lie in the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from masktools import limits
from masktools.errors import FormatError, GraphError

if TYPE_CHECKING:
    from onnx import FunctionProto, ModelProto, NodeProto, TensorProto


def check_functions(model: ModelProto) -> None:
    """Raise `GraphError` unless the model stays small once its local functions are written out.

    Parameters
    ----------
    model : onnx.ModelProto
        Not changed.
    """
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    room = limits.room(model.ByteSize())
    known: dict[int, tuple[int, int]] = {}

    def cost(nodes: Sequence[NodeProto], depth: int) -> tuple[int, int]:
        """Return nodes and bytes of a list of nodes, written out."""
        if depth > limits.FUNCTION_DEPTH:
            raise GraphError(
                f"local functions call each other more than {limits.FUNCTION_DEPTH} deep"
            )
        number = size = 0
        for node in nodes:
            called = functions.get((node.domain, node.op_type, node.overload))
            more, bytes_ = (1, node.ByteSize()) if called is None else of(called, depth + 1)
            number, size = number + more, size + bytes_
            for inner in _subgraphs(node):
                more, bytes_ = cost(inner, depth + 1)
                number, size = number + more, size + bytes_
        if number > limits.NODES or size > room:
            raise GraphError(
                f"with its local functions written out the network has more than {limits.NODES} "
                f"nodes or {room} bytes"
            )
        return number, size

    def of(function: FunctionProto, depth: int) -> tuple[int, int]:
        if id(function) not in known:
            known[id(function)] = cost(function.node, depth)
        return known[id(function)]

    cost(model.graph.node, 0)


def _subgraphs(node: NodeProto) -> Iterator[Sequence[NodeProto]]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g.node
        for graph in attribute.graphs:
            yield graph.node


def check_external(path: Path, model: ModelProto) -> None:
    """Raise `FormatError` if tensors outside the model's file are missing or larger than theirs.

    Parameters
    ----------
    path : Path
        Of the model, read without them.
    model : onnx.ModelProto
    """
    files: dict[str, int] = {}
    claimed = 0
    for tensor in _external(model):
        said = {entry.key: entry.value for entry in tensor.external_data}
        location = said.get("location", "")
        place = path.parent / location
        if location not in files:
            if location and not place.exists():
                raise FormatError(
                    f"{path}: its weights lie in {location!r}, which is missing: tensor "
                    f"{tensor.name!r}; copy that file beside the model too"
                )
            files[location] = place.stat().st_size if place.is_file() else 0
        try:
            claimed += int(said.get("length", files[location]))
        except ValueError as error:
            raise FormatError(f"{path}: tensor {tensor.name!r}: external data: {error}") from error
    room = limits.room(path.stat().st_size + sum(files.values()))
    if claimed > room:
        raise FormatError(
            f"{path}: its external data claim {claimed} bytes, but from files of their size "
            f"{room} may be read"
        )


def _external(model: ModelProto) -> Iterator[TensorProto]:
    from onnx.external_data_helper import uses_external_data

    # onnx fills in these when it loads external data, and those of the nodes' attributes.
    tensors = [*model.graph.initializer]
    tensors += [a.t for node in model.graph.node for a in node.attribute if a.HasField("t")]
    tensors += [t for s in model.graph.sparse_initializer for t in (s.values, s.indices)]
    yield from (tensor for tensor in tensors if uses_external_data(tensor))
