"""The input of a layer as a matrix, one window a line: each row is multiplied with every line."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.network.graph import Node, integer, ints

FloatArray = NDArray[np.floating[Any]]

# Numbers of one piece of the matrix: 64 MiB in float32.
PIECE = 2**24


def groups_of(node: Node) -> int:
    """Return the convolution groups of a layer's node; 1 for a Gemm."""
    return int(integer(node, "group", 1))


def by_position(y: FloatArray, node: Node) -> FloatArray:
    """Return a layer's output as (samples, rows, positions), without a copy of it.

    Parameters
    ----------
    y : ndarray of float, shape (N, rows, ...) of a Conv, (N, ..., rows) of a Gemm
    node : Node
    """
    if node.op == "Conv":
        return y.reshape(len(y), y.shape[1], -1)
    return y.reshape(len(y), -1, y.shape[-1]).transpose(0, 2, 1)


def position_count(y: FloatArray, node: Node) -> int:
    """Return how many positions a layer's output has."""
    return int(y.size // y.shape[1 if node.op == "Conv" else -1])


def windows(x: FloatArray, node: Node, kernel: tuple[int, ...]) -> Iterator[tuple[slice, Any]]:
    """Yield the windows of a layer's input, piece by piece.

    Parameters
    ----------
    x : ndarray of float32, shape (N, C, H, W), (N, C, L), or (N, ..., K) of a Gemm
        Not changed.
    node : Node
        A Conv or Gemm in the normal form.
    kernel : tuple of int
        The weight's ``shape[2:]``; empty for a Gemm.

    Yields
    ------
    slice
        Of samples.
    ndarray of float32, shape (groups, samples x positions, columns)
        Positions in C order, columns as (input channel within the group, y, x). A copy: it may
        be changed.
    """
    columns = prod(x.shape[1:2]) * prod(kernel) if node.op == "Conv" else x.shape[-1]
    opened = _opened(x[:1], node, kernel)
    step = max(1, PIECE // max(1, prod(opened.shape)))
    groups = groups_of(node)
    for start in range(0, len(x), step):
        part = slice(start, min(start + step, len(x)))
        matrix = _opened(x[part], node, kernel)
        grouped = matrix.reshape(len(matrix), groups, columns // groups, -1)
        lines = grouped.transpose(1, 0, 3, 2).reshape(groups, -1, columns // groups)
        yield part, np.array(lines, np.float32, order="C")


def _opened(x: FloatArray, node: Node, kernel: tuple[int, ...]) -> FloatArray:
    """Return the windows of some samples, shape (N, columns of all groups, positions)."""
    if node.op != "Conv":
        return x.reshape(len(x), -1, x.shape[-1]).transpose(0, 2, 1)
    pads, strides, dilations = (ints(node, name) for name in ("pads", "strides", "dilations"))
    half = len(kernel)
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:half], pads[half:], strict=True)])
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True))
    axes = tuple(range(2, 2 + half))
    every = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=axes)
    steps = [slice(None, None, step) for step in (1, 1, *strides, *dilations)]
    picked = every[tuple(steps)]
    spatial = tuple(range(2, 2 + half))
    taps = tuple(range(2 + half, 2 + 2 * half))
    places = prod(picked.shape[a] for a in spatial)
    return picked.transpose(0, 1, *taps, *spatial).reshape(len(x), -1, places)
