"""MatMul: the product of two values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from masktools.network.graph import Node, Shape
from masktools.network.operators.operator import Operator
from masktools.network.operators.rules import Flow, Known, Labels, Values, uncut
from masktools.network.sizes import broadcast


def _shape(node: Node, given: list[Shape]) -> list[Shape]:
    a, b = given
    if min(len(a), len(b)) < 2:
        raise ValueError("factors must have two axes or more")
    if a[-1] != b[-2]:
        raise ValueError(f"{a[-1]} columns of the left factor, {b[-2]} rows of the right one")
    return [(*broadcast(a[:-2], b[:-2]), a[-2], b[-1])]


def _channels(flow: Flow, node: Node) -> list[Labels] | None:
    """Pass on the rows of the left factor, or the matrices where these are the channels."""
    output = flow.shapes[node.outputs[0]]
    alike = [name for name in node.inputs if flow.shapes[name][:2] == output[:2]]
    if len(output) == 3 and node.inputs[0] in alike and len(flow.shapes[node.inputs[0]]) == 3:
        if node.inputs[1] in flow.labels:
            flow.fixed.append(flow.labels[node.inputs[1]])
        return [flow.labels[node.inputs[0]]]
    if len(output) < 4 or any(len(flow.shapes[name]) != len(output) for name in node.inputs):
        return None
    if len(alike) < 2:
        return None
    first, second = (flow.labels[name] for name in node.inputs)
    flow.ties.append((first, second))
    return [first]


def _constant(known: Known, node: Node) -> list[Values] | None:
    """Return zero where a row, or a matrix, is zero."""
    output = known.shapes[node.outputs[0]]
    shapes = [known.shapes[name] for name in node.inputs]
    a, b = (known.values[name] for name in node.inputs)
    if len(output) == 3 and len(shapes[0]) == 3:
        return [np.where(a == 0, 0.0, np.nan)]
    if len(output) > 3 and all(s[1:2] == output[1:2] and len(s) == len(output) for s in shapes):
        return [np.where((a == 0) | (b == 0), 0.0, np.nan)]
    return None


PRODUCTS: Mapping[str, Operator] = {
    "MatMul": Operator(
        (2, 2),
        shape=_shape,
        channels=_channels,
        constant=_constant,
        cut=uncut,
        version=2,
    ),
}
