"""Weights of dense 3x3 convolutions for the minimal filtering algorithm F(4x4, 3x3)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.forks import PRODUCTS

ROWS = 16  # that lie next to each other: kWinogradRows of the kernels
POSITIONS = 36  # products of a tile

# Of transformed inputs, that leave room for weights in a second-level cache of 2 MiB.
COLUMN_BYTES = 5 << 18
# Shares of the peak that products of two vectors and of one reach, and what is left of them where
# the transformed inputs do not stay in cache. Multiplications that transforming an entry costs.
EFFICIENCY, SINGLE_EFFICIENCY, UNCACHED = 0.8, 0.75, 0.7
TRANSFORM = 8
TILE = 4  # outputs of a tile along an axis

_A, _B = 3 / 4, 4 / 3  # the points are 0, A, -A, B, -B and infinity


def _filter_transform() -> NDArray[np.float64]:
    """Return G, (6, 3): the filter's polynomial at each point, over the product of differences."""
    points = np.array([0, _A, -_A, _B, -_B])
    apart = points[:, None] - points
    np.fill_diagonal(apart, 1)
    finite = points[:, None] ** np.arange(3) / apart.prod(axis=1)[:, None]
    return np.vstack([finite, [0, 0, 1]])


def transformed(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Transform and pack the weights of a convolution.

    Parameters
    ----------
    weight : ndarray of float32, shape (rows, channels, 3, 3)
        Not changed.

    Returns
    -------
    ndarray of float32, shape (ceil(rows / 16), 36, channels, 16)
        Computed in float64 and rounded once; zeros for the rows beyond. 4 times as large.

    References
    ----------
    A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, with other
    points: at 0, 1, -1, 2, -2 the rounding errors are about five times as large.

    Examples
    --------
    >>> transformed(np.ones((20, 3, 3, 3), dtype=np.float32)).shape
    (2, 36, 3, 16)
    """
    rows, channels = weight.shape[:2]
    g = _filter_transform()
    both = np.kron(g, g)
    blocks = -(-rows // ROWS)
    packed = np.zeros((blocks, POSITIONS, channels, ROWS), dtype=np.float32)
    for block in range(blocks):  # not at once: in float64 the whole takes eight times its memory
        part = weight[block * ROWS : (block + 1) * ROWS]
        taps = part.reshape(len(part), -1, 9).transpose(2, 1, 0).astype(np.float64)
        with PRODUCTS:
            made = both @ taps.reshape(9, -1)
        packed[block, :, :, : len(part)] = made.reshape(POSITIONS, channels, -1)
    return packed


def configured(
    channels: int, rows: int, height: int, width: int, lanes: int, vector: int, threads: int
) -> dict[str, Any]:
    """Return how the work is cut, as the kernels take it.

    Parameters
    ----------
    channels, rows : int
        Of the layer.
    height, width : int
        Of the output.
    lanes : int
        Elements of a pixel.
    vector : int
        Elements of a vector.
    threads : int

    Returns
    -------
    dict
        ``vectors`` of tiles in a block, ``row_blocks`` whose products are kept, ``parts`` of the
        rows, each an item: what takes least time, where all threads work on items of one size.

    Examples
    --------
    >>> configured(64, 64, 32, 32, 64, 16, 2)
    {'vectors': 2, 'row_blocks': 8, 'parts': 1}
    """
    tiles = -(-height // TILE) * -(-width // TILE) * lanes
    row_blocks = -(-rows // ROWS)

    def time(choice: tuple[int, int]) -> float:
        vectors, parts = choice
        blocks = -(-tiles // (vectors * vector))
        part = -(-row_blocks // parts) * ROWS
        cached = POSITIONS * channels * vectors * vector * 4 <= COLUMN_BYTES
        share = (EFFICIENCY if vectors == 2 else SINGLE_EFFICIENCY) * (1 if cached else UNCACHED)
        work = POSITIONS * (part * channels / share + TRANSFORM * (part + channels))
        return -(-blocks * parts // threads) * vectors * work

    choices = [(v, p) for v in (2, 1) for p in range(1, min(row_blocks, 2 * threads) + 1)]
    vectors, parts = min(choices, key=time)
    return {"vectors": vectors, "row_blocks": 8 if vectors == 2 else 16, "parts": parts}
