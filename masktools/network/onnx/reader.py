"""Read a network from ONNX, operator set 9 to the newest, into the form of docs/format.md."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from masktools.errors import FormatError, GraphError
from masktools.files import check_source
from masktools.network.graph import Graph, Node
from masktools.network.input_shapes import InputShapes, given_sizes
from masktools.network.normal_form import check_graph
from masktools.network.onnx.cost import check_external, check_functions
from masktools.network.onnx.open_sizes import BATCHES, Reading, check_open, difference, following
from masktools.network.onnx.precision import Say, in_float32
from masktools.network.onnx.quantised import dequantised
from masktools.network.onnx.reading import Pass

if TYPE_CHECKING:
    from onnx import ModelProto


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
        the file was exported with a fixed one; where the file leaves some inputs open and fixes
        others, these stay. Other axes that the file leaves open are a
        `masktools.network.sizes.Size`, with an example at which the network works.

    Raises
    ------
    FormatError
        If it is no ONNX file, or older than operator set 9.
    GraphError
        If an operator, an attribute or a shape is not supported: naming the node, the operator
        and the attribute; or if what it does depends on open sizes otherwise than by sizes that
        follow from them.
    OSError
        If the file cannot be opened.

    Notes
    -----
    Constants and the arithmetic of shapes are folded by onnx's own evaluator. Differences between
    operator sets are resolved, so that each operator has one meaning: pads are explicit, integer
    inputs become attributes, matrix products with constants become Gemm with weights of shape
    (out, in), Dropout and Identity disappear.

    An open batch is proved, not assumed: the file is read at two batch sizes, and both must give
    the same nodes and constants. So are other open sizes: what follows from them must follow by
    one formula at all sizes that the file is read at.
    """
    reading = Reading(load_onnx(src, input_shapes))
    sizes, first = reading.first()
    check_open(reading, sizes, first)
    graph = first.graph
    if reading.open_batch:
        # An If asks mostly whether an axis is 1, which a batch may be.
        for batch in (BATCHES[1], 1) if first.chose else BATCHES[1:]:
            wrong = difference(first, reading.at(batch, sizes), reading.open_batch)
            if wrong:
                raise GraphError(f"{wrong}, but the inputs leave the batch open")
        graph = _opened(graph, reading.open_batch)
    elif len(reading.fixed) == 1 and not any(map(_mixes_images, graph.nodes)):
        # Where it is no network at all at another size, the file's own size stays.
        everywhere = set(reading.inputs)
        with suppress(GraphError):
            if not difference(first, reading.at(BATCHES[1], sizes, everywhere), everywhere):
                graph = _opened(graph, everywhere)
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
        for output, form, index in weights[f"{layer}.weight"]:
            name = f"{output}.mask"
            value = form.to_file(mask).astype(np.float32)
            masked.graph.initializer.append(numpy_helper.from_array(value, name))
            node = nodes[output]
            products.append(helper.make_node("Mul", [node.input[index], name], [f"{name}ed"]))
            node.input[index] = f"{name}ed"
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
    return Reading(model).first()[1]


def load_onnx(
    src: str | os.PathLike[str] | ModelProto,
    input_shapes: InputShapes | None = None,
    say: Say | None = None,
) -> ModelProto:
    """Return the model of a file in float32, its local functions written out.

    Parameters
    ----------
    src : path-like or onnx.ModelProto
        Not changed.
    input_shapes : mapping of str to sequence of int, or one such sequence, default None
        Sizes that the file leaves open, by input or of the only one: an entry for each axis. None,
        -1, ``"?"`` or a name leaves an axis as the file has it.
    say : callable, default None
        Is told, in a sentence each, how numbers of other types are read.

    Raises
    ------
    FormatError
        If it is no regular file, no ONNX file, or claims more than files of its size may hold.
    GraphError
        If its local functions, written out, are more than `masktools.limits` allows, if it
        computes with integers, or
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
    model = dequantised(in_float32(model, say), say)
    return model if input_shapes is None else _with_input_shapes(model, input_shapes)


def _with_input_shapes(model: ModelProto, shapes: InputShapes) -> ModelProto:
    import onnx

    weights = {tensor.name for tensor in model.graph.initializer}
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    dims = {v.name: v.type.tensor_type.shape.dim for v in fixed.graph.input}
    own = {
        name: [d.dim_value if d.dim_value > 0 else d.dim_param or None for d in axes]
        for name, axes in dims.items()
        if name not in weights
    }
    for name, sizes in given_sizes(shapes, own).items():
        for dim, size in zip(dims[name], sizes, strict=True):
            if size is not None:
                dim.dim_value = size
    return fixed


def _mixes_images(node: Node) -> bool:
    """Return whether a node works along the first axis."""
    axes = node.attributes.get("axes", node.attributes.get("axis"))
    if node.op in ("Flatten", "Unsqueeze"):
        return False  # What they do to the batch shows in the shapes.
    return axes == 0 or (isinstance(axes, tuple) and 0 in axes)


def _opened(graph: Graph, open_: Collection[str]) -> Graph:
    """Return the graph with the batch open in some inputs, and in what follows from them."""
    open_ = following(graph, open_)
    inputs, outputs = (
        tuple(
            replace(value, shape=(None, *value.shape[1:])) if value.name in open_ else value
            for value in values
        )
        for values in (graph.inputs, graph.outputs)
    )
    return replace(graph, inputs=inputs, outputs=outputs)
