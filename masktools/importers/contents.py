"""The contents of a file as plain values, before it is known which tool wrote it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from os.path import commonprefix
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools import limits
from masktools.errors import FormatError
from masktools.importers.unwrap import unwrap

Array = NDArray[Any]
State = dict[str, Array]

PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class Unreadable:
    """A leaf that stays closed: neither a plain array nor a plain value."""

    reason: str


@dataclass(frozen=True)
class Contents:
    """A file as nested plain values, and the state dict found in it.

    Parameters
    ----------
    path : Path
        For messages.
    container : str
        "safetensors", "npz", "torch", "pickle", "h5" or "onnx".
    tree : object
        Dicts, lists, arrays, numbers, strings, None and `Unreadable`, as the container held them.
    state : dict of ndarray
        The arrays of the state dict, unwrapped, by names without the prefixes of wrappers.
    notes : tuple of str
        What was unwrapped, stripped or left closed on the way.
    masks : dict of str to object
        What the tree holds beside the state dict under keys named like masks.
    left : tuple of str
        Other keys beside the state dict that hold arrays.
    choices : tuple of str
        Keys of several state dicts, where none was taken.
    """

    path: Path
    container: str
    tree: Any
    state: State
    notes: tuple[str, ...] = ()
    masks: dict[str, Any] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()


def check_room(path: Path, claimed: int) -> None:
    """Raise `FormatError` if unpacking would take far more memory than the file's size explains.

    Masks compress well, bombs better: see `masktools.limits.room`.
    """
    allowed = limits.room(path.stat().st_size)
    if claimed > allowed:
        raise FormatError(
            f"{path}: claims {claimed} bytes of arrays, but a file of its size may unpack to "
            f"{allowed} at most"
        )


def count(shape: Iterable[int]) -> int:
    """Return the product of a shape as an exact Python integer."""
    size = 1
    for n in shape:
        size *= int(n)
    return size


def open_contents(path: Path, container: str, tree: object) -> Contents:
    """Find the state dict inside `tree` and strip the prefixes that wrappers put before names."""
    if container == "onnx":
        return Contents(path, container, tree, {})
    found = unwrap(path, tree)
    inner, notes = found.inner, found.notes
    state = {k: v for k, v in inner.items() if isinstance(k, str) and isinstance(v, np.ndarray)}
    state, stripped = strip_prefixes(path, state)
    closed = sorted(f"{k} ({v.reason})" for k, v in inner.items() if isinstance(v, Unreadable))
    if closed:
        notes = [*notes, f"not read: {', '.join(closed)}"]
    return Contents(
        path,
        container,
        tree,
        state,
        (*notes, *stripped),
        found.masks,
        tuple(found.left),
        tuple(found.choices),
    )


def strip_prefixes(path: Path, named: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return `named` without ``module.`` and ``_orig_mod.``, and a note for each one stripped.

    ``module.`` is stripped where every name begins with it, so that a submodule of that name
    survives; ``_orig_mod.`` wherever it stands, since compiled submodules carry it too. Numbers do
    not count: averaged models keep theirs outside.
    """
    long = next((name for name in named if len(name) > limits.NAME_LENGTH), None)
    if long is not None:
        raise FormatError(
            f"{path}: a name of {len(long)} characters, beginning with {long[:40]!r}; "
            f"{limits.NAME_LENGTH} are read"
        )
    wrapped = [name for name, value in named.items() if getattr(value, "ndim", 1)]
    common = commonprefix(wrapped)  # noqa: RUF071 - letter by letter is meant
    stripped = _prefixes(common) if wrapped else []
    names = {name: _without(name, stripped) for name in named}
    notes = [
        f"the prefix {prefix!r} was stripped from all names{_times(stripped.count(prefix))}"
        for prefix in dict.fromkeys(stripped)
    ]
    if any("._orig_mod." in name for name in names.values()):
        names = {old: name.replace("._orig_mod.", ".") for old, name in names.items()}
        notes.append("'_orig_mod.' was stripped from the names of compiled submodules")
    if len(set(names.values())) != len(names):
        raise FormatError(f"{path}: two names are the same once {PREFIXES} are stripped")
    return {names[old]: value for old, value in named.items()}, notes


def _prefixes(common: str) -> list[str]:
    """Return the wrappers' prefixes that a text begins with, one behind the other."""
    found: list[str] = []
    at = 0
    while prefix := next((p for p in PREFIXES if common.startswith(p, at)), None):
        found.append(prefix)
        at += len(prefix)
    return found


def _without(name: str, prefixes: list[str]) -> str:
    """Return a name without those of the prefixes that it has, in this order."""
    at = 0
    for prefix in prefixes:
        at += len(prefix) if name.startswith(prefix, at) else 0
    return name[at:]


def _times(number: int) -> str:
    return f", {number} times" if number > 1 else ""


def suffixed(named: Mapping[str, Any], suffix: str) -> Iterator[tuple[str, Any]]:
    """Yield (layer, value) of the names ``<layer>.<suffix>``; a bare `suffix` is layer ''."""
    for name, value in named.items():
        if name == suffix:
            yield "", value
        elif name.endswith(f".{suffix}"):
            yield name[: -len(suffix) - 1], value


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def join(layer: str, leaf: str) -> str:
    """Return the name of a layer's tensor, also for a network that is one bare layer."""
    return f"{layer}.{leaf}" if layer else leaf
