"""Resize: images of another size, by the nearest pixel or by interpolation."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from masktools.network.graph import Node, Shape, ints
from masktools.network.operators.operator import (
    AXES,
    ONE,
    Kind,
    Operator,
    check_axes,
    valid_axes,
)
from masktools.network.operators.rules import (
    Flow,
    Known,
    Labels,
    Values,
    same_channels,
    same_constants,
    uncut,
)
from masktools.network.sizes import Size

COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
# For each mode, the attributes that it has and the others lack.
MODES: Mapping[str, tuple[str, ...]] = {
    "nearest": ("nearest_mode",),
    "linear": (),
    "cubic": ("cubic_coeff_a", "exclude_outside"),
}


def _check_resize(node: Node, shapes: list[Shape | None]) -> str | None:
    given = [name for name in ("scales", "sizes") if name in node.attributes]
    if len(given) != 1:
        return "attributes scales and sizes: exactly one must be given"
    axes = ints(node, "axes")
    target = node.attributes[given[0]]
    if (
        not isinstance(target, tuple)
        or len(target) != len(axes)
        or not all(0 < float(n) < 2**31 for n in target)
    ):
        return f"attribute {given[0]}={target!r} must hold a positive number for each of {axes}"
    mode = str(node.attributes["mode"])
    for owner, names in MODES.items():
        for name in names:
            if (name in node.attributes) != (owner == mode):
                return f"attribute {name} goes with mode {owner}, and only with it"
    crop = node.attributes["coordinate_transformation_mode"] == "tf_crop_and_resize"
    if crop and mode != "nearest":
        return f"mode {mode} with tf_crop_and_resize is not supported"
    for name in ("roi", "extrapolation_value"):
        if (name in node.attributes) != crop:
            return f"attribute {name} goes with tf_crop_and_resize, and only with it"
    if crop and given != ["sizes"]:
        return "attribute sizes goes with tf_crop_and_resize, not scales"
    roi = node.attributes.get("roi", ())
    if crop and (not isinstance(roi, tuple) or len(roi) != 2 * len(axes)):
        return f"attribute roi={roi!r} must have {2 * len(axes)} entries"
    return check_axes(node, shapes)


def _resize_since(node: Node) -> int:
    return 2 if node.attributes.get("mode") in ("linear", "cubic") else 1


def _resize_shape(node: Node, given: list[Shape]) -> list[Shape]:
    shape: list[Any] = list(given[0])
    axes = ints(node, "axes")
    valid_axes(axes, given[0])
    scales = node.attributes.get("scales")
    for i, axis in enumerate(axes):
        if isinstance(scales, tuple):
            shape[axis] = _scaled(shape[axis], float(scales[i]))
        else:
            shape[axis] = ints(node, "sizes")[i]
    return [tuple(shape)]


def _scaled(size: int, scale: float) -> int:
    """Return the size of an axis times its scale, rounded down, computed in float32."""
    scaled = int(np.floor(np.float32(size) * np.float32(scale)))
    times = Fraction(float(np.float32(scale)))
    # Below that such a product is exact for every size of an image.
    if not isinstance(size, Size) or max(times.numerator, times.denominator) > 2**10:
        return scaled
    return size * times.numerator // times.denominator


def _resize_channels(flow: Flow, node: Node) -> list[Labels] | None:
    return None if 1 in ints(node, "axes") else same_channels(flow, node)


def _resize_constant(known: Known, node: Node) -> list[Values] | None:
    crop = node.attributes["coordinate_transformation_mode"] == "tf_crop_and_resize"
    return None if crop else same_constants(known, node)


_RESIZE = {
    "axes": AXES,
    "scales": Kind(float, many=True, optional=True),
    "sizes": Kind(int, many=True, least=1, optional=True),
    "mode": Kind(str, among=tuple(MODES)),
    "coordinate_transformation_mode": Kind(str, among=COORDINATES),
    "nearest_mode": Kind(str, among=ROUNDINGS, optional=True),
    "cubic_coeff_a": Kind(float, optional=True),
    "exclude_outside": Kind(int, among=(0, 1), optional=True),
    "roi": Kind(float, many=True, optional=True),
    "extrapolation_value": Kind(float, optional=True),
}

RESIZING: Mapping[str, Operator] = {
    "Resize": Operator(
        ONE,
        attributes=_RESIZE,
        check=_check_resize,
        shape=_resize_shape,
        channels=_resize_channels,
        constant=_resize_constant,
        cut=uncut,
        since=_resize_since,
    ),
}
