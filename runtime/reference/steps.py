"""Steps without weights, in NumPy, and the function of every kind of step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.plan import steps as s
from runtime.reference.activations import activated
from runtime.reference.layers import convolution, image_of, matmul, product

Array = NDArray[Any]
Shape = tuple[int, ...]


def _scale_shift(step: s.ScaleShift, shape: Shape, inputs: list[Array]) -> Array:
    x = inputs[0]
    along = (1, -1) + (1,) * (x.ndim - 2)
    if step.scale is not None:
        x = x * step.scale.astype(x.dtype).reshape(along)
    if step.shift is not None:
        x = x + step.shift.astype(x.dtype).reshape(along)
    return activated(step.activation, x)


ARITHMETIC: Mapping[str, Callable[[Array, Array], Array]] = {
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
    return activated(step.activation, ARITHMETIC[step.op](*operands))


def _where(step: s.Where, shape: Shape, inputs: list[Array]) -> Array:
    given = iter(inputs)
    condition, a, b = (
        next(given) if constant is None else constant.astype(inputs[0].dtype)
        for constant in step.constants
    )
    return np.where(condition != 0, a, b)


def pool(step: s.Pool, shape: Shape, inputs: list[Array]) -> Array:
    """Take the largest number, or the mean, of every window."""
    image = image_of(inputs[0])
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


REDUCTIONS: Mapping[str, Callable[..., Any]] = {
    "Sum": np.sum,
    "Mean": np.mean,
    "Max": np.max,
    "Min": np.min,
    "L2": lambda x, axis, keepdims: np.sqrt(np.sum(x * x, axis=axis, keepdims=keepdims)),
}


def _reduce(step: s.Reduce, shape: Shape, inputs: list[Array]) -> Array:
    return np.asarray(REDUCTIONS[step.op](inputs[0], axis=step.axes, keepdims=True))


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


def normalize(step: s.Normalize, shape: Shape, inputs: list[Array]) -> Array:
    """Take off the mean of a value along its axes, and divide by the deviation."""
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


# For each kind of step, the function that computes it.
KERNELS: Mapping[type[s.Step], Callable[[Any, Shape, list[Array]], Array]] = {
    s.Convolution: convolution,
    s.Product: product,
    s.MatMul: matmul,
    s.ScaleShift: _scale_shift,
    s.Arithmetic: _arithmetic,
    s.Where: _where,
    s.Activate: lambda step, shape, inputs: activated(step.activation, inputs[0]),
    s.Pool: pool,
    s.GlobalAveragePool: _global_average,
    s.Reduce: _reduce,
    s.Concat: _concat,
    s.Slice: _slice,
    s.Gather: _gather,
    s.Interpolate: _interpolate,
    s.Reshape: _reshape,
    s.Transpose: _transpose,
    s.Softmax: _softmax,
    s.Normalize: normalize,
    s.Pad: _pad,
}
