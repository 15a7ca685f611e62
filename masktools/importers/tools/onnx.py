"""ONNX: zeros of the initializers, or the positions that sparse initializers list."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from masktools.importers.containers.onnx_file import WEIGHTED, OnnxNode, OnnxWeights, SparseTensor
from masktools.importers.contents import Array, Contents, Unreadable, check_room
from masktools.importers.tool import Found, Names, Tool, by_zeros
from masktools.network.graph import numbered
from masktools.network.layers import layer_name


def _read(contents: Contents, _: Names) -> Found:
    file: OnnxWeights = contents.tree
    weights: dict[str, Array] = {}
    listed: dict[str, Array] = {}
    notes: list[str] = []
    by_node = []
    for node in file.nodes:
        if node.op not in WEIGHTED or len(node.inputs) < 2:
            continue
        if node.inputs[0] in file.constants:
            continue  # A product of constants is a part of some weight.
        constant = file.constants.get(node.inputs[1])
        if constant is None or isinstance(constant, Unreadable):
            # Activations multiplied by activations are no layer; computed weights would be.
            if node.op != "MatMul" or constant is not None:
                why = f": {constant.reason}" if constant else ""
                notes.append(
                    f"node {node.name!r} was left out: its weight is no plain constant{why}"
                )
            continue
        parameter = file.origins.get(node.inputs[1], node.inputs[1])
        whole = constant.values if isinstance(constant, SparseTensor) else constant
        weight = _turn(node, whole)
        layer = _free(weights, layer_name(parameter, node.name), weight)
        weights[layer] = weight
        if isinstance(constant, SparseTensor):
            listed[layer] = _turn(node, constant.listed)
        if layer == node.name:
            by_node.append(layer)
    if by_node:
        notes.append(f"named by their node, for the parameter's name is lost: {', '.join(by_node)}")
    # Any number of nodes may read one constant, and each of their layers gets a mask of its own.
    check_room(contents.path, sum(a.nbytes + a.size for a in weights.values()))
    if not listed:
        return by_zeros(weights, notes)
    masks = {layer: listed.get(layer, weight != 0) for layer, weight in weights.items()}
    notes.append("kept are the positions that sparse initializers list, and nonzeros elsewhere")
    return Found(masks, weights, notes=notes)


def _free(weights: Mapping[str, Array], wish: str, weight: Array) -> str:
    """Return the name that the reader of networks gives a layer: equal weights share one."""
    return next(
        name
        for name in numbered(wish)
        if name not in weights or np.array_equal(weights[name], weight)
    )


def _turn(node: OnnxNode, weight: Array) -> Array:
    """Return a matrix as (out, in); convolutions are (out, in / groups, ...) already."""
    if weight.ndim == 2 and (node.op == "MatMul" or (node.op == "Gemm" and not node.transposed)):
        return weight.T
    return weight


TOOLS = (
    Tool(
        "onnx",
        "an ONNX model",
        lambda contents: contents.container == "onnx",
        _read,
    ),
)
