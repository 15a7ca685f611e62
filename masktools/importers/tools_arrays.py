"""Plain named arrays: masks by their values, else the zeros of weights."""

from __future__ import annotations

import numpy as np

from masktools.errors import FormatError
from masktools.importers.contents import Array, Contents, suffixed
from masktools.importers.found import Found, Names, Tool, by_zeros, zero_or_one


def _read(contents: Contents, _: Names) -> Found:
    state = {name: a for name, a in contents.state.items() if a.ndim > 1}
    notes: list[str] = []
    arrays = _only_weights(state, notes)
    masks = {layer: a for layer, a in arrays.items() if a.dtype == np.bool_}
    others = {layer: a for layer, a in arrays.items() if a.dtype != np.bool_}
    if masks and others:
        raise FormatError(
            f"{contents.path}: ambiguous: {next(iter(masks))!r} is bool, {next(iter(others))!r} is "
            f"{next(iter(others.values())).dtype}; save the masks alone, or each beside its weight "
            "as L.weight_mask and L.weight"
        )
    if masks:
        return Found(masks, notes=[*notes, "bool arrays were read as masks"])
    if others and all(zero_or_one(a) for a in others.values()):
        return Found(others, notes=[*notes, "arrays that are all 0 or 1 were read as masks"])
    for layer, array in others.items():
        if array.dtype.kind != "f":
            raise FormatError(
                f"{contents.path}: layer {layer!r}: {array.dtype} values from {array.min()} to "
                f"{array.max()} are neither a mask of 0 and 1 nor weights; save the masks alone"
            )
    return by_zeros(others, notes)


def _only_weights(state: dict[str, Array], notes: list[str]) -> dict[str, Array]:
    """Return the arrays named as weights; all arrays, if none is named so."""
    weights = dict(suffixed(state, "weight"))
    if not weights:
        return state
    rest = [name for name in state if not (name == "weight" or name.endswith(".weight"))]
    if rest:
        notes.append(f"left out, for they are not named as weights: {', '.join(rest)}")
    return weights


TOOL = Tool(
    "arrays",
    "named arrays without any other tool's keys",
    lambda contents: any(a.ndim > 1 for a in contents.state.values()),
    _read,
)
