"""How ONNX's Resize, of all its operator sets, and Upsample are written in the normal form."""

from __future__ import annotations

from typing import Any

import numpy as np

from masktools.network.onnx.node import Source
from masktools.network.onnx.reading import Pass
from masktools.network.operators.resizing import MODES
from masktools.network.sizes import same


def upsample(ctx: Pass, source: Source) -> None:
    """Write Upsample, or the Resize of operator set 10, as a Resize of today."""
    source.attributes |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    if "scales" in source.attributes:
        scales = tuple(map(float, source.take("scales")))
    else:
        scales = tuple(ctx.constant_input(source, 1, "scales").astype(float).tolist())
    if source.op == "Resize" and min(scales) < 1:
        raise source.refuse(f"scales {scales} below 1 are not supported in operator set 10")
    _emit_resize(ctx, source, tuple(range(len(scales))), scales, None)


def resize(ctx: Pass, source: Source) -> None:
    """Write Resize with the axes that it changes."""
    if ctx.opset < 11:
        upsample(ctx, source)
        return
    rank = len(ctx.shape(source.inputs[0]))
    axes = source.axes(tuple(source.take("axes", range(rank))), rank)
    source.take_only("keep_aspect_ratio_policy", "stretch", "stretch")
    if source.attributes.get("mode", "nearest") == "nearest":
        source.take("antialias")  # Of the other modes alone.
    source.take_only("antialias", 0, 0)
    scales = ctx.constant_input(source, 2, "scales") if source.input(2) else np.empty(0)
    sizes = None
    if not scales.size:
        sizes = ctx.integers(source, "sizes", 3) or ()
    _emit_resize(ctx, source, axes, tuple(scales.astype(float).tolist()), sizes)


def _emit_resize(
    ctx: Pass,
    source: Source,
    axes: tuple[int, ...],
    scales: tuple[float, ...],
    sizes: tuple[int, ...] | None,
) -> None:
    x = source.inputs[0]
    attributes = _modes(source)
    outside = float(source.take("extrapolation_value", 0.0))
    kept = [
        i
        for i, axis in enumerate(axes)
        if (scales[i] != 1 if sizes is None else not same(sizes[i], ctx.shape(x)[axis]))
    ]
    if attributes["coordinate_transformation_mode"] == "tf_crop_and_resize":
        roi = ctx.constant_input(source, 1, "roi").astype(float).ravel()
        kept = [i for i in range(len(axes)) if i in kept or (roi[i], roi[i + len(axes)]) != (0, 1)]
        attributes["roi"] = tuple(float(roi[i]) for i in [*kept, *(k + len(axes) for k in kept)])
        attributes["extrapolation_value"] = outside
    if not kept:
        ctx.remove(source)
        return
    attributes["axes"] = tuple(axes[i] for i in kept)
    if sizes is None:
        attributes["scales"] = tuple(scales[i] for i in kept)
    else:
        attributes["sizes"] = tuple(sizes[i] for i in kept)
    ctx.emit("Resize", [x], source.outputs[0], source.name, **attributes)


def _modes(source: Source) -> dict[str, Any]:
    """Return the attributes that say how a pixel is made of its neighbours."""
    mode = source.take("mode", "nearest")
    if mode not in MODES:
        raise source.refuse(
            f"attribute mode={mode!r} is not supported, only one of {', '.join(MODES)}"
        )
    coordinates = source.take("coordinate_transformation_mode", "half_pixel")
    if coordinates == "tf_crop_and_resize" and mode != "nearest":
        raise source.refuse(
            f"attribute coordinate_transformation_mode={coordinates!r} with mode={mode!r} is not "
            "supported, only with mode='nearest'"
        )
    # What a mode lacks has no effect on it.
    given = {
        "nearest_mode": source.take("nearest_mode", "round_prefer_floor"),
        "cubic_coeff_a": float(source.take("cubic_coeff_a", -0.75)),
        "exclude_outside": source.take("exclude_outside", 0),
    }
    return {
        "mode": mode,
        "coordinate_transformation_mode": coordinates,
        **{name: given[name] for name in MODES[mode]},
    }
