"""Row groups and blocks that an interrupted conversion has already found, a file per layer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.errors import FormatError
from masktools.files import check_source, target_of, whole_file
from masktools.layout import BlockLayout
from masktools.partition.row_groups import RowGroups
from masktools.tensor_file import TensorFile

FOLDER = "layers"
_VERSION = 1
_NAME = re.compile(r"[0-9a-f]{64}\.safetensors")


@dataclass(frozen=True)
class Finished:
    """The files of layers that are done, under `folder`; None keeps nothing.

    A file's name is the hash of all that its content depends on: mask, saliency, options, seed.
    Another mask or option therefore finds no file, and never a wrong one.
    """

    folder: Path | None
    damaged: list[str] = field(default_factory=list)

    def load(self, key: str, layer: str) -> RowGroups | BlockLayout | None:
        """Return the result stored under a key; None if there is no file, or a damaged one.

        A file that is damaged counts as not there, and its layer is noted in `damaged`.
        """
        if self.folder is None:
            return None
        path = self.folder / f"{key}.safetensors"
        if not path.exists():
            return None
        try:
            return _parse(path)
        except (FormatError, OSError):
            self.damaged.append(layer)
            return None

    def store(self, key: str, found: RowGroups | BlockLayout) -> None:
        """Store a result under a key; the file appears whole or not at all."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{key}.safetensors"
        with whole_file(path) as beside:
            beside.write_bytes(_render(found))


def count(folder: Path) -> int:
    """Return how many layers are done."""
    return sum(1 for path in folder.glob("*") if _NAME.fullmatch(path.name))


def discard(folder: Path) -> None:
    """Remove the layers' files, and the folder where nothing else is in it."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if _NAME.fullmatch(target_of(path.name) or path.name):
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def key_of(options: dict[str, Any], *arrays: NDArray[Any] | None) -> str:
    """Return the hash of options and arrays: the same for the same, whatever the machine."""
    digest = hashlib.sha256(json.dumps([_VERSION, options], sort_keys=True).encode())
    for array in arrays:
        if array is None:
            digest.update(b"none")
            continue
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _render(found: RowGroups | BlockLayout) -> bytes:
    from safetensors.numpy import save

    header: dict[str, Any] = {"groups": found.groups}
    if isinstance(found, BlockLayout):
        arrays = found.to_arrays()
    else:
        arrays = {"labels": found.labels, "sums": found.sums, "column_cost": found.column_cost}
        header |= {
            "shape": list(found.shape),
            "partitioner": found.partitioner,
            "refinement": found.refinement,
        }
    header["hash"] = key_of(header, *_in_order(arrays))
    return save(arrays, {"masktools": json.dumps(header, sort_keys=True)})


def _parse(path: Path) -> RowGroups | BlockLayout:
    from safetensors import SafetensorError

    check_source(path)
    try:
        with TensorFile(path) as file:
            header = dict(json.loads(file.metadata["masktools"]))
            arrays = {name: file.read(name) for name in file.dtypes}
        expected = header.pop("hash")
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"a finished layer's file is damaged: {error}") from error
    if key_of(header, *_in_order(arrays)) != expected:
        raise FormatError("a finished layer's file does not have the content that was written")
    if "labels" not in arrays:
        return BlockLayout.from_arrays(arrays, header["groups"])
    return RowGroups(
        shape=tuple(header["shape"]),
        groups=header["groups"],
        labels=arrays["labels"],
        sums=arrays["sums"],
        column_cost=arrays["column_cost"],
        partitioner=header["partitioner"],
        refinement=header["refinement"],
    )


def _in_order(arrays: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """Return arrays in the order of their names, which a file does not keep."""
    return [arrays[name] for name in sorted(arrays)]
