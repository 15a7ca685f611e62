"""ONNX: zeros of the initializers, or the positions that sparse initializers list."""

from __future__ import annotations

from masktools.importers.containers.onnx_file import OnnxNode, OnnxWeights, SparseTensor
from masktools.importers.contents import Array, Contents, Unreadable, check_room
from masktools.importers.tool import Found, Names, Tool, by_zeros
from masktools.network.layers import layer_name

_OPERATORS = ("Conv", "Gemm", "MatMul")


def _read(contents: Contents, _: Names) -> Found:
    file: OnnxWeights = contents.tree
    weights: dict[str, Array] = {}
    listed: dict[str, Array] = {}
    notes: list[str] = []
    by_node = []
    for node in file.nodes:
        if node.op not in _OPERATORS or len(node.inputs) < 2:
            continue
        constant = file.constants.get(node.inputs[1])
        parameter = file.origins.get(node.inputs[1], node.inputs[1])
        layer = layer_name(parameter, node.name)
        if isinstance(constant, SparseTensor):
            weights[layer], listed[layer] = (
                _turn(node, constant.values),
                _turn(node, constant.listed),
            )
        elif constant is None or isinstance(constant, Unreadable):
            # Activations multiplied by activations are no layer; computed weights would be.
            if node.op != "MatMul":
                notes.append(f"node {node.name!r} was left out: its weight is no plain constant")
            continue
        else:
            weights[layer] = _turn(node, constant)
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
