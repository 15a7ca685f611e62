"""Operators that give the same numbers another shape: Flatten, Reshape, Squeeze, Unsqueeze."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from masktools.network.graph import Attribute, Node, Shape, integer, ints
from masktools.network.operators.operator import (
    AXES,
    AXIS,
    ONE,
    Kind,
    Operator,
    check_axes,
    valid_axes,
)
from masktools.network.operators.rules import (
    Cutting,
    Flow,
    Known,
    Labels,
    Values,
    cut_attributes,
    uncut,
)


def _flatten_shape(node: Node, given: list[Shape]) -> list[Shape]:
    axis = integer(node, "axis")
    if axis > len(given[0]):
        raise ValueError(f"axis {axis} for {len(given[0])} axes")
    return [(math.prod(given[0][:axis]), math.prod(given[0][axis:]))]


def _check_reshape(node: Node, shapes: list[Shape | None]) -> str | None:
    shape = ints(node, "shape")
    return f"attribute shape={shape!r} has several -1" if shape.count(-1) > 1 else None


def _reshape_shape(node: Node, given: list[Shape]) -> list[Shape]:
    x = given[0]
    shape = [x[i] if n == 0 else n for i, n in enumerate(ints(node, "shape"))]
    if -1 in shape:
        known = -math.prod(shape)
        shape[shape.index(-1)] = math.prod(x) // known if known else 0
    if math.prod(shape) != math.prod(x):
        raise ValueError(f"it cannot become {ints(node, 'shape')}")
    return [tuple(shape)]


def _squeeze_shape(node: Node, given: list[Shape]) -> list[Shape]:
    axes = valid_axes(ints(node, "axes"), given[0])
    if any(given[0][axis] != 1 for axis in axes):
        raise ValueError(f"axes {sorted(axes)} must have size 1")
    return [tuple(n for axis, n in enumerate(given[0]) if axis not in axes)]


def _unsqueeze_shape(node: Node, given: list[Shape]) -> list[Shape]:
    axes = ints(node, "axes")
    sizes, rank = iter(given[0]), len(given[0]) + len(axes)
    valid_axes(axes, (1,) * rank)
    return [tuple(1 if axis in axes else next(sizes) for axis in range(rank))]


def _channels(flow: Flow, node: Node) -> list[Labels] | None:
    before, after = flow.shapes[node.inputs[0]], flow.shapes[node.outputs[0]]
    labels = flow.labels.get(node.inputs[0])
    if labels is None or before[0] != after[0] or len(after) < 2:
        return None
    if before[1] == after[1]:
        return [labels]
    if len(after) == 2:  # Each channel becomes as many features as its image has pixels.
        return [np.repeat(labels, after[1] // before[1])]
    return None


def _constant(known: Known, node: Node) -> list[Values] | None:
    before, after = known.shapes[node.inputs[0]], known.shapes[node.outputs[0]]
    value = known.values[node.inputs[0]]
    if len(after) < 2 or len(before) < 2 or before[0] != after[0]:
        return None
    if before[1] == after[1]:
        return [value]
    return [np.repeat(value, after[1] // before[1])] if len(after) == 2 else None


def _reshape_cut(cutting: Cutting, node: Node) -> Mapping[str, Attribute]:
    shape = ints(node, "shape")
    kept = cutting.kept.get(node.outputs[0])
    if kept is None or kept.all() or shape[1] <= 0:
        return {}  # An entry of 0 or -1 follows the input by itself.
    return {"shape": (shape[0], int(kept.sum()), *shape[2:])}


RESHAPING: Mapping[str, Operator] = {
    "Flatten": Operator(
        ONE,
        attributes={"axis": AXIS},
        shape=_flatten_shape,
        channels=_channels,
        constant=_constant,
        cut=uncut,
    ),
    "Reshape": Operator(
        ONE,
        attributes={"shape": Kind(int, many=True, least=-1)},
        check=_check_reshape,
        shape=_reshape_shape,
        channels=_channels,
        constant=_constant,
        cut=cut_attributes(_reshape_cut),
    ),
    "Squeeze": Operator(
        ONE,
        attributes={"axes": AXES},
        check=check_axes,
        shape=_squeeze_shape,
        channels=_channels,
        constant=_constant,
        cut=uncut,
    ),
    "Unsqueeze": Operator(
        ONE,
        attributes={"axes": AXES},
        check=check_axes,
        shape=_unsqueeze_shape,
        channels=_channels,
        constant=_constant,
        cut=uncut,
    ),
}
