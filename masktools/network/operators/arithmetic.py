"""Arithmetic, comparisons and choices, element by element: their operands are broadcast."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from masktools.network.graph import Node, Shape
from masktools.network.operators.operator import Operator
from masktools.network.operators.rules import Cutting, Flow, Known, Labels, Values
from masktools.network.sizes import broadcast

# Numbers that differ by less, of their size, may be told apart in float32, or not.
CLOSE = 1e-6


def _comparison(of: Callable[[Values, Values], Values]) -> Callable[[Values, Values], Values]:
    """Return a comparison of known values: NaN too where rounding to float32 could turn it."""

    def compare(a: Values, b: Values) -> Values:
        close = np.abs(a - b) <= CLOSE * np.maximum(np.abs(a), np.abs(b))
        exact = (a == b) & (a == a.astype(np.float32))
        unknown = np.isnan(a) | np.isnan(b) | (close & ~exact)
        return np.where(unknown, np.nan, of(a, b))

    return compare


def _where(condition: Values, a: Values, b: Values) -> Values:
    chosen = np.where(condition != 0, a, b)
    return np.where(np.isnan(condition), np.where(a == b, a, np.nan), chosen)


# Of the values that each channel of the operands is known to have: NaN stands for "not constant".
ARITHMETIC: Mapping[str, Callable[..., Values]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": lambda a, b: np.where((a == 0) | (b == 0), 0.0, a * b),  # whatever the other is
    "Div": np.divide,
    "Max": np.maximum,
    "Min": np.minimum,
    "PRelu": lambda a, b: np.where(a < 0, a * b, a),
    "Greater": _comparison(np.greater),
    "GreaterOrEqual": _comparison(np.greater_equal),
    "Equal": _comparison(np.equal),
    "Where": _where,
}


def _broadcast_shape(node: Node, given: list[Shape]) -> list[Shape]:
    return [broadcast(*given)]


def _arithmetic_channels(flow: Flow, node: Node) -> list[Labels] | None:
    output = flow.shapes[node.outputs[0]]
    labels = []
    for name in node.inputs:
        if name in flow.constants:
            continue
        shape = flow.shapes[name]
        if len(shape) != len(output) or len(output) < 2 or shape[1] != output[1]:
            return None
        labels.append(flow.labels[name])
    flow.ties += ((labels[0], others) for others in labels[1:])
    return labels[:1]


def _arithmetic_constant(known: Known, node: Node) -> list[Values]:
    return [ARITHMETIC[node.op](*(_operand(known, name, node) for name in node.inputs))]


def _operand(known: Known, name: str, node: Node) -> Values:
    """Return the value that each channel of the output meets in one operand."""
    shape = known.shapes[node.outputs[0]]
    if name not in known.constants:
        same = len(known.shapes[name]) == len(shape) and known.shapes[name][1] == shape[1]
        return known.values[name] if same else known.unknown(node.outputs[0])
    value = known.constants[name].astype(np.float64)
    value = value.reshape((1,) * (len(shape) - value.ndim) + value.shape)
    per_channel = np.broadcast_to(value, (value.shape[0], shape[1], *value.shape[2:]))
    flat = np.moveaxis(per_channel, 1, 0).reshape(shape[1], -1)
    return np.where((flat == flat[:, :1]).all(axis=1), flat[:, 0], np.nan)


def _arithmetic_cut(cutting: Cutting, node: Node) -> Node:
    rank = len(cutting.shapes[node.outputs[0]])
    inputs = list(node.inputs)
    for i, name in enumerate(inputs):
        array = cutting.before.get(name)
        axis = 1 if array is None else 1 - rank + array.ndim
        if array is not None and axis >= 0 and array.shape[axis] > 1:
            kept = cutting.kept[node.outputs[0]]
            inputs[i] = cutting.store(name, array.compress(kept, axis))
    return replace(node, inputs=tuple(inputs))


_ARITHMETIC = Operator(
    (2, 2),
    either=True,
    shape=_broadcast_shape,
    channels=_arithmetic_channels,
    constant=_arithmetic_constant,
    cut=_arithmetic_cut,
)


def _check_slope(node: Node, shapes: list[Shape | None]) -> str | None:
    return None if shapes[0] is None else "of its inputs the slope alone may be a constant"


def _slope_shape(node: Node, given: list[Shape]) -> list[Shape]:
    if np.broadcast_shapes(*given) != given[0]:
        raise ValueError(f"a slope of shape {given[1]} for a value of shape {given[0]}")
    return [given[0]]


ROWS: Mapping[str, Operator] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _ARITHMETIC),
    **dict.fromkeys(("Max", "Min"), replace(_ARITHMETIC, version=2)),
    "PRelu": replace(_ARITHMETIC, shape=_slope_shape, check=_check_slope, version=2),
    **dict.fromkeys(("Greater", "GreaterOrEqual", "Equal"), replace(_ARITHMETIC, version=2)),
    "Where": replace(_ARITHMETIC, inputs=(3, 3), version=2),
}
