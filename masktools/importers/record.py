"""Check what a tool's reader found, bring it to the common form, apply the caller's names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.checks import BoolArray, as_mask
from masktools.errors import FormatError, MaskError
from masktools.importers.contents import Array, Contents
from masktools.importers.parameters import spread
from masktools.importers.tool import Found, Names, Tool

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Record:
    """Masks, and weights as stored, by layer; `Found` explains `dense` and `applied`."""

    path: Path
    container: str
    tool: str
    masks: dict[str, BoolArray]
    trained: Weights
    rewound: Weights
    notes: tuple[str, ...]
    dense: str
    applied: bool


def make_record(
    contents: Contents, tool: Tool, found: Found, names: Names, threshold: float | None
) -> Record:
    """Check what a reader found, bring it to one form, and name the layers as wished."""
    path = contents.path
    given, shaped = _shaped(path, found)
    masks = {n: _mask(path, n, a, threshold) for n, a in _layers(given)}
    trained = _weights(path, found.weights, masks)
    rewound = _weights(path, found.rewound, masks)
    layers = list(masks or trained)
    if not layers:
        said = "; ".join(["no layer's mask or weights are in it", *shaped, *found.notes])
        raise FormatError(f"{path}: {said}")
    called = _called(path, layers, None if found.named else names)
    notes = [*contents.notes, *found.notes, *shaped]
    if contents.left and not tool.whole:
        notes.append(f"left out: what lies under {', '.join(map(repr, contents.left))}")
    if threshold is not None and masks:
        notes.append(f"kept where a mask is above {threshold:g}, as wished")
    notes += [f"layer {old!r} was named {new!r}" for old, new in called.items() if old != new]
    return Record(
        path,
        contents.container,
        tool.name,
        {called[n]: mask for n, mask in masks.items()},
        {called[n]: weight for n, weight in trained.items()},
        {called[n]: weight for n, weight in rewound.items()},
        tuple(notes),
        found.dense,
        found.applied,
    )


def _layers(found: Mapping[str, Array]) -> list[tuple[str, Array]]:
    """Return the arrays of two or more axes by layer; a nameless layer is called 'weight'."""
    return [(layer or "weight", array) for layer, array in found.items() if array.ndim > 1]


def _shaped(path: Path, found: Found) -> tuple[dict[str, Array], list[str]]:
    """Return masks in their weights' shapes, and notes about those that are not."""
    masks: dict[str, Array] = {}
    smaller, vectors = [], []
    for layer, mask in found.masks.items():
        weight = found.weights.get(layer, found.rewound.get(layer))
        if weight is None or mask.shape == weight.shape:
            masks[layer] = mask
        elif (whole := spread(mask, weight.shape)) is not None:
            masks[layer] = whole
            smaller.append(f"{layer or 'weight'} {mask.shape}")
        elif mask.ndim < 2:
            raise MaskError(
                f"{path}: layer {layer!r}: a mask of shape {mask.shape} for weights of "
                f"{weight.shape}: it does not say which rows or columns it keeps; save it as "
                f"{(weight.shape[0], *(1,) * (weight.ndim - 1))} where it is one for each row, or "
                "in the weights' shape"
            )
        else:
            masks[layer] = mask
        if masks[layer].ndim < 2:
            vectors.append(layer or "weight")
    notes = []
    if smaller:
        notes.append(f"masks were spread over the weights' shape: {', '.join(smaller)}")
    if vectors:
        notes.append(f"masks of one axis were left out: {', '.join(vectors)}")
    return masks, notes


def _mask(path: Path, layer: str, array: Array, threshold: float | None) -> BoolArray:
    try:
        mask = as_mask(array if threshold is None else array > threshold)
    except (MaskError, TypeError) as error:
        hint = ""
        if array.dtype.kind == "f" and threshold is None and not (array == np.round(array)).all():
            hint = "; threshold= (--threshold) says above which value a weight is kept"
        raise type(error)(f"{path}: layer {layer!r}: {error}{hint}") from error
    # A view would keep the whole file, and what the caller does to it would show elsewhere.
    return mask if mask.base is None and mask is not array else mask.copy()


def _weights(path: Path, found: Mapping[str, Array], masks: Mapping[str, BoolArray]) -> Weights:
    weights: Weights = {}
    for layer, array in _layers(found):
        if masks and layer not in masks:
            continue
        where = f"{path}: layer {layer!r}"
        if array.ndim > 4:
            raise MaskError(
                f"{where}: shape {array.shape}: three-dimensional convolutions (Conv3d) are not "
                "supported"
            )
        if layer in masks and array.shape != masks[layer].shape:
            raise MaskError(
                f"{where}: weights of shape {array.shape}, but a mask of {masks[layer].shape}"
            )
        weights[layer] = _float32(where, array)
    return weights


def _float32(where: str, array: NDArray[Any]) -> NDArray[np.float32]:
    if array.dtype.kind != "f":
        raise MaskError(f"{where}: expected weights of float, got {array.dtype}")
    with np.errstate(over="ignore"):
        weight = np.array(array, np.float32, order="C")
    finite = np.isfinite(weight)
    if not finite.all():
        at = tuple(int(i) for i in np.unravel_index(int(np.argmin(finite)), weight.shape))
        raise MaskError(f"{where}: weights must be finite in float32, got {array[at]} at {at}")
    return weight


def _called(path: Path, layers: list[str], names: Names) -> dict[str, str]:
    """Return the name wished for each layer of the file."""
    if not isinstance(names, Mapping):
        return {layer: layer for layer in layers}
    wished = {
        name.removesuffix(".weight"): new.removesuffix(".weight") for name, new in names.items()
    }
    unknown = sorted(set(wished) - set(layers))
    if unknown:
        raise MaskError(
            f"{path}: names: {unknown[0]!r} is no layer of the file; it has {', '.join(layers)}"
        )
    called = {layer: wished.get(layer, layer) for layer in layers}
    if len(set(called.values())) != len(called):
        raise MaskError(f"{path}: names: two layers would have the same name")
    return called


def checked_names(names: Names, positional: bool, tool: str) -> Names:
    """Raise unless `names` is of the kind that this tool's files take."""
    if names is None or isinstance(names, Mapping):
        strings = [] if names is None else [*names.keys(), *names.values()]
    elif isinstance(names, str | bytes) or not positional:
        raise TypeError(
            f"names must map the file's names to yours for {tool}, got {type(names).__name__}"
        )
    else:
        names = list(names)
        strings = [name for name in names if name is not None]
    if not all(isinstance(name, str) for name in strings):
        raise TypeError("names must be strings")
    return names
