"""Read the constants of an ONNX model and the nodes that use them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from masktools.errors import FormatError, GraphError
from masktools.importers.contents import Array, Unreadable, check_room, count
from masktools.network.onnx.cost import check_functions
from masktools.network.onnx.folding import Folding
from masktools.network.onnx.node import Source

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# Operators whose second input may be the weight of a layer.
WEIGHTED = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class SparseTensor:
    """A sparse initializer spread out: its values, and which positions it lists."""

    values: Array
    listed: Array


@dataclass(frozen=True)
class OnnxNode:
    """A node as far as it says how a weight is laid out."""

    name: str
    op: str
    inputs: tuple[str, ...]
    transposed: bool


@dataclass(frozen=True)
class OnnxWeights:
    """Constants by name, what the computed ones were made of, and the nodes in the file's order."""

    constants: dict[str, Array | SparseTensor | Unreadable]
    origins: dict[str, str]
    nodes: tuple[OnnxNode, ...]


def read_onnx(path: Path) -> OnnxWeights:
    """Return the initializers, dense and sparse, the constants of Constant nodes, and the nodes.

    External data are read where they lie in the model's own folder.
    """
    try:
        import onnx
    except ImportError as error:
        raise FormatError(
            f"{path}: reading ONNX needs onnx: pip install 'masktools[onnx]'"
        ) from error
    model = _written_out(path, onnx.load(path, load_external_data=False))
    graph = model.graph
    if not graph.node and not graph.initializer and not graph.sparse_initializer:
        raise FormatError(f"{path}: neither a known container nor an ONNX model with nodes")
    dense = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        held = [a.t for a in node.attribute if a.name == "value"]
        if node.op_type == "Constant" and held:
            dense[node.output[0]] = held[0]
    sparse = {tensor.values.name: tensor for tensor in graph.sparse_initializer}
    check_room(path, sum(8 * count(t.dims) for t in (*dense.values(), *sparse.values())))
    constants: dict[str, Array | SparseTensor | Unreadable] = {
        name: _dense(path, name, tensor) for name, tensor in dense.items()
    }
    constants |= {name: _sparse(path, name, tensor) for name, tensor in sparse.items()}
    nodes = tuple(_node(node) for node in graph.node)
    # protobuf hands bytes over where a name is no UTF-8.
    if not all(isinstance(name, str) for node in nodes for name in (node.name, *node.inputs)):
        raise FormatError(f"{path}: a node's name is no text")
    origins = _computed(model, constants)
    return OnnxWeights(constants, origins, nodes)


def _written_out(path: Path, model: ModelProto) -> ModelProto:
    """Return the model with its local functions written out, as the reader of networks has it."""
    from onnx.inliner import inline_local_functions

    if not model.functions:
        return model
    try:
        check_functions(model)
        written: ModelProto = inline_local_functions(model)
    except (GraphError, ValueError, RuntimeError) as error:
        raise FormatError(f"{path}: {error}") from error
    return written


def _computed(
    model: ModelProto, constants: dict[str, Array | SparseTensor | Unreadable]
) -> dict[str, str]:
    """Add the weights that nodes compute of constants; return what each was made of, by name.

    What the reader of networks can compute is computed here by the same rules.
    """
    held = {
        name: value.values if isinstance(value, SparseTensor) else value
        for name, value in constants.items()
        if not isinstance(value, Unreadable)
    }
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
    folding = Folding(held, opset)
    for proto in _towards_weights(model.graph.node):
        known = [constants.get(name) for name in proto.input if name]
        if any(value is None for value in known) or not constants.keys().isdisjoint(proto.output):
            continue  # It depends on the network's inputs, or its value lies in the node.
        closed = next((value for value in known if isinstance(value, Unreadable)), None)
        try:
            if closed is None:
                source = Source.of(proto, proto.input, proto.output)
                folding.fold(proto, source, [folding.values.get(name) for name in proto.input])
        except (GraphError, ValueError) as error:  # What is no text is no attribute.
            closed = Unreadable(str(error))
        sparse = isinstance(next(iter(known), None), SparseTensor)
        copied = sparse and proto.op_type in ("Cast", "Identity")
        for name in filter(None, proto.output):
            made = known[0] if copied else folding.values.get(name)
            constants[name] = closed or made  # type: ignore[assignment]
    return {name: folding.origin(name) for name in constants}


def _towards_weights(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """Return the nodes that layers' weights may follow from, in the file's order."""
    wanted = {node.input[1] for node in nodes if node.op_type in WEIGHTED and len(node.input) > 1}
    found = []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            wanted.update(node.input)
            found.append(node)
    return found[::-1]


def _node(node: Any) -> OnnxNode:  # noqa: ANN401 - protobuf messages are untyped
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return OnnxNode(node.name, node.op_type, tuple(node.input), transposed)


def _dense(path: Path, name: str, tensor: Any) -> Array | Unreadable:  # noqa: ANN401
    import onnx
    from onnx import helper, numpy_helper

    shape = tuple(tensor.dims)
    if min(shape, default=0) < 0:
        raise FormatError(f"{path}: initializer {name!r}: negative dimension in {shape}")
    try:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    except (KeyError, TypeError, ValueError):
        return Unreadable(f"data type {tensor.data_type}")
    bfloat16 = tensor.data_type == onnx.TensorProto.BFLOAT16
    if dtype.kind not in "biuf" and not bfloat16:
        return Unreadable(f"dtype {dtype}")
    external = tensor.data_location == onnx.TensorProto.EXTERNAL
    if external or tensor.HasField("raw_data"):
        raw: bytes = _external(path, name, tensor) if external else tensor.raw_data
        size = dtype.itemsize * count(shape)
        if len(raw) != size:
            raise FormatError(
                f"{path}: initializer {name!r}: shape {shape} needs {size} bytes, got {len(raw)}"
            )
        if bfloat16:
            wide = np.frombuffer(raw, "<u2").astype(np.uint32) << 16
            return wide.view(np.float32).reshape(shape)
        return np.frombuffer(raw, dtype.newbyteorder("<")).reshape(shape)
    try:
        array: Array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise FormatError(f"{path}: initializer {name!r}: {error}") from error
    return array.astype(np.float32) if bfloat16 else array


def _external(path: Path, name: str, tensor: Any) -> bytes:  # noqa: ANN401
    said = {entry.key: entry.value for entry in tensor.external_data}
    folder = path.resolve().parent
    location = said.get("location", "")
    file = (folder / location).resolve()
    if not location or not file.is_relative_to(folder):
        raise FormatError(
            f"{path}: initializer {name!r}: external data {location!r} lie outside the "
            "model's folder"
        )
    if not file.is_file():
        raise FormatError(f"{path}: initializer {name!r}: external data {location!r} are missing")
    try:
        offset = int(said.get("offset", 0))
        length = int(said.get("length", file.stat().st_size - offset))
    except ValueError as error:
        raise FormatError(f"{path}: initializer {name!r}: external data: {error}") from error
    if min(offset, length) < 0 or offset + length > file.stat().st_size:
        raise FormatError(
            f"{path}: initializer {name!r}: external data {location!r} end at byte "
            f"{file.stat().st_size}, before {offset} + {length}"
        )
    with file.open("rb") as data:
        data.seek(offset)
        content: bytes = data.read(length)
        return content


def _sparse(path: Path, name: str, tensor: Any) -> SparseTensor | Unreadable:  # noqa: ANN401
    where = f"{path}: sparse initializer {name!r}"
    shape = tuple(tensor.dims)
    values = _dense(path, name, tensor.values)
    indices = _dense(path, f"{name} (indices)", tensor.indices)
    if isinstance(values, Unreadable):
        return values
    if isinstance(indices, Unreadable) or indices.dtype.kind not in "iu" or values.ndim != 1:
        raise FormatError(f"{where}: values must be one-dimensional and indices integers")
    if not shape or min(shape) < 0:
        raise FormatError(f"{where}: shape {shape}")
    if indices.shape == (len(values), len(shape)):
        inside = bool(((indices >= 0) & (indices < np.array(shape))).all())
        at = np.ravel_multi_index(tuple(indices.T), shape) if inside else indices[:, 0]
    elif indices.shape == values.shape:
        inside, at = bool(((indices >= 0) & (indices < count(shape))).all()), indices
    else:
        raise FormatError(
            f"{where}: indices of shape {indices.shape} fit neither {len(values)} values nor rank "
            f"{len(shape)}"
        )
    if not inside:
        raise FormatError(f"{where}: an index lies outside {shape}")
    if len(np.unique(at)) != len(at):
        raise FormatError(f"{where}: an index is listed twice")
    spread, listed = np.zeros(count(shape), values.dtype), np.zeros(count(shape), np.bool_)
    spread[at], listed[at] = values, True
    return SparseTensor(spread.reshape(shape), listed.reshape(shape))
