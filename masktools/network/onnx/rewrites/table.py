"""How each ONNX operator, of any operator set from 9 on, is written in the normal form.

A rewrite takes the attributes that it understands from the node; what is left over is refused by
name afterwards.
"""

from __future__ import annotations

import numpy as np

from masktools.network.onnx.batch_axis.table import with_any_batch_axis
from masktools.network.onnx.node import Source
from masktools.network.onnx.precision import BOOL, COUNTS, FLOAT, FLOATS
from masktools.network.onnx.reading import Pass, Rewrites
from masktools.network.onnx.rewrites.einsum import einsum
from masktools.network.onnx.rewrites.elementwise import ELEMENTWISE, axis_of, plain
from masktools.network.onnx.rewrites.logic import LOGIC, cast_to_bool, cast_to_count
from masktools.network.onnx.rewrites.moves import (
    concat,
    depth_to_space,
    expand,
    gather,
    gather_nd,
    sequence_at,
    sequence_construct,
    space_to_depth,
    split_to_sequence,
    tile,
)
from masktools.network.onnx.rewrites.norms import (
    batch_norm,
    group_norm,
    instance_norm,
    layer_norm,
)
from masktools.network.onnx.rewrites.products import gemm, matmul
from masktools.network.onnx.rewrites.reductions import (
    global_max_pool,
    reduction,
    reduction_of_sizes,
)
from masktools.network.onnx.rewrites.resizing import resize, upsample
from masktools.network.onnx.rewrites.transposed import conv_transpose
from masktools.network.onnx.rewrites.windows import (
    conv,
    global_lp_pool,
    local_response,
    lp_pool,
    pool,
)
from masktools.network.sizes import Size

# --- what changes nothing ------------------------------------------------------------------------


def _removed(ctx: Pass, source: Source) -> None:
    for name in ("ratio", "seed"):
        source.take(name)
    training = ctx.constant(source.input(2)) if source.input(2) else np.array(False)
    if training is None or training.any():
        raise source.refuse("input training_mode must be false")
    source.check_one_output()
    ctx.remove(source)


def _cast(ctx: Pass, source: Source) -> None:
    to = source.take("to", FLOAT)
    source.take("saturate")
    if to == BOOL:
        cast_to_bool(ctx, source)
        return
    if to in COUNTS and source.inputs[0] in ctx.booleans:
        cast_to_count(ctx, source)
        return
    if to not in FLOATS:  # Every value is float32 already.
        raise source.refuse(
            f"attribute to={to!r} is not supported, only types of float and booleans"
        )
    ctx.remove(source)


def _cast_like(ctx: Pass, source: Source) -> None:
    source.take("saturate")
    value, like = (ctx.constant(name) for name in source.inputs)
    if value is not None:
        ctx.define(source, value.astype(np.float32))
    elif like is None or like.dtype.kind == "f":
        ctx.remove(source)
    else:
        raise source.refuse(f"a value cannot become {like.dtype}, only float32")


# --- moving data --------------------------------------------------------------------------------


def _split(ctx: Pass, source: Source) -> None:
    x = source.inputs[0]
    axis = axis_of(ctx, source, 0)
    size, count = ctx.shape(x)[axis], len(source.outputs)
    source.take_only("num_outputs", count, count)
    sizes = ctx.integers(source, "split", 1)
    if sizes is None:
        part = -(-size // count)
        sizes = (*(part,) * (count - 1), size - part * (count - 1))
    outputs = [name or ctx.fresh(f"{source.name}_unused") for name in source.outputs]
    if len(sizes) != len(outputs):
        raise source.refuse(f"attribute split={sizes} for {len(outputs)} outputs")
    ctx.emit("Split", [x], outputs, source.name, axis=axis, split=sizes)


def _slice(ctx: Pass, source: Source) -> None:
    x = source.inputs[0]
    starts = ctx.integers(source, "starts", 1) or ()
    ends = ctx.integers(source, "ends", 2) or ()
    axes = ctx.integers(source, "axes", 3)
    steps = ctx.integers(source, "steps", 4)
    axes = source.axes(tuple(range(len(starts))) if axes is None else axes, len(ctx.shape(x)))
    steps = (1,) * len(starts) if steps is None else steps
    ctx.emit(
        "Slice", [x], source.outputs[0], source.name,
        starts=starts, ends=ends, axes=axes, steps=steps,
    )  # fmt: skip


def _pad(ctx: Pass, source: Source) -> None:
    x = source.inputs[0]
    rank = len(ctx.shape(x))
    pads = ctx.integers(source, "pads", 1) or ()
    given = ctx.integers(source, "axes", 3)
    axes = tuple(range(rank)) if given is None else source.axes(given, rank)
    if len(pads) != 2 * len(axes):
        raise source.refuse(f"attribute pads={pads} for {len(axes)} axes")
    whole = [0] * 2 * rank
    for i, axis in enumerate(axes):
        whole[axis], whole[axis + rank] = pads[i], pads[i + len(axes)]
    mode, value = source.take("mode", "constant"), source.take("value", 0.0)
    if source.input(2):
        value = ctx.constant_input(source, 2, "value").item()
    value = float(value) if mode == "constant" else 0.0
    ctx.emit("Pad", [x], source.outputs[0], source.name, mode=mode, pads=tuple(whole), value=value)


def _flatten(ctx: Pass, source: Source) -> None:
    x = source.inputs[0]
    axis, rank = source.take("axis", 1), len(ctx.shape(x))
    axis = axis + rank if axis < 0 else axis
    ctx.emit("Flatten", [x], source.outputs[0], source.name, axis=axis)


def _reshape(ctx: Pass, source: Source) -> None:
    x = source.inputs[0]
    shape = ctx.integers(source, "shape", 1) or ()
    if source.take("allowzero", 0) and 0 in shape:
        raise source.refuse("attribute allowzero=1 is not supported with a size of 0")
    if shape and ctx.is_batch(shape[0]) and ctx.is_batch(ctx.shape(x)[0]):
        shape = (0, *shape[1:])  # A batch size that was exported into a constant.
    ctx.emit("Reshape", [x], source.outputs[0], source.name, shape=shape)


def _squeeze(ctx: Pass, source: Source) -> None:
    x = source.inputs[0]
    given, shape = ctx.integers(source, "axes", 1), ctx.shape(x)
    if given is None and any(isinstance(size, Size) for size in shape):
        raise source.refuse("it needs axes where sizes are open: which are 1 depends on the input")
    axes = tuple(i for i, n in enumerate(shape) if n == 1) if given is None else given
    axes = tuple(sorted(source.axes(axes, len(shape))))
    if axes:
        ctx.emit("Squeeze", [x], source.outputs[0], source.name, axes=axes)
    else:
        ctx.remove(source)


def _unsqueeze(ctx: Pass, source: Source) -> None:
    x = source.inputs[0]
    axes = ctx.integers(source, "axes", 1) or ()
    axes = tuple(sorted(source.axes(axes, len(ctx.shape(x)) + len(axes))))
    ctx.emit("Unsqueeze", [x], source.outputs[0], source.name, axes=axes)


def _transpose(ctx: Pass, source: Source) -> None:
    x = source.inputs[0]
    perm = tuple(source.take("perm", range(len(ctx.shape(x)))[::-1]))
    ctx.emit("Transpose", [x], source.outputs[0], source.name, perm=perm)


_REWRITES: Rewrites = {
    **ELEMENTWISE,
    **LOGIC,
    "AveragePool": pool,
    "BatchNormalization": batch_norm,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Concat": concat,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "DepthToSpace": depth_to_space,
    "Dropout": _removed,
    "Einsum": einsum,
    "Expand": expand,
    "Flatten": _flatten,
    "Gather": gather,
    "GatherND": gather_nd,
    "Gemm": gemm,
    "GlobalAveragePool": plain(),
    "GlobalLpPool": global_lp_pool,
    "GlobalMaxPool": global_max_pool,
    "GroupNormalization": group_norm,
    "Identity": _removed,
    "InstanceNormalization": instance_norm,
    "LRN": local_response,
    "LayerNormalization": layer_norm,
    "LpPool": lp_pool,
    "MatMul": matmul,
    "MaxPool": pool,
    "Pad": _pad,
    **dict.fromkeys(("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"), reduction),
    **dict.fromkeys(("ReduceL1", "ReduceSumSquare"), reduction_of_sizes),
    "Reshape": _reshape,
    "Resize": resize,
    "SequenceAt": sequence_at,
    "SequenceConstruct": sequence_construct,
    "Slice": _slice,
    "SpaceToDepth": space_to_depth,
    "Split": _split,
    "SplitToSequence": split_to_sequence,
    "Squeeze": _squeeze,
    "Tile": tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Upsample": upsample,
}
REWRITES = with_any_batch_axis(_REWRITES)
