"""Read safetensors without a framework, bfloat16 included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

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
}


def read_safetensors(path: Path) -> dict[str, Array | Unreadable]:
    """Return the tensors by name; they stay on disk until they are used.

    bfloat16 becomes float32, which holds it exactly; 8-bit floats stay closed.
    """
    from safetensors import safe_open

    # The library checks the header against the file's size; its NumPy side knows no bfloat16.
    with safe_open(path, framework="numpy"):
        pass
    raw = np.asarray(np.memmap(path, mode="r"))
    length = int.from_bytes(raw[:8].tobytes(), "little")
    header = json.loads(raw[8 : 8 + length].tobytes())
    header.pop("__metadata__", None)
    # bfloat16 doubles; all other tensors are views of the file.
    check_room(path, sum(4 * count(e["shape"]) for e in header.values() if e["dtype"] == "BF16"))
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
    return array != 0 if dtype == "BOOL" else array
