"""Plain named arrays: masks by their values, else the zeros of weights."""

from __future__ import annotations

import numpy as np

from masktools.errors import FormatError
from masktools.importers.contents import Contents, State, suffixed
from masktools.importers.parameters import is_mask_name, layer_of, masked_layer
from masktools.importers.tool import Found, Names, Tool, by_zeros, zero_or_one


def _read(contents: Contents, _: Names) -> Found:
    arrays = {name: a for name, a in contents.state.items() if a.ndim > 1}
    weights = dict(suffixed(arrays, "weight"))
    if weights and not all(zero_or_one(a) for a in weights.values()):
        return _read_weights(contents, arrays, weights)
    if all(zero_or_one(a) for a in arrays.values()):
        return _read_masks(contents, arrays)
    # Of attention, which adds -100 or minus infinity where nothing is to be seen.
    called = [name for name in arrays if is_mask_name(name)]
    layers = {layer_of(name): a for name, a in arrays.items() if name not in called}
    _check_names(contents, len(layers) + len(called), arrays)
    notes = [f"left out, for they are called masks: {', '.join(called)}"] if called else []
    return _read_zeros(contents, layers, notes)


def _read_masks(contents: Contents, arrays: State) -> Found:
    layers = {masked_layer(name): a for name, a in arrays.items()}
    _check_names(contents, len(layers), arrays)
    plain = all(a.dtype == np.bool_ for a in layers.values())
    notes = [f"{'bool arrays' if plain else 'arrays that are all 0 or 1'} were read as masks"]
    called = [name for name in arrays if masked_layer(name) != layer_of(name)]
    if called:
        notes.append(f"named without what calls them masks: {', '.join(called)}")
    vectors = [name for name, a in contents.state.items() if a.ndim == 1 and zero_or_one(a)]
    if vectors:
        notes.append(f"left out, for they have one axis: {', '.join(vectors)}")
    return Found(layers, notes=notes)


def _check_names(contents: Contents, found: int, arrays: State) -> None:
    if found < len(arrays):
        raise FormatError(f"{contents.path}: ambiguous: a layer is there with and without .weight")


def _read_weights(contents: Contents, arrays: State, weights: State) -> Found:
    rest = [name for name in arrays if not (name == "weight" or name.endswith(".weight"))]
    notes = [f"left out, for they are not named as weights: {', '.join(rest)}"] if rest else []
    return _read_zeros(contents, weights, notes)


def _read_zeros(contents: Contents, weights: State, notes: list[str]) -> Found:
    for layer, array in weights.items():
        if array.dtype == np.bool_:
            raise FormatError(
                f"{contents.path}: ambiguous: {layer!r} is bool and others are not; save the masks "
                "alone, or each beside its weight as L.weight_mask and L.weight"
            )
        if array.dtype.kind != "f":
            raise FormatError(
                f"{contents.path}: layer {layer!r}: {array.dtype} values from {array.min()} to "
                f"{array.max()} are neither a mask of 0 and 1 nor weights; save the masks alone"
            )
    return by_zeros(weights, notes)


TOOL = Tool(
    "arrays",
    "named arrays without any other tool's keys",
    lambda contents: any(a.ndim > 1 for a in contents.state.values()),
    _read,
)
