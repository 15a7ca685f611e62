"""Conv and Gemm: the operators whose weights may be sparse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from masktools.network.graph import Attribute, Node, Shape, integer
from masktools.network.operators.operator import Kind, Operator
from masktools.network.operators.rules import Cutting, Flow, Known, Labels, Values
from masktools.network.operators.windows import WINDOW, check_window, padded, window_sizes


def _check_conv(node: Node, shapes: list[Shape | None]) -> str | None:
    weight = shapes[1] or ()
    group = integer(node, "group")
    if min(weight, default=0) < 1:
        return f"weight {node.inputs[1]!r} has shape {weight}"
    if weight[0] % group:
        return f"attribute group={group} does not divide the {weight[0]} rows of its weight"
    return check_window(node, len(weight) - 2) or _check_bias(node, shapes)


def _check_gemm(node: Node, shapes: list[Shape | None]) -> str | None:
    weight = shapes[1] or ()
    if len(weight) != 2 or min(weight) < 1:
        return f"weight {node.inputs[1]!r} must have shape (out, in), got {weight}"
    return _check_bias(node, shapes)


def _check_bias(node: Node, shapes: list[Shape | None]) -> str | None:
    rows = (shapes[1] or (0,))[0]
    if len(shapes) == 3 and shapes[2] != (rows,):
        return f"bias {node.inputs[2]!r} must have shape ({rows},), got {shapes[2]}"
    return None


def _conv_shape(node: Node, given: list[Shape]) -> list[Shape]:
    image, weight = given[:2]
    group = integer(node, "group")
    if len(image) != len(weight) or image[1] != weight[1] * group:
        raise ValueError(f"expected {weight[1] * group} channels")
    return [(image[0], weight[0], *window_sizes(node, image[2:], weight[2:]))]


def _gemm_shape(node: Node, given: list[Shape]) -> list[Shape]:
    x, weight = given[:2]
    if len(x) < 2 or x[-1] != weight[1]:
        raise ValueError(f"expected {weight[1]} features on the last axis")
    return [(*x[:-1], weight[0])]


def _channels(flow: Flow, node: Node) -> list[Labels] | None:
    x, weight = node.inputs[:2]
    name = weight.removesuffix(".weight")
    rows, per_group = flow.shapes[weight][:2]
    # Layers that share a weight share their rows.
    made = flow.rows[name] = flow.rows[name] if name in flow.rows else flow.new(name, rows)
    if node.op == "Gemm" and len(flow.shapes[x]) > 2:
        flow.fixed.append(made)
        return None  # Its channels lie on another axis.
    groups = integer(node, "group", 1)
    if groups > 1 and per_group == 1:
        flow.ties.append((np.repeat(flow.labels[x], rows // groups), made))
    return [made]


def _constant(known: Known, node: Node) -> list[Values] | None:
    x, matrix = known.values[node.inputs[0]], known.weights[node.inputs[1]]
    if node.op == "Gemm" and len(known.shapes[node.inputs[0]]) > 2:
        return None
    groups = integer(node, "group", 1)
    rows, per_group = matrix.shape[:2]
    matrix = matrix.reshape(groups, rows // groups, per_group, -1)
    before = x.reshape(groups, 1, per_group)
    used = (matrix != 0).any(axis=3)
    # On padding a channel is 0: only there is a constant of another value not constant.
    varies = np.isnan(before) | ((before != 0) & padded(node))
    value = np.nan_to_num(before[:, 0])
    some = value.any(axis=0)  # Mostly none: a large matrix is not multiplied by zeros.
    total = np.einsum("grct,gc->gr", matrix[:, :, some], value[:, some], dtype=np.float64)
    bias = known.constants[node.inputs[2]] if len(node.inputs) > 2 else 0.0
    live = (used & varies).any(axis=2)
    return [np.where(live, np.nan, total).ravel() + bias]


def _cut(cutting: Cutting, node: Node) -> Node:
    x, weight = node.inputs[:2]
    rows, channels = cutting.kept[node.outputs[0]], cutting.kept[x]
    across = len(cutting.shapes[x]) != len(cutting.shapes[weight])  # another axis than channels'
    if across or (rows.all() and channels.all()):
        return node
    groups = integer(node, "group", 1)
    attributes: dict[str, Attribute] = dict(node.attributes)
    if groups > 1:  # Depthwise: a group goes with its one channel.
        attributes["group"] = groups = int(channels.sum())
        channels = np.ones(1, np.bool_)
    cutting.cut_weight(weight, rows, channels, groups)
    inputs = list(node.inputs)
    if len(inputs) > 2:
        inputs[2] = cutting.store(inputs[2], cutting.before[inputs[2]][rows])
    return replace(node, inputs=tuple(inputs), attributes=attributes)


LAYERS: Mapping[str, Operator] = {
    "Conv": Operator(
        (2, 3),
        attributes={**WINDOW, "group": Kind(int, least=1)},
        constants=(1, 2),
        check=_check_conv,
        shape=_conv_shape,
        channels=_channels,
        constant=_constant,
        cut=_cut,
    ),
    "Gemm": Operator(
        (2, 3),
        attributes={"transB": Kind(int, among=(1,))},
        constants=(1, 2),
        check=_check_gemm,
        shape=_gemm_shape,
        channels=_channels,
        constant=_constant,
        cut=_cut,
    ),
}
