"""Open .npy and .npz files, and folders of them: sizes first, contents only when they are read.

Nothing is unpickled.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools import limits
from masktools.errors import CalibrationError, FormatError
from masktools.files import check_source
from masktools.importers.containers.npz_file import read_header, read_npz
from masktools.importers.contents import first_line

Array = NDArray[Any]

# NumPy's name for an array that `savez` was given without one.
UNNAMED = "arr_0"


@dataclass(frozen=True, eq=False)
class Part:
    """An array of one file; of a .npy file only the header has been read.

    Parameters
    ----------
    file : Path
    name : str
        In an .npz file; empty otherwise.
    source : ndarray or None
        None where it has to be mapped.
    shape : tuple of int
    dtype : dtype
    """

    file: Path
    name: str
    source: Array | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def where(self) -> str:
        """The words that an error calls it by."""
        return f"{self.file}: array {self.name!r}" if self.name else str(self.file)

    @property
    def form(self) -> str:
        """Its dtype and shape in words."""
        # A hostile header may have thousands of axes.
        few = len(self.shape) <= limits.RANK
        return f"{self.dtype} of " + (f"shape {self.shape}" if few else f"{len(self.shape)} axes")

    def open(self) -> Array:
        """Return the array, mapped where it is a file of its own."""
        if self.source is not None:
            return self.source
        array: Array = np.load(self.file, mmap_mode="r", allow_pickle=False)
        return array


class Stacked:
    """Arrays of several files, one behind the other along the first axis.

    A file is opened when it is read, so that neither memory nor open files grow with their number.

    Parameters
    ----------
    parts : sequence of Part
        Of one dtype, and of one shape but for the first axis.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = tuple(parts)
        self._ends = np.cumsum([part.shape[0] for part in parts])
        self.shape = (int(self._ends[-1]), *parts[0].shape[1:])
        self.dtype = parts[0].dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: slice | NDArray[np.intp]) -> Array:
        wanted = np.arange(len(self))[which]
        found = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        owners = np.searchsorted(self._ends, wanted, side="right")
        for owner in np.unique(owners):
            here, part = owners == owner, self._parts[owner]
            found[here] = part.open()[wanted[here] - (self._ends[owner] - part.shape[0])]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:  # noqa: ANN401
        if copy is False:
            raise ValueError("arrays of several files become one only by copying them")
        return self[:].astype(dtype or self.dtype, copy=False)


def read_parts(path: str | os.PathLike[str]) -> list[dict[str, Part]]:
    """Return the arrays of each file by name; `UNNAMED` is the name of those that have none.

    Parameters
    ----------
    path : path-like
        A .npy file, an .npz file, or a folder of such files, which come in the order of their
        names; those that begin with a dot are passed over.

    Returns
    -------
    list of dict of str to Part
        A file each.

    Raises
    ------
    OSError
        If a file cannot be reached.
    FormatError
        If a file is neither, damaged or hostile, or would execute code.
    CalibrationError
        If a folder holds nothing, or anything else; or an array holds no numbers.
    """
    path = Path(path)
    files = _listed(path) if path.is_dir() else [path]
    packed = {file for file in files if _is_npz(file)}
    claimed = sum(map(_unpacked, packed))
    allowed = limits.room(sum(file.stat().st_size for file in packed))
    if claimed > allowed:
        raise FormatError(
            f"{path}: claims {claimed} bytes of arrays, but of its size {allowed} at most are "
            "unpacked; save .npy files, which are not unpacked"
        )
    return [_npz_parts(file) if file in packed else _npy_part(file) for file in files]


def _listed(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    for file in files:
        if file.suffix not in (".npy", ".npz"):
            raise CalibrationError(
                f"{file}: neither .npy nor .npz; keep nothing else in a folder of inputs"
            )
    if not files:
        raise CalibrationError(f"{folder}: the folder holds no .npy or .npz file")
    return files


def _is_npz(file: Path) -> bool:
    """Return whether a file is an archive of arrays; raise if it is no array either."""
    check_source(file)
    with file.open("rb") as opened:
        head = opened.read(6)
    if head.startswith(b"PK"):
        return True
    if head == b"\x93NUMPY":
        return False
    what = "it is empty" if not head else "neither .npy nor .npz"
    raise FormatError(f"{file}: {what}; save arrays with numpy.save or numpy.savez")


@contextmanager
def _damage_told(file: Path) -> Iterator[None]:
    try:
        yield
    except (CalibrationError, FormatError):
        raise
    except Exception as error:
        # Damaged bytes make NumPy, zipfile and zlib raise whatever they stumble on.
        raise FormatError(f"{file}: a damaged file: {first_line(error)}") from error


def _unpacked(file: Path) -> int:
    with _damage_told(file), zipfile.ZipFile(file) as archive:
        return sum(info.file_size for info in archive.infolist())


def _npy_part(file: Path) -> dict[str, Part]:
    with file.open("rb") as opened, _damage_told(file):
        shape, dtype = read_header(opened, file.stat().st_size, str(file))
    return {UNNAMED: Part(file, "", None, shape, dtype)}


def _npz_parts(file: Path) -> dict[str, Part]:
    parts = {}
    with _damage_told(file):
        for name, array in read_npz(file).items():
            if not isinstance(array, np.ndarray):
                raise CalibrationError(
                    f"{file}: array {name!r}: expected numbers, got {array.reason}"
                )
            parts[name] = Part(file, name, array, array.shape, array.dtype)
    return parts
