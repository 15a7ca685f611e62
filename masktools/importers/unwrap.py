"""Find the state dict inside a checkpoint, and the masks that lie beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from masktools.errors import FormatError

# Taken whatever else the file holds.
WRAPPERS = ("state_dict", "model_state_dict", "model")
# A state dict is looked for this deep: frameworks nest two dicts, {"ema": {"module": ...}}.
_DEPTH = 4
_MASK = re.compile(r"(?<![a-z])masks?(?![a-z])")
# Their entries are named like parameters, but are momenta.
_NO_WEIGHTS = re.compile(r"optim|sched|scaler")


@dataclass
class Unwrapped:
    """The state dict found in a file, the masks beside it, and what was left out.

    Parameters
    ----------
    inner : mapping
        The dict that is taken for the state dict; empty where there is none.
    masks : dict of str to object
        What lies under keys named like masks, beside the state dict or around it.
    left : list of str
        Other keys on the way that hold arrays.
    choices : list of str
        Keys of several state dicts, none of which was taken.
    notes : list of str
    """

    inner: Mapping[Any, Any] = field(default_factory=dict)
    masks: dict[str, Any] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    choices: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def unwrap(path: Path, tree: object) -> Unwrapped:
    """Follow the keys of wrappers, or a key that alone holds a state dict, to the inmost dict.

    Raises
    ------
    FormatError
        If two of the usual wrappers hold state dicts.
    """
    found = Unwrapped()
    while isinstance(tree, Mapping) and not (len(tree) > 1 and is_layerwise(tree)):
        key = _next(path, tree, found)
        if key is None and is_layerwise(tree):
            break
        for other, value in tree.items():
            if not isinstance(other, str) or other == key or value is None:
                continue
            nested = isinstance(value, Mapping | list)
            if is_mask_key(other) and (nested or key is not None):
                found.masks[other] = value
            elif nested and any(array.ndim > 1 for array in arrays_in(value)):
                found.left.append(other)
        if key is None:
            break
        found.notes.append(f"the state dict was taken from {key!r}")
        tree = tree[key]
    found.inner = tree if isinstance(tree, Mapping) else {}
    return found


def _next(path: Path, tree: Mapping[Any, Any], found: Unwrapped) -> str | None:
    """Return the key to follow, None where the dict at hand is the one."""
    known = [k for k in WRAPPERS if k in tree and _holds_arrays(tree[k])]
    if len(known) > 1:
        raise FormatError(
            f"{path}: ambiguous: state dicts under {' and '.join(map(repr, known))}; save the "
            "one that is meant alone"
        )
    if known:
        return known[0]
    if is_layerwise(tree) or _holds_matrix(tree):
        return None
    keys = [k for k, value in tree.items() if _may_hold(k) and _holds_state(value)]
    if len(keys) == 1:
        return str(keys[0])
    found.choices = keys
    return None


def is_mask_key(key: str) -> bool:
    """Tell whether a name says that masks are under it.

    Examples
    --------
    >>> is_mask_key("pruning_masks"), is_mask_key("masked_model")
    (True, False)
    """
    return _MASK.search(key.lower()) is not None


def is_layerwise(tree: object) -> bool:
    """Tell whether `tree` is {layer: {"weight": array, other: array or None}}, as NNI writes."""
    return (
        isinstance(tree, Mapping)
        and bool(tree)
        and all(
            isinstance(layer, str)
            and isinstance(leaves, Mapping)
            and all(leaf is None or isinstance(leaf, np.ndarray) for leaf in leaves.values())
            for layer, leaves in tree.items()
        )
        and any(isinstance(leaves.get("weight"), np.ndarray) for leaves in tree.values())
    )


def arrays_in(tree: object) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the arrays in a tree, down to a limited depth."""
    for value in _walk(tree, lambda _: True):
        if isinstance(value, np.ndarray):
            yield value


def _walk(tree: object, enters: Callable[[object], bool]) -> Iterator[object]:
    """Yield what a tree holds, each object once: a file may hold one dict any number of times."""
    seen: set[int] = set()
    level: list[object] = [tree]
    for _ in range(_DEPTH):
        below: list[object] = []
        for value in level:
            if id(value) in seen:
                continue
            seen.add(id(value))
            yield value
            if isinstance(value, Mapping):
                below += [inner for key, inner in value.items() if enters(key)]
            elif isinstance(value, list):
                below += value
        level = below


def _holds_arrays(tree: object, depth: int = 0) -> bool:
    if not isinstance(tree, Mapping):
        return False
    return any(
        isinstance(value, np.ndarray)
        or (depth < len(WRAPPERS) and key in WRAPPERS and _holds_arrays(value, depth + 1))
        for key, value in tree.items()
    )


def _may_hold(key: object) -> bool:
    return isinstance(key, str) and not is_mask_key(key) and not _NO_WEIGHTS.search(key.lower())


def _holds_matrix(tree: Mapping[Any, Any]) -> bool:
    return any(
        isinstance(value, np.ndarray) and value.ndim > 1
        for key, value in tree.items()
        if _may_hold(key)
    )


def _holds_state(tree: object) -> bool:
    return any(isinstance(v, Mapping) and _holds_matrix(v) for v in _walk(tree, _may_hold))
