"""Weights of dense 3x3 convolutions for the minimal filtering algorithm F(4x4, 3x3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROWS = 16  # that lie next to each other: kWinogradRows of the kernels
POSITIONS = 36  # products of a tile

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
    blocks = -(-rows // ROWS)
    packed = np.zeros((blocks, POSITIONS, channels, ROWS), dtype=np.float32)
    for block in range(blocks):  # not at once: in float64 the whole takes eight times its memory
        part = weight[block * ROWS : (block + 1) * ROWS].astype(np.float64)
        made = np.einsum("iu,rcuv,jv->ijcr", g, part, g, optimize=True)
        packed[block, :, :, : len(part)] = made.reshape(POSITIONS, channels, len(part))
    return packed
