"""How each ONNX operator, of any operator set from 9 on, is written in the normal form.

A rewrite takes the attributes that it understands from the node; what is left over is refused by
name afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.onnx_pass import Pass, Source

LARGEST = float(np.finfo(np.float32).max)


def _constant(ctx: Pass, source: Source, index: int, what: str) -> NDArray[Any]:
    value = ctx.constant(source.input(index))
    if value is None:
        raise source.refuse(f"{what}, input {index}, must be a constant")
    return value


def _integers(ctx: Pass, source: Source, name: str, index: int) -> tuple[int, ...] | None:
    """Return an attribute that newer operator sets made an input; None where it is left out."""
    if name in source.attributes:
        return tuple(int(v) for v in source.take(name))
    if not source.input(index):
        return None
    return tuple(int(v) for v in _constant(ctx, source, index, name).ravel())


def _axes(source: Source, axes: tuple[int, ...], rank: int) -> tuple[int, ...]:
    if any(not -rank <= axis < rank for axis in axes):
        raise source.refuse(f"attribute axes={axes} for a tensor of {rank} axes")
    return tuple(axis % rank for axis in axes)


def _axis(ctx: Pass, source: Source, default: int) -> int:
    axis, rank = source.take("axis", default), len(ctx.shape(source.inputs[0]))
    return _axes(source, (axis,), rank)[0]


def _only(source: Source, name: str, default: Any, allowed: Any) -> None:  # noqa: ANN401
    """Take an attribute of which one value is supported."""
    value = source.take(name, default)
    if value != allowed:
        raise source.refuse(f"attribute {name}={value!r} is not supported, only {allowed!r}")


def _one_output(source: Source) -> None:
    if any(source.outputs[1:]):
        raise source.refuse(f"output {source.outputs[1]!r} is not supported")


# --- layers with weights ------------------------------------------------------------------------


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
            max((math.ceil(n / s) - 1) * s + d * (k - 1) + 1 - n, 0)
            for n, s, d, k in zip(size, strides, dilations, kernel, strict=True)
        ]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = (*less, *more) if auto == "SAME_UPPER" else (*more, *less)
    elif auto == "VALID":
        pads = (0,) * 2 * axes
    elif auto != "NOTSET":
        raise source.refuse(f"attribute auto_pad={auto!r} is not supported")
    return {"strides": strides, "dilations": dilations, "pads": pads}


def _conv(ctx: Pass, source: Source) -> None:
    weight = _constant(ctx, source, 1, "the weight")
    kernel = weight.shape[2:]
    if tuple(source.take("kernel_shape", kernel)) != kernel:
        raise source.refuse(f"attribute kernel_shape differs from its weight's {kernel}")
    window = _window(ctx, source, kernel)
    layer = ctx.keep_weight(source, weight)
    kept = [f"{layer}.weight"]
    if source.input(2):
        kept.append(ctx.keep(_constant(ctx, source, 2, "the bias"), f"{layer}.bias"))
    group = source.take("group", 1)
    ctx.emit("Conv", source.inputs[:1], source.outputs[0], source.name, kept, **window, group=group)


def _gemm(ctx: Pass, source: Source) -> None:
    weight = _constant(ctx, source, 1, "the weight")
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


def _matmul(ctx: Pass, source: Source) -> None:
    weight = _constant(ctx, source, 1, "the right factor")
    rank = len(ctx.shape(source.inputs[0]))
    if weight.ndim != 2 or rank < 2:
        raise source.refuse(
            f"factors of {rank} and {weight.ndim} axes: "
            "only at least two times a matrix is supported"
        )
    layer = ctx.keep_weight(source, weight.T, transposed=True)
    kept = [f"{layer}.weight"]
    ctx.emit("Gemm", source.inputs[:1], source.outputs[0], source.name, kept, transB=1)


def _batch_norm(ctx: Pass, source: Source) -> None:
    _only(source, "training_mode", 0, 0)
    _only(source, "spatial", 1, 1)
    source.take("momentum")  # Of training alone.
    _one_output(source)
    kept = [
        ctx.keep(_constant(ctx, source, index, what), source.inputs[index])
        for index, what in enumerate(("scale", "B", "mean", "var"), 1)
    ]
    epsilon = float(source.take("epsilon", 1e-5))
    ctx.emit(source.op, source.inputs[:1], source.outputs[0], source.name, kept, epsilon=epsilon)


# --- element by element -------------------------------------------------------------------------


def _plain(**attributes: float) -> Callable[[Pass, Source], None]:
    """Return the rewrite of an operator that only has attributes of type float."""

    def rewrite(ctx: Pass, source: Source) -> None:
        values: dict[str, Any] = {
            name: float(source.take(name, default)) for name, default in attributes.items()
        }
        ctx.emit(source.op, source.inputs[:1], source.outputs[0], source.name, **values)

    return rewrite


def _arithmetic(ctx: Pass, source: Source) -> None:
    ctx.emit(source.op, source.inputs, source.outputs[0], source.name)


def _clip(ctx: Pass, source: Source) -> None:
    bounds: dict[str, Any] = {}
    for index, name in enumerate(("min", "max"), 1):
        value = source.take(name)
        if value is None and source.input(index):
            value = _constant(ctx, source, index, name).item()
        if value is not None and abs(value) < LARGEST:
            bounds[name] = float(value)
    ctx.emit("Clip", source.inputs[:1], source.outputs[0], source.name, **bounds)


def _softmax(ctx: Pass, source: Source) -> None:
    x, y = source.inputs[0], source.outputs[0]
    axis = _axis(ctx, source, -1 if ctx.opset >= 13 else 1)
    shape = ctx.shape(x)
    if ctx.opset >= 13 or math.prod(shape[axis + 1 :]) == 1:
        ctx.emit("Softmax", [x], y, source.name, axis=axis)
        return
    # Before operator set 13 it was taken over all axes from this one on, as if they were one.
    flat, soft = ctx.fresh(f"{x}_flat"), ctx.fresh(f"{y}_flat")
    ctx.emit("Flatten", [x], flat, f"{source.name}_flatten", axis=axis)
    ctx.emit("Softmax", [flat], soft, source.name, axis=1)
    ctx.emit("Reshape", [soft], y, f"{source.name}_reshape", shape=(-1, *shape[1:]))


def _removed(ctx: Pass, source: Source) -> None:
    for name in ("ratio", "seed"):
        source.take(name)
    training = ctx.constant(source.input(2)) if source.input(2) else np.array(False)
    if training is None or training.any():
        raise source.refuse("input training_mode must be false")
    _one_output(source)
    ctx.remove(source)


def _cast(ctx: Pass, source: Source) -> None:
    _only(source, "to", 1, 1)  # TensorProto.FLOAT, which every value already is.
    source.take("saturate")
    ctx.remove(source)


def _cast_like(ctx: Pass, source: Source) -> None:
    source.take("saturate")
    value, like = (ctx.constant(name) for name in source.inputs)
    if value is not None:
        ctx.define(source, value.astype(np.float32))
    elif like is None or like.dtype == np.float32:
        ctx.remove(source)
    else:
        raise source.refuse(f"a value cannot become {like.dtype}, only float32")


# --- pooling and resizing -----------------------------------------------------------------------


def _pool(ctx: Pass, source: Source) -> None:
    _one_output(source)
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


def _reduce_mean(ctx: Pass, source: Source) -> None:
    rank = len(ctx.shape(source.inputs[0]))
    axes = _integers(ctx, source, "axes", 1) or ()
    keep, nothing = source.take("keepdims", 1), source.take("noop_with_empty_axes", 0)
    if not axes and nothing:
        ctx.remove(source)
        return
    axes = tuple(sorted(_axes(source, axes, rank))) or tuple(range(rank))
    if axes != tuple(range(2, rank)) or rank not in (3, 4):
        raise source.refuse(f"attribute axes={axes}: only the mean over the image is supported")
    ctx.emit(
        "ReduceMean", source.inputs[:1], source.outputs[0], source.name, axes=axes, keepdims=keep
    )


def _upsample(ctx: Pass, source: Source) -> None:
    source.attributes |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    if "scales" in source.attributes:
        scales = tuple(map(float, source.take("scales")))
    else:
        scales = tuple(_constant(ctx, source, 1, "scales").astype(float).tolist())
    if source.op == "Resize" and min(scales) < 1:
        raise source.refuse(f"scales {scales} below 1 are not supported in operator set 10")
    _emit_resize(ctx, source, tuple(range(len(scales))), scales, None)


def _resize(ctx: Pass, source: Source) -> None:
    if ctx.opset < 11:
        _upsample(ctx, source)
        return
    rank = len(ctx.shape(source.inputs[0]))
    axes = _axes(source, tuple(source.take("axes", range(rank))), rank)
    _only(source, "keep_aspect_ratio_policy", "stretch", "stretch")
    for name in ("cubic_coeff_a", "exclude_outside", "antialias"):
        source.take(name)  # Of the other modes alone.
    scales = _constant(ctx, source, 2, "scales") if source.input(2) else np.empty(0)
    sizes = None
    if not scales.size:
        sizes = tuple(int(n) for n in _constant(ctx, source, 3, "sizes"))
    _emit_resize(ctx, source, axes, tuple(scales.astype(float).tolist()), sizes)


def _emit_resize(
    ctx: Pass,
    source: Source,
    axes: tuple[int, ...],
    scales: tuple[float, ...],
    sizes: tuple[int, ...] | None,
) -> None:
    _only(source, "mode", "nearest", "nearest")
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
        if (scales[i] != 1 if sizes is None else sizes[i] != ctx.shape(x)[axis])
    ]
    if attributes["coordinate_transformation_mode"] == "tf_crop_and_resize":
        roi = _constant(ctx, source, 1, "roi").astype(float).ravel()
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


# --- moving data --------------------------------------------------------------------------------


def _concat(ctx: Pass, source: Source) -> None:
    axis = _axis(ctx, source, 1)
    ctx.emit("Concat", source.inputs, source.outputs[0], source.name, axis=axis)


def _split(ctx: Pass, source: Source) -> None:
    x = source.inputs[0]
    axis = _axis(ctx, source, 0)
    size, count = ctx.shape(x)[axis], source.take("num_outputs", len(source.outputs))
    sizes = _integers(ctx, source, "split", 1)
    if sizes is None:
        part = math.ceil(size / count)
        sizes = (*(part,) * (count - 1), size - part * (count - 1))
    outputs = [name or ctx.fresh(f"{source.name}_unused") for name in source.outputs]
    if len(sizes) != len(outputs):
        raise source.refuse(f"attribute split={sizes} for {len(outputs)} outputs")
    ctx.emit("Split", [x], outputs, source.name, axis=axis, split=sizes)


def _slice(ctx: Pass, source: Source) -> None:
    x = source.inputs[0]
    starts = _integers(ctx, source, "starts", 1) or ()
    ends = _integers(ctx, source, "ends", 2) or ()
    axes = _integers(ctx, source, "axes", 3)
    steps = _integers(ctx, source, "steps", 4)
    axes = _axes(source, tuple(range(len(starts))) if axes is None else axes, len(ctx.shape(x)))
    steps = (1,) * len(starts) if steps is None else steps
    ctx.emit(
        "Slice", [x], source.outputs[0], source.name,
        starts=starts, ends=ends, axes=axes, steps=steps,
    )  # fmt: skip


def _pad(ctx: Pass, source: Source) -> None:
    x = source.inputs[0]
    rank = len(ctx.shape(x))
    pads = _integers(ctx, source, "pads", 1) or ()
    given = _integers(ctx, source, "axes", 3)
    axes = tuple(range(rank)) if given is None else _axes(source, given, rank)
    if len(pads) != 2 * len(axes):
        raise source.refuse(f"attribute pads={pads} for {len(axes)} axes")
    whole = [0] * 2 * rank
    for i, axis in enumerate(axes):
        whole[axis], whole[axis + rank] = pads[i], pads[i + len(axes)]
    mode, value = source.take("mode", "constant"), source.take("value", 0.0)
    if source.input(2):
        value = _constant(ctx, source, 2, "value").item()
    value = float(value) if mode == "constant" else 0.0
    ctx.emit("Pad", [x], source.outputs[0], source.name, mode=mode, pads=tuple(whole), value=value)


def _flatten(ctx: Pass, source: Source) -> None:
    x = source.inputs[0]
    axis, rank = source.take("axis", 1), len(ctx.shape(x))
    axis = axis + rank if axis < 0 else axis
    ctx.emit("Flatten", [x], source.outputs[0], source.name, axis=axis)


def _reshape(ctx: Pass, source: Source) -> None:
    x = source.inputs[0]
    shape = _integers(ctx, source, "shape", 1) or ()
    if source.take("allowzero", 0) and 0 in shape:
        raise source.refuse("attribute allowzero=1 is not supported with a size of 0")
    if shape and ctx.is_batch(shape[0]) and ctx.is_batch(ctx.shape(x)[0]):
        shape = (0, *shape[1:])  # A batch size that was exported into a constant.
    ctx.emit("Reshape", [x], source.outputs[0], source.name, shape=shape)


def _squeeze(ctx: Pass, source: Source) -> None:
    x = source.inputs[0]
    given, shape = _integers(ctx, source, "axes", 1), ctx.shape(x)
    axes = tuple(i for i, n in enumerate(shape) if n == 1) if given is None else given
    axes = tuple(sorted(_axes(source, axes, len(shape))))
    if axes:
        ctx.emit("Squeeze", [x], source.outputs[0], source.name, axes=axes)
    else:
        ctx.remove(source)


def _unsqueeze(ctx: Pass, source: Source) -> None:
    x = source.inputs[0]
    axes = _integers(ctx, source, "axes", 1) or ()
    axes = tuple(sorted(_axes(source, axes, len(ctx.shape(x)) + len(axes))))
    ctx.emit("Unsqueeze", [x], source.outputs[0], source.name, axes=axes)


def _transpose(ctx: Pass, source: Source) -> None:
    x = source.inputs[0]
    perm = tuple(source.take("perm", range(len(ctx.shape(x)))[::-1]))
    ctx.emit("Transpose", [x], source.outputs[0], source.name, perm=perm)


REWRITES: Mapping[str, Callable[[Pass, Source], None]] = {
    "Add": _arithmetic,
    "AveragePool": _pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _arithmetic,
    "Dropout": _removed,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _plain(),
    "HardSigmoid": _plain(alpha=0.2, beta=0.5),
    "HardSwish": _plain(),
    "Identity": _removed,
    "LeakyRelu": _plain(alpha=0.01),
    "MatMul": _matmul,
    "MaxPool": _pool,
    "Mul": _arithmetic,
    "Pad": _pad,
    "ReduceMean": _reduce_mean,
    "Relu": _plain(),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": _plain(),
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": _arithmetic,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Upsample": _upsample,
}
