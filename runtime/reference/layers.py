"""Layers with weights, in NumPy: blocks and residuals as they are stored."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.checkpoint import Residual
from masktools.forks import PRODUCTS
from runtime.plan import steps as s
from runtime.reference.activations import activated

Array = NDArray[Any]
Shape = tuple[int, ...]

# Bytes of gathered columns: images are taken in portions of about this size, which the second level
# of a cache holds, since every block gathers its own columns from them.
CHUNK_BYTES = 2 << 20


def convolution(step: s.Convolution, shape: Shape, inputs: list[Array]) -> Array:
    """Convolve the images of a batch, padding and skip branch included."""
    image = image_of(inputs[0])
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


def product(step: s.Product, shape: Shape, inputs: list[Array]) -> Array:
    """Multiply the last axis of a value by a weight."""
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
    return activated(step.activation, out)


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


def matmul(step: s.MatMul, shape: Shape, inputs: list[Array]) -> Array:
    """Multiply the matrices of two values."""
    return _multiplied(*inputs)


def image_of(x: Array) -> Array:
    """Return (N, C, L) as (N, C, 1, L)."""
    return x[:, :, None] if x.ndim == 3 else x
