"""Functions, sums and products of tensors: each returns whether it could."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from masktools.network.onnx.batch_axis.movement import along
from masktools.network.onnx.batch_axis.places import (
    Rewrite,
    alike,
    apply,
    name_output,
    parts_of,
    seen,
    turned_like,
    value_axis,
)
from masktools.network.onnx.node import Source
from masktools.network.onnx.reading import Pass


def unary(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    """Rewrite what leaves all axes as they are."""
    tensor = ctx.turned.get(source.inputs[0])
    if tensor is None:
        return False
    return apply(ctx, source, plain, [tensor.value], tensor, tensor.axis)


def softmax(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    """Normalise along an axis that is not that of the batch."""
    tensor = ctx.turned.get(source.inputs[0])
    axis = source.attributes.get("axis", -1 if ctx.opset >= 13 else 1)
    if tensor is None or (ctx.opset < 13 and axis not in (-1, len(tensor.shape) - 1)):
        return False
    source.attributes["axis"] = axis
    return along("-1")(ctx, source, plain)


def reduction(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    """Reduce axes that are not that of the batch."""
    tensor = ctx.turned.get(source.inputs[0])
    kept = replace(source, attributes=dict(source.attributes))
    given = ctx.integers(kept, "axes", 1) if tensor else None
    if tensor is None or not given:
        return False
    axes = source.axes(given, len(tensor.shape))
    if tensor.axis in axes:
        return False
    source.attributes["axes"] = tuple(value_axis(tensor, axis) for axis in axes)
    gone = 0 if source.attributes.get("keepdims", 1) else sum(at < tensor.axis for at in axes)
    return apply(ctx, source, plain, [tensor.value], tensor, tensor.axis - gone)


def product(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    """Multiply by a constant matrix, or matrices of two values with the batch alike."""
    left = seen(ctx, source.inputs[0]) if source.inputs[0] not in ctx.constants else None
    constant = ctx.constant(source.input(1))
    if left is None or source.attributes.get("transA") or source.input(2) in ctx.turned:
        return False
    if constant is not None:
        addend = ctx.constant(source.input(2)) if source.input(2) else np.zeros(1)
        if constant.ndim != 2 or left.axis == len(left.shape) - 1 or addend is None:
            return False
        if addend.ndim > 1 and addend.shape[0] > 1:
            return False
        return apply(ctx, source, plain, [left.value], left, left.axis)
    right = seen(ctx, source.inputs[1])
    if source.op != "MatMul" or not alike(left, right) or left.axis >= len(left.shape) - 2:
        return False
    if left.shape[:-2] != right.shape[:-2]:
        return False
    return apply(ctx, source, plain, [left.value, right.value], left, left.axis)


def arithmetic(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    """Combine tensors whose batch is at the same place, and constants."""
    constants = [ctx.constant(name) for name in source.inputs]
    found = [
        seen(ctx, name) if constant is None else None
        for name, constant in zip(source.inputs, constants, strict=True)
    ]
    tensors = [tensor for tensor in found if tensor is not None]
    first, rank = tensors[0], len(tensors[0].shape)
    if not all(alike(first, t) and t.shape == first.shape for t in tensors[1:]):
        return False
    inputs = []
    for tensor, constant in zip(found, constants, strict=True):
        if tensor is not None:
            inputs.append(tensor.value)
            continue
        assert constant is not None
        wide = constant.reshape((1,) * (rank - constant.ndim) + constant.shape)
        if wide.ndim > rank or wide.shape[first.axis] > 1:
            return False
        ones = (1,) * len(parts_of(first))
        shape = (1, *wide.shape[: first.axis], *ones, *wide.shape[first.axis + 1 :])
        inputs.append(ctx.fresh(f"{source.name}.constant"))
        ctx.constants[inputs[-1]] = wide.reshape(shape)
    return apply(ctx, source, plain, inputs, first, first.axis)


def batch_norm(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    """Write a normalisation of channels behind a joined batch as a product and a sum."""
    tensor = ctx.turned.get(source.inputs[0])
    constants = [ctx.constant(name) for name in source.inputs[1:5]]
    if tensor is None or tensor.axis == 1 or any(c is None for c in constants):
        return False
    place, rank = value_axis(tensor, 1), len(ctx.shape(tensor.value))
    scale, shift, mean, var = (np.asarray(c, np.float64) for c in constants)
    factor = scale / np.sqrt(var + source.attributes.get("epsilon", 1e-5))
    along, made = (-1, *(1,) * (rank - place - 1)), source.outputs[0]
    scaled, whole = ctx.fresh(f"{made}_scaled"), ctx.fresh(f"{made}_batch_first")
    kept = [
        ctx.keep(array.reshape(along), name)
        for array, name in zip((factor, shift - mean * factor), source.inputs[1:3], strict=True)
    ]
    for name in ("epsilon", "momentum"):
        source.take(name)
    source.take_only("training_mode", 0, 0)
    source.take_only("spatial", 1, 1)
    source.check_one_output()
    ctx.emit("Mul", [tensor.value], scaled, f"{source.name}_scale", kept[:1])
    ctx.emit("Add", [scaled], whole, source.name, kept[1:])
    name_output(ctx, made, turned_like(ctx, whole, tensor))
    return True
