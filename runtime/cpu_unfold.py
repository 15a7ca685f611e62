"""Which planes a strided or padded convolution reads, once its input is unfolded along x.

In plane mode a vector runs along the pixels of the output. A tap finds them side by side in the
input only where the stride is 1 and the pitch of both is the same. Elsewhere the input is
unfolded: a plane for each phase of its rows and each tap along x, zeros where the padding is.
Every convolution is then one of stride 1 without padding, whose taps differ in plane and row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Unfolding:
    """The planes that each channel of an input becomes.

    Parameters
    ----------
    origins : ndarray of int64, shape (planes, 3)
        y and x of the entry at row 0, column 0, and the rows that a plane has beyond the output's.
    tap_planes, tap_rows : ndarray of int64, shape (taps,)
        Where each tap, in C order, finds row 0 of the output: the plane, and the row within it.
    strides : (int, int)
        Between entries, along y and x.
    """

    origins: NDArray[np.int64]
    tap_planes: NDArray[np.int64]
    tap_rows: NDArray[np.int64]
    strides: Pair

    @property
    def planes(self) -> int:
        """Planes of a channel."""
        return len(self.origins)

    def plane_rows(self, rows: int) -> int:
        """Return the rows of the largest plane, where the output has so many."""
        return rows + int(self.origins[:, 2].max())


def unfolding(kernel: Pair, strides: Pair, dilations: Pair, pads: Pair) -> Unfolding:
    """Return how to unfold the input of a convolution.

    Parameters
    ----------
    kernel, strides, dilations : (int, int)
        Along y and x.
    pads : (int, int)
        Top and left.

    Returns
    -------
    Unfolding

    Notes
    -----
    Tap (ky, kx) of the output's row i reads row ``i * sy + ky * dy - top`` of the input, which is
    row ``i + q`` of the rows that leave the remainder r: ``ky * dy - top == q * sy + r``. Taps of
    one kx and one r share a plane; where q differs between them, it has rows beyond the output's.

    Examples
    --------
    >>> made = unfolding((3, 3), (2, 2), (1, 1), (1, 1))
    >>> made.origins.tolist()[:2]
    [[-1, -1, 1], [-1, 0, 1]]
    >>> made.planes, made.tap_planes.tolist(), made.tap_rows.tolist()
    (6, [0, 1, 2, 3, 4, 5, 0, 1, 2], [0, 0, 0, 0, 0, 0, 1, 1, 1])
    """
    height, width = kernel
    starts_y = np.arange(height) * dilations[0] - pads[0]
    starts_x = np.arange(width) * dilations[1] - pads[1]
    steps, phases = np.divmod(starts_y, strides[0])
    found, phase_of = _numbered(phases)
    first = np.array([steps[phases == r].min() for r in found])
    last = np.array([steps[phases == r].max() for r in found])
    origins = np.empty((len(found), width, 3), dtype=np.int64)
    origins[..., 0] = (found + first * strides[0])[:, None]
    origins[..., 1] = starts_x
    origins[..., 2] = (last - first)[:, None]
    planes = phase_of[:, None] * width + np.arange(width)
    rows = np.broadcast_to((steps - first[phase_of])[:, None], planes.shape)
    return Unfolding(origins.reshape(-1, 3), planes.ravel(), rows.ravel(), strides)


def _numbered(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct values in the order they appear, and the number of each."""
    found, at, number = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(at)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return found[order], rank[number]
