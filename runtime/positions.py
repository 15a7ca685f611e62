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
        -1 where tf_crop_and_resize leaves the axis, also to where no number says.

    Notes
    -----
    Computed in float64, as the format says: which of two neighbours is nearer can depend on it.
    An axis of scale 1 is copied, also where tf_half_pixel_for_nn would shift it.

    Examples
    --------
    >>> resized_positions(("asymmetric", "floor"), 2, 4, 2.0, (0, 1))
    array([0, 0, 1, 1], dtype=int32)
    """
    i = np.arange(resized, dtype=np.float64)
    # Multiplied before divided: a coordinate that is an integer or a half comes out as one.
    step = (size, resized) if scale is None else (1, scale)
    if step[0] == step[1] and size == resized and modes[0] != "tf_crop_and_resize":
        return i.astype(np.int32)  # Not resized: no mode may shift it.
    with np.errstate(all="ignore"):  # A region may be given as numbers of any size.
        at = _coordinates(modes[0], i, size, resized, step, region)
    inside = (at >= 0) & (at <= size - 1)
    at = np.nan_to_num(at)
    match modes[1]:
        case "round_prefer_floor":
            near = np.ceil(at - 0.5)
        case "round_prefer_ceil":
            near = np.floor(at + 0.5)
        case "floor":
            near = np.floor(at)
        case _:
            near = np.ceil(at)
    positions: Positions = np.clip(near, 0, size - 1).astype(np.int32)
    if modes[0] == "tf_crop_and_resize":
        positions[~inside] = -1
    return positions


def _coordinates(
    mode: str,
    i: NDArray[np.float64],
    size: int,
    resized: int,
    step: tuple[float, float],
    region: tuple[float, float],
) -> NDArray[np.float64]:
    middle = (i + 0.5) * step[0] / step[1]
    match mode:
        case "half_pixel":
            return middle - 0.5
        case "half_pixel_symmetric":
            return (size - resized * step[0] / step[1]) / 2 + middle - 0.5
        case "pytorch_half_pixel":
            return middle - 0.5 if resized > 1 else i
        case "align_corners":
            return i * (size - 1) / (resized - 1) if resized > 1 else i
        case "asymmetric":
            return i * step[0] / step[1]
        case "tf_half_pixel_for_nn":
            return middle
    start, end = region
    if resized > 1:
        return start * (size - 1) + i * (end - start) * (size - 1) / (resized - 1)
    return (start + end) / 2 * (size - 1) + i
