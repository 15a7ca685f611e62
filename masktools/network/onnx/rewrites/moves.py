"""How ONNX's operators that choose, repeat or order numbers are written in the normal form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    ctx.remove(source, parts[place])


# --- choosing and repeating ---------------------------------------------------------------------


def gather(ctx: Pass, source: Source) -> None:
    """Write Gather with constant indices: a Slice where that does, and axes as the indices have."""
    x, y = source.inputs[0], source.outputs[0]
    shape = ctx.shape(x)
    axis = source.axes((source.take("axis", 0),), len(shape))[0]
    indices = ctx.constant_input(source, 1, "indices")
    flat = y if indices.ndim == 1 else ctx.fresh(f"{y}_flat")
    _emit_gather(ctx, source, x, flat, axis, indices.ravel())
    if indices.ndim == 0:
        ctx.emit("Squeeze", [flat], y, f"{source.name}_squeeze", axes=(axis,))
    elif indices.ndim > 1:
        after = (*shape[:axis], *indices.shape, *shape[axis + 1 :])
        _emit_reshape(ctx, source, flat, y, after)


def gather_nd(ctx: Pass, source: Source) -> None:
    """Write GatherND with constant indices as a Gather along the joined axes that they lie on."""
    x, y, shape = source.inputs[0], source.outputs[0], ctx.shape(source.inputs[0])
    first = source.take("batch_dims", 0)
    indices = ctx.constant_input(source, 1, "indices")
    alike = indices.shape[:first] == tuple(map(int, shape[:first]))
    count = indices.shape[-1] if indices.ndim > first else 0
    if not alike or not 1 <= count <= len(shape) - first:
        raise source.refuse(f"indices of shape {indices.shape} for a value of shape {shape}")
    inner = indices[(0,) * first]
    if (indices != inner).any():
        raise source.refuse("its indices differ along the first axes, which is not supported")
    sizes, rest = shape[first : first + count], shape[first + count :]
    flat: NDArray[np.integer[Any]] = np.zeros(inner.shape[:-1], np.int64)
    for size, places in zip(sizes, np.moveaxis(inner, -1, 0), strict=True):
        if places.size and (places.min() < -size or places.max() >= size):
            raise source.refuse(
                f"indices {places.ravel().tolist()[:8]} of an axis of {size} entries"
            )
        flat = flat * int(size) + places % int(size)
    joined = x
    if count > 1:
        joined = ctx.fresh(f"{x}_joined")
        _emit_reshape(ctx, source, x, joined, (*shape[:first], math.prod(sizes), *rest))
    chosen = y if inner.ndim == 2 else ctx.fresh(f"{y}_flat")
    _emit_gather(ctx, source, joined, chosen, first, flat.ravel())
    if inner.ndim == 1:
        ctx.emit("Squeeze", [chosen], y, f"{source.name}_squeeze", axes=(first,))
    elif inner.ndim > 2:
        _emit_reshape(ctx, source, chosen, y, (*shape[:first], *inner.shape[:-1], *rest))


def _emit_gather(
    ctx: Pass, source: Source, x: str, y: str, axis: int, indices: NDArray[np.integer[Any]]
) -> None:
    """Choose entries along one axis, counted from the end where they are negative."""
    size = ctx.shape(x)[axis]
    if not indices.size or indices.min() < -size or indices.max() >= size:
        raise source.refuse(f"indices {indices.tolist()[:8]} of an axis of {size} entries")
    if indices.size > limits.INDICES:
        raise source.refuse(f"{indices.size} indices; {limits.INDICES} are supported")
    chosen = [int(i) % size for i in indices]
    step = chosen[1] - chosen[0] if len(chosen) > 1 else 1
    if step > 0 and chosen == list(range(chosen[0], chosen[-1] + 1, step)):
        ctx.emit(
            "Slice", [x], y, source.name,
            starts=(chosen[0],), ends=(chosen[-1] + 1,), axes=(axis,), steps=(step,),
        )  # fmt: skip
    else:
        ctx.emit("Gather", [x], y, source.name, axis=axis, indices=tuple(chosen))


def _emit_reshape(ctx: Pass, source: Source, x: str, y: str, shape: Sequence[int]) -> None:
    """Give a value another shape; the first axis stays where it is as large."""
    first = 0 if shape[0] == ctx.shape(x)[0] else shape[0]
    ctx.emit("Reshape", [x], y, f"{source.name}_reshape", shape=(first, *shape[1:]))


def expand(ctx: Pass, source: Source) -> None:
    """Write Expand as entries that are chosen again and again."""
    x = source.inputs[0]
    wanted = ctx.integers(source, "shape", 1) or ()
    rank = max(len(wanted), len(ctx.shape(x)))
    before = (*(1,) * (rank - len(ctx.shape(x))), *ctx.shape(x))
    after = (*(1,) * (rank - len(wanted)), *wanted)
    if any(n != m and 1 not in (n, m) for n, m in zip(before, after, strict=True)):
        raise source.refuse(f"a value of shape {ctx.shape(x)} cannot become {wanted}")
    repeats = [m if n == 1 else 1 for n, m in zip(before, after, strict=True)]
    _emit_repeated(ctx, source, before, repeats)


def tile(ctx: Pass, source: Source) -> None:
    """Write Tile as entries that are chosen again and again."""
    shape = ctx.shape(source.inputs[0])
    repeats = ctx.integers(source, "repeats", 1) or ()
    if len(repeats) != len(shape):
        raise source.refuse(f"repeats {repeats} of {len(shape)} axes")
    _emit_repeated(ctx, source, shape, repeats)


def _emit_repeated(ctx: Pass, source: Source, shape: Sequence[int], repeats: Sequence[int]) -> None:
    """Repeat a value, seen in a shape, along each axis so and so often."""
    value, made = source.inputs[0], source.outputs[0]
    axes = [axis for axis, n in enumerate(repeats) if n != 1]
    missing = len(shape) - len(ctx.shape(value))
    if missing:
        wide = ctx.fresh(f"{made}_wide") if axes else made
        ctx.emit("Unsqueeze", [value], wide, f"{source.name}_unsqueeze", axes=tuple(range(missing)))
        value = wide
    for axis in axes:
        size = shape[axis] * repeats[axis]
        if not 1 <= size <= limits.INDICES:
            raise source.refuse(f"{size} entries along axis {axis}; 1 to {limits.INDICES} fit")
        output = made if axis == axes[-1] else ctx.fresh(f"{made}_{axis}")
        indices = np.tile(np.arange(shape[axis]), repeats[axis])
        _emit_gather(ctx, source, value, output, axis, indices)
        value = output
    if not axes and not missing:
        ctx.remove(source)


# --- joining ------------------------------------------------------------------------------------


def concat(ctx: Pass, source: Source) -> None:
    """Write Concat; constants among the parts are added where the values have zeros for them."""
    axis = source.axes((source.take("axis", 1),), len(ctx.shape(source.inputs[0])))[0]
    made, rank = source.outputs[0], len(ctx.shape(source.inputs[0]))
    constants = [ctx.constant(name) for name in source.inputs]
    if all(constant is None for constant in constants):
        ctx.emit("Concat", source.inputs, made, source.name, axis=axis)
        return
    sizes = [ctx.shape(name)[axis] for name in source.inputs]
    # Room for each constant behind the value before it; for those that come first, before it.
    values: list[tuple[str, int, int]] = []
    before = 0
    for name, constant, size in zip(source.inputs, constants, sizes, strict=True):
        if constant is None:
            values.append((name, before, 0))
            before = 0
        elif values:
            values[-1] = (*values[-1][:2], values[-1][2] + size)
        else:
            before += size
    parts = [_with_room(ctx, source, part, axis, rank) for part in values]
    joined = parts[0] if len(parts) == 1 else ctx.fresh(f"{made}_joined")
    if len(parts) > 1:
        ctx.emit("Concat", parts, joined, source.name, axis=axis)
    shape = list(ctx.shape(joined))
    if math.prod(shape[1:]) > limits.FOLDED:
        raise source.refuse(f"constants beside a value of {shape} are too many numbers")
    whole = np.zeros((shape if axis == 0 else [1, *shape[1:]]), np.float32)
    start = 0
    for constant, size in zip(constants, sizes, strict=True):
        if constant is not None:
            rows = constant
            if axis and (constant == constant[:1]).all():
                rows = constant[:1]  # The same for each sample, as often as the batch is large.
            if len(rows) > len(whole):
                whole = np.repeat(whole, len(rows), axis=0)
            at = (slice(None),) * axis + (slice(start, start + size),)
            whole[at] = rows
        start += size
    ctx.emit("Add", [joined], made, f"{source.name}_add", [ctx.keep(whole, f"{made}_constants")])


def _with_room(ctx: Pass, source: Source, part: tuple[str, int, int], axis: int, rank: int) -> str:
    """Return a value with zeros before and behind it along an axis."""
    name, before, behind = part
    if not before and not behind:
        return name
    pads = [0] * 2 * rank
    pads[axis], pads[axis + rank] = before, behind
    padded = ctx.fresh(f"{name}_padded")
    ctx.emit(
        "Pad", [name], padded, f"{source.name}_pad", mode="constant", pads=tuple(pads), value=0.0
    )
    return padded


# --- pixels to channels and back ----------------------------------------------------------------


def depth_to_space(ctx: Pass, source: Source) -> None:
    """Write DepthToSpace as Reshape, Transpose, Reshape."""
    mode = source.take("mode", "DCR")
    block, (_, channels, height, width) = _image(ctx, source)
    rest = channels // block**2
    if mode == "CRD":
        apart, perm = (rest, block, block, height, width), (0, 1, 4, 2, 5, 3)
    elif mode == "DCR":
        apart, perm = (block, block, rest, height, width), (0, 3, 4, 1, 5, 2)
    else:
        raise source.refuse(f"attribute mode={mode!r} is not supported")
    _emit_regrouped(ctx, source, apart, perm, (rest, height * block, width * block))


def space_to_depth(ctx: Pass, source: Source) -> None:
    """Write SpaceToDepth as Reshape, Transpose, Reshape."""
    block, (_, channels, height, width) = _image(ctx, source)
    rows, columns = height // block, width // block
    apart = (channels, rows, block, columns, block)
    _emit_regrouped(ctx, source, apart, (0, 3, 5, 1, 2, 4), (channels * block**2, rows, columns))


def _image(ctx: Pass, source: Source) -> tuple[int, Sequence[int]]:
    """Return the size of a block, and the shape of the image."""
    shape, block = ctx.shape(source.inputs[0]), source.take("blocksize", 0)
    if len(shape) != 4 or block < 1:
        raise source.refuse(f"blocks of {block} x {block} pixels of a value of shape {shape}")
    return block, shape


def _emit_regrouped(
    ctx: Pass, source: Source, apart: Sequence[int], perm: Sequence[int], made: Sequence[int]
) -> None:
    """Part the axes of an image, bring them into another order, and join them again."""
    x, y = source.inputs[0], source.outputs[0]
    parted, turned = ctx.fresh(f"{y}_parted"), ctx.fresh(f"{y}_turned")
    ctx.emit("Reshape", [x], parted, f"{source.name}_part", shape=(0, *apart))
    ctx.emit("Transpose", [parted], turned, f"{source.name}_turn", perm=tuple(perm))
    ctx.emit("Reshape", [turned], y, f"{source.name}_join", shape=(0, *made))
