"""The oracle: every step in NumPy, obvious rather than fast.

A weight is applied as it is stored: each dense block gathers its columns, multiplies, and adds to
its rows; the residual is spread over whole rows, a few at a time. Sums of k products differ from
exact ones by at most about k * eps * sum(|w x|), with the eps of the computation's dtype; ask for
dtype "float64" where that is too much.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.checkpoint import Residual
from masktools.forks import PRODUCTS
from runtime.backend import Availability
from runtime.errors import PlanError
from runtime.plan import steps as s
from runtime.plan.plan import Plan

Array = NDArray[Any]
Shape = tuple[int, ...]

DTYPES = ("float32", "float64")
# Bytes of gathered columns: images are taken in portions of about this size, which the second level
# of a cache holds, since every block gathers its own columns from them.
CHUNK_BYTES = 2 << 20


class ReferenceBackend:
    """NumPy on the processor, with the threads of NumPy's own BLAS."""

    name = "reference"
    tuned = False

    def available(self) -> Availability:
        """Return that it runs wherever NumPy does."""
        return Availability(True, f"NumPy {np.__version__}")

    def compile(
        self, plan: Plan, input_shapes: Mapping[str, Shape], dtype: str, threads: int | None
    ) -> ReferenceExecutable:
        """Return the plan, ready to run.

        Raises
        ------
        PlanError
            If `dtype` is not float32 or float64, `threads` is given, or it should be tuned.
        """
        if self.tuned:
            raise PlanError("backend 'reference' has nothing to tune")
        if dtype not in DTYPES:
            raise PlanError(f"backend 'reference' computes in {' or '.join(DTYPES)}, not {dtype}")
        if threads is not None:
            raise PlanError(
                "backend 'reference' has the threads of NumPy's BLAS: set OMP_NUM_THREADS, "
                "not threads"
            )
        batch = plan.batch(input_shapes)
        return ReferenceExecutable(plan, batch, np.dtype(dtype))

    def upload(self, array: Any) -> Array:  # noqa: ANN401
        """Return the array itself."""
        return np.asarray(array)

    def download(self, array: Array) -> Array:
        """Return the array itself."""
        return array

    def synchronize(self) -> None:
        """Do nothing: NumPy waits by itself."""


class ReferenceExecutable:
    """A plan and the dtype to run it in; holds no state, so threads may share it."""

    def __init__(self, plan: Plan, batch: int, dtype: np.dtype[Any]) -> None:
        self._plan = plan
        self._dtype = dtype
        self._steps = [(step, plan.shape(step.output, batch)) for step in plan.steps]

    def run(
        self, inputs: Mapping[str, Array], seconds: list[float] | None = None
    ) -> dict[str, Array]:
        """Run every step; see `runtime.backend.Executable`."""
        plan = self._plan
        live = {name: x.astype(self._dtype, copy=False) for name, x in inputs.items()}
        # A network may divide by zero or overflow; ONNX gives inf or NaN and so does this.
        with np.errstate(all="ignore"):
            for (step, shape), dead in zip(self._steps, plan.dead_after, strict=True):
                start = time.perf_counter()
                live[step.output] = KERNELS[type(step)](step, shape, [live[v] for v in step.inputs])
                for value in dead:
                    del live[value]
                if seconds is not None:
                    seconds.append(time.perf_counter() - start)
        return {name: np.array(live[value], order="C") for name, value in plan.results.items()}


# --- layers with weights -----------------------------------------------------------------------


def _convolution(step: s.Convolution, shape: Shape, inputs: list[Array]) -> Array:
    image = _image(inputs[0])
    (ky, kx), (dy, dx), (sy, sx) = step.kernel, step.dilations, step.strides
    top, left, bottom, right = step.pads
    padded = np.pad(image, ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(
        padded, (dy * (ky - 1) + 1, dx * (kx - 1) + 1), axis=(2, 3)
    )[:, :, ::sy, ::sx, ::dy, ::dx]
    samples, channels, height, width = windows.shape[:4]
    out = np.empty((shape[0], shape[1], height * width), image.dtype)
    columns_per_group = channels // step.groups * ky * kx
    bytes_per_image = channels * ky * kx * height * width * image.itemsize
    chunk = max(1, CHUNK_BYTES // max(bytes_per_image, 1))
    for first in range(0, samples, chunk):
        part = windows[first : first + chunk].transpose(1, 4, 5, 0, 2, 3)
        columns = part.reshape(step.groups, columns_per_group, -1)
        rows = _product_of(step.weight, columns)
        out[first : first + chunk] = rows.reshape(shape[1], -1, height * width).swapaxes(0, 1)
    if step.bias is not None:
        out += step.bias.astype(out.dtype)[:, None]
    return _finished(step, out.reshape(shape), inputs)


def _product(step: s.Product, shape: Shape, inputs: list[Array]) -> Array:
    x = inputs[0]
    rows = _product_of(step.weight, x.reshape(1, -1, x.shape[-1]).swapaxes(1, 2))
    out = np.ascontiguousarray(rows.T)
    if step.bias is not None:
        out += step.bias.astype(out.dtype)
    return _finished(step, out.reshape(shape), inputs)


def _finished(step: s.Weighted, out: Array, inputs: list[Array]) -> Array:
    """Add the skip, then activate."""
    if len(inputs) == 2:
        out += inputs[1]
    return _activated(step.activation, out)


def _product_of(weight: s.Weight, columns: Array) -> Array:
    """Return the weight times the columns, (out, pixels).

    Parameters
    ----------
    weight : ndarray or SparseWeight
        With `groups` as many rows as `columns` has groups, evenly.
    columns : ndarray, shape (groups, columns, pixels)
    """
    groups, width, pixels = columns.shape
    dtype = columns.dtype
    if isinstance(weight, np.ndarray):
        product = _multiplied(weight.reshape(groups, -1, width).astype(dtype, copy=False), columns)
        return product.reshape(-1, pixels)
    out: Array = np.zeros((weight.layout.rows, pixels), dtype)
    rows_per_group = weight.layout.rows // groups
    start = 0
    for block in weight.layout.blocks:
        values = weight.values[start : start + block.size].reshape(len(block.rows), -1)
        start += block.size
        gathered = columns[block.rows[0] // rows_per_group][block.columns]
        out[block.rows] += _multiplied(values.astype(dtype, copy=False), gathered)
    if weight.residual is not None:
        for group in range(groups):
            first = group * rows_per_group
            part = out[first : first + rows_per_group]
            _add_residual(weight.residual, first, columns[group], part)
    return out


def _add_residual(residual: Residual, first: int, columns: Array, out: Array) -> None:
    """Add the residual of the rows from `first` on, spread over whole rows, to `out`."""
    width = max(len(columns), 1)
    chunk = max(1, CHUNK_BYTES // (width * out.itemsize))
    offsets = residual.row_offsets
    for begin in range(0, len(out), chunk):
        end = min(begin + chunk, len(out))
        a, b = offsets[first + begin], offsets[first + end]
        if a == b:
            continue
        spread = np.zeros((end - begin, width), out.dtype)
        kept = np.diff(offsets[first + begin : first + end + 1])
        rows = np.repeat(np.arange(end - begin), kept)
        spread[rows, residual.column_indices[a:b]] = residual.values[a:b]
        out[begin:end] += _multiplied(spread, columns)


def _multiplied(a: Array, b: Array) -> Array:
    with PRODUCTS:
        product: Array = a @ b
    return product


def _matmul(step: s.MatMul, shape: Shape, inputs: list[Array]) -> Array:
    return _multiplied(*inputs)


# --- everything else ---------------------------------------------------------------------------


def _activated(activation: s.Activation | None, x: Array) -> Array:
    if activation is None:
        return x
    constants = x.dtype.type(activation.alpha), x.dtype.type(activation.beta)
    return ACTIVATIONS[activation.op](x, *constants)


def _sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))  # exp of a large x would overflow
    return np.asarray(np.where(x >= 0, x.dtype.type(1), small) / (1 + small))


def _swish(x: Array, alpha: Any, beta: Any) -> Array:  # noqa: ANN401
    # A cube overflows early, and would be NaN times 0.
    return np.asarray(x * _sigmoid(alpha * x + beta * x**3 if beta else alpha * x))


def _mish(x: Array) -> Array:
    return np.asarray(x * np.tanh(np.logaddexp(x, x.dtype.type(0))))


def _error_function(x: Array) -> Array:
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x), x.dtype)


def _gelu(x: Array) -> Array:
    # The complement keeps the digits that 1 + erf(x / sqrt(2)) loses where x is below zero.
    wide = x.astype(np.float64)
    complement = np.vectorize(math.erfc, otypes=[np.float64])(-wide / math.sqrt(2))
    return np.asarray(wide * complement / 2, x.dtype)


# For each activation, the function that computes it.
ACTIVATIONS: Mapping[str, Callable[[Array, Any, Any], Array]] = {
    "Relu": lambda x, alpha, beta: np.maximum(x, 0),
    "Clip": lambda x, alpha, beta: np.minimum(np.maximum(x, alpha), beta),
    "LeakyRelu": lambda x, alpha, beta: np.where(x >= 0, x, alpha * x),
    "Sigmoid": lambda x, alpha, beta: _sigmoid(x),
    "HardSigmoid": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    "HardSwish": lambda x, alpha, beta: x * np.clip(x / 6 + x.dtype.type(0.5), 0, 1),
    "Softplus": lambda x, alpha, beta: np.logaddexp(x, x.dtype.type(0)),
    "Elu": lambda x, alpha, beta: np.where(x >= 0, x, alpha * np.expm1(x)),
    "Tanh": lambda x, alpha, beta: np.tanh(x),
    "Erf": lambda x, alpha, beta: _error_function(x),
    "Gelu": lambda x, alpha, beta: _gelu(x),
    "Swish": _swish,
    "Mish": lambda x, alpha, beta: _mish(x),
    "Exp": lambda x, alpha, beta: np.exp(x),
    "Log": lambda x, alpha, beta: np.log(x),
    "Sqrt": lambda x, alpha, beta: np.sqrt(x),
    "ThresholdedRelu": lambda x, alpha, beta: np.where(x <= alpha, 0, x),
    "Sin": lambda x, alpha, beta: np.sin(x),
    "Cos": lambda x, alpha, beta: np.cos(x),
    "Floor": lambda x, alpha, beta: np.floor(x),
    "Ceil": lambda x, alpha, beta: np.ceil(x),
    "Round": lambda x, alpha, beta: np.rint(x),
    "Sign": lambda x, alpha, beta: np.sign(x),
}


def _scale_shift(step: s.ScaleShift, shape: Shape, inputs: list[Array]) -> Array:
    x = inputs[0]
    along = (1, -1) + (1,) * (x.ndim - 2)
    if step.scale is not None:
        x = x * step.scale.astype(x.dtype).reshape(along)
    if step.shift is not None:
        x = x + step.shift.astype(x.dtype).reshape(along)
    return _activated(step.activation, x)


_ARITHMETIC: Mapping[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Max": np.maximum,
    "Min": np.minimum,
    "PRelu": lambda x, slope: np.where(x < 0, x * slope, x),
    "Greater": lambda a, b: np.greater(a, b).astype(a.dtype),
    "GreaterOrEqual": lambda a, b: np.greater_equal(a, b).astype(a.dtype),
    "Equal": lambda a, b: np.equal(a, b).astype(a.dtype),
}


def _arithmetic(step: s.Arithmetic, shape: Shape, inputs: list[Array]) -> Array:
    operands = list(inputs)
    if step.constant is not None:
        constant = step.constant.astype(inputs[0].dtype)
        operands.insert(0 if step.constant_first else 1, constant)
    return _activated(step.activation, _ARITHMETIC[step.op](*operands))


def _where(step: s.Where, shape: Shape, inputs: list[Array]) -> Array:
    given = iter(inputs)
    condition, a, b = (
        next(given) if constant is None else constant.astype(inputs[0].dtype)
        for constant in step.constants
    )
    return np.where(condition != 0, a, b)


def _pool(step: s.Pool, shape: Shape, inputs: list[Array]) -> Array:
    image = _image(inputs[0])
    top, left, bottom, right = step.pads
    largest = step.op == "MaxPool"
    around = ((0, 0), (0, 0), (top, bottom), (left, right))
    padded = np.pad(image, around, constant_values=-np.inf if largest else 0)
    # What counts for an average: the image and `counted` around it, not all that windows reach.
    counted = np.ones(
        [n + step.counted[i] + step.counted[i + 2] for i, n in enumerate(image.shape[2:])]
    )
    beyond = [pad - step.counted[i] for i, pad in enumerate(step.pads)]
    inside = np.pad(counted, ((beyond[0], beyond[2]), (beyond[1], beyond[3])))
    (height, width) = (1, shape[2]) if len(shape) == 3 else shape[2:]

    def tap(x: Array, y: int, z: int) -> Array:
        y, z = y * step.dilations[0], z * step.dilations[1]
        rows = slice(y, y + step.strides[0] * (height - 1) + 1, step.strides[0])
        return x[..., rows, slice(z, z + step.strides[1] * (width - 1) + 1, step.strides[1])]

    taps = [(y, z) for y in range(step.kernel[0]) for z in range(step.kernel[1])]
    out = tap(padded, *taps[0]).copy()
    for at in taps[1:]:
        if largest:
            np.maximum(out, tap(padded, *at), out=out)
        else:
            out += tap(padded, *at)
    if not largest:
        out /= np.sum([tap(inside, *at) for at in taps], axis=0, dtype=out.dtype)
    return out.reshape(shape)


def _global_average(step: s.GlobalAveragePool, shape: Shape, inputs: list[Array]) -> Array:
    return np.asarray(inputs[0].mean(axis=tuple(range(2, inputs[0].ndim)), keepdims=True))


_REDUCTIONS: Mapping[str, Callable[..., Any]] = {
    "Sum": np.sum,
    "Mean": np.mean,
    "Max": np.max,
    "Min": np.min,
    "L2": lambda x, axis, keepdims: np.sqrt(np.sum(x * x, axis=axis, keepdims=keepdims)),
}


def _reduce(step: s.Reduce, shape: Shape, inputs: list[Array]) -> Array:
    return np.asarray(_REDUCTIONS[step.op](inputs[0], axis=step.axes, keepdims=True))


def _concat(step: s.Concat, shape: Shape, inputs: list[Array]) -> Array:
    return np.concatenate(inputs, axis=step.axis)


def _slice(step: s.Slice, shape: Shape, inputs: list[Array]) -> Array:
    at = [slice(None)] * inputs[0].ndim
    for axis, *bounds in zip(step.axes, step.starts, step.ends, step.steps, strict=True):
        at[axis] = slice(*bounds)
    return inputs[0][tuple(at)]


def _gather(step: s.Gather, shape: Shape, inputs: list[Array]) -> Array:
    x = inputs[0]
    for axis, indices in zip(step.axes, step.indices, strict=True):
        x = np.take(x, np.maximum(indices, 0), axis=axis)
        beyond = (slice(None),) * axis + (indices < 0,)
        x[beyond] = step.fill
    return x


def _interpolate(step: s.Interpolate, shape: Shape, inputs: list[Array]) -> Array:
    x = inputs[0]
    along = (-1,) + (1,) * (x.ndim - step.axis - 1)
    out = np.zeros(shape, x.dtype)
    for indices, weights in zip(step.indices.T, step.weights.T, strict=True):
        out += np.take(x, indices, axis=step.axis) * weights.astype(x.dtype).reshape(along)
    return out


def _reshape(step: s.Reshape, shape: Shape, inputs: list[Array]) -> Array:
    return inputs[0].reshape(shape)


def _transpose(step: s.Transpose, shape: Shape, inputs: list[Array]) -> Array:
    return inputs[0].transpose(step.perm)


def _softmax(step: s.Softmax, shape: Shape, inputs: list[Array]) -> Array:
    below = inputs[0] - inputs[0].max(axis=step.axis, keepdims=True)
    sums = np.exp(below).sum(axis=step.axis, keepdims=True)
    return np.asarray(below - np.log(sums) if step.logarithm else np.exp(below) / sums)


def _normalize(step: s.Normalize, shape: Shape, inputs: list[Array]) -> Array:
    x, axes = inputs[0], tuple(range(step.axis, inputs[0].ndim))
    centred = x - x.mean(axis=axes, keepdims=True)
    variance = np.mean(centred * centred, axis=axes, keepdims=True)
    y = centred / np.sqrt(variance + x.dtype.type(step.epsilon))
    if step.scale is not None:
        y = y * step.scale.astype(x.dtype)
    if step.shift is not None:
        y = y + step.shift.astype(x.dtype)
    return np.asarray(y)


def _pad(step: s.Pad, shape: Shape, inputs: list[Array]) -> Array:
    half = len(step.pads) // 2
    sides = list(zip(step.pads[:half], step.pads[half:], strict=True))
    crop = tuple(
        slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(sides, inputs[0].shape, strict=True)
    )
    around = [(max(a, 0), max(b, 0)) for a, b in sides]
    return np.pad(inputs[0][crop], around, constant_values=step.value)


def _image(x: Array) -> Array:
    """Return (N, C, L) as (N, C, 1, L)."""
    return x[:, :, None] if x.ndim == 3 else x


# For each kind of step, the function that computes it.
KERNELS: Mapping[type[s.Step], Callable[[Any, Shape, list[Array]], Array]] = {
    s.Convolution: _convolution,
    s.Product: _product,
    s.MatMul: _matmul,
    s.ScaleShift: _scale_shift,
    s.Arithmetic: _arithmetic,
    s.Where: _where,
    s.Activate: lambda step, shape, inputs: _activated(step.activation, inputs[0]),
    s.Pool: _pool,
    s.GlobalAveragePool: _global_average,
    s.Reduce: _reduce,
    s.Concat: _concat,
    s.Slice: _slice,
    s.Gather: _gather,
    s.Interpolate: _interpolate,
    s.Reshape: _reshape,
    s.Transpose: _transpose,
    s.Softmax: _softmax,
    s.Normalize: _normalize,
    s.Pad: _pad,
}
