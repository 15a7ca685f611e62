"""Reductions of axes to one number: sums, means, extremes and norms."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from masktools.network.graph import Node, Shape, ints
from masktools.network.operators.operator import (
    AXES,
    FLAG,
    ONE,
    Operator,
    check_axes,
    valid_axes,
)
from masktools.network.operators.rules import (
    ConstantRule,
    Flow,
    Known,
    Labels,
    Values,
    same_channels,
    same_constants,
    uncut,
)

# The axes that version 1 knows for ReduceMean, as the whole image and nothing else.
_IMAGES = ((2,), (2, 3))


def _shape(node: Node, given: list[Shape]) -> list[Shape]:
    x, axes = given[0], valid_axes(ints(node, "axes"), given[0])
    if node.attributes["keepdims"]:
        return [tuple(1 if axis in axes else n for axis, n in enumerate(x))]
    return [tuple(n for axis, n in enumerate(x) if axis not in axes)]


def _mean_shape(node: Node, given: list[Shape]) -> list[Shape]:
    axes = ints(node, "axes")
    if axes in _IMAGES and len(given[0]) != 2 + len(axes):
        raise ValueError(f"axes {axes} of a mean must be the whole image")
    return _shape(node, given)


def _mean_since(node: Node) -> int:
    return 1 if node.attributes.get("axes") in _IMAGES else 2


def _channels(flow: Flow, node: Node) -> list[Labels] | None:
    return same_channels(flow, node) if min(ints(node, "axes")) > 1 else None


def _constant(known: Known, node: Node) -> list[Values] | None:
    """Return the values as they are: of equal numbers, the mean and the extremes."""
    return same_constants(known, node) if min(ints(node, "axes")) > 1 else None


def _zeros(known: Known, node: Node) -> list[Values] | None:
    """Return zero where a channel is zero: how many numbers are summed is not asked."""
    value = known.values[node.inputs[0]]
    return [np.where(value == 0, 0.0, np.nan)] if min(ints(node, "axes")) > 1 else None


def _reduction(constant: ConstantRule) -> Operator:
    return Operator(
        ONE,
        attributes={"axes": AXES, "keepdims": FLAG},
        check=check_axes,
        shape=_shape,
        channels=_channels,
        constant=constant,
        cut=uncut,
        version=2,
    )


REDUCTIONS: Mapping[str, Operator] = {
    "ReduceMean": Operator(
        ONE,
        attributes={"axes": AXES, "keepdims": FLAG},
        check=check_axes,
        shape=_mean_shape,
        channels=_channels,
        constant=_constant,
        cut=uncut,
        since=_mean_since,
    ),
    "ReduceMax": _reduction(_constant),
    "ReduceMin": _reduction(_constant),
    "ReduceSum": _reduction(_zeros),
    "ReduceL2": _reduction(_zeros),
}
