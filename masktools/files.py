"""Write files that appear whole or not at all, and never over a file that is being read."""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from masktools.errors import FormatError


def check_source(path: str | os.PathLike[str]) -> None:
    """Raise unless a path leads to a regular file: a pipe or a device may never end.

    Parameters
    ----------
    path : path-like

    Raises
    ------
    FormatError
        If it is a folder, a pipe, a socket or a device.
    OSError
        If it cannot be reached.
    """
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        raise FormatError(f"{path}: it is a folder; name a file")
    if not stat.S_ISREG(mode):
        raise FormatError(f"{path}: it is no regular file, but a pipe, a socket or a device")


def check_apart(path: Path, inputs: Iterable[Path | None]) -> None:
    """Raise `FormatError` if writing a file would replace one that is being read.

    Parameters
    ----------
    path : Path
    inputs : iterable of Path or None
        None, and what is not there, is passed over.
    """
    for source in inputs:
        if source is not None and source.exists() and path.exists() and source.samefile(path):
            raise FormatError(f"{path}: it is an input as well; write the result elsewhere")


def check_target(path: Path, inputs: Iterable[Path | None] = ()) -> None:
    """Raise `FormatError` unless a file can stand at a path: ask before any work.

    Parameters
    ----------
    path : Path
    inputs : iterable of Path or None
        As `check_apart`.
    """
    check_apart(path, inputs)
    if path.is_dir():
        raise FormatError(f"{path}: it is a folder; name a file")
    if path.exists() and not path.is_file():
        raise FormatError(f"{path}: it is no regular file, and would be replaced; name another")
    if not path.parent.is_dir():
        raise FormatError(f"{path}: there is no folder {path.parent}")


# Endings that promise a format.
_FORMATS = """
    .bin .ckpt .csv .gz .h5 .hdf5 .jpg .json .keras .msgpack .npy .npz .onnx .pb .pickle .pkl .png
    .pt .pt2 .pth .safetensors .tar .tflite .txt .yaml .zip
"""


def check_ending(path: Path, what: str, todo: str, own: Collection[str] = ()) -> None:
    """Raise `FormatError` if a file's name ends like files of another format.

    Parameters
    ----------
    path : Path
    what, todo : str
        For the message: what is written, with its article, and how to name it.
    own : collection of str
        The endings that its format has.

    Examples
    --------
    >>> check_ending(Path("net.v2"), "a checkpoint", "end it in .safetensors")
    >>> check_ending(Path("net.onnx"), "a checkpoint", "end it in .safetensors")
    Traceback (most recent call last):
        ...
    masktools.errors.FormatError: net.onnx: a checkpoint is no .onnx file; end it in .safetensors
    """
    if path.suffix.lower() in _FORMATS.split() and path.suffix not in own:
        raise FormatError(f"{path}: {what} is no {path.suffix} file; {todo}")


# Threads that write to one path at once each write beside it.
_numbers = itertools.count()
_BESIDE = re.compile(r"\.\d+\.\d+\.(?P<target>.+)")


def target_of(name: str) -> str | None:
    """Return the name that a file beside its place was to get; None for any other file's name.

    Examples
    --------
    >>> target_of(".4711.0.report.json"), target_of("report.json")
    ('report.json', None)
    """
    found = _BESIDE.fullmatch(name)
    return found["target"] if found else None


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a place beside `path` to write to, and rename it there at the end.

    Parameters
    ----------
    path : path-like
        Replaced where it exists, once all is written; left alone where writing fails.

    Yields
    ------
    Path
        In the same folder, with the same ending and a name that no other process or thread takes.

    Raises
    ------
    OSError
        Of the kind that writing raised, about `path`: a full disk raises without a name, and the
        name beside means nothing to a user.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with whole_file(target) as beside:
    ...     _ = beside.write_text("all of it")
    >>> target.read_text(), beside.exists()
    ('all of it', False)
    """
    target = Path(path)
    beside = target.with_name(f".{os.getpid()}.{next(_numbers)}.{target.name}")
    try:
        yield beside
        beside.replace(target)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(beside)):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(target)) from error
    finally:
        beside.unlink(missing_ok=True)
