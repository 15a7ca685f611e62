"""Convolutions and pools of images that lie beside the batch: each returns whether it could.

Networks that attend in windows make one axis of the batch and the windows, as videos do with their
frames. A sample then has several images; the normal form has one for each sample.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from masktools.network.onnx.batch_axis.places import Rewrite, name_output, parts_of, turned_like
from masktools.network.onnx.node import Source, Turned
from masktools.network.onnx.reading import Pass


def pool(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    """Pool the images of a sample as channels of one image."""
    tensor = _images(ctx, source)
    if tensor is None or any(source.outputs[1:]):
        return False
    parts, (channels, *size) = parts_of(tensor), tensor.shape[1:]
    made = source.outputs[0]
    joined, pooled, whole = (ctx.fresh(f"{made}_{end}") for end in ("joined", "pooled", "apart"))
    shape = (0, prod(parts) * channels, *size)
    ctx.emit("Reshape", [tensor.value], joined, f"{source.name}_join", shape=shape)
    plain(ctx, replace(source, inputs=[joined], outputs=[pooled]))
    after = ctx.shape(ctx.renamed(pooled))[2:]
    shape = (0, *parts, channels, *after)
    ctx.emit("Reshape", [ctx.renamed(pooled)], whole, f"{source.name}_part", shape=shape)
    name_output(ctx, made, turned_like(ctx, whole, tensor))
    return True


def conv(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    """Convolve the images of a sample below each other, with rows of zeros between them.

    The distance of two images is a multiple of the stride, so that each has its own rows of the
    output, and so wide that no window that makes one of these reads another image.
    """
    tensor, weight = _images(ctx, source), ctx.constant(source.input(1))
    if tensor is None or weight is None or weight.ndim != len(tensor.shape):
        return False
    window, axes = _window(source, weight.ndim - 2), weight.ndim - 2
    if window is None:
        return False
    (stride, *_), (dilation, *_), pads = window
    top, bottom, height = pads[0], pads[axes], tensor.shape[2]
    extent = dilation * (weight.shape[2] - 1) + 1
    rows = (height + top + bottom - extent) // stride + 1  # Of the output of one image.
    if rows < 1 or top >= extent:
        return False
    slots = -(-(height + max(top, bottom)) // stride)  # At least `rows`, as `top` < `extent`.
    end = max(extent - top - stride, 0)
    source.attributes["pads"] = (*pads[:axes], end, *pads[axes + 1 :])
    tall = _below_each_other(ctx, source, tensor, slots * stride - height)
    made = ctx.fresh(f"{source.outputs[0]}_tall")
    plain(ctx, replace(source, inputs=[tall, *source.inputs[1:]], outputs=[made]))
    name_output(ctx, source.outputs[0], _apart(ctx, source, made, tensor, (slots, rows)))
    return True


def _images(ctx: Pass, source: Source) -> Turned | None:
    """Return a node's first input where its first axis is the batch and several images of each."""
    tensor = ctx.turned.get(source.inputs[0])
    known = tensor is not None and tensor.axis == 0 and len(tensor.shape) > 2
    return tensor if known else None


def _window(source: Source, axes: int) -> tuple[tuple[int, ...], ...] | None:
    """Return strides, dilations and explicit pads; None where they are not given so."""
    if source.attributes.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    window = []
    for name, least, count in (("strides", 1, axes), ("dilations", 1, axes), ("pads", 0, 2 * axes)):
        given = source.attributes.get(name, (least,) * count)
        known = isinstance(given, tuple) and len(given) == count
        if not known or not all(isinstance(n, int) and n >= least for n in given):
            return None
        window.append(given)
    return tuple(window)


def _below_each_other(ctx: Pass, source: Source, tensor: Turned, between: int) -> str:
    """Return the images of each sample as one, with `between` rows of zeros behind each."""
    parts, (channels, height, *rest) = parts_of(tensor), tensor.shape[1:]
    value, x, at = tensor.value, source.outputs[0], 1 + len(parts)
    rank = at + 2 + len(rest)
    perm = (0, at, *range(1, at), *range(at + 1, rank))
    turned, tall = ctx.fresh(f"{x}_channels_first"), ctx.fresh(f"{x}_images")
    ctx.emit("Transpose", [value], turned, f"{source.name}_turn", perm=perm)
    if between:
        pads, padded = [0] * 2 * rank, ctx.fresh(f"{x}_padded")
        pads[rank + at + 1] = between
        ctx.emit(
            "Pad", [turned], padded, f"{source.name}_between",
            mode="constant", pads=tuple(pads), value=0.0,
        )  # fmt: skip
        turned = padded
    shape = (0, channels, prod(parts) * (height + between), *rest)
    ctx.emit("Reshape", [turned], tall, f"{source.name}_join", shape=shape)
    return tall


def _apart(
    ctx: Pass, source: Source, tall: str, tensor: Turned, per_image: tuple[int, int]
) -> Turned:
    """Return what was made of images below each other as a tensor like the one they come from.

    Parameters
    ----------
    ctx, source
    tall : str
    tensor : Turned
        The images.
    per_image : tuple of int
        From the first row of one image to that of the next, and how many of these are its own.
    """
    parts, x, (slots, rows) = parts_of(tensor), source.outputs[0], per_image
    at, (channels, _, *rest) = 1 + len(parts), ctx.shape(tall)[1:]
    value, whole = ctx.fresh(f"{x}_parted"), ctx.fresh(f"{x}_batch_first")
    shape = (0, channels, *parts, slots, *rest)
    ctx.emit("Reshape", [tall], value, f"{source.name}_part", shape=shape)
    if rows != slots:
        own = ctx.fresh(f"{x}_own")
        ctx.emit(
            "Slice", [value], own, f"{source.name}_own",
            starts=(0,), ends=(rows,), axes=(at + 1,), steps=(1,),
        )  # fmt: skip
        value = own
    perm = (0, *range(2, at + 1), 1, *range(at + 1, len(shape)))
    ctx.emit("Transpose", [value], whole, f"{source.name}_back", perm=perm)
    return turned_like(ctx, whole, tensor)
