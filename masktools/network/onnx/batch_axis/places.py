"""Where the batch of a tensor is, and which axes of its value are which of the file's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from masktools.network.onnx.node import Source, Turned
from masktools.network.onnx.reading import Pass

# Rewrites a node whose tensors have the batch in front.
Rewrite = Callable[[Pass, Source], None]


def seen(ctx: Pass, name: str) -> Turned:
    """Return a tensor of the file, wherever its batch is."""
    return ctx.turned[name] if name in ctx.turned else Turned(name, ctx.shape(name), 0)


def parts_of(tensor: Turned) -> tuple[int, ...]:
    """Return what the axis of the batch has beside it: axes of the value."""
    return tuple(n for n in (tensor.before, tensor.after) if n > 1)


def value_axis(tensor: Turned, axis: int) -> int:
    """Return the value's axis that is one of the file, not that of the batch."""
    return axis + 1 if axis < tensor.axis else axis + len(parts_of(tensor))


def name_output(ctx: Pass, output: str, tensor: Turned) -> None:
    """Let an output of the file be a tensor."""
    if tensor.axis == 0 and not parts_of(tensor):
        ctx.rename(output, tensor.value)
    else:
        ctx.turned[output] = tensor


def turned_like(ctx: Pass, value: str, tensor: Turned, axis: int | None = None) -> Turned:
    """Return a value as a tensor whose batch is beside the same parts as another's."""
    axis = tensor.axis if axis is None else axis
    shape, count = ctx.shape(value), len(parts_of(tensor))
    whole = shape[0] * tensor.before * tensor.after
    file = (*shape[1 : axis + 1], whole, *shape[axis + 1 + count :])
    return replace(tensor, value=value, shape=file, axis=axis)


def apply(
    ctx: Pass, source: Source, plain: Rewrite, inputs: Sequence[str], like: Turned, axis: int
) -> bool:
    """Rewrite a node on values with the batch in front; name what it makes."""
    made = [ctx.fresh(f"{name}_batch_first") if name else "" for name in source.outputs]
    node = replace(source, inputs=[*inputs, *source.inputs[len(inputs) :]], outputs=made)
    plain(ctx, node)
    for output, value in zip(source.outputs, made, strict=True):
        if output:
            name_output(ctx, output, turned_like(ctx, ctx.renamed(value), like, axis))
    return True


def alike(a: Turned, b: Turned) -> bool:
    """Return whether two tensors have their batch at the same place, beside the same parts."""
    same = (a.axis, a.before, a.after) == (b.axis, b.before, b.after)
    return same and len(a.shape) == len(b.shape)
