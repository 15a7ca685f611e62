"""Lower pools and means over the image to steps."""

from __future__ import annotations

from typing import Literal, cast

from masktools.network.graph import Node, ints
from runtime.plan.lowering.context import Context, Rows, border
from runtime.plan.steps import Pool, Step

# Strides and dilations that a plan holds at most: every image is smaller.
LARGEST_STEP = 2**28


def in_two_axes(values: tuple[int, ...]) -> tuple[int, int]:
    """Return sizes along y and x of a window that may have x alone."""
    return (1, values[0]) if len(values) == 1 else (values[0], values[1])


def sides(begins: tuple[int, ...], ends: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return pads as top, left, bottom, right."""
    if len(begins) == 1:
        return (0, begins[0], 0, ends[0])
    return (begins[0], begins[1], ends[0], ends[1])


def window_steps(node: Node, name: str) -> tuple[int, ...]:
    """Return strides or dilations, at most `LARGEST_STEP`, which already leaves every image."""
    return tuple(min(step, LARGEST_STEP) for step in ints(node, name))


def _pool(context: Context, node: Node) -> list[Step]:
    kernel, pads = ints(node, "kernel_shape"), ints(node, "pads")
    strides, dilations = window_steps(node, "strides"), window_steps(node, "dilations")
    half = len(kernel)
    image = context.sizes(node, tuple(range(2, 2 + half)))[2:]
    windows = cast("tuple[int, ...]", context.shapes[node.outputs[0]][2:])
    # Under ceil_mode the last window may hang over the padding.
    last = [
        (windows[i] - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1 - pads[i] - image[i]
        for i in range(half)
    ]
    ends = tuple(max(given, reached) for given, reached in zip(pads[half:], last, strict=True))
    counted = pads if node.attributes.get("count_include_pad") else (0,) * len(pads)
    return [
        Pool(
            **border(node),
            op=cast("Literal['MaxPool', 'AveragePool']", node.op),
            kernel=in_two_axes(kernel),
            strides=in_two_axes(strides),
            dilations=in_two_axes(dilations),
            pads=sides(pads[:half], ends),
            counted=sides(counted[:half], counted[half:]),
        )
    ]


WINDOWS: Rows = {
    "MaxPool": _pool,
    "AveragePool": _pool,
}
