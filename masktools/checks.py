"""Check masks, saliencies, index arrays and arguments where they come in.

`TypeError` for kind, `MaskError` for content.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from masktools.errors import MaskError

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.floating[Any]]
IndexArray = NDArray[np.int32]


def as_mask(mask: ArrayLike) -> BoolArray:
    """Return `mask` as a bool array of 2 to 4 dimensions.

    Parameters
    ----------
    mask : array_like, shape (out, in / groups, kh, kw), (out, in / groups, k) or (out, in)
        bool, or numbers that are all 0 or 1. Not changed.

    Returns
    -------
    ndarray of bool
        C-contiguous; the argument itself where it already is one.

    Raises
    ------
    TypeError
        If it is neither bool nor a number.
    MaskError
        If a value is neither 0 nor 1, or the number of dimensions is not 2, 3 or 4.

    Examples
    --------
    >>> as_mask([[1, 0], [0, 1]])
    array([[ True, False],
           [False,  True]])
    """
    array = as_array(mask, "a mask")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"expected a mask of bool or 0/1 numbers, got dtype {array.dtype}")
    if array.ndim == 5:
        raise MaskError(
            f"shape {array.shape}: three-dimensional convolutions (Conv3d) are not supported"
        )
    if array.ndim not in (2, 3, 4):
        raise MaskError(
            "expected a mask of shape (out, in, kh, kw), (out, in, k) or (out, in), "
            f"got {array.shape}"
        )
    if array.dtype != np.bool_:
        wrong = (array != 0) & (array != 1)
        if wrong.any():
            raise MaskError(f"expected a mask of 0 and 1, got {array[wrong].flat[0]}")
        array = array != 0
    return np.ascontiguousarray(array)


def as_saliency(weight: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return |weight| as a float32 matrix (rows, columns).

    Parameters
    ----------
    weight : array_like of float, shape `shape`
        A layer's weights, or a saliency per weight. Not changed.
    shape : tuple of int
        The shape that the layer's mask has.

    Raises
    ------
    TypeError
        If it does not hold real numbers.
    MaskError
        If the shape differs, or a value is NaN or infinite.
    """
    array = as_array(weight, "weights")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"expected real weights, got dtype {array.dtype}")
    if array.shape != shape:
        raise MaskError(f"expected weights of shape {shape}, got {array.shape}")
    with np.errstate(over="ignore"):
        saliency: NDArray[np.float32] = np.abs(array.astype(np.float32)).reshape(
            shape[0], prod(shape[1:])
        )
    finite = np.isfinite(saliency)
    if not finite.all():
        at = np.unravel_index(int(np.argmin(finite)), shape)
        raise MaskError(
            f"weights must be finite in float32, got {array[at]} at {tuple(map(int, at))}"
        )
    return saliency


def as_array(given: ArrayLike, what: str) -> NDArray[Any]:
    """Return an array, or raise `MaskError` that names `what` where lists are ragged."""
    try:
        return np.asarray(given)
    except ValueError as error:
        raise MaskError(f"expected {what} as an array, got lists of unequal length") from error


def check_groups(shape: Sequence[int], groups: int) -> None:
    """Raise unless `groups` is a number of convolution groups that divides the rows evenly."""
    check_count("groups", groups, 1)
    if shape[0] % groups:
        raise MaskError(f"{groups} convolution groups do not divide {shape[0]} rows")


def index_array(arrays: Mapping[str, NDArray[Any]], name: str, dtype: type) -> NDArray[Any]:
    """Return an array of one dimension by name; raise `MaskError` if it is missing or another."""
    if name not in arrays:
        raise MaskError(f"array {name!r} is missing")
    array = arrays[name]
    if array.dtype != dtype or array.ndim != 1:
        raise MaskError(
            f"{name}: dtype must be {np.dtype(dtype)} of one dimension, "
            f"got {array.dtype} of {array.ndim}"
        )
    return array


def check_share(name: str, value: object) -> None:
    """Raise unless an argument is a number between 0 and 1.

    Examples
    --------
    >>> check_share("density", 1.5)
    Traceback (most recent call last):
    masktools.errors.MaskError: density must be between 0 and 1, got 1.5
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not 0 <= value <= 1:
        raise MaskError(f"{name} must be between 0 and 1, got {value}")


def check_count(name: str, value: object, least: int) -> None:
    """Raise unless an argument is a whole number, and at least so much.

    Examples
    --------
    >>> check_count("passes", 1.5, 1)
    Traceback (most recent call last):
    TypeError: passes must be a whole number, got 1.5
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise MaskError(f"{name} must be at least {least}, got {value}")


def check_layers(name: str, value: object) -> None:
    """Raise unless an argument maps layers to something.

    Examples
    --------
    >>> check_layers("masks", 3)
    Traceback (most recent call last):
    TypeError: masks must be a mapping by layer, got int
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping by layer, got {type(value).__name__}")


def listed(names: Collection[str], most: int = 8) -> str:
    """Return the layers there are, for an error: all of them, or the first few."""
    if not names:
        return "there are none"
    first = ", ".join(map(repr, list(names)[:most]))
    return f"there are {first}" + (f" and {len(names) - most} more" * (len(names) > most))
