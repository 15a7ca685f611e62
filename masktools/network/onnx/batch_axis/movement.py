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
