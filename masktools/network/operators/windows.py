"""Pools, and how many windows fit an image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from masktools import limits
from masktools.network.graph import Node, Shape, integer, ints
from masktools.network.operators.operator import FLAG, ONE, SIZES, Kind, Operator
from masktools.network.operators.rules import Known, Values, same_channels, same_constants, uncut
from masktools.network.sizes import Size, least

WINDOW = {"strides": SIZES, "pads": Kind(int, many=True, least=0), "dilations": SIZES}


def check_window(node: Node, spatial: int) -> str | None:
    """Check strides, dilations and pads for a number of spatial axes; return the fault or None."""
    if spatial not in (1, 2):
        return f"{spatial} spatial axes, but 1 or 2 are supported"
    for name, length in (("strides", spatial), ("dilations", spatial), ("pads", 2 * spatial)):
        if len(ints(node, name)) != length:
            return f"attribute {name} must have {length} entries, got {node.attributes[name]!r}"
    return None


def window_sizes(node: Node, spatial: Sequence[int], kernel: Sequence[int]) -> Shape:
    """Return how many windows fit along each spatial axis.

    Parameters
    ----------
    node : Node
        Its strides, dilations, pads and `ceil_mode` count.
    spatial, kernel : sequence of int
        Sizes of the image and of the window.

    Raises
    ------
    ValueError
        If the window does not fit the image, or is larger than `masktools.limits` allows.
    """
    strides, dilations, pads = (ints(node, name) for name in ("strides", "dilations", "pads"))
    if not len(spatial) == len(kernel) == len(strides):
        raise ValueError(f"{len(spatial)} spatial axes for a window of {len(kernel)}")
    if math.prod(kernel) > limits.TAPS:
        raise ValueError(f"a window of {tuple(kernel)} has more than {limits.TAPS} taps")
    ceil = integer(node, "ceil_mode", 0)
    sizes = []
    for i, size in enumerate(spatial):
        padded_size = size + pads[i] + pads[i + len(spatial)]
        if padded_size >= 2**31:
            raise ValueError(f"an image of {padded_size} pixels along an axis, with its padding")
        room = padded_size - dilations[i] * (kernel[i] - 1) - 1
        if room < 0:
            raise ValueError("the window is larger than the padded image")
        count = (-(-room // strides[i]) if ceil else room // strides[i]) + 1
        if ceil:  # A last window that would start in the padding is left out.
            count = least(count, -(-(size + pads[i]) // strides[i]))
        sizes.append(count)
    return tuple(sizes)


def padded(node: Node) -> bool:
    """Return whether a window may lie on padding."""
    pads = ints(node, "pads") if "pads" in node.attributes else ()
    return any(pad or isinstance(pad, Size) for pad in pads)


# --- pools --------------------------------------------------------------------------------------


def _check_pool(node: Node, shapes: list[Shape | None]) -> str | None:
    kernel = ints(node, "kernel_shape")
    wrong = check_window(node, len(kernel))
    if wrong:
        return wrong
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, ints(node, "dilations"), strict=True)]
    if any(pad >= size for pad, size in zip(ints(node, "pads"), extent * 2, strict=True)):
        return f"attribute pads={node.attributes['pads']!r} reaches past the window"
    return None


def _pool_shape(node: Node, given: list[Shape]) -> list[Shape]:
    x = given[0]
    return [(*x[:2], *window_sizes(node, x[2:], ints(node, "kernel_shape")))]


def _average_constant(known: Known, node: Node) -> list[Values]:
    value = known.values[node.inputs[0]]
    if node.attributes["count_include_pad"] and padded(node):
        return [np.where(value == 0, 0.0, np.nan)]
    return [value]


# --- the mean of an image ------------------------------------------------------------------------


def _global_shape(node: Node, given: list[Shape]) -> list[Shape]:
    if len(given[0]) < 3:
        raise ValueError("there is no image")
    return [(*given[0][:2], *(1 for _ in given[0][2:]))]


_POOL = {"kernel_shape": SIZES, **WINDOW, "ceil_mode": FLAG}

WINDOWS: Mapping[str, Operator] = {
    "MaxPool": Operator(
        ONE,
        attributes=_POOL,
        check=_check_pool,
        shape=_pool_shape,
        channels=same_channels,
        constant=same_constants,
        cut=uncut,
    ),
    "AveragePool": Operator(
        ONE,
        attributes={**_POOL, "count_include_pad": FLAG},
        check=_check_pool,
        shape=_pool_shape,
        channels=same_channels,
        constant=_average_constant,
        cut=uncut,
    ),
    "GlobalAveragePool": Operator(
        ONE, shape=_global_shape, channels=same_channels, constant=same_constants, cut=uncut
    ),
}
