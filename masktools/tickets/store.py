"""A folder that keeps each result of a long computation as soon as it is there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.errors import FormatError
from masktools.files import check_source, target_of, whole_file
from masktools.tensor_file import TensorFile

SETTINGS = "settings.json"
_FORMAT, _VERSION = "masktools-tickets", 1


@dataclass(frozen=True)
class Store:
    """Entries of a folder: each has a record, and parts that are safetensors files.

    The record, ``<entry>.json``, is written after the parts, ``<entry>_<part>.safetensors``, and
    has their hashes and the order of their arrays: an entry is there with all its parts, or not
    at all. ``settings.json`` says what all entries were made with. One process at a time may
    write.
    """

    folder: Path

    @classmethod
    def open(cls, folder: Path, kind: str, settings: Mapping[str, Any]) -> Store:
        """Return the store in a folder, which is made unless it is there with these settings.

        Parameters
        ----------
        folder : Path
        kind : str
            What is kept: ``"search"`` or ``"retraining"``.
        settings : mapping of str to anything that JSON holds

        Raises
        ------
        FormatError
            If it is a file, holds something else, or was made with other settings.
        """
        wanted = json.loads(json.dumps(dict(settings)))
        if folder.exists() and not folder.is_dir():
            raise FormatError(f"{folder}: expected a folder, and it is a file")
        folder.mkdir(parents=True, exist_ok=True)
        names = [path.name for path in folder.iterdir()]
        if SETTINGS not in names:
            if any(target_of(name) != SETTINGS for name in names):
                raise FormatError(f"{folder}: it is not empty, and holds no {kind} of masktools")
            _write_json(folder / SETTINGS, _header(kind) | {"settings": wanted})
        found = cls(folder).settings(kind)
        for name in sorted({*found, *wanted}):
            if found.get(name) != wanted.get(name):
                raise FormatError(
                    f"{folder}: the {kind} there was made with another {name}: "
                    f"{_short(found.get(name))}, now {_short(wanted.get(name))}; name another "
                    "folder"
                )
        for path in folder.iterdir():  # of a process that was killed while it wrote
            if (target_of(path.name) or "").endswith((".json", ".safetensors")):
                path.unlink()
        return cls(folder)

    def settings(self, kind: str) -> dict[str, Any]:
        """Return what the entries were made with; raise `FormatError` for another kind of store."""
        path = self.folder / SETTINGS
        header = _read_json(path)
        for key, value in _header(kind).items():
            if header.get(key) != value:
                raise FormatError(f"{path}: its {key} is {header.get(key)!r}, expected {value!r}")
        settings = header.get("settings")
        if not isinstance(settings, dict):
            raise FormatError(f"{path}: it has no settings")
        return settings

    def has(self, entry: str) -> bool:
        """Return whether an entry is there."""
        return (self.folder / f"{entry}.json").exists()

    def write(
        self,
        entry: str,
        record: Mapping[str, Any],
        parts: Mapping[str, Mapping[str, NDArray[Any]]],
    ) -> None:
        """Write an entry; the same arrays and record give the same bytes."""
        from safetensors.numpy import save

        files = {}
        for part, arrays in parts.items():
            content = save({name: np.asarray(one, order="C") for name, one in arrays.items()})
            path = self.folder / f"{entry}_{part}.safetensors"
            with whole_file(path) as beside:
                beside.write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            files[part] = {"sha256": digest, "names": list(arrays)}  # the file sorts its names
        _write_json(self.folder / f"{entry}.json", {**record, "files": files})

    def record(self, entry: str) -> dict[str, Any]:
        """Return the record of an entry; raise `FormatError` where it is not one."""
        data = _read_json(self.folder / f"{entry}.json")
        if not isinstance(data.pop("files", None), dict):
            raise FormatError(f"{self.folder / entry}.json: it names no files")
        return data

    def read(self, entry: str, part: str) -> dict[str, NDArray[Any]]:
        """Return the arrays of a part, in the order in which they were given.

        Raises
        ------
        FormatError
            If there is none, or the file is not the one that the record was written with.
        """
        from safetensors import SafetensorError

        record = self.folder / f"{entry}.json"
        path = self.folder / f"{entry}_{part}.safetensors"
        files = _read_json(record).get("files")
        try:
            known, names = files[part]["sha256"], list(files[part]["names"])  # type: ignore[index]
        except (TypeError, KeyError) as error:
            raise FormatError(f"{record}: it has no {part!r}") from error
        try:
            check_source(path)
            if known != hashlib.sha256(path.read_bytes()).hexdigest():
                raise FormatError(
                    f"{path}: it is not the file that {record.name} was written with; remove "
                    f"{record.name}, and the same call makes both again"
                )
            with TensorFile(path) as tensors:
                arrays = {name: tensors.read(name) for name in names}
                bools = [name for name in names if tensors.dtypes[name] == "BOOL"]
        except KeyError as error:
            raise FormatError(f"{path}: there is no {error}, which {record.name} names") from error
        except OSError as error:
            raise FormatError(f"{path}: {error.strerror}") from error
        except SafetensorError as error:
            raise FormatError(f"{path}: {error}") from error
        return arrays | {name: arrays[name].view(np.bool_) for name in bools}


def _header(kind: str) -> dict[str, Any]:
    return {"format": _FORMAT, "version": _VERSION, "kind": kind}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    with whole_file(path) as beside:
        beside.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        check_source(path)
        data = json.loads(path.read_text(encoding="utf-8"))
    except FormatError:
        raise
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: {error}") from error
    if not isinstance(data, dict):
        raise FormatError(f"{path}: it is no record of masktools")
    return data
