"""Read a network from ONNX, operator set 9 to the newest, into the form of docs/format.md."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from masktools import limits
from masktools.errors import FormatError, GraphError
from masktools.files import check_source
from masktools.network.graph import Graph, Node, where
from masktools.network.normal_form import check_graph
from masktools.network.onnx.cost import check_external, check_functions
from masktools.network.onnx.input_shapes import InputShapes, with_input_shapes
from masktools.network.onnx.reading import Pass
from masktools.network.onnx.rewrites import REWRITES

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

OLDEST_OPSET = 9

# Two sizes to try an open batch with: a size in the file equals them by chance less easily than 1.
BATCHES = (7, 11)


def read_onnx(
    src: str | os.PathLike[str] | ModelProto, input_shapes: InputShapes | None = None
) -> Graph:
    """Read a network from an ONNX file.

    Parameters
    ----------
    src : path-like or onnx.ModelProto
        Of operator set 9 or newer. Not changed.
    input_shapes : mapping of str to sequence of int, or one such sequence, default None
        As `load_onnx`.

    Returns
    -------
    Graph
        In the normal form of docs/format.md. The weight of a layer is named ``<layer>.weight``,
        its bias ``<layer>.bias`` (see `masktools.network.layers.layer_name`). The first axis of
        every input is open (None) where the network means the same for any batch size, even if
        the file was exported with a fixed one.

    Raises
    ------
    FormatError
        If it is no ONNX file, or older than operator set 9.
    GraphError
        If an operator, an attribute or a shape is not supported: naming the node, the operator
        and the attribute. The sizes of an image must be fixed.
    OSError
        If the file cannot be opened.

    Notes
    -----
    Constants and the arithmetic of shapes are folded by onnx's own evaluator. Differences between
    operator sets are resolved, so that each operator has one meaning: pads are explicit, integer
    inputs become attributes, matrix products with constants become Gemm with weights of shape
    (out, in), Dropout and Identity disappear.

    An open batch is proved, not assumed: the file is read at two batch sizes, and both must give
    the same nodes and constants.
    """
    reading = _Reading(load_onnx(src, input_shapes))
    first = reading.at(BATCHES[0])
    graph = first.graph
    if not reading.fixed:
        wrong = _difference(first, reading.at(BATCHES[1]))
        if wrong:
            raise GraphError(f"{wrong}, but the inputs leave the batch open")
        graph = _opened(graph)
    elif len(reading.fixed) == 1 and not any(map(_mixes_images, graph.nodes)):
        # Where it is no network at all at another size, the file's own size stays.
        with suppress(GraphError):
            if not _difference(first, reading.at(BATCHES[1], everywhere=True)):
                graph = _opened(graph)
    check_graph(graph)
    return graph


def with_masks(model: ModelProto, masks: Mapping[str, NDArray[np.bool_]]) -> ModelProto:
    """Return the model with the weights of layers multiplied by masks.

    Parameters
    ----------
    model : onnx.ModelProto
        As `load_onnx` returns it. Not changed.
    masks : mapping of str to ndarray of bool
        By layer, as `read_onnx` names them, (out, in / groups, ...).
    """
    import onnx
    from onnx import helper, numpy_helper

    weights = read_pass(model).weights
    masked = onnx.ModelProto()
    masked.CopyFrom(model)
    nodes = {node.output[0]: node for node in masked.graph.node if node.output}
    products = []
    for layer, mask in masks.items():
        for output, transposed in weights[f"{layer}.weight"]:
            name = f"{output}.mask"
            value = (mask.T if transposed else mask).astype(np.float32)
            masked.graph.initializer.append(numpy_helper.from_array(value, name))
            node = nodes[output]
            products.append(helper.make_node("Mul", [node.input[1], name], [f"{name}ed"]))
            node.input[1] = f"{name}ed"
    everything = [*products, *masked.graph.node]
    del masked.graph.node[:]
    masked.graph.node.extend(everything)
    return masked


def read_pass(model: ModelProto) -> Pass:
    """Return the graph of a model at one batch size, and the nodes that read its weights.

    Parameters
    ----------
    model : onnx.ModelProto
        As `load_onnx` returns it. Not changed.
    """
    return _Reading(model).at(BATCHES[0])


def load_onnx(
    src: str | os.PathLike[str] | ModelProto, input_shapes: InputShapes | None = None
) -> ModelProto:
    """Return the model of a file, its local functions written out.

    Parameters
    ----------
    src : path-like or onnx.ModelProto
        Not changed.
    input_shapes : mapping of str to sequence of int, or one such sequence, default None
        Sizes that the file leaves open, by input or of the only one: an entry for each axis. None,
        -1, ``"?"`` or a name leaves an axis as the file has it.

    Raises
    ------
    FormatError
        If it is no regular file, no ONNX file, or claims more than files of its size may hold.
    GraphError
        If its local functions, written out, are more than `masktools.limits` allows, or
        `input_shapes` names no input of it, has another number of axes, or contradicts the file.
    OSError
        If it cannot be opened.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from onnx.external_data_helper import load_external_data_for_model
        from onnx.inliner import inline_local_functions
    except ImportError as error:
        raise FormatError(f"{src}: reading it needs onnx: pip install 'masktools[onnx]'") from error
    model = src
    if not isinstance(model, onnx.ModelProto):
        check_source(model)
        try:
            model = onnx.load(os.fspath(src), load_external_data=False)
            check_external(Path(src), model)
            load_external_data_for_model(model, str(Path(src).parent))
        except FormatError:
            raise
        except (DecodeError, ValueError, onnx.checker.ValidationError) as error:
            raise FormatError(f"{src}: not an ONNX file: {error}") from error
        if not model.graph.node:
            raise FormatError(f"{src}: not an ONNX file: it holds no network")
    check_functions(model)
    model = inline_local_functions(model) if model.functions else model
    return model if input_shapes is None else with_input_shapes(model, input_shapes)


class _Reading:
    """A model with the parts of it that are the same for every batch size."""

    def __init__(self, model: ModelProto) -> None:
        self._graph = model.graph
        self._opset = _opset(model)
        self._weights = dict(_initializers(model.graph))
        self._inputs = _inputs(model.graph, self._weights)
        self.fixed = {first for first, *_ in self._inputs.values() if first is not None}
        if self.fixed and any(shape[0] is None for shape in self._inputs.values()):
            raise GraphError(f"inputs of an open batch and of {sorted(self.fixed)} cannot be mixed")

    def at(self, batch: int, everywhere: bool = False) -> Pass:
        """Return the network at a batch size where it is open, or in all inputs."""
        shapes = {
            name: (batch if everywhere else shape[0] or batch, *(n or 1 for n in shape[1:]))
            for name, shape in self._inputs.items()
        }
        said = next(iter(self.fixed), None)
        return Pass(self._graph, self._opset, self._weights, shapes, said, REWRITES)


def _opset(model: ModelProto) -> int:
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset < OLDEST_OPSET:
        raise FormatError(f"operator set {opset} is too old: {OLDEST_OPSET} or newer is needed")
    return int(opset)


def _initializers(graph: GraphProto) -> Iterable[tuple[str, NDArray[Any]]]:
    from onnx import numpy_helper

    for tensor in graph.initializer:
        yield tensor.name, numpy_helper.to_array(tensor)
    claimed = 0
    for sparse in graph.sparse_initializer:
        name, dims = sparse.values.name, tuple(sparse.dims)
        values = numpy_helper.to_array(sparse.values)
        at = numpy_helper.to_array(sparse.indices)
        claimed += prod(dims) * values.itemsize
        if min(dims, default=1) < 0 or claimed > limits.room(graph.ByteSize()):
            raise GraphError(
                f"sparse initializer {name!r}: {dims} is no shape that can be read; with those "
                f"before it, it claims {claimed} bytes"
            )
        dense = np.zeros(dims, values.dtype)
        try:
            dense[np.unravel_index(at, dims) if at.ndim == 1 else tuple(at.T)] = values
        except (ValueError, IndexError) as error:
            raise GraphError(f"sparse initializer {name!r}: {error}") from error
        yield name, dense


def _inputs(graph: GraphProto, weights: Mapping[str, Any]) -> dict[str, tuple[int | None, ...]]:
    """Return the inputs' shapes; the first size is None where the file leaves it open."""
    from onnx import TensorProto

    inputs: dict[str, tuple[int | None, ...]] = {}
    for value in graph.input:
        if value.name in weights:
            continue
        tensor = value.type.tensor_type
        if tensor.elem_type != TensorProto.FLOAT:
            kind = TensorProto.DataType.Name(tensor.elem_type).lower()
            todo = "export the network in float32"
            if "int" in kind:
                todo = (
                    "whole numbers, such as token ids, lead into an embedding, which cannot be "
                    "run: export what comes behind it"
                )
            raise GraphError(
                f"input {value.name!r}: dtype {kind}, but only float32 is supported; {todo}"
            )
        shape = tuple(d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim)
        if not shape or None in shape[1:]:
            raise GraphError(
                f"input {value.name!r}: shape {shape} leaves more open than the batch; "
                "give its sizes by --input-shape (input_shapes=)"
            )
        inputs[value.name] = shape
    return inputs


def _difference(first: Pass, second: Pass) -> str | None:
    """Describe what two batch sizes change besides the tensors' first axes, or return None."""
    for ours, theirs in zip(first.graph.nodes, second.graph.nodes, strict=False):
        if ours != theirs:
            return f"{where(ours)} depends on the batch size"
    for name in (output for node in first.graph.nodes for output in node.outputs):
        one, other = first.shapes[name], second.shapes[name]
        batches = tuple(p.shapes[p.graph.inputs[0].name][0] for p in (first, second))
        if (one[:1] + other[:1], one[1:]) != (batches, other[1:]):
            return f"tensor {name!r} of shape {one} mixes the images of a batch"
    for name, array in first.graph.constants.items():
        # NaN is told where weights are checked; here it would differ from itself.
        if not np.array_equal(array, second.graph.constants[name], equal_nan=True):
            return f"constant {name!r} depends on the batch size"
    return None


def _mixes_images(node: Node) -> bool:
    """Return whether a node works along the first axis."""
    axes = node.attributes.get("axes", node.attributes.get("axis"))
    if node.op in ("Flatten", "Unsqueeze"):
        return False  # What they do to the batch shows in the shapes.
    return axes == 0 or (isinstance(axes, tuple) and 0 in axes)


def _opened(graph: Graph) -> Graph:
    inputs, outputs = (
        tuple(replace(value, shape=(None, *value.shape[1:])) for value in values)
        for values in (graph.inputs, graph.outputs)
    )
    return replace(graph, inputs=inputs, outputs=outputs)
