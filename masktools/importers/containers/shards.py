"""Checkpoints of several files: a folder as the Hugging Face hub lays it out, and its index."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from masktools import limits
from masktools.errors import FormatError
from masktools.files import check_source
from masktools.importers.containers.foreign import refuse_folder
from masktools.importers.contents import check_room

# An index takes a hundred bytes for each tensor.
_INDEX_BYTES = 2**24
# A result of masktools goes first; of what others write, safetensors before pickles.
_FILES = ("*.index.json", "*.safetensors", "*.bin", "*.pt", "*.pth", "*.h5", "*.onnx")


def file_of(folder: Path) -> Path:
    """Return the file of a folder that holds its weights or masks.

    Raises
    ------
    FormatError
        If there is none, or several of one kind: naming them.
    """
    if (folder / "masks.safetensors").is_file():
        return folder / "masks.safetensors"
    for pattern in _FILES:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if pattern == "*.index.json":  # The same shards may be there in both forms.
            found = [p for p in found if ".safetensors." in p.name] or found
        if len(found) > 1:
            names = ", ".join(path.name for path in found[:6])
            raise FormatError(f"{folder}: a folder of several checkpoints, {names}; name one file")
        if found:
            return found[0]
    raise refuse_folder(folder)


def is_index(path: Path) -> bool:
    """Tell whether a JSON file is the index of a checkpoint in shards."""
    with path.open("rb") as file:
        content = file.read(_INDEX_BYTES + 1)
    return len(content) <= _INDEX_BYTES and b'"weight_map"' in content


def read_shards(path: Path, read: Callable[[Path], object]) -> dict[str, Any]:
    """Return the tensors of all shards that an index lists.

    Parameters
    ----------
    path : Path
        The index, a JSON file with a ``weight_map``.
    read : callable
        Returns the tree of one shard.
    """
    tree: dict[str, Any] = {}
    held = taken = 0
    for name in _shards(path):
        shard = path.parent / name
        if not shard.exists():
            raise FormatError(f"{path}: the shard {name} is missing")
        check_source(shard)
        tensors = read(shard)
        if not isinstance(tensors, Mapping):
            raise FormatError(f"{path}: the shard {name} is no dict of tensors")
        twice = next((key for key in tensors if key in tree), None)
        if twice is not None:
            raise FormatError(f"{path}: tensor {twice!r} is in two shards")
        tree.update(tensors)
        held += shard.stat().st_size
        taken += sum(a.nbytes for a in tensors.values() if isinstance(a, np.ndarray))
        # Each shard may unpack to what a laptop has to spare; all of them together may not.
        if taken > limits.room(held):
            check_room(shard, taken)
    return tree


def _shards(path: Path) -> list[str]:
    listed = json.loads(path.read_text(encoding="utf-8")).get("weight_map")
    names = list(dict.fromkeys(listed.values())) if isinstance(listed, dict) else []
    if not names or not all(isinstance(n, str) and n == Path(n).name for n in names):
        raise FormatError(f"{path}: an index whose weight_map does not name files beside it")
    return names
