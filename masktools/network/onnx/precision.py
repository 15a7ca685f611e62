"""Let an ONNX model compute in float32 what it computes in another precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from masktools.network.graph import fresh

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

# TensorProto.DataType
FLOAT, BOOL, FLOAT16, DOUBLE, BFLOAT16 = 1, 9, 10, 11, 16
FLOATS = (FLOAT, FLOAT16, DOUBLE, BFLOAT16)
COUNTS = (6, 7)  # INT32, INT64
_NAMES = {FLOAT16: "float16", DOUBLE: "float64", BFLOAT16: "bfloat16"}
_NUMPY = {
    FLOAT: "float32", FLOAT16: "float16", DOUBLE: "float64",
    2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64",
}  # fmt: skip
# Attributes that say the type of what a node makes.
_KINDS = ("to", "dtype", "output_dtype")

Say = Callable[[str], None]


def in_float32(model: ModelProto, say: Say | None = None) -> ModelProto:
    """Return a model whose numbers between inputs and outputs are float32.

    Parameters
    ----------
    model : onnx.ModelProto
        Not changed; returned as it is where there is nothing to do.
    say : callable, default None
        Is told what was changed, in a sentence.

    Notes
    -----
    Inputs and outputs of float16 and float64 keep their type: a Cast stands between. NumPy has no
    bfloat16, so these become float32. Of float64 only networks that take or give it are changed:
    others compute sizes in it. Weights that are only stored in half precision, and cast to float32
    before anything reads them, change nothing.
    """
    import onnx

    ends = {value.type.tensor_type.elem_type for value in _ends(model.graph)}
    kinds = {FLOAT16, BFLOAT16} | ({DOUBLE} & ends)
    found = kinds & (ends | set(_inner(model.graph)))
    if not found:
        return model
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    graph = wide.graph
    border = _border(graph)
    for tensor in _tensors(graph):
        if tensor.data_type in kinds:
            _widen(tensor)
    changed = False
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in _KINDS and attribute.i in kinds and node.output[0] not in border:
                attribute.i, changed = FLOAT, True
    changed |= any(tensor.data_type in kinds for tensor in _tensors(model.graph))
    changed |= _with_casts(graph, border)
    if not changed:
        return model
    del graph.value_info[:]
    if say is not None:
        said = " and ".join(_NAMES[kind] for kind in sorted(found))
        kept = "" if found == {BFLOAT16} else "; inputs and outputs of float16 and float64 keep it"
        lost = "; NumPy has no bfloat16: inputs and outputs become float32"
        say(
            f"the network has numbers of {said}, which are stored and computed in float32{kept}"
            + (lost if BFLOAT16 in ends else "")
        )
    return wide


def dtype_of(value: ValueInfoProto) -> str | None:
    """Return the NumPy name of the type of an input or output; None for types that none can have.

    Parameters
    ----------
    value : ValueInfoProto
    """
    return _NUMPY.get(value.type.tensor_type.elem_type)


def _ends(graph: GraphProto) -> Iterator[ValueInfoProto]:
    weights = {tensor.name for tensor in graph.initializer}
    yield from (value for value in graph.input if value.name not in weights)
    yield from graph.output


def _inner(graph: GraphProto) -> Iterator[int]:
    """Yield the types that nodes compute in, and those of tensors that are not only cast."""
    computed = {
        name
        for node in graph.node
        if node.op_type != "Shape" and not (node.op_type == "Cast" and _target(node) == FLOAT)
        for name in node.input
    }
    weights = {tensor.name for tensor in graph.initializer}
    yield from (t.data_type for t in graph.initializer if t.name in computed)
    yield from (t.data_type for t in _tensors(graph) if t.name not in weights)
    yield from (a.i for node in graph.node for a in node.attribute if a.name in _KINDS)


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    yield from (tensor.values for tensor in graph.sparse_initializer)
    yield from (a.t for node in graph.node for a in node.attribute if a.HasField("t"))


def _widen(tensor: TensorProto) -> None:
    from onnx import numpy_helper

    with np.errstate(over="ignore"):  # Told as a number that is not finite, by its layer.
        array = numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _border(graph: GraphProto) -> set[str]:
    """Return the outputs that a Cast alone makes, which nothing else reads."""
    read = {name for node in graph.node for name in node.input}
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.output}
    return {
        node.output[0]
        for node in graph.node
        if node.op_type == "Cast"
        and node.output[0] not in read
        and kinds.get(node.output[0]) in (FLOAT16, DOUBLE)
    }


def casts_alone(graph: GraphProto, name: str) -> bool:
    """Return whether all nodes that read a value cast it to float32 or another float.

    Parameters
    ----------
    graph : GraphProto
    name : str
    """
    readers = [node for node in graph.node if name in node.input]
    return all(node.op_type == "Cast" and _target(node) in FLOATS for node in readers)


def _target(node: NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "to"), 0)


def _with_casts(graph: GraphProto, border: set[str]) -> bool:
    """Put a Cast behind inputs and before outputs that keep their type; return whether any is."""
    from onnx import helper

    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    first, last = [], []
    renamed: dict[str, str] = {}
    changed = False
    weights = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        kind = value.type.tensor_type.elem_type
        if value.name in weights or kind == BFLOAT16:
            if kind in (FLOAT16, DOUBLE, BFLOAT16):
                value.type.tensor_type.elem_type, changed = FLOAT, True
        elif kind in (FLOAT16, DOUBLE) and not casts_alone(graph, value.name):
            renamed[value.name] = fresh(f"{value.name}.float32", taken)
            first.append(helper.make_node("Cast", [value.name], [renamed[value.name]], to=FLOAT))
    for value in graph.output:
        kind = value.type.tensor_type.elem_type
        if kind == BFLOAT16:
            value.type.tensor_type.elem_type, changed = FLOAT, True
        elif kind in (FLOAT16, DOUBLE) and value.name not in border:
            inner = renamed.setdefault(value.name, fresh(f"{value.name}.float32", taken))
            last.append(helper.make_node("Cast", [inner], [value.name], to=kind))
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    everything = [*first, *graph.node, *last]
    del graph.node[:]
    graph.node.extend(everything)
    return changed or bool(first or last)
