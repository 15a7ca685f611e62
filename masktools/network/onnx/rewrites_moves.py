"""How ONNX's operators that choose, repeat or order numbers are written in the normal form."""

from __future__ import annotations

from masktools import limits
from masktools.network.onnx.node import Source
from masktools.network.onnx.reading import Pass

# --- sequences of tensors -----------------------------------------------------------------------


def split_to_sequence(ctx: Pass, source: Source) -> None:
    """Write SplitToSequence, as torch.export writes chunk and split, as Split."""
    x = source.inputs[0]
    shape, keep = ctx.shape(x), source.take("keepdims", 1)
    axis = source.axes((source.take("axis", 0),), len(shape))[0]
    given = ctx.constant_input(source, 1, "split") if source.input(1) else None
    if given is None or given.ndim == 0:
        size = 1 if given is None else int(given)
        if size < 1:
            raise source.refuse(f"parts of size {size}")
        count = -(-shape[axis] // size)
        if count > limits.ENDS:
            raise source.refuse(f"{count} parts; {limits.ENDS} are supported")
        sizes = (*(size,) * (count - 1), shape[axis] - size * (count - 1))
    else:
        sizes = tuple(int(n) for n in given)
    parts = [ctx.fresh(f"{source.outputs[0]}_{i}") for i in range(len(sizes))]
    ctx.emit("Split", [x], parts, source.name, axis=axis, split=sizes)
    if given is None and not keep:
        whole, parts = parts, [ctx.fresh(f"{part}_squeezed") for part in parts]
        for part, squeezed in zip(whole, parts, strict=True):
            ctx.emit("Squeeze", [part], squeezed, f"{source.name}_squeeze", axes=(axis,))
    ctx.collect(source, parts)


def sequence_construct(ctx: Pass, source: Source) -> None:
    """Remember which tensors are in a sequence."""
    ctx.collect(source, source.inputs)


def sequence_at(ctx: Pass, source: Source) -> None:
    """Let the output of SequenceAt be the tensor at a place that the file fixes."""
    parts = ctx.sequence(source)
    place = int(ctx.constant_input(source, 1, "position").item())
    if not -len(parts) <= place < len(parts):
        raise source.refuse(f"position {place} in a sequence of {len(parts)} tensors")
    ctx.replace(source, parts[place])
