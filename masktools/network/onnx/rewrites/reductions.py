"""How ONNX's sums, means, extremes and norms over axes are written in the normal form."""

from __future__ import annotations

from masktools.network.onnx.node import Source
from masktools.network.onnx.reading import Pass
from masktools.network.onnx.rewrites.elementwise import Steps


def reduction_of_sizes(ctx: Pass, source: Source) -> None:
    """Write ReduceL1 and ReduceSumSquare as the sum of sizes, or of squares."""
    steps, x = Steps(ctx, source), source.inputs[0]
    square = source.op == "ReduceSumSquare"
    made = steps.add("Mul", x, x) if square else steps.add("LeakyRelu", x, alpha=-1)
    source.op, source.inputs[0] = "ReduceSum", made
    reduction(ctx, source)


def reduction(ctx: Pass, source: Source) -> None:
    """Write what reduces some axes, or all of them, to one number."""
    x, y = source.inputs[0], source.outputs[0]
    rank = len(ctx.shape(x))
    axes = ctx.integers(source, "axes", 1) or ()
    keep, nothing = source.take("keepdims", 1), source.take("noop_with_empty_axes", 0)
    if not axes and nothing:
        ctx.remove(source)
        return
    axes = tuple(sorted(set(source.axes(axes, rank)))) or tuple(range(rank))
    whole = axes == tuple(range(2, rank))
    if source.op != "ReduceMean" or axes not in ((2,), (2, 3)) or whole:
        ctx.emit(source.op, [x], y, source.name, axes=axes, keepdims=keep)
        return
    # In version 1 of the checkpoint these axes mean the whole image: they move on by one.
    wide, mean = ctx.fresh(f"{x}_wide"), ctx.fresh(f"{y}_wide")
    ctx.emit("Unsqueeze", [x], wide, f"{source.name}_unsqueeze", axes=(2,))
    axes = tuple(axis + 1 for axis in axes)
    ctx.emit("ReduceMean", [wide], mean, source.name, axes=axes, keepdims=1)
    dropped = (2,) if keep else (2, *axes)
    ctx.emit("Squeeze", [mean], y, f"{source.name}_squeeze", axes=dropped)


def global_max_pool(ctx: Pass, source: Source) -> None:
    """Write GlobalMaxPool as the maximum over all axes of the image."""
    axes = tuple(range(2, len(ctx.shape(source.inputs[0]))))
    if not axes:
        raise source.refuse("there is no image")
    ctx.emit("ReduceMax", source.inputs, source.outputs[0], source.name, axes=axes, keepdims=1)
