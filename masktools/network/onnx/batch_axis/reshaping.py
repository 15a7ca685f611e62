"""Reshapes that move the batch, or join it with other axes: each returns whether it could."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from masktools.network.onnx.batch_axis.places import (
    Rewrite,
    apply,
    name_output,
    parts_of,
    seen,
    value_axis,
)
from masktools.network.onnx.node import Source, Turned
from masktools.network.onnx.reading import Pass


def transpose(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    """Remember a Transpose of the batch, and write one of the other axes."""
    tensor = seen(ctx, source.inputs[0])
    rank = len(tensor.shape)
    perm = tuple(source.attributes.get("perm", range(rank)[::-1]))
    if sorted(perm) != list(range(rank)) or (tensor.axis == perm[0] == 0 and not parts_of(tensor)):
        return False
    source.take("perm")
    inner = range(1 + tensor.axis, 1 + tensor.axis + len(parts_of(tensor)))
    places = [0]
    for axis in perm:
        places += inner if axis == tensor.axis else [value_axis(tensor, axis)]
    value = tensor.value
    if places != list(range(len(places))):
        value = ctx.fresh(f"{source.outputs[0]}_batch_first")
        ctx.emit("Transpose", [tensor.value], value, source.name, perm=tuple(places))
    shape, axis = tuple(tensor.shape[axis] for axis in perm), perm.index(tensor.axis)
    name_output(ctx, source.outputs[0], replace(tensor, value=value, shape=shape, axis=axis))
    return True


def reshape(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    """Remember the axis of a Reshape that the batch is a factor of."""
    tensor = seen(ctx, source.inputs[0])
    batch = ctx.shape(tensor.value)[0] if tensor.shape else 0
    known = "shape" in source.attributes or ctx.constant(source.input(1)) is not None
    if not known or not ctx.is_batch(batch):
        return False
    kept = replace(source, attributes=dict(source.attributes))
    shape = list(ctx.integers(kept, "shape", 1) or ())
    if 0 in shape and source.attributes.get("allowzero"):
        return False
    if any(n == 0 and i >= len(tensor.shape) for i, n in enumerate(shape)):
        return False
    shape = [tensor.shape[i] if n == 0 else n for i, n in enumerate(shape)]
    if source.inputs[0] not in ctx.turned and _repeats(shape, tensor.shape, ctx.said):
        return False
    ahead = prod(tensor.shape[: tensor.axis]) * tensor.before
    found = _factor(shape, len(tensor.shape), prod(tensor.shape), ahead, batch, ctx.said)
    if found is None or (found[1:] == (0, 1, 1) and source.inputs[0] not in ctx.turned):
        return False
    after, axis, before, behind = found
    for name in ("shape", "allowzero"):
        source.take(name)
    made = Turned("", tuple(after), axis, before, behind)
    wanted = (*after[:axis], *parts_of(made), *after[axis + 1 :])
    value = tensor.value
    if wanted != ctx.shape(value)[1:]:
        value = ctx.fresh(f"{source.outputs[0]}_batch_first")
        ctx.emit("Reshape", [tensor.value], value, source.name, shape=(0, *wanted))
    name_output(ctx, source.outputs[0], replace(made, value=value))
    return True


def flatten(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    """Read a Flatten that joins the batch with axes behind it as the Reshape that it is."""
    tensor = seen(ctx, source.inputs[0])
    rank, axis = len(tensor.shape), source.attributes.get("axis", 1)
    axis += rank if axis < 0 else 0
    if not 0 < axis <= rank or (axis == 1 and source.inputs[0] not in ctx.turned):
        return False
    shape = {"shape": (-1, prod(tensor.shape[axis:]))}
    if not reshape(ctx, replace(source, op="Reshape", attributes=shape), plain):
        return False
    source.take("axis")
    return True


def unsqueeze(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    """Add axes, also before that of the batch."""
    tensor = seen(ctx, source.inputs[0])
    kept = replace(source, attributes=dict(source.attributes))
    given = ctx.integers(kept, "axes", 1) or ()
    rank = len(tensor.shape) + len(given)
    axes = source.axes(given, rank)
    if source.inputs[0] not in ctx.turned and 0 not in axes:
        return False
    old = [axis for axis in range(rank) if axis not in axes]
    wide = replace(tensor, axis=old[tensor.axis])
    source.attributes["axes"] = tuple(value_axis(wide, at) for at in axes)
    return apply(ctx, source, plain, [tensor.value], tensor, wide.axis)


def squeeze(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    """Drop axes that are not that of the batch."""
    tensor = ctx.turned.get(source.inputs[0])
    kept = replace(source, attributes=dict(source.attributes))
    given = ctx.integers(kept, "axes", 1) if tensor else None
    if tensor is None or given is None:
        return False
    axes = source.axes(given, len(tensor.shape))
    if tensor.axis in axes:
        return False
    source.attributes["axes"] = tuple(value_axis(tensor, axis) for axis in axes)
    axis = tensor.axis - sum(at < tensor.axis for at in axes)
    return apply(ctx, source, plain, [tensor.value], tensor, axis)


def _repeats(shape: Sequence[int], before: Sequence[int], said: int | None) -> bool:
    """Return whether a new shape begins with the file's batch, and -1 fits within one sample."""
    known = -prod(shape[1:])
    return shape[:1] == [said] and known > 0 and prod(before[1:]) % known == 0


def _factor(
    shape: list[int], rank: int, size: int, ahead: int, batch: int, said: int | None
) -> tuple[list[int], int, int, int] | None:
    """Find the axis of a new shape that the batch is a factor of.

    Parameters
    ----------
    shape : list of int
        As the file has it, perhaps with one -1.
    rank : int
        Axes of the tensor before.
    size : int
        Numbers of the tensor.
    ahead : int
        Numbers before the batch, in C order.
    batch : int
    said : int or None
        The batch that the file fixes, which the shape may repeat.

    Returns
    -------
    tuple of (list of int, int, int, int) or None
        The shape at this batch, the axis, its factors before and behind the batch; None where the
        batch is a factor of none.
    """
    for exported in dict.fromkeys((batch, said or batch)):
        whole, known = list(shape), -prod(shape)
        if -1 in whole:
            if known <= 0 or size * exported % (known * batch):
                continue
            whole[whole.index(-1)] = size * exported // (known * batch)
        if prod(whole) * batch != size * exported:
            continue
        passed, fitting = 1, []
        for axis, n in enumerate(whole):
            before = ahead // passed
            if ahead % passed == 0 and before and n % (before * exported) == 0:
                fitting.append((axis, before, n // (before * exported)))
            passed *= n
        if fitting:
            # Of several, as where the file's batch is 1: an axis that is nothing else; where axes
            # were joined the one that ends before the batch, else the one that begins with it.
            alone = [found for found in fitting if found[1:] == (1, 1)]
            axis, before, behind = (alone or (fitting if len(shape) < rank else fitting[::-1]))[0]
            whole[axis] = before * batch * behind
            return whole, axis, before, behind
    return None
