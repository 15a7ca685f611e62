"""Operators that move along an axis beside the batch: each returns whether it could."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from masktools.network.onnx.batch_axis.places import (
    Rewrite,
    alike,
    apply,
    name_output,
    turned_like,
    value_axis,
)
from masktools.network.onnx.batch_axis.reshaping import reshape
from masktools.network.onnx.node import Source
from masktools.network.onnx.reading import Pass


def along(*names: str) -> Callable[[Pass, Source, Rewrite], bool]:
    """Return the handler of an operator that works along one axis, by attribute."""
    default, drops = int(names[0]), names[1:]

    def handle(ctx: Pass, source: Source, plain: Rewrite) -> bool:
        tensor = ctx.turned.get(source.inputs[0])
        if tensor is None:
            return False
        rank = len(tensor.shape)
        axis = source.axes((source.attributes.get("axis", default),), rank)[0]
        last = all(at > tensor.axis for at in range(axis, rank))
        if axis == tensor.axis or ("all" in drops and not last):
            return False
        source.attributes["axis"] = value_axis(tensor, axis)
        index = ctx.constant(source.input(1)) if "index" in drops else None
        if index is not None and index.ndim > 1:
            source.attributes["axis"] = axis
            return False
        gone = index is not None and index.ndim == 0 and axis < tensor.axis
        return apply(ctx, source, plain, [tensor.value], tensor, tensor.axis - gone)

    return handle


choose = along("0", "index")


def gather(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    """Choose along an axis; all entries of that of the batch in order are a Reshape.

    So torch.export writes ``as_strided``: the whole tensor as one axis, and places in it.
    """
    tensor, index = ctx.turned.get(source.inputs[0]), ctx.constant(source.input(1))
    if tensor is None or index is None or ctx.said is None:
        return choose(ctx, source, plain)
    axis = source.axes((source.attributes.get("axis", 0),), len(tensor.shape))[0]
    entries = tensor.before * ctx.said * tensor.after
    if axis != tensor.axis or not np.array_equal(index.ravel(), np.arange(entries)):
        return choose(ctx, source, plain)
    shape = (*tensor.shape[:axis], *index.shape, *tensor.shape[axis + 1 :])
    if not reshape(ctx, replace(source, op="Reshape", attributes={"shape": shape}), plain):
        return False
    source.take("axis")
    return True


def concat(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    """Join tensors whose batch is at the same place."""
    tensors = [ctx.turned.get(name) for name in source.inputs]
    first = tensors[0]
    if first is None:
        return False
    axis = source.axes((source.attributes.get("axis", 1),), len(first.shape))[0]
    values = [t.value for t in tensors if t is not None and alike(first, t)]
    if axis == first.axis or len(values) < len(tensors):
        return False
    source.attributes["axis"] = value_axis(first, axis)
    return apply(ctx, source, plain, values, first, first.axis)


def sequence(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    """Split into a sequence of tensors whose batch is at the same place."""
    tensor = ctx.turned.get(source.inputs[0])
    if tensor is None or not source.input(1):
        return False
    axis = source.axes((source.attributes.get("axis", 0),), len(tensor.shape))[0]
    if axis == tensor.axis:
        return False
    source.attributes["axis"] = value_axis(tensor, axis)
    plain(ctx, replace(source, inputs=[tensor.value, *source.inputs[1:]]))
    parts = []
    for value in ctx.sequence(replace(source, inputs=source.outputs)):
        name = ctx.fresh(f"{value}_of_file")
        name_output(ctx, name, turned_like(ctx, value, tensor))
        parts.append(ctx.renamed(name))
    ctx.collect(source, parts)
    return True


def cut(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    """Cut axes that are not that of the batch."""
    tensor = ctx.turned.get(source.inputs[0])
    starts = ctx.integers(replace(source, attributes=dict(source.attributes)), "starts", 1)
    if tensor is None or starts is None:
        return False
    kept = replace(source, attributes=dict(source.attributes))
    given = ctx.integers(kept, "axes", 3)
    axes = source.axes(range(len(starts)) if given is None else given, len(tensor.shape))
    if tensor.axis in axes:
        return False
    source.attributes["axes"] = tuple(value_axis(tensor, axis) for axis in axes)
    return apply(ctx, source, plain, [tensor.value], tensor, tensor.axis)


def pad(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    """Pad axes that are not that of the batch."""
    tensor = ctx.turned.get(source.inputs[0])
    kept = replace(source, attributes=dict(source.attributes))
    pads = ctx.integers(kept, "pads", 1)
    if tensor is None or pads is None:
        return False
    given, rank = ctx.integers(kept, "axes", 3), len(tensor.shape)
    axes = source.axes(range(rank) if given is None else given, rank)
    if len(pads) != 2 * len(axes):
        return False
    around = dict(zip(axes, zip(pads[: len(axes)], pads[len(axes) :], strict=True), strict=True))
    if any(around.pop(tensor.axis, ())):
        return False
    source.attributes["axes"] = tuple(value_axis(tensor, axis) for axis in around)
    sides = zip(*around.values(), strict=True)
    source.attributes["pads"] = tuple(n for side in sides for n in side)
    return apply(ctx, source, plain, [tensor.value], tensor, tensor.axis)


def repeat(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    """Repeat entries along axes that are not that of the batch, by Expand or Tile."""
    tensor = ctx.turned.get(source.inputs[0])
    name = "shape" if source.op == "Expand" else "repeats"
    kept = replace(source, attributes=dict(source.attributes))
    given = ctx.integers(kept, name, 1) if tensor else None
    if tensor is None or given is None or len(given) != len(tensor.shape):
        return False
    same = {1}
    if source.op == "Expand":  # The size that the axis has, here or in the file, asks for no more.
        batch = ctx.shape(tensor.value)[0]
        same |= {tensor.before * n * tensor.after for n in (batch, ctx.said or batch)}
    if given[tensor.axis] not in same:
        return False
    wanted = [1] * len(ctx.shape(tensor.value))
    for axis, n in enumerate(given):
        if axis != tensor.axis:
            wanted[value_axis(tensor, axis)] = n
    source.attributes[name] = tuple(wanted)
    return apply(ctx, source, plain, [tensor.value], tensor, tensor.axis)


def gather_nd(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    """Take positions of axes before that of the batch."""
    tensor, indices = ctx.turned.get(source.inputs[0]), ctx.constant(source.input(1))
    if tensor is None or indices is None or not indices.ndim or source.attributes.get("batch_dims"):
        return False
    count = indices.shape[-1]
    if count > tensor.axis:
        return False
    # The axes before that of the batch lie right behind it in the value.
    name = ctx.fresh(f"{source.name}.indices")
    batch = ctx.shape(tensor.value)[0]
    ctx.constants[name] = np.broadcast_to(indices, (batch, *indices.shape))
    source.attributes["batch_dims"] = 1
    axis = tensor.axis - count + indices.ndim - 1
    return apply(ctx, source, plain, [tensor.value, name], tensor, axis)
