"""Work out how much time and memory reading an ONNX model takes, before it is read.

A few nodes may stand for any number of others (functions that call functions twice), a constant
may be joined to itself over and over, and any number of tensors may lie in the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from masktools import limits
from masktools.errors import FormatError, GraphError
from masktools.network.onnx.node import Source

if TYPE_CHECKING:
    from onnx import FunctionProto, ModelProto, NodeProto, TensorProto

# Element by element, the shapes of all inputs broadcast.
_ELEMENTWISE = """
    Add And Clip DequantizeLinear Div Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mod Mul
    Or PRelu Pow Sub Sum Where
"""
_BROADCAST = frozenset(_ELEMENTWISE.split())
_TEXT = 32  # elements that a text of a number counts for


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


class Folding:
    """Counts the elements of the constants that are computed while a network is read.

    Parameters
    ----------
    held : mapping of str to ndarray
        What the file holds itself.
    """

    def __init__(self, held: Mapping[str, NDArray[Any]]) -> None:
        elements = sum(array.size for array in held.values())
        self._allowed = limits.FOLDED + limits.FOLDED_FOR_EACH * elements
        self._made = 0

    def check(self, source: Source, values: Sequence[NDArray[Any] | None]) -> None:
        """Raise `GraphError` if a node would compute too much, before it does.

        Parameters
        ----------
        source : Source
        values : sequence of ndarray or None
            Its inputs; None where one is left out.
        """
        size = _elements(source, [value for value in values if value is not None])
        self._made += size
        if self._made > self._allowed:
            raise source.refuse(
                f"it makes a constant of {size} elements, with those before it {self._made}; "
                f"{self._allowed} are allowed for this file"
            )


def _elements(source: Source, values: Sequence[NDArray[Any]]) -> int:
    """Return how many elements a node makes of constants, at most."""
    if not values:
        return 0  # Constant: its value lies in the file.
    op, first, last = source.op, values[0], values[-1]
    sizes = [value.size for value in values]
    if op in _BROADCAST:
        return _broadcast(values)
    if op == "Concat":
        return sum(sizes)
    if op == "ConstantOfShape":
        return _product(first)
    if op in ("Expand", "Tile"):
        return first.size * _product(last)
    if op in ("Gather", "GatherElements"):
        axis = int(source.attributes.get("axis", 0))
        along = first.shape[axis] if -first.ndim <= axis < first.ndim else 1
        return last.size * (first.size // max(along, 1) if op == "Gather" else 1)
    if op == "Range" and len(values) == 3:
        start, limit, delta = (float(value.ravel()[0]) for value in values)
        steps = abs((limit - start) / delta) if delta else 0.0
        return int(steps) if steps < 2**62 else 2**62
    if op == "Pad":
        pads = values[1] if len(values) > 1 else np.array(source.attributes.get("pads", ()))
        reach = sum(abs(int(n)) for n in pads.ravel())
        return prod(n + reach for n in first.shape)
    text = source.attributes.get("to") == 8 or last.dtype.kind not in "biuf"  # TensorProto.STRING
    return max(sizes) * (_TEXT if text else 1)


def _product(shape: NDArray[Any]) -> int:
    return prod(max(int(n), 1) for n in shape.ravel())


def _broadcast(values: Sequence[NDArray[Any]]) -> int:
    rank = max(value.ndim for value in values)
    shapes = [(1,) * (rank - value.ndim) + value.shape for value in values]
    return prod(max(sizes) for sizes in zip(*shapes, strict=True))
