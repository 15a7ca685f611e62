"""Steps without weights, as launches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Union

import numpy as np

from runtime.cuda import moves, structs
from runtime.cuda.launches import THREADS, Launch, Memory, Place, Table, axes_of, blocks
from runtime.cuda.layout import Layout, image, shares
from runtime.plan import steps as s

# Rows of a reduction that a block takes side by side: a warp's worth, so that reads are runs.
SIDE_BY_SIDE = 32

# Memory, or a constant, with its strides along the axes of the result.
Operand = tuple[Union[Memory, Table, None], Sequence[int]]  # noqa: UP007 - evaluated at run time

# Rows and columns of y that a block of matmul.cu makes: TILE there.
PRODUCT_TILE = 32

# ReduceOp in reduce.cu.
_REDUCTIONS = ("Sum", "Mean", "Max", "Min", "L2")

# PointwiseOp in pointwise.cu.
COPY, ADD, SUB, SUB_FROM, MUL, DIV, DIV_BY_FIRST, MUL_ADD, MAX, MIN, PRELU = range(11)
GREATER, GREATER_OR_EQUAL, LESS, LESS_OR_EQUAL, EQUAL = range(11, 16)


def launches(step: s.Step, place: Place) -> list[Launch]:
    """Return the launches of a step.

    Parameters
    ----------
    step : Step
        One without weights.
    place : Place
        With the memory that `scratch_elements` asked for.
    """
    return list(LAUNCHES[type(step)](step, place))


def scratch_elements(step: s.Step, values: Mapping[str, Layout]) -> int:
    """Return how many elements a step needs beside its input and its output."""
    if isinstance(step, s.Reshape) and not shares(step, values):
        return moves.between(values[step.inputs[0]], values[step.output])[0].size
    return 0


# --- element by element --------------------------------------------------------------------------


def _pointwise(
    step: s.Step,
    place: Place,
    op: int,
    second: Operand | None = None,
    third: Operand | None = None,
    activation: s.Activation | None = None,
) -> Launch:
    """Return the launch of y = activate(a op b, c); operands come with their strides."""
    y = place.values[step.output]
    axes = axes_of(len(y.shape))
    none = (None, (0,) * len(axes))
    operands: list[Operand] = [
        (place.first(step.output), y.strides),
        (place.first(step.inputs[0]), _broadcast(place.values[step.inputs[0]], y)),
        second or none,
        third or none,
    ]
    # A constant has no lanes beyond the batch, so where it varies along the batch none are made.
    by_sample = isinstance(operands[2][0], Table) and any(operands[2][1][:1])
    sizes = [y.lanes if axis == 0 and not by_sample else y.shape[axis] for axis in axes]
    walk = structs.walk(sizes, *([strides[axis] for axis in axes] for _, strides in operands))
    constant = isinstance(operands[2][0], Table)
    return Launch(
        "pointwise.cu",
        f"pointwise_{'constant_' if constant else ''}{place.suffix}",
        (
            *(operands[i][0] for i in (1, 2, 3, 0)),
            walk,
            np.int32(op),
            structs.activation_struct(activation),
        ),
        blocks(int(walk["count"][0])),
    )


def _broadcast(operand: Layout, y: Layout) -> tuple[int, ...]:
    """Return an operand's strides along the axes of `y`, 0 where it is broadcast."""
    strides = [
        0 if size == 1 else step for size, step in zip(operand.shape, operand.strides, strict=True)
    ]
    return (0,) * (len(y.shape) - len(strides)) + tuple(strides)


def _constant(array: Any, rank: int) -> Operand:  # noqa: ANN401
    """Return a constant, float32, broadcast along the axes of a value."""
    table = np.ascontiguousarray(array, np.float32)
    strides = [
        step // table.itemsize if size > 1 else 0
        for size, step in zip(table.shape, table.strides, strict=True)
    ]
    return Table(table), ((0,) * rank + tuple(strides))[-rank:]


def _activate(step: s.Activate, place: Place) -> Iterator[Launch]:
    yield _pointwise(step, place, COPY, activation=step.activation)


def _scale_shift(step: s.ScaleShift, place: Place) -> Iterator[Launch]:
    rank = len(place.values[step.output].shape)
    along = (-1,) + (1,) * (rank - 2)
    scale, shift = (
        None if part is None else _constant(part.reshape(along), rank)
        for part in (step.scale, step.shift)
    )
    op = MUL_ADD if scale and shift else MUL if scale else ADD
    yield _pointwise(
        step, place, op, scale or shift, shift if scale else None, activation=step.activation
    )


# For each op, what it is where the value comes first, and where a constant does.
_OPS = {
    "Add": (ADD, ADD),
    "Sub": (SUB, SUB_FROM),
    "Mul": (MUL, MUL),
    "Div": (DIV, DIV_BY_FIRST),
    "Max": (MAX, MAX),
    "Min": (MIN, MIN),
    "PRelu": (PRELU, None),
    "Greater": (GREATER, LESS),
    "GreaterOrEqual": (GREATER_OR_EQUAL, LESS_OR_EQUAL),
    "Equal": (EQUAL, EQUAL),
}


def _arithmetic(step: s.Arithmetic, place: Place) -> Iterator[Launch]:
    y = place.values[step.output]
    if step.constant is None:
        other = step.inputs[1]
        second: Operand = (place.first(other), _broadcast(place.values[other], y))
    else:
        second = _constant(step.constant, len(y.shape))
    op = _OPS[step.op][step.constant_first]
    assert op is not None, "a slope is no first operand"
    yield _pointwise(step, place, op, second, activation=step.activation)


def _where(step: s.Where, place: Place) -> Iterator[Launch]:
    y, values = place.values[step.output], iter(step.inputs)
    rank = len(y.shape)
    axes = axes_of(rank)
    # Of each operand the memory and the constant, one of which is null.
    pointers: list[Memory | Table | None] = []
    strides = [y.strides]
    by_sample = False
    for constant in step.constants:
        if constant is None:
            name = next(values)
            pointers += [place.first(name), None]
            strides.append(_broadcast(place.values[name], y))
        else:
            table, along = _constant(constant, rank)
            assert isinstance(table, Table)
            pointers += [None, table]
            strides.append(tuple(along))
            by_sample |= any(along[:1])
    sizes = [y.lanes if axis == 0 and not by_sample else y.shape[axis] for axis in axes]
    walk = structs.walk(sizes, *([along[axis] for axis in axes] for along in strides))
    arguments = (*pointers, place.first(step.output), walk)
    yield Launch("pointwise.cu", f"where_{place.suffix}", arguments, blocks(int(walk["count"][0])))


# --- products of two values ----------------------------------------------------------------------


def _matmul(step: s.MatMul, place: Place) -> Iterator[Launch]:
    y = place.values[step.output]
    a, b = (place.values[name] for name in step.inputs)
    axes = [axis for axis in axes_of(len(y.shape)) if axis < len(y.shape) - 2]
    strides = ([_broadcast_matrices(x, y)[axis] for axis in axes] for x in (y, a, b))
    batch = structs.walk([y.shape[axis] for axis in axes], *strides)
    product = structs.product(
        rows=y.shape[-2],
        columns=y.shape[-1],
        depth=a.shape[-1],
        a=a.strides[-2:],
        b=b.strides[-2:],
        y=y.strides[-2:],
    )
    tiles = -(-y.shape[-2] // PRODUCT_TILE) * -(-y.shape[-1] // PRODUCT_TILE)
    ends = (*(place.first(name) for name in step.inputs), place.first(step.output))
    grid = (tiles * int(batch["count"][0]),)
    yield Launch("matmul.cu", f"matmul_{place.suffix}", (*ends, batch, product), grid)


def _broadcast_matrices(operand: Layout, y: Layout) -> tuple[int, ...]:
    """Return an operand's strides along the axes of `y` but the last two, 0 where it repeats."""
    strides = [
        0 if size == 1 else step
        for size, step in zip(operand.shape[:-2], operand.strides[:-2], strict=True)
    ]
    return (0,) * (len(y.shape) - 2 - len(strides)) + tuple(strides)


# --- windows and reductions ----------------------------------------------------------------------


def _pool(step: s.Pool, place: Place) -> Iterator[Launch]:
    layout = place.values[step.output]
    x, y = image(place.values[step.inputs[0]]), image(layout)
    count = y.channels * y.height * y.width * layout.lanes
    window = structs.window(
        count=count,
        lanes=layout.lanes,
        height=y.height,
        width=y.width,
        rows=x.height,
        columns=x.width,
        kernel=step.kernel,
        strides=step.strides,
        dilations=step.dilations,
        pads=step.pads[:2],
        counted=step.counted,
        x=(x.channel, x.y, x.x),
        y=(y.channel, y.y, y.x),
        none=-np.inf,
    )
    kind = "max" if step.op == "MaxPool" else "average"
    ends = (place.first(step.inputs[0]), place.first(step.output))
    yield Launch("pool.cu", f"{kind}_pool_{place.suffix}", (*ends, window), blocks(count))


def _mean(step: s.GlobalAveragePool, place: Place) -> Iterator[Launch]:
    yield _reduction("mean", step, place, range(2, len(place.values[step.inputs[0]].shape)))


def _reduce(step: s.Reduce, place: Place) -> Iterator[Launch]:
    x, y = place.values[step.inputs[0]], place.values[step.output]
    rows, grid, block = _rows(x, y, step.axes)
    along = structs.walk([x.shape[a] for a in step.axes], [x.strides[a] for a in step.axes])
    ends = (place.first(step.inputs[0]), place.first(step.output))
    op = np.int32(_REDUCTIONS.index(step.op))
    yield Launch("reduce.cu", f"reduce_{place.suffix}", (*ends, rows, along, op), grid, block)


def _normalize(step: s.Normalize, place: Place) -> Iterator[Launch]:
    x, y = place.values[step.inputs[0]], place.values[step.output]
    axes = range(step.axis, len(x.shape))
    rows, grid, block = _rows(x, y, axes)
    order = [axis for axis in axes_of(len(x.shape)) if axis in axes]
    plain = np.empty(x.shape[step.axis :], np.int8).strides  # of constants in C order
    along = structs.walk(
        [x.shape[axis] for axis in order],
        [y.strides[axis] for axis in order],
        [x.strides[axis] for axis in order],
        [plain[axis - step.axis] for axis in order],
    )
    constants = (
        None if part is None else Table(np.ascontiguousarray(part, np.float32))
        for part in (step.scale, step.shift)
    )
    ends = (place.first(step.inputs[0]), place.first(step.output))
    arguments = (*ends, *constants, rows, along, np.float32(step.epsilon))
    yield Launch("reduce.cu", f"normalize_{place.suffix}", arguments, grid, block)


def _rows(
    x: Layout, y: Layout, along: Sequence[int]
) -> tuple[structs.Struct, tuple[int], tuple[int, int]]:
    """Return the walk over the axes that stay, of y and x, and its grid and block."""
    axes = [axis for axis in axes_of(len(x.shape)) if axis not in along]
    sizes = [x.lanes if axis == 0 else x.shape[axis] for axis in axes]
    strides = ([layout.strides[axis] for axis in axes] for layout in (y, x))
    rows = structs.walk(sizes, *strides)
    count = int(rows["count"][0])
    wide = min(SIDE_BY_SIDE, 1 << (count - 1).bit_length())
    return rows, blocks(count, wide), (wide, THREADS // wide)


def _softmax(step: s.Softmax, place: Place) -> Iterator[Launch]:
    axis = step.axis % len(place.values[step.inputs[0]].shape)
    yield _reduction("log_softmax" if step.logarithm else "softmax", step, place, (axis,))


def _reduction(kernel: str, step: s.Step, place: Place, along: Sequence[int]) -> Launch:
    x, y = place.values[step.inputs[0]], place.values[step.output]
    rows, grid, threads = _rows(x, y, along)
    summed = structs.merged(
        [x.shape[axis] for axis in along],
        [x.strides[axis] for axis in along],
        [y.strides[axis] if y.shape[axis] > 1 else 0 for axis in along],
    )
    first, second = (*summed, (1, (0, 0)), (1, (0, 0)))[:2]
    row = structs.row(
        sizes=(first[0], second[0]),
        x=(first[1][0], second[1][0]),
        y=(first[1][1], second[1][1]),
    )
    ends = (place.first(step.inputs[0]), place.first(step.output))
    return Launch("reduce.cu", f"{kernel}_{place.suffix}", (*ends, rows, row), grid, threads)


# For each kind of step without weights, the function that makes its launches.
LAUNCHES: Mapping[type[s.Step], Callable[[Any, Place], Iterator[Launch]]] = {
    s.Activate: _activate,
    s.ScaleShift: _scale_shift,
    s.Arithmetic: _arithmetic,
    s.Where: _where,
    s.MatMul: _matmul,
    s.Pool: _pool,
    s.GlobalAveragePool: _mean,
    s.Reduce: _reduce,
    s.Softmax: _softmax,
    s.Normalize: _normalize,
    s.Concat: moves.concat,
    s.Slice: moves.slice_,
    s.Gather: moves.gather,
    s.Interpolate: moves.interpolate,
    s.Pad: moves.pad,
    s.Transpose: moves.transpose,
    s.Reshape: moves.reshape,
}
