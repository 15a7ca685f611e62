"""Tell a file's container by its content, and open it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from masktools.errors import FormatError
from masktools.files import check_source
from masktools.importers.containers.foreign import HEAD, is_saved_model, refuse, refuse_zip
from masktools.importers.containers.h5_file import KERAS_WEIGHTS
from masktools.importers.containers.shards import file_of, is_index, read_shards
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
        path = file_of(path)
    check_source(path)
    try:
        container = _detect(path)
        if container == "shards":
            return open_contents(path, container, read_shards(path, _shard))
        return open_contents(path, container, _reader(container)(path))
    except FormatError:
        raise
    except Exception as error:
        # Damaged bytes make the libraries underneath raise whatever their parsers stumble on.
        raise FormatError(f"{path}: a damaged file: {first_line(error)}") from error


def _shard(path: Path) -> object:
    container = _detect(path)
    if container not in ("safetensors", "torch"):
        raise FormatError(f"{path}: a shard is safetensors or PyTorch's, and this is {container}")
    return _reader(container)(path)


def _detect(path: Path) -> str:
    """Return the name of the container, told by the first bytes."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if head.startswith(_H5_MAGIC):
        return "h5"
    if head.startswith(_ZIP_MAGIC):
        return _detect_zip(path)
    if head.startswith(_LEGACY_TORCH_MAGIC):
        return "torch"
    # A safetensors header is JSON behind eight bytes of length.
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40:
        return "safetensors"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return "pickle"
    # An ONNX model is a protobuf whose first field is the varint ir_version.
    if head[:1] == b"\x08" and head[1:2] < b"\x80" and not is_saved_model(head):
        return "onnx"
    if head.lstrip()[:1] == b"{" and is_index(path):
        return "shards"
    raise refuse(path, head)


def _detect_zip(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    is_code = any(name.endswith("/constants.pkl") for name in names)
    if not is_code and any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    if KERAS_WEIGHTS in names:
        return "keras"
    raise refuse_zip(path, names)


def _reader(container: str) -> Callable[[Path], Any]:
    # Each container's library is imported when a file of it is opened, not before.
    if container == "safetensors":
        from masktools.importers.containers.safetensors_file import read_safetensors

        return read_safetensors
    if container == "npz":
        from masktools.importers.containers.npz_file import read_npz

        return read_npz
    if container in ("h5", "keras"):
        from masktools.importers.containers.h5_file import read_h5, read_keras

        return read_h5 if container == "h5" else read_keras
    if container == "onnx":
        from masktools.importers.containers.onnx_file import read_onnx

        return read_onnx
    from masktools.importers.containers.torch_file import read_pickle, read_torch

    return read_torch if container == "torch" else read_pickle
