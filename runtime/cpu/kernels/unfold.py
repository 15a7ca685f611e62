"""Which planes a strided or padded convolution reads, once its input is unfolded.

In plane mode a vector runs along the pixels of the output. A tap finds them side by side in the
input only where the stride is 1 and what lies beside the rows is zeros. Elsewhere the input is
unfolded: a plane for each phase of its rows and of its columns, zeros where the padding is. Every
convolution is then one of stride 1 without padding, whose taps differ in plane, row and column.

Where rows are too short to fill vectors by themselves, a plane for each tap along x instead lets
vectors run on from one row to the next: taps differ in plane and row alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

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
    tap_planes, tap_rows, tap_columns : ndarray of int64, shape (taps,)
        Where each tap, in C order, finds pixel (0, 0) of the output.
    columns : int
        That a plane has beyond the output's.
    strides : (int, int)
        Between entries, along y and x.
    """

    origins: NDArray[np.int64]
    tap_planes: NDArray[np.int64]
    tap_rows: NDArray[np.int64]
    tap_columns: NDArray[np.int64]
    columns: int
    strides: Pair

    @property
    def planes(self) -> int:
        """Planes of a channel."""
        return len(self.origins)

    def plane_rows(self, rows: int) -> int:
        """Return the rows of the largest plane for an output of ``rows`` rows."""
        return rows + int(self.origins[:, 2].max())


def unfolding(
    kernel: Pair, strides: Pair, dilations: Pair, pads: Pair, flowing: bool = False
) -> Unfolding:
    """Return how to unfold the input of a convolution.

    Parameters
    ----------
    kernel, strides, dilations : (int, int)
        Along y and x.
    pads : (int, int)
        Top and left.
    flowing : bool, default False
        A plane for each tap along x, not for each phase.

    Returns
    -------
    Unfolding

    Notes
    -----
    Tap (ky, kx) of the output's row i reads row ``i * sy + ky * dy - top`` of the input, which is
    row ``i + q`` of the rows that leave the remainder r: ``ky * dy - top == q * sy + r``. Taps of
    one r share a plane; where q differs between them, it has rows beyond the output's. The same
    holds along x.

    Examples
    --------
    >>> made = unfolding((3, 3), (2, 2), (1, 1), (1, 1))
    >>> made.origins.tolist()
    [[-1, -1, 1], [-1, 0, 1], [0, -1, 0], [0, 0, 0]]
    >>> made.tap_planes.tolist(), made.tap_columns.tolist()
    ([0, 1, 0, 2, 3, 2, 0, 1, 0], [0, 0, 1, 0, 0, 1, 0, 0, 1])
    >>> unfolding((3, 3), (2, 2), (1, 1), (1, 1), flowing=True).planes
    6
    """
    y = _Axis.by_phase(kernel[0], strides[0], dilations[0], pads[0])
    make = _Axis.by_tap if flowing else _Axis.by_phase
    x = make(kernel[1], strides[1], dilations[1], pads[1])
    parts = (len(y.origins), len(x.origins))
    origins = np.empty((*parts, 3), dtype=np.int64)
    origins[..., 0] = y.origins[:, None]
    origins[..., 1] = x.origins
    origins[..., 2] = y.beyond[:, None]
    planes = y.parts[:, None] * parts[1] + x.parts
    rows, columns = np.broadcast_arrays(y.steps[:, None], x.steps)
    beyond = int(x.beyond.max())
    return Unfolding(
        origins.reshape(-1, 3), planes.ravel(), rows.ravel(), columns.ravel(), beyond, strides
    )


class _Axis(NamedTuple):
    """The parts that one axis of an input is taken apart into.

    Parameters
    ----------
    origins : ndarray of int64, shape (parts,)
        The entry that is the first of a part.
    beyond : ndarray of int64, shape (parts,)
        Entries of a part beyond those that the output has.
    parts, steps : ndarray of int64, shape (kernel,)
        The part in which each tap finds its entries, and how far from the first.
    """

    origins: NDArray[np.int64]
    beyond: NDArray[np.int64]
    parts: NDArray[np.int64]
    steps: NDArray[np.int64]

    @classmethod
    def by_tap(cls, kernel: int, stride: int, dilation: int, pad: int) -> _Axis:
        """Return a part for each tap."""
        none = np.zeros(kernel, np.int64)
        taps = np.arange(kernel, dtype=np.int64)
        return cls(taps * dilation - pad, none, taps, none)

    @classmethod
    def by_phase(cls, kernel: int, stride: int, dilation: int, pad: int) -> _Axis:
        """Return a part for each remainder that the stride leaves."""
        steps, phases = np.divmod(np.arange(kernel, dtype=np.int64) * dilation - pad, stride)
        found, parts = _numbered(phases)
        first = np.array([steps[phases == r].min() for r in found])
        last = np.array([steps[phases == r].max() for r in found])
        return cls(found + first * stride, last - first, parts, steps - first[parts])


def _numbered(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct values in the order they appear, and the number of each."""
    found, at, number = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(at)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return found[order], rank[number]
