"""How ONNX's layers, pools and other windows are written in the normal form."""

from __future__ import annotations

from typing import Any

import numpy as np

from masktools.network.onnx.node import Source
from masktools.network.onnx.reading import Pass
from masktools.network.sizes import largest, same


def _window(
    ctx: Pass, source: Source, kernel: tuple[int, ...], ceil: bool = False
) -> dict[str, tuple[int, ...]]:
    """Return strides, dilations and explicit pads."""
    size = ctx.shape(source.inputs[0])[2:]
    axes = len(kernel)
    if axes not in (1, 2) or len(size) != axes:
        raise source.refuse(
            f"{len(size)} spatial axes and a window of {axes}: one or two are supported"
        )
    strides = tuple(source.take("strides", (1,) * axes))
    dilations = tuple(source.take("dilations", (1,) * axes))
    pads = tuple(source.take("pads", (0,) * 2 * axes))
    auto = source.take("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            largest((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
            for n, s, d, k in zip(size, strides, dilations, kernel, strict=True)
        ]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = (*less, *more) if auto == "SAME_UPPER" else (*more, *less)
    elif auto == "VALID":
        pads = (0,) * 2 * axes
    elif auto != "NOTSET":
        raise source.refuse(f"attribute auto_pad={auto!r} is not supported")
    return {"strides": strides, "dilations": dilations, "pads": pads}


def conv(ctx: Pass, source: Source) -> None:
    """Write Conv with explicit pads, weight and bias named by its layer."""
    weight = ctx.constant_input(source, 1, "the weight")
    kernel = weight.shape[2:]
    if tuple(source.take("kernel_shape", kernel)) != kernel:
        raise source.refuse(f"attribute kernel_shape differs from its weight's {kernel}")
    window = _window(ctx, source, kernel)
    layer = ctx.keep_weight(source, weight)
    kept = [f"{layer}.weight"]
    if source.input(2):
        kept.append(ctx.keep(ctx.constant_input(source, 2, "the bias"), f"{layer}.bias"))
    group = source.take("group", 1)
    ctx.emit("Conv", source.inputs[:1], source.outputs[0], source.name, kept, **window, group=group)


def pool(ctx: Pass, source: Source) -> None:
    """Write MaxPool or AveragePool with every attribute and explicit pads."""
    source.check_one_output()
    source.take("storage_order")  # Of the second output alone.
    kernel = tuple(source.take("kernel_shape", ()))
    attributes = {
        "kernel_shape": kernel,
        **_window(ctx, source, kernel),
        "ceil_mode": source.take("ceil_mode", 0),
    }
    if source.op == "AveragePool":
        attributes["count_include_pad"] = source.take("count_include_pad", 0)
    ctx.emit(source.op, source.inputs[:1], source.outputs[0], source.name, **attributes)


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
    """Write Resize to the nearest pixel with the axes that it changes."""
    if ctx.opset < 11:
        upsample(ctx, source)
        return
    rank = len(ctx.shape(source.inputs[0]))
    axes = source.axes(tuple(source.take("axes", range(rank))), rank)
    source.take_only("keep_aspect_ratio_policy", "stretch", "stretch")
    for name in ("cubic_coeff_a", "exclude_outside", "antialias"):
        source.take(name)  # Of the other modes alone.
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
    source.take_only("mode", "nearest", "nearest")
    x = source.inputs[0]
    attributes: dict[str, Any] = {
        "mode": "nearest",
        "coordinate_transformation_mode": source.take(
            "coordinate_transformation_mode", "half_pixel"
        ),
        "nearest_mode": source.take("nearest_mode", "round_prefer_floor"),
    }
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
