"""Tell a file's container by its content, and open it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from masktools.errors import FormatError
from masktools.files import check_source
from masktools.importers.contents import Contents, first_line, open_contents

# The files of a result folder that hold masks, and calibrated values where there are any.
MASKS, VALUES = "masks.safetensors", "values.safetensors"

_H5_MAGIC = b"\x89HDF\r\n\x1a\n"
_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def open_file(path: Path) -> Contents:
    """Open a mask file of any container.

    Raises
    ------
    FileNotFoundError
        If there is none.
    FormatError
        If it is no regular file, of no known container, damaged, hostile, or would execute code.
    """
    if path.is_dir():
        inside = path / MASKS
        if not inside.is_file():
            raise FormatError(f"{path}: a folder without {MASKS}; name a file")
        path = inside
    check_source(path)
    with path.open("rb") as file:
        head = file.read(32)
    try:
        container = _detect(path, head)
        return open_contents(path, container, _reader(container)(path))
    except FormatError:
        raise
    except Exception as error:
        # Damaged bytes make the libraries underneath raise whatever their parsers stumble on.
        raise FormatError(f"{path}: a damaged file: {first_line(error)}") from error


def _detect(path: Path, head: bytes) -> str:
    """Return the name of the container, told by the first bytes."""
    if head.startswith(_H5_MAGIC):
        return "h5"
    if head.startswith(_ZIP_MAGIC):
        return _detect_zip(path)
    if head.startswith(_LEGACY_TORCH_MAGIC):
        return "torch"
    # A safetensors header is JSON behind eight bytes of length.
    if len(head) > 8 and head[8:9] == b"{":
        return "safetensors"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return "pickle"
    # An ONNX model is a protobuf whose first field is the varint ir_version.
    if head[:1] == b"\x08" and head[1:2] < b"\x80":
        return "onnx"
    raise FormatError(
        f"{path}: neither safetensors, npz, PyTorch, HDF5 nor ONNX"
        + (" (the file is empty)" if not head else "")
    )


def _detect_zip(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        raise FormatError(
            f"{path}: a TorchScript archive, which holds code; save the module's state_dict()"
        )
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    if "model.weights.h5" in names:
        raise FormatError(f"{path}: a .keras archive; save the weights as .h5")
    raise FormatError(f"{path}: a zip archive, but neither npz nor PyTorch's")


def _reader(container: str) -> Callable[[Path], Any]:
    # Each container's library is imported when a file of it is opened, not before.
    if container == "safetensors":
        from masktools.importers.containers.safetensors_file import read_safetensors

        return read_safetensors
    if container == "npz":
        from masktools.importers.containers.npz_file import read_npz

        return read_npz
    if container == "h5":
        from masktools.importers.containers.h5_file import read_h5

        return read_h5
    if container == "onnx":
        from masktools.importers.containers.onnx_file import read_onnx

        return read_onnx
    from masktools.importers.containers.torch_file import read_pickle, read_torch

    return read_torch if container == "torch" else read_pickle
