"""How ONNX's normalisations are written in the normal form."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.network.onnx.node import Source
from masktools.network.onnx.reading import Pass


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


def layer_norm(ctx: Pass, source: Source) -> None:
    """Write LayerNormalization with constants in the shape of the axes from its own on."""
    source.check_one_output()
    source.take("stash_type")  # Of types that are narrower than float32.
    shape = ctx.shape(source.inputs[0])
    axis = source.axes((source.take("axis", -1),), len(shape))[0]
    kept = []
    for index, what in enumerate(("Scale", "B"), 1):
        if source.input(index):
            constant = ctx.constant_input(source, index, what)
            try:
                whole = np.broadcast_to(constant, (*(1,) * axis, *shape[axis:]))
            except ValueError:
                raise source.refuse(
                    f"{what}, input {index}, of shape {constant.shape} must be one number for each "
                    f"of {shape[axis:]}"
                ) from None
            kept.append(ctx.keep(whole.reshape(shape[axis:]), source.inputs[index]))
    epsilon = float(source.take("epsilon", 1e-5))
    ctx.emit(
        "LayerNormalization", source.inputs[:1], source.outputs[0], source.name, kept,
        axis=axis, epsilon=epsilon,
    )  # fmt: skip


def instance_norm(ctx: Pass, source: Source) -> None:
    """Write InstanceNormalization as a LayerNormalization of the image, and a scale and shift."""
    x, rank = source.inputs[0], len(ctx.shape(source.inputs[0]))
    scale, shift = (ctx.constant_input(source, i, what) for i, what in ((1, "scale"), (2, "B")))
    if rank < 3:
        raise source.refuse("there is no image")
    epsilon = float(source.take("epsilon", 1e-5))
    plain = _is_trivial(scale, shift)
    made = source.outputs[0] if plain else ctx.fresh(f"{source.outputs[0]}_plain")
    ctx.emit("LayerNormalization", [x], made, source.name, axis=2, epsilon=epsilon)
    if not plain:
        _emit_scale_and_shift(ctx, source, made, scale, shift)


def group_norm(ctx: Pass, source: Source) -> None:
    """Write GroupNormalization as a LayerNormalization of groups, and a scale and shift."""
    x, y = source.inputs[0], source.outputs[0]
    source.take("stash_type")
    shape, groups = ctx.shape(x), source.take("num_groups", 0)
    scale, shift = (ctx.constant_input(source, i, what) for i, what in ((1, "scale"), (2, "bias")))
    if len(shape) < 3 or groups < 1 or shape[1] % groups:
        raise source.refuse(f"attribute num_groups={groups} for a value of shape {shape}")
    if ctx.opset < 21:  # One number for each group.
        scale, shift = (np.repeat(a, shape[1] // groups) for a in (scale, shift))
    epsilon = float(source.take("epsilon", 1e-5))
    apart, normal = ctx.fresh(f"{x}_groups"), ctx.fresh(f"{y}_groups")
    ctx.emit("Reshape", [x], apart, f"{source.name}_part", shape=(0, groups, -1))
    ctx.emit("LayerNormalization", [apart], normal, source.name, axis=2, epsilon=epsilon)
    plain = _is_trivial(scale, shift)
    joined = y if plain else ctx.fresh(f"{y}_plain")
    ctx.emit("Reshape", [normal], joined, f"{source.name}_join", shape=(0, *shape[1:]))
    if not plain:
        _emit_scale_and_shift(ctx, source, joined, scale, shift)


def _is_trivial(scale: NDArray[Any], shift: NDArray[Any]) -> bool:
    return bool((scale == 1).all() and not shift.any())


def _emit_scale_and_shift(
    ctx: Pass, source: Source, x: str, scale: NDArray[Any], shift: NDArray[Any]
) -> None:
    """Multiply each channel by a number and add another."""
    y = source.outputs[0]
    along = (-1, *(1,) * (len(ctx.shape(x)) - 2))
    scaled = ctx.fresh(f"{y}_scaled")
    factor = ctx.keep(scale.reshape(along), source.inputs[1])
    ctx.emit("Mul", [x], scaled, f"{source.name}_scale", [factor])
    addend = ctx.keep(shift.reshape(along), source.inputs[2])
    ctx.emit("Add", [scaled], y, f"{source.name}_shift", [addend])
