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


def gemm(ctx: Pass, source: Source) -> None:
    """Write Gemm with its weight as (out, in), `alpha` in it, and only a row as bias."""
    weight = ctx.constant_input(source, 1, "the weight")
    alpha, beta = source.take("alpha", 1.0), source.take("beta", 1.0)
    transposed = not source.take("transB", 0)
    if transposed:
        weight = weight.T
    if alpha != 1:
        weight = np.float32(alpha) * weight
    x = source.inputs[0]
    if source.take("transA", 0):
        turned = ctx.fresh(f"{x}_transposed")
        ctx.emit("Transpose", [x], turned, f"{source.name}_transpose", perm=(1, 0))
        x = turned
    layer = ctx.keep_weight(source, weight, transposed)
    kept, made, rows = [f"{layer}.weight"], source.outputs[0], len(weight)
    addend = source.input(2) if beta else ""
    bias = ctx.constant(addend)
    if bias is not None:
        bias, addend = np.float32(beta) * bias, ""
        if bias.size == 1 or bias.shape[-1] == bias.size == rows:
            kept.append(ctx.keep(np.broadcast_to(bias.ravel(), (rows,)), f"{layer}.bias"))
            bias = None
    product = made if not addend and bias is None else ctx.fresh(f"{made}_product")
    ctx.emit("Gemm", [x], product, source.name, kept, transB=1)
    if bias is not None:
        whole = ctx.keep(bias, f"{source.name}.C")
        ctx.emit("Add", [product], made, f"{source.name}_add", [whole])
    elif addend:
        if beta != 1:
            factor, plain = ctx.keep(np.array(beta), f"{source.name}.beta"), addend
            addend = ctx.fresh(f"{made}_addend")
            ctx.emit("Mul", [plain], addend, f"{source.name}_scale", [factor])
        ctx.emit("Add", [product, addend], made, f"{source.name}_add")


def matmul(ctx: Pass, source: Source) -> None:
    """Write a product with a constant matrix as Gemm."""
    weight = ctx.constant_input(source, 1, "the right factor")
    rank = len(ctx.shape(source.inputs[0]))
    if weight.ndim != 2 or rank < 2:
        raise source.refuse(
            f"factors of {rank} and {weight.ndim} axes: "
            "only at least two times a matrix is supported"
        )
    layer = ctx.keep_weight(source, weight.T, transposed=True)
    kept = [f"{layer}.weight"]
    ctx.emit("Gemm", source.inputs[:1], source.outputs[0], source.name, kept, transB=1)


def batch_norm(ctx: Pass, source: Source) -> None:
    """Write BatchNormalization as inference has it."""
    source.take_only("training_mode", 0, 0)
    source.take_only("spatial", 1, 1)
    source.take("momentum")  # Of training alone.
    source.check_one_output()
    kept = [
        ctx.keep(ctx.constant_input(source, index, what), source.inputs[index])
        for index, what in enumerate(("scale", "B", "mean", "var"), 1)
    ]
    epsilon = float(source.take("epsilon", 1e-5))
    ctx.emit(source.op, source.inputs[:1], source.outputs[0], source.name, kept, epsilon=epsilon)


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


def reduce_mean(ctx: Pass, source: Source) -> None:
    """Write the mean over the image, over any other axes refuse it."""
    rank = len(ctx.shape(source.inputs[0]))
    axes = ctx.integers(source, "axes", 1) or ()
    keep, nothing = source.take("keepdims", 1), source.take("noop_with_empty_axes", 0)
    if not axes and nothing:
        ctx.remove(source)
        return
    axes = tuple(sorted(source.axes(axes, rank))) or tuple(range(rank))
    if axes != tuple(range(2, rank)) or rank not in (3, 4):
        raise source.refuse(f"attribute axes={axes}: only the mean over the image is supported")
    ctx.emit(
        "ReduceMean", source.inputs[:1], source.outputs[0], source.name, axes=axes, keepdims=keep
    )


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
