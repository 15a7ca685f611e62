"""Read safetensors without a framework, bfloat16 included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.errors import FormatError
from masktools.importers.contents import Array, Unreadable, check_room, count

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "u1",
    "BF16": "<u2",
    "F8_E4M3": "u1",
    "F8_E5M2": "u1",
}
# Bits of exponent and mantissa; float32 holds all of their values.
_EIGHT_BITS = {"F8_E4M3": (4, 3), "F8_E5M2": (5, 2)}


def read_safetensors(path: Path) -> dict[str, Array | Unreadable]:
    """Return the tensors by name; they stay on disk until they are used.

    bfloat16 and floats of 8 bits become float32, which holds them exactly.
    """
    from safetensors import safe_open

    # The library checks the header against the file's size; its NumPy side knows no bfloat16.
    with safe_open(path, framework="numpy"):
        pass
    raw = np.asarray(np.memmap(path, mode="r"))
    length = int.from_bytes(raw[:8].tobytes(), "little")
    header = json.loads(raw[8 : 8 + length].tobytes())
    header.pop("__metadata__", None)
    # These grow to float32; all other tensors are views of the file.
    grown = ("BF16", *_EIGHT_BITS)
    check_room(path, sum(4 * count(e["shape"]) for e in header.values() if e["dtype"] in grown))
    data = raw[8 + length :]
    return {name: _tensor(path, name, data, entry) for name, entry in header.items()}


def _tensor(path: Path, name: str, data: Array, entry: dict[str, Any]) -> Array | Unreadable:
    shape, dtype = entry["shape"], entry["dtype"]
    begin, end = entry["data_offsets"]
    if dtype not in _DTYPES:
        return Unreadable(f"dtype {dtype}")
    part = data[begin:end]
    if part.size != count(shape) * np.dtype(_DTYPES[dtype]).itemsize:
        raise FormatError(f"{path}: tensor {name!r}: {part.size} bytes do not fill {shape}")
    array: Array = part.view(_DTYPES[dtype]).reshape(shape)
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
