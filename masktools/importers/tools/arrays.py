"""Plain named arrays: masks by their values, else the zeros of weights."""

from __future__ import annotations

import numpy as np

from masktools.errors import FormatError
from masktools.importers.contents import Contents, State, suffixed
from masktools.importers.tool import Found, Names, Tool, by_zeros, zero_or_one


def _read(contents: Contents, _: Names) -> Found:
    arrays = {name: a for name, a in contents.state.items() if a.ndim > 1}
    weights = dict(suffixed(arrays, "weight"))
    if weights and not all(zero_or_one(a) for a in weights.values()):
        return _read_weights(contents, arrays, weights)
    layers = {name.removesuffix(".weight"): a for name, a in arrays.items()}
    if len(layers) < len(arrays):
        raise FormatError(f"{contents.path}: ambiguous: a layer is there with and without .weight")
    if all(a.dtype == np.bool_ for a in layers.values()):
        return Found(layers, notes=["bool arrays were read as masks"])
    if all(zero_or_one(a) for a in layers.values()):
        return Found(layers, notes=["arrays that are all 0 or 1 were read as masks"])
    return _read_zeros(contents, layers, [])


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
