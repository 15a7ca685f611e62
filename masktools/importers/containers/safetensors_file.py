"""Read safetensors without a framework, bfloat16 included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masktools.errors import FormatError
from masktools.importers.contents import Array, Unreadable, check_room, count
from masktools.tensor_file import DTYPES, TensorFile

# Bits of exponent and mantissa; float32 holds all of their values.
_EIGHT_BITS = {"F8_E4M3": (4, 3), "F8_E5M2": (5, 2)}


def read_safetensors(path: Path) -> dict[str, Array | Unreadable]:
    """Return the tensors by name.

    bfloat16 and floats of 8 bits become float32, which holds them exactly.
    """
    try:
        with TensorFile(path) as file:
            grown = ("BF16", *_EIGHT_BITS)
            sizes = [
                4 * count(file.shapes[n]) for n, dtype in file.dtypes.items() if dtype in grown
            ]
            check_room(path, sum(sizes))
            return {name: _tensor(file, name) for name in file.dtypes}
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error


def _tensor(file: TensorFile, name: str) -> Array | Unreadable:
    dtype = file.dtypes[name]
    if dtype not in DTYPES:
        return Unreadable(f"dtype {dtype}")
    array = file.read(name)
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    if dtype in _EIGHT_BITS:
        values: Array = _eight_bits(*_EIGHT_BITS[dtype])[array]
        return values
    return array != 0 if dtype == "BOOL" else array


def _eight_bits(exponent: int, mantissa: int) -> NDArray[np.float32]:
    """Return the values of the 256 patterns of a float of 8 bits, in the forms that OCP defines."""
    bits = np.arange(256)
    fraction = bits % 2**mantissa / 2**mantissa
    power = bits >> mantissa & (2**exponent - 1)
    bias = 2 ** (exponent - 1) - 1
    size = np.where(power, 1 + fraction, fraction) * 2.0 ** (np.maximum(power, 1) - bias)
    if (exponent, mantissa) == (5, 2):  # As in IEEE 754: infinity and NaN at the last exponent.
        size = np.where(power == 31, np.where(fraction, np.nan, np.inf), size)
    else:
        size[bits & 127 == 127] = np.nan
    return np.asarray(size * np.where(bits & 128, -1, 1), np.float32)
