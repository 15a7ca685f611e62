"""Read safetensors files by ordinary reads.

The library maps a file into memory. Where another process cuts such a file off, the next access to
what is gone ends this process by a signal, without a word. A read that comes to the end too early
is an error like any other.
"""

from __future__ import annotations

import json
import os
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.errors import FormatError
from masktools.files import check_source

# The types of safetensors that NumPy knows, and those that become unsigned numbers of their size.
DTYPES = {
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
CUT_OFF = "the file was changed or cut off while it was read"


class TensorFile:
    """An open safetensors file, whose header the library has checked.

    Parameters
    ----------
    path : path-like

    Attributes
    ----------
    metadata : dict of str to str
    dtypes : dict of str to str
        Of each tensor, as safetensors calls it.
    shapes : dict of str to tuple of int

    Raises
    ------
    safetensors.SafetensorError
        If it is no safetensors file, or its header is not true of it.
    FormatError
        If it is no regular file, or is cut off while it is read.
    OSError
        If it cannot be opened.

    Examples
    --------
    >>> import tempfile
    >>> from safetensors.numpy import save_file
    >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
    >>> save_file({"a": np.float32([1, 2])}, path, {"by": "me"})
    >>> with TensorFile(path) as file:
    ...     print(file.metadata, file.dtypes, file.read("a"))
    {'by': 'me'} {'a': 'F32'} [1. 2.]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        from safetensors import safe_open

        check_source(path)
        with safe_open(path, framework="numpy") as checked:
            self.metadata: dict[str, str] = checked.metadata() or {}
        self._file = Path(path).open("rb")  # noqa: SIM115 - closed by `__exit__`
        try:
            length = int.from_bytes(self._bytes(8), "little")
            header: dict[str, Any] = json.loads(self._bytes(length))
        except BaseException as error:
            self._file.close()
            if isinstance(error, ValueError):  # It was sound when the library read it.
                raise FormatError(CUT_OFF) from error
            raise
        header.pop("__metadata__", None)
        self._begin = 8 + length
        self._offsets = {name: entry["data_offsets"] for name, entry in header.items()}
        self.dtypes: dict[str, str] = {name: entry["dtype"] for name, entry in header.items()}
        self.shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def read(self, name: str) -> NDArray[Any]:
        """Return a tensor; of a type that NumPy lacks, its bits as unsigned numbers.

        Raises
        ------
        FormatError
            If its type is none of `DTYPES`, or the file does not hold it any more.
        """
        dtype, shape = self.dtypes[name], self.shapes[name]
        if dtype not in DTYPES:
            raise FormatError(f"tensor {name!r}: dtype {dtype} is not supported")
        begin, end = self._offsets[name]
        if end - begin != prod(shape) * np.dtype(DTYPES[dtype]).itemsize:
            raise FormatError(f"tensor {name!r}: {end - begin} bytes do not fill {shape}")
        self._file.seek(self._begin + begin)
        try:
            data = self._bytes(end - begin)
        except FormatError as error:
            raise FormatError(f"tensor {name!r}: {error}") from error
        return np.frombuffer(data, DTYPES[dtype]).reshape(shape)

    def _bytes(self, count: int) -> bytearray:
        """Return the next bytes, if the file has as many: nothing is allocated for more."""
        left = os.fstat(self._file.fileno()).st_size - self._file.tell()
        if count > left:
            raise FormatError(CUT_OFF)
        data = bytearray(count)
        if self._file.readinto(data) != count:
            raise FormatError(CUT_OFF)
        return data
