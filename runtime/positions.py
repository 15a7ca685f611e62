"""Which entry of an axis each entry of the output reads: nearest Resize, and Pad by copying."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int32]


def padded_positions(mode: str, size: int, begin: int, end: int) -> Positions:
    """Return the entries that an axis is padded with and by.

    Parameters
    ----------
    mode : str
        reflect, edge or wrap, as ONNX means them.
    size : int
        Of the axis.
    begin, end : int
        Entries to add on either side; negative ones are taken away.

    Examples
    --------
    >>> padded_positions("reflect", 3, 2, 1)
    array([2, 1, 0, 1, 2, 1], dtype=int32)
    """
    at = np.arange(-begin, size + end)
    if mode == "edge":
        at = np.clip(at, 0, size - 1)
    elif mode == "wrap":
        at = at % size
    else:
        period = max(2 * (size - 1), 1)
        at = np.abs((at + size - 1) % period - (size - 1)) if size > 1 else np.zeros_like(at)
    return at.astype(np.int32)


def resized_positions(
    modes: tuple[str, str],
    size: int,
    resized: int,
    scale: float | None,
    region: tuple[float, float],
) -> Positions:
    """Return the entry that each entry of a resized axis is nearest to.

    Parameters
    ----------
    modes : (str, str)
        ONNX's `coordinate_transformation_mode` and `nearest_mode`.
    size, resized : int
        Of the axis, before and after.
    scale : float or None
        As given; None where `resized` was.
    region : (float, float)
        Start and end of the crop, as shares of the axis; for tf_crop_and_resize alone.

    Returns
    -------
    ndarray of int32, shape (resized,)
        -1 where tf_crop_and_resize leaves the axis.

    Notes
    -----
    Computed in float32, as the format says: which of two neighbours is nearer can depend on it.

    Examples
    --------
    >>> resized_positions(("asymmetric", "floor"), 2, 4, 2.0, (0, 1))
    array([0, 0, 1, 1], dtype=int32)
    """
    f = np.float32
    i = np.arange(resized, dtype=f)
    ratio = f(resized) / f(size) if scale is None else f(scale)
    at = _coordinates(modes[0], i, f(size), f(resized), ratio, region)
    match modes[1]:
        case "round_prefer_floor":
            near = np.ceil(at - f(0.5))
        case "round_prefer_ceil":
            near = np.floor(at + f(0.5))
        case "floor":
            near = np.floor(at)
        case _:
            near = np.ceil(at)
    positions: Positions = np.clip(near, 0, size - 1).astype(np.int32)
    if modes[0] == "tf_crop_and_resize":
        positions[(at < 0) | (at > size - 1)] = -1
    return positions


def _coordinates(
    mode: str,
    i: NDArray[np.float32],
    size: np.float32,
    resized: np.float32,
    scale: np.float32,
    region: tuple[float, float],
) -> NDArray[np.float32]:
    half, one = np.float32(0.5), np.float32(1)
    start, end = np.float32(region[0]), np.float32(region[1])
    match mode:
        case "half_pixel":
            return (i + half) / scale - half
        case "half_pixel_symmetric":
            offset = size * half * (one - resized / (scale * size))
            return offset + (i + half) / scale - half
        case "pytorch_half_pixel":
            return (i + half) / scale - half if resized > 1 else i
        case "align_corners":
            return i * (size - one) / (resized - one) if resized > 1 else i
        case "asymmetric":
            return i / scale
        case "tf_half_pixel_for_nn":
            return (i + half) / scale
    if resized > 1:
        return start * (size - one) + i * (end - start) * (size - one) / (resized - one)
    return half * (start + end) * (size - one) + i
