"""Home-made checkpoints: masks under a key of their own, or as buffers beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from masktools import limits
from masktools.errors import FormatError
from masktools.importers.contents import Array, Contents, State, Unreadable, join, strip_prefixes
from masktools.importers.parameters import covers, is_mask_name, masked_layer, matrices
from masktools.importers.tool import Found, Names, Tool, bias_notes, zero_or_one
from masktools.importers.tools.positional import assign

_SETTLES = "save {'state_dict': model.state_dict(), 'masks': {layer: mask}}"

# Under a key of their own ----------------------------------------------------------------------


def _is_beside(contents: Contents) -> bool:
    return bool(contents.masks)


def _read_beside(contents: Contents, names: Names) -> Found:
    keys = list(contents.masks)
    if len(keys) > 1:
        raise FormatError(
            f"{contents.path}: ambiguous: masks under {' and '.join(map(repr, keys))}; save the "
            "ones that are meant alone"
        )
    key, held = keys[0], contents.masks[keys[0]]
    weights = matrices(contents.state)
    notes = [f"masks were taken from {key!r}"]
    numbered = _numbered(held)
    if numbered is not None:
        return _by_position(contents, key, numbered, weights, names, notes)
    if not isinstance(held, Mapping):
        what = f"shape {held.shape}" if isinstance(held, np.ndarray) else type(held).__name__
        raise FormatError(
            f"{contents.path}: under {key!r} lies no dict of masks, but {what}; {_SETTLES}"
        )
    if not (names is None or isinstance(names, Mapping)):
        raise TypeError(f"names must map the file's names to yours, got {type(names).__name__}")
    named, stripped = strip_prefixes(contents.path, _flat(contents, key, held))
    masks: dict[str, Array] = {}
    biases = 0
    for name, mask in named.items():
        layer = masked_layer(name)
        if "bias" in layer.rpartition(".")[2]:
            biases += mask is not None
        elif layer in masks:
            raise FormatError(f"{contents.path}: two masks of layer {layer!r} under {key!r}")
        elif mask is not None:
            masks[layer] = mask
        elif layer in weights:
            masks[layer] = np.ones(weights[layer].shape, np.bool_)
            notes.append(f"the mask of {layer} is None: all of it is kept")
    notes += bias_notes(biases)
    bare = [layer for layer in masks if weights and layer not in weights and masks[layer].ndim > 1]
    if bare:
        notes.append(f"no weights of that name are in the file: {', '.join(bare)}")
    return Found(masks, {n: w for n, w in weights.items() if n in masks}, notes=notes + stripped)


def _numbered(held: object) -> list[Array] | None:
    """Return masks that have numbers instead of names, in order."""
    if isinstance(held, Mapping) and held and all(isinstance(k, int) for k in held):
        held = [held[k] for k in sorted(held)]
    if isinstance(held, list) and all(isinstance(mask, np.ndarray) for mask in held):
        return held
    return None


def _by_position(
    contents: Contents,
    key: str,
    masks: list[Array],
    weights: State,
    names: Names,
    notes: list[str],
) -> Found:
    if names is None and [m.shape for m in masks] == [w.shape for w in weights.values()]:
        notes.append("masks are numbered: they were given to the weights in the file's order")
        return Found(dict(zip(weights, masks, strict=True)), weights, notes=notes, named=True)
    given = assign(contents, names, masks, key)
    found = {name: masks[i] for name, i in given.items()}
    notes.append("names as given, by position")
    held = {n: w for n, w in weights.items() if n in found}
    return Found(found, held, notes=notes, named=True)


def _flat(contents: Contents, key: str, held: Mapping[Any, Any]) -> dict[str, Array | None]:
    """Return the masks of a dict, also one of dicts, by dotted names."""
    found: dict[str, Array | None] = {}
    open_: list[tuple[str, Any]] = [("", held)]
    for entries in range(limits.NODES):
        if not open_:
            return found
        where, value = open_.pop()
        if isinstance(value, Mapping):
            inner = [(join(where, str(name)), entry) for name, entry in value.items()]
            open_ += inner[: limits.NODES - entries][::-1]
        elif value is None or isinstance(value, np.ndarray):
            found[where] = value
        else:
            what = value.reason if isinstance(value, Unreadable) else type(value).__name__
            raise FormatError(
                f"{contents.path}: {where!r} under {key!r} is no mask, but {what}; {_SETTLES}"
            )
    raise FormatError(f"{contents.path}: more than {limits.NODES} masks under {key!r}")


# As buffers ------------------------------------------------------------------------------------


def _is_buffers(contents: Contents) -> bool:
    """Tell whether a mask lies in the state dict: of its own layer, or of some weight's shape."""
    state = contents.state
    shapes = {array.shape for array in matrices(state).values()}
    return any(
        _fits(state, name, array) or (array.shape in shapes and zero_or_one(array))
        for name, array in state.items()
        if is_mask_name(name)
    )


def _fits(state: State, name: str, mask: Array) -> bool:
    weight = _weight(state, masked_layer(name))
    if weight is None or weight.ndim < 2 or mask.ndim == 0:
        return False
    # Scores that are to be compared with a threshold have the weight's own shape.
    return mask.shape == weight.shape or (covers(mask, weight.shape) and zero_or_one(mask))


def _weight(state: State, layer: str) -> Array | None:
    return state.get(join(layer, "weight"), state.get(layer))


def _read_buffers(contents: Contents, _: Names) -> Found:
    state = contents.state
    called = {name: array for name, array in state.items() if is_mask_name(name)}
    masks: dict[str, Array] = {}
    left = []
    for name, mask in called.items():
        layer = masked_layer(name)
        if not _fits(state, name, mask):
            left.append(name)
        elif layer in masks:
            raise FormatError(f"{contents.path}: two masks of layer {layer!r}, one is {name!r}")
        else:
            masks[layer] = mask
    if not masks:
        raise FormatError(
            f"{contents.path}: {', '.join(map(repr, left))}: called a mask, but beside no weight "
            f"that it fits; {_SETTLES}, or say tool='arrays' to read the zeros of the weights"
        )
    notes = ["buffers that are called masks were read as those of the weights beside them"]
    if left:
        notes.append(f"left out, for no weight beside it fits: {', '.join(left)}")
    weights = {layer: w for layer in masks if (w := _weight(state, layer)) is not None}
    return Found(masks, weights, notes=notes)


BESIDE = Tool(
    "masks-beside",
    "masks under a key such as 'masks', beside the state dict",
    _is_beside,
    _read_beside,
    positional=True,
)
BUFFERS = Tool("mask-buffers", "buffers called L.mask, beside L.weight", _is_buffers, _read_buffers)
