"""Fold batch normalisation and constant scales and shifts into the layer before them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.export.stored import Stored
from masktools.network.graph import Node, Shape, fresh, real
from masktools.network.network import Network

Constants = dict[str, NDArray[Any]]
Affine = tuple[NDArray[np.float64], NDArray[np.float64]]


def fold(network: Network, stored: Mapping[str, Stored]) -> tuple[Network, dict[str, Stored]]:
    """Fold batch normalisation, and arithmetic with constants, into the layers.

    Parameters
    ----------
    network : Network
        Not changed.
    stored : mapping of str to Stored
        The weights by layer, which stand for the graph's own. Not changed.

    Returns
    -------
    Network
        Without BatchNormalization: where no layer precedes it, or one whose output or weight is
        used elsewhere too, a Mul and an Add by constants of shape (C, 1, 1) are left.
    dict of str to Stored

    Notes
    -----
    Scales and shifts are combined in float64 and rounded once, to float32.
    """
    graph, shapes = network.graph, dict(network.shapes)
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    readers.update(value.name for value in graph.outputs)
    constants, weights = dict(graph.constants), dict(stored)
    nodes: list[Node] = []
    made_by: dict[str, int] = {}  # The layer of a tensor that is read once.
    for node in graph.nodes:
        at = next((made_by[name] for name in node.inputs if name in made_by), len(nodes))
        affine = None
        if at < len(nodes):
            axis = 1 if nodes[at].op == "Conv" else len(shapes[nodes[at].outputs[0]]) - 1
            affine = _affine(node, axis, constants, shapes)
        if affine is not None:
            nodes[at] = _absorb(nodes[at], node.outputs, affine, weights, constants, readers)
        elif node.op == "BatchNormalization":
            nodes.extend(_as_arithmetic(node, constants, shapes))
            continue
        else:
            at = len(nodes)
            nodes.append(node)
        layer = nodes[at]
        if layer.op in ("Conv", "Gemm") and readers[layer.inputs[1]] == 1:
            made_by.update({name: at for name in layer.outputs if readers[name] == 1})
    read = {name for node in nodes for name in node.inputs}
    left = {name: array for name, array in constants.items() if name in read}
    shapes.update((name, array.shape) for name, array in left.items())
    return Network(replace(graph, nodes=tuple(nodes), constants=left), shapes), weights


def _normalisation(node: Node, constants: Constants) -> Affine:
    scale, bias, mean, var = (constants[name].astype(np.float64) for name in node.inputs[1:])
    scale = scale / np.sqrt(var + real(node, "epsilon"))
    return scale, bias - mean * scale


def _affine(
    node: Node, axis: int, constants: Constants, shapes: Mapping[str, Shape]
) -> Affine | None:
    """Return the scale and shift that a node applies along an axis, or None if it does more."""
    shape = shapes[node.outputs[0]]
    if node.op == "BatchNormalization":
        return _normalisation(node, constants) if axis == 1 else None
    if node.op not in ("Add", "Sub", "Mul", "Div"):
        return None
    constant = next((name for name in node.inputs if name in constants), None)
    if constant is None or shapes[next(n for n in node.inputs if n != constant)] != shape:
        return None
    value = constants[constant].astype(np.float64)
    value = value.reshape((1,) * (len(shape) - value.ndim) + value.shape)
    if value.size != value.shape[axis]:
        return None  # It differs from pixel to pixel.
    value = np.broadcast_to(value.ravel(), (shape[axis],))
    one, zero, first = np.ones_like(value), np.zeros_like(value), node.inputs[0] == constant
    if node.op == "Add":
        return one, value
    if node.op == "Mul":
        return value, zero
    if node.op == "Sub":
        return (-one, value) if first else (one, -value)
    return None if first or not value.all() else (1 / value, zero)


def _absorb(
    layer: Node,
    outputs: tuple[str, ...],
    affine: Affine,
    weights: dict[str, Stored],
    constants: Constants,
    readers: Counter[str],
) -> Node:
    """Return the layer's node with its weight and bias scaled and shifted."""
    scale, shift = affine
    x, weight = layer.inputs[:2]
    name = weight.removesuffix(".weight")
    stored = weights[name]
    per_row = scale.reshape(-1, *(1,) * (stored.weight.ndim - 1))
    weights[name] = replace(stored, weight=(stored.weight * per_row).astype(np.float32))
    old = layer.inputs[2] if len(layer.inputs) > 2 else ""
    bias = constants[old] * scale + shift if old else shift
    new = old if old and readers[old] == 1 else fresh(f"{name}.bias", constants, readers)
    constants[new] = bias.astype(np.float32)
    return replace(layer, inputs=(x, weight, new), outputs=outputs)


def _as_arithmetic(node: Node, constants: Constants, shapes: dict[str, Shape]) -> tuple[Node, Node]:
    """Return a batch normalisation as a product and a sum; add what lies between to `shapes`."""
    x, y = node.inputs[0], node.outputs[0]
    names = []
    for what, value in zip(("scale", "shift"), _normalisation(node, constants), strict=True):
        names.append(fresh(f"{node.name}.{what}", constants, shapes))
        shape = (-1, *(1,) * (len(shapes[x]) - 2))
        constants[names[-1]] = value.astype(np.float32).reshape(shape)
    between = fresh(f"{y}.scaled", constants, shapes)
    shapes[between] = shapes[y]
    return (
        Node(f"{node.name}.scale", "Mul", (x, names[0]), (between,)),
        Node(f"{node.name}.shift", "Add", (between, names[1]), (y,)),
    )
