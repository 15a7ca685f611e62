"""Find the entries, and their weights, that linear and cubic Resize make an entry of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from runtime.plan.positions import PIECE, coordinates, step_of

Floats = NDArray[np.float64]
Taps: TypeAlias = "tuple[NDArray[np.int32], Floats]"
# Of coordinates: the first entry that each reads, which may lie outside the axis, and the weight
# of that entry and of those after it, (coordinates, taps).
Kernel: TypeAlias = Callable[[Floats], "tuple[Floats, Floats]"]


def linear(at: Floats) -> tuple[Floats, Floats]:
    """Return the first of the two neighbours of each coordinate, and the weights of both."""
    first = np.floor(at)
    after = at - first
    return first, np.stack((1 - after, after), axis=1)


def cubic(a: float) -> Kernel:
    """Return the cubic convolution of Keys: of four neighbours, by a number that ONNX leaves open.

    Parameters
    ----------
    a : float
        ONNX's `cubic_coeff_a`.

    References
    ----------
    Keys, R. (1981). Cubic convolution interpolation for digital image processing. IEEE
    Transactions on Acoustics, Speech, and Signal Processing 29 (6), 1153-1160.

    Examples
    --------
    >>> cubic(-0.75)(np.array([2.5]))
    (array([1.]), array([[-0.09375,  0.59375,  0.59375, -0.09375]]))
    """

    def kernel(at: Floats) -> tuple[Floats, Floats]:
        after = at - np.floor(at)
        near, far = (np.stack((d, 1 - d)) for d in (after, after))
        near = ((a + 2) * near - (a + 3)) * near * near + 1
        far = a * (((far + 1) - 5) * (far + 1) + 8) * (far + 1) - 4 * a
        return np.floor(at) - 1, np.stack((far[0], near[0], near[1], far[1]), axis=1)

    return kernel


def resized_taps(
    kernel: Kernel,
    mode: str,
    size: int,
    resized: int,
    scale: float | None,
    exclude_outside: bool = False,
) -> Taps:
    """Return the entries that each entry of a resized axis is made of, and their weights.

    Parameters
    ----------
    kernel : callable
        `linear`, or what `cubic` returns.
    mode : str
        ONNX's `coordinate_transformation_mode`, but tf_crop_and_resize.
    size, resized : int
        Of the axis, before and after.
    scale : float or None
        As given; None where `resized` was.
    exclude_outside : bool, default False
        Entries outside the axis have no weight, and the others are divided by their sum; else
        they are those at its ends.

    Returns
    -------
    indices : ndarray of int32, shape (resized, taps)
    weights : ndarray of float64, shape (resized, taps)

    Raises
    ------
    ValueError
        If the weights inside the axis add up to 0 and are to be divided by that.

    Examples
    --------
    >>> resized_taps(linear, "asymmetric", 2, 4, 2.0)[1]
    array([[1. , 0. ],
           [0.5, 0.5],
           [1. , 0. ],
           [0.5, 0.5]])
    """
    taps = kernel(np.zeros(1))[1].shape[1]
    indices, weights = np.empty((resized, taps), np.int32), np.empty((resized, taps))
    for begin in range(0, resized, PIECE):
        part = slice(begin, min(begin + PIECE, resized))
        i = np.arange(part.start, part.stop, dtype=np.float64)
        first, found = kernel(coordinates(mode, i, size, resized, step_of(size, resized, scale)))
        read = first[:, None] + np.arange(taps)
        if exclude_outside:
            found = np.where((read < 0) | (read >= size), 0.0, found)
            sums = found.sum(axis=1, keepdims=True)
            if not sums.all():
                raise ValueError("the weights of the entries inside the axis add up to 0")
            found = found / sums
        indices[part], weights[part] = np.clip(read, 0, size - 1), found
    return indices, weights
