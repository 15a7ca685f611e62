"""Tensors of a file whose batch is not their first axis: kept with the batch in front.

The normal form has the batch as axis 0 throughout. Files move it: attention splits queries, keys
and values along an axis that was brought before the batch, or makes one axis of batch and heads.
Such a tensor is remembered as a value with the batch in front, and operators work on that value,
their axes mapped. Where one cannot, the tensor is written out as the file has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from masktools.network.onnx.node import Source, Turned
from masktools.network.onnx.reading import Pass, Rewrites
from masktools.network.operators import ARITHMETIC, OPERATORS
from masktools.network.operators.rules import same_shape

Rewrite = Callable[[Pass, Source], None]


def with_any_batch_axis(rewrites: Rewrites) -> Rewrites:
    """Return rewrites that also read tensors whose batch is not their first axis.

    Parameters
    ----------
    rewrites : mapping of str to callable
        For tensors whose batch is the first axis.
    """
    return {op: _Rewrite(op, rewrite) for op, rewrite in rewrites.items()}


@dataclass(frozen=True)
class _Rewrite:
    """The rewrite of one operator, wherever the batch is."""

    op: str
    plain: Rewrite

    def __call__(self, ctx: Pass, source: Source) -> None:
        turned = [name for name in source.inputs if name in ctx.turned]
        handler = _HANDLERS.get(self.op)
        if self.op in OPERATORS and OPERATORS[self.op].shape is same_shape:
            handler = _unary
        moves = self.op in ("Flatten", "Reshape", "Transpose", "Unsqueeze")
        if handler is None or not (turned or moves) or not handler(ctx, source, self.plain):
            source.inputs = [ctx.write_out(name, source.name) for name in source.inputs]
            self.plain(ctx, source)


# --- where things are ---------------------------------------------------------------------------


def _seen(ctx: Pass, name: str) -> Turned:
    """Return a tensor of the file, wherever its batch is."""
    return ctx.turned[name] if name in ctx.turned else Turned(name, ctx.shape(name), 0)


def _parts(tensor: Turned) -> tuple[int, ...]:
    """Return what the axis of the batch has beside it: axes of the value."""
    return tuple(n for n in (tensor.before, tensor.after) if n > 1)


def _place(tensor: Turned, axis: int) -> int:
    """Return the value's axis that is one of the file, not that of the batch."""
    return axis + 1 if axis < tensor.axis else axis + len(_parts(tensor))


def _name(ctx: Pass, output: str, tensor: Turned) -> None:
    """Let an output of the file be a tensor."""
    if tensor.axis == 0 and not _parts(tensor):
        ctx.rename(output, tensor.value)
    else:
        ctx.turned[output] = tensor


def _like(ctx: Pass, value: str, tensor: Turned, axis: int | None = None) -> Turned:
    """Return a value as a tensor whose batch is beside the same parts as another's."""
    axis = tensor.axis if axis is None else axis
    shape, count = ctx.shape(value), len(_parts(tensor))
    whole = shape[0] * tensor.before * tensor.after
    file = (*shape[1 : axis + 1], whole, *shape[axis + 1 + count :])
    return replace(tensor, value=value, shape=file, axis=axis)


def _apply(
    ctx: Pass, source: Source, plain: Rewrite, inputs: Sequence[str], like: Turned, axis: int
) -> bool:
    """Rewrite a node on values with the batch in front; name what it makes."""
    made = [ctx.fresh(f"{name}_batch_first") if name else "" for name in source.outputs]
    node = replace(source, inputs=[*inputs, *source.inputs[len(inputs) :]], outputs=made)
    plain(ctx, node)
    for output, value in zip(source.outputs, made, strict=True):
        if output:
            _name(ctx, output, _like(ctx, ctx.renamed(value), like, axis))
    return True


# --- operators, by what they do to axes: each returns whether it could ---------------------------


def _unary(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    tensor = ctx.turned.get(source.inputs[0])
    if tensor is None:
        return False
    return _apply(ctx, source, plain, [tensor.value], tensor, tensor.axis)


def _transpose(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    tensor = _seen(ctx, source.inputs[0])
    rank = len(tensor.shape)
    perm = tuple(source.attributes.get("perm", range(rank)[::-1]))
    if sorted(perm) != list(range(rank)) or (tensor.axis == perm[0] == 0 and not _parts(tensor)):
        return False
    source.take("perm")
    inner = range(1 + tensor.axis, 1 + tensor.axis + len(_parts(tensor)))
    places = [0]
    for axis in perm:
        places += inner if axis == tensor.axis else [_place(tensor, axis)]
    value = tensor.value
    if places != list(range(len(places))):
        value = ctx.fresh(f"{source.outputs[0]}_batch_first")
        ctx.emit("Transpose", [tensor.value], value, source.name, perm=tuple(places))
    shape, axis = tuple(tensor.shape[axis] for axis in perm), perm.index(tensor.axis)
    _name(ctx, source.outputs[0], replace(tensor, value=value, shape=shape, axis=axis))
    return True


def _reshape(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    tensor = _seen(ctx, source.inputs[0])
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
    wanted = (*after[:axis], *_parts(made), *after[axis + 1 :])
    value = tensor.value
    if wanted != ctx.shape(value)[1:]:
        value = ctx.fresh(f"{source.outputs[0]}_batch_first")
        ctx.emit("Reshape", [tensor.value], value, source.name, shape=(0, *wanted))
    _name(ctx, source.outputs[0], replace(made, value=value))
    return True


def _flatten(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    """Read a Flatten that joins the batch with axes behind it as the Reshape that it is."""
    tensor = _seen(ctx, source.inputs[0])
    rank, axis = len(tensor.shape), source.attributes.get("axis", 1)
    axis += rank if axis < 0 else 0
    if not 0 < axis <= rank or (axis == 1 and source.inputs[0] not in ctx.turned):
        return False
    shape = {"shape": (-1, prod(tensor.shape[axis:]))}
    if not _reshape(ctx, replace(source, op="Reshape", attributes=shape), plain):
        return False
    source.take("axis")
    return True


def _batch_norm(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    """Write a normalisation of channels behind a joined batch as a product and a sum."""
    tensor = ctx.turned.get(source.inputs[0])
    constants = [ctx.constant(name) for name in source.inputs[1:5]]
    if tensor is None or tensor.axis == 1 or any(c is None for c in constants):
        return False
    place, rank = _place(tensor, 1), len(ctx.shape(tensor.value))
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
    _name(ctx, made, _like(ctx, whole, tensor))
    return True


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


def _along(*names: str) -> Callable[[Pass, Source, Rewrite], bool]:
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
        source.attributes["axis"] = _place(tensor, axis)
        index = ctx.constant(source.input(1)) if "index" in drops else None
        if index is not None and index.ndim > 1:
            source.attributes["axis"] = axis
            return False
        gone = index is not None and index.ndim == 0 and axis < tensor.axis
        return _apply(ctx, source, plain, [tensor.value], tensor, tensor.axis - gone)

    return handle


def _concat(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    tensors = [ctx.turned.get(name) for name in source.inputs]
    first = tensors[0]
    if first is None:
        return False
    axis = source.axes((source.attributes.get("axis", 1),), len(first.shape))[0]
    values = [t.value for t in tensors if t is not None and _alike(first, t)]
    if axis == first.axis or len(values) < len(tensors):
        return False
    source.attributes["axis"] = _place(first, axis)
    return _apply(ctx, source, plain, values, first, first.axis)


def _reduction(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    tensor = ctx.turned.get(source.inputs[0])
    kept = replace(source, attributes=dict(source.attributes))
    given = ctx.integers(kept, "axes", 1) if tensor else None
    if tensor is None or not given:
        return False
    axes = source.axes(given, len(tensor.shape))
    if tensor.axis in axes:
        return False
    source.attributes["axes"] = tuple(_place(tensor, axis) for axis in axes)
    gone = 0 if source.attributes.get("keepdims", 1) else sum(at < tensor.axis for at in axes)
    return _apply(ctx, source, plain, [tensor.value], tensor, tensor.axis - gone)


def _softmax(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    tensor = ctx.turned.get(source.inputs[0])
    axis = source.attributes.get("axis", -1 if ctx.opset >= 13 else 1)
    if tensor is None or (ctx.opset < 13 and axis not in (-1, len(tensor.shape) - 1)):
        return False
    source.attributes["axis"] = axis
    return _along("-1")(ctx, source, plain)


def _sequence(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    tensor = ctx.turned.get(source.inputs[0])
    if tensor is None or not source.input(1):
        return False
    axis = source.axes((source.attributes.get("axis", 0),), len(tensor.shape))[0]
    if axis == tensor.axis:
        return False
    source.attributes["axis"] = _place(tensor, axis)
    plain(ctx, replace(source, inputs=[tensor.value, *source.inputs[1:]]))
    parts = []
    for value in ctx.sequence(replace(source, inputs=source.outputs)):
        name = ctx.fresh(f"{value}_of_file")
        _name(ctx, name, _like(ctx, value, tensor))
        parts.append(ctx.renamed(name))
    ctx.collect(source, parts)
    return True


def _slice(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    tensor = ctx.turned.get(source.inputs[0])
    starts = ctx.integers(replace(source, attributes=dict(source.attributes)), "starts", 1)
    if tensor is None or starts is None:
        return False
    kept = replace(source, attributes=dict(source.attributes))
    given = ctx.integers(kept, "axes", 3)
    axes = source.axes(range(len(starts)) if given is None else given, len(tensor.shape))
    if tensor.axis in axes:
        return False
    source.attributes["axes"] = tuple(_place(tensor, axis) for axis in axes)
    return _apply(ctx, source, plain, [tensor.value], tensor, tensor.axis)


def _gather_nd(ctx: Pass, source: Source, plain: Rewrite) -> bool:
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
    return _apply(ctx, source, plain, [tensor.value, name], tensor, axis)


def _squeeze(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    tensor = ctx.turned.get(source.inputs[0])
    kept = replace(source, attributes=dict(source.attributes))
    given = ctx.integers(kept, "axes", 1) if tensor else None
    if tensor is None or given is None:
        return False
    axes = source.axes(given, len(tensor.shape))
    if tensor.axis in axes:
        return False
    source.attributes["axes"] = tuple(_place(tensor, axis) for axis in axes)
    axis = tensor.axis - sum(at < tensor.axis for at in axes)
    return _apply(ctx, source, plain, [tensor.value], tensor, axis)


def _unsqueeze(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    tensor = _seen(ctx, source.inputs[0])
    kept = replace(source, attributes=dict(source.attributes))
    given = ctx.integers(kept, "axes", 1) or ()
    rank = len(tensor.shape) + len(given)
    axes = source.axes(given, rank)
    if source.inputs[0] not in ctx.turned and 0 not in axes:
        return False
    old = [axis for axis in range(rank) if axis not in axes]
    wide = replace(tensor, axis=old[tensor.axis])
    source.attributes["axes"] = tuple(_place(wide, at) for at in axes)
    return _apply(ctx, source, plain, [tensor.value], tensor, wide.axis)


def _product(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    """Multiply by a constant matrix, or matrices of two values with the batch alike."""
    left = _seen(ctx, source.inputs[0]) if source.inputs[0] not in ctx.constants else None
    constant = ctx.constant(source.input(1))
    if left is None or source.attributes.get("transA") or source.input(2) in ctx.turned:
        return False
    if constant is not None:
        addend = ctx.constant(source.input(2)) if source.input(2) else np.zeros(1)
        if constant.ndim != 2 or left.axis == len(left.shape) - 1 or addend is None:
            return False
        if addend.ndim > 1 and addend.shape[0] > 1:
            return False
        return _apply(ctx, source, plain, [left.value], left, left.axis)
    right = _seen(ctx, source.inputs[1])
    if source.op != "MatMul" or not _alike(left, right) or left.axis >= len(left.shape) - 2:
        return False
    if left.shape[:-2] != right.shape[:-2]:
        return False
    return _apply(ctx, source, plain, [left.value, right.value], left, left.axis)


def _alike(a: Turned, b: Turned) -> bool:
    same = (a.axis, a.before, a.after) == (b.axis, b.before, b.after)
    return same and len(a.shape) == len(b.shape)


def _arithmetic(ctx: Pass, source: Source, plain: Rewrite) -> bool:
    constants = [ctx.constant(name) for name in source.inputs]
    seen = [
        _seen(ctx, name) if constant is None else None
        for name, constant in zip(source.inputs, constants, strict=True)
    ]
    tensors = [tensor for tensor in seen if tensor is not None]
    first, rank = tensors[0], len(tensors[0].shape)
    if not all(_alike(first, t) and t.shape == first.shape for t in tensors[1:]):
        return False
    inputs = []
    for tensor, constant in zip(seen, constants, strict=True):
        if tensor is not None:
            inputs.append(tensor.value)
            continue
        assert constant is not None
        wide = constant.reshape((1,) * (rank - constant.ndim) + constant.shape)
        if wide.ndim > rank or wide.shape[first.axis] > 1:
            return False
        ones = (1,) * len(_parts(first))
        shape = (1, *wide.shape[: first.axis], *ones, *wide.shape[first.axis + 1 :])
        inputs.append(ctx.fresh(f"{source.name}.constant"))
        ctx.constants[inputs[-1]] = wide.reshape(shape)
    return _apply(ctx, source, plain, inputs, first, first.axis)


_HANDLERS: Mapping[str, Callable[[Pass, Source, Rewrite], bool]] = {
    **dict.fromkeys((*ARITHMETIC, "And", "Less", "LessOrEqual", "Or", "Xor"), _arithmetic),
    **dict.fromkeys(("Abs", "Cast", "Clip", "Dropout", "Identity", "Neg", "Not"), _unary),
    **dict.fromkeys(("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"), _reduction),
    "BatchNormalization": _batch_norm,
    "Concat": _concat,
    "Flatten": _flatten,
    "Gather": _along("0", "index"),
    "GatherND": _gather_nd,
    "Gemm": _product,
    "LayerNormalization": _along("-1", "all"),
    "MatMul": _product,
    "Reshape": _reshape,
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _along("0"),
    "SplitToSequence": _sequence,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
