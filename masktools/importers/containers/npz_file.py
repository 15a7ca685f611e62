"""Read npz archives: sizes are checked before memory is taken, and nothing is unpickled."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from masktools.errors import FormatError
from masktools.importers.contents import Array, Unreadable, check_room, count


def read_npz(path: Path) -> dict[str, Array | Unreadable]:
    """Return the arrays by name."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        check_room(path, sum(info.file_size for info in members))
        if len(set(archive.namelist())) != len(members):
            raise FormatError(f"{path}: an array is stored twice under one name")
        return {
            info.filename.removesuffix(".npy"): _member(path, archive, info) for info in members
        }


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array | Unreadable:
    where = f"{path}: array {info.filename.removesuffix('.npy')!r}"
    with archive.open(info) as file:
        _, dtype = read_header(file, info.file_size, where)
    if dtype.kind not in "biuf":
        return Unreadable(f"dtype {dtype}")
    with archive.open(info) as file:
        array: Array = np.lib.format.read_array(file, allow_pickle=False)
    return array


def read_header(
    file: IO[bytes], size: int, where: str
) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Return shape and dtype of an array in .npy format, before memory is taken for it.

    Parameters
    ----------
    file : binary file
        At the beginning of the array.
    size : int
        Bytes from there to the end.
    where : str
        What an error calls the array.

    Raises
    ------
    FormatError
        If it holds Python objects, or another number of bytes than its shape claims.
    """
    try:
        shape, dtype = _header(file)
    except ValueError as error:
        raise FormatError(f"{where}: {error}") from error
    if dtype.hasobject:
        raise FormatError(
            f"{where}: holds pickled Python objects, which could run code; save plain arrays"
        )
    claimed, held = count(shape) * dtype.itemsize, size - file.tell()
    if claimed != held or min(shape, default=0) < 0:
        raise FormatError(f"{where}: shape {shape} claims {claimed} bytes, but it holds {held}")
    return shape, dtype


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"npy version {version} holds no plain numbers")
    return shape, dtype
