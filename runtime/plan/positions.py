"""Find the entry that each output entry is copied from: nearest Resize, and Pad by copying."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int32]

# Entries that are worked out at a time: a file may ask for an axis of any size, and what they are
# worked out with takes ten times the room of what is kept.
PIECE = 2**20


def padded_positions(mode: str, size: int, begin: int, end: int) -> Positions:
    """Return, for each entry of a padded axis, the entry of the input that it copies.

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
    period = max(2 * (size - 1), 1)

    def piece(i: NDArray[np.int64]) -> NDArray[np.int64]:
        at = i - begin
        if mode == "edge":
            return np.clip(at, 0, size - 1)
        if mode == "wrap":
            return at % size
        return np.abs((at + size - 1) % period - (size - 1)) if size > 1 else np.zeros_like(at)

    return _by_pieces(begin + size + end, piece)


def is_whole(positions: Positions, size: int) -> bool:
    """Return whether positions are all entries of an axis, in their order.

    Examples
    --------
    >>> is_whole(np.array([0, 1, 2], np.int32), 3), is_whole(np.array([0, 1], np.int32), 3)
    (True, False)
    """
    return len(positions) == size and all(
        np.array_equal(positions[i : i + PIECE], np.arange(i, min(i + PIECE, size)))
        for i in range(0, size, PIECE)
    )


def _by_pieces(count: int, piece: Callable[[NDArray[np.int64]], NDArray[np.int64]]) -> Positions:
    """Return a function's values at 0, 1, ..., computed a piece at a time."""
    positions = np.empty(count, np.int32)
    for first in range(0, count, PIECE):
        last = min(first + PIECE, count)
        positions[first:last] = piece(np.arange(first, last))
    return positions


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
    step = step_of(size, resized, scale)
    crop = modes[0] == "tf_crop_and_resize"
    if is_copied(size, resized, scale) and not crop:
        return np.arange(resized, dtype=np.int32)  # Not resized: no mode may shift it.

    def piece(i: NDArray[np.int64]) -> NDArray[np.int64]:
        with np.errstate(all="ignore"):  # A region may be given as numbers of any size.
            at = coordinates(modes[0], i.astype(np.float64), size, resized, step, region)
        near = _ROUND[modes[1]](np.nan_to_num(at))
        positions = np.clip(near, 0, size - 1).astype(np.int64)
        return np.where((at >= 0) & (at <= size - 1), positions, -1) if crop else positions

    return _by_pieces(resized, piece)


def step_of(size: int, resized: int, scale: float | None) -> tuple[float, float]:
    """Return what an entry of a resized axis moves by in the input: numerator, denominator.

    Multiplied before divided, a coordinate that is an integer or a half comes out as one.
    """
    return (size, resized) if scale is None else (1, scale)


def is_copied(size: int, resized: int, scale: float | None) -> bool:
    """Return whether an axis of a Resize is not resized: no mode may shift it."""
    step = step_of(size, resized, scale)
    return step[0] == step[1] and size == resized


_ROUND: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def coordinates(
    mode: str,
    i: NDArray[np.float64],
    size: int,
    resized: int,
    step: tuple[float, float],
    region: tuple[float, float] = (0.0, 1.0),
) -> NDArray[np.float64]:
    """Return where in an axis the entries `i` of its resized form lie, by ONNX's formulas.

    Parameters
    ----------
    mode : str
    i : ndarray of float64
    size, resized : int
        Of the axis, before and after.
    step : (float, float)
        What an entry of the output moves by in the input, as numerator and denominator.
    region : (float, float)
        Of tf_crop_and_resize alone.
    """
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
