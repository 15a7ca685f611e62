"""Files that hold no masks in a form that is read: what they are, and what to do instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from masktools.errors import FormatError

# Bytes of the beginning that tell all of them; a tar archive says so only at byte 257.
HEAD = 512

_UNPACK = "unpack it and name the file inside"
_TENSORFLOW = (
    "load it in TensorFlow and save the model's weights as .h5 or .weights.h5, or convert it to "
    "ONNX with tf2onnx"
)
_PLAIN = "save the masks as .npz or .safetensors, {layer: mask}"

_Tell = Callable[[bytes], bool]


def _starts(*beginnings: bytes) -> _Tell:
    return lambda head: head.startswith(beginnings)


def _at(offset: int, mark: bytes) -> _Tell:
    return lambda head: head[offset : offset + len(mark)] == mark


def _is_page(head: bytes) -> bool:
    return re.match(rb"\s*(?:<!doctype html|<html|<head|<body|<\?xml)", head.lower()) is not None


def _is_msgpack(head: bytes) -> bool:
    """Tell whether it is a map whose first key is text, as flax.serialization writes it."""
    return (0x81 <= head[0] <= 0x8F and (0xA1 <= head[1] <= 0xBF or head[1] == 0xD9)) or (
        head[0] in (0xDE, 0xDF) and any(0xA1 <= byte <= 0xBF for byte in head[3:6])
    )


def _is_text(head: bytes) -> bool:
    return re.fullmatch(rb"[\t\n\r\x20-\x7e]+", head) is not None


# In the order in which they are tried: how it is told, what it is, what to do.
_KINDS: tuple[tuple[_Tell, str, str], ...] = (
    (
        _starts(b"version https://git-lfs"),
        "a pointer of Git LFS, not the file itself",
        "fetch it with 'git lfs pull'",
    ),
    (
        _is_page,
        "a web page or an XML document",
        "the download gave a page instead of the file: look into it, and download again",
    ),
    (_starts(b"\x1f\x8b"), "a gzip archive", "unpack it with gunzip"),
    (
        _starts(b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf\x27\x1c", b"Rar!"),
        "a compressed archive",
        _UNPACK,
    ),
    (_at(257, b"ustar"), "a tar archive", _UNPACK),
    (
        _starts(b"\x93NUMPY"),
        "a .npy file, which holds one array and no layer's name",
        "save {layer: mask} with numpy.savez as .npz",
    ),
    (
        _at(4, b"TFL3"),
        "a TFLite model, whose layers are fused and often quantized",
        "give the Keras model (.h5, .keras) that it was converted from",
    ),
    (_at(4, b"ET12"), "an ExecuTorch program", "give the module's state_dict()"),
    (_starts(b"GGUF"), "a GGUF file of quantized weights", "give the checkpoint it was made from"),
    (_starts(b"MATLAB 5.0"), "a MATLAB file", _PLAIN),
    # ONNX's first field is its version too, but of 1 there are no models that can be read.
    (_starts(b"\x08\x01"), "a TensorFlow SavedModel (saved_model.pb)", _TENSORFLOW),
    (
        _is_msgpack,
        "a msgpack file, as Flax writes it",
        "restore it in Flax and save the flattened parameters and masks with numpy.savez",
    ),
    (_starts(b"{"), "a JSON file", _PLAIN),
    (_is_text, "a text file", _PLAIN),
)


def refuse(path: Path, head: bytes) -> FormatError:
    """Return the error for a file of no container that is read.

    Parameters
    ----------
    path : Path
    head : bytes
        Its first `HEAD` bytes.
    """
    if not head:
        return FormatError(f"{path}: neither a mask file nor a checkpoint: the file is empty")
    for tells, what, todo in _KINDS:
        if tells(head.ljust(8)):
            return FormatError(f"{path}: it is {what}; {todo}")
    return FormatError(f"{path}: neither safetensors, npz, PyTorch, HDF5 nor ONNX")


def is_saved_model(head: bytes) -> bool:
    """Tell whether a file is TensorFlow's saved_model.pb, which looks like ONNX otherwise."""
    return head.startswith(b"\x08\x01")


def refuse_zip(path: Path, names: list[str]) -> FormatError:
    """Return the error for a zip archive that is neither npz, PyTorch's nor Keras's."""
    ends = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in ends:
        return FormatError(
            f"{path}: a TorchScript archive, which holds code; save the module's state_dict()"
        )
    if "serialized_exported_program.json" in ends or "archive_format" in ends:
        return FormatError(
            f"{path}: a program of torch.export (.pt2), which holds code; save the module's "
            "state_dict()"
        )
    inside = ", ".join(sorted(names)[:4]) or "nothing"
    return FormatError(
        f"{path}: a zip archive, but neither npz, PyTorch's nor Keras's: it holds {inside}; "
        f"{_UNPACK}"
    )


def refuse_folder(path: Path) -> FormatError:
    """Return the error for a folder in which nothing is found that can be read."""
    if (path / "saved_model.pb").exists():
        return FormatError(f"{path}: it is a TensorFlow SavedModel; {_TENSORFLOW}")
    if (path / ".metadata").exists():
        return FormatError(
            f"{path}: it is a checkpoint of torch.distributed; gather it into one file with "
            "torch.distributed.checkpoint.format_utils.dcp_to_torch_save"
        )
    if (path / "checkpoint").is_file():
        return FormatError(f"{path}: it is a TensorFlow checkpoint; {_TENSORFLOW}")
    return FormatError(
        f"{path}: a folder without masks.safetensors or model.safetensors; name a file"
    )
