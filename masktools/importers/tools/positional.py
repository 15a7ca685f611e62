"""Masks that are numbered, not named: the names have to be given."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from masktools.errors import FormatError, MaskError
from masktools.importers.contents import Array, Contents, State
from masktools.importers.tool import Found, Names, Tool

# Larger numbers are none that the tool counts; their hashes as keys could be made to collide.
_PARAMETER = re.compile(r"(?:.*\.)?param(\d{1,9})")
_COMPRESSIBLE = re.compile(r"(?:.*\.)?compressible_layers\.\d+\.(?:weight|bias)")


def _numbered(state: State) -> dict[int, Array]:
    found = {
        int(match[1]): array
        for name, array in state.items()
        if (match := _PARAMETER.fullmatch(name))
    }
    return dict(sorted(found.items()))


def _is_torchprune(contents: Contents) -> bool:
    numbered = _numbered(contents.state)
    return bool(numbered) and list(numbered) == list(range(len(numbered)))


def _read_torchprune(contents: Contents, names: Names) -> Found:
    arrays = list(_numbered(contents.state).values())
    given = assign(contents, names, arrays, "param")
    # The same layers are registered once more, in the order in which the masks are numbered.
    ordered = [a for name, a in contents.state.items() if _COMPRESSIBLE.fullmatch(name)]
    fits = [a.shape for a in ordered] == [a.shape for a in arrays]
    return Found(
        {name: arrays[i] == 0 for name, i in given.items()},
        {name: ordered[i] for name, i in given.items()} if fits else {},
        notes=["masks were inverted: the tool writes 1 for pruned", "names as given, by position"],
        named=True,
    )


def _is_list(contents: Contents) -> bool:
    tree = contents.tree
    return (
        isinstance(tree, list)
        and any(isinstance(item, np.ndarray) for item in tree)
        and all(item is None or isinstance(item, np.ndarray) for item in tree)
    )


def _read_list(contents: Contents, names: Names) -> Found:
    arrays = [item for item in contents.tree if item is not None]
    given = assign(contents, names, arrays, "")
    masks = {name: arrays[i] for name, i in given.items()}
    return Found(masks, notes=["names as given, by position"], named=True)


def assign(contents: Contents, names: Names, arrays: Sequence[Array], stem: str) -> dict[str, int]:
    """Return the position of each named mask.

    A sequence needs an entry for each array, biases counted; None leaves one out. A mapping names
    positions, ``{"param0": "conv1"}``. Vectors belong to biases and are left out.
    """
    shapes = ", ".join(f"{stem}{i} {a.shape}" for i, a in enumerate(arrays))
    if names is None:
        raise FormatError(
            f"{contents.path}: masks are numbered, not named: {shapes}; give names=[...], one for "
            "each, in this order, None for a bias"
        )
    if isinstance(names, Mapping):
        known = {f"{stem}{i}": i for i in range(len(arrays))}
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise MaskError(f"names: {unknown[0]!r} is none of {', '.join(known)}")
        pairs = [(wanted, known[number]) for number, wanted in names.items()]
    else:
        if len(names) != len(arrays):
            raise MaskError(
                f"{contents.path}: {len(names)} names for {len(arrays)} masks, biases counted: "
                f"{shapes}"
            )
        pairs = [(wanted, i) for i, wanted in enumerate(names) if wanted is not None]
    weights = [(name.removesuffix(".weight"), i) for name, i in pairs if arrays[i].ndim > 1]
    if len(dict(weights)) != len(weights):
        raise MaskError("names: a name is given twice")
    return dict(weights)


TOOLS = (
    Tool("torchprune", "buffers param0, param1, ...", _is_torchprune, _read_torchprune, True),
    Tool("mask-list", "a list of arrays", _is_list, _read_list, True),
)
