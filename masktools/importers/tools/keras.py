"""Keras 3: weights that are numbered within their layer, whose group is named after its class."""

from __future__ import annotations

import re

from masktools.importers.contents import Array, Contents, State
from masktools.importers.tool import Found, Names, Tool, by_zeros, zero_or_one
from masktools.importers.tools.channels_last import (
    FLATTENED,
    TURNED,
    depthwise_out_first,
    out_first,
)

_VARIABLE = re.compile(r"(?:(.*)/)?vars/(\d+)")
# Groups that only say where a layer is held.
_HOLDERS = ("layers", "_layer_checkpoint_dependencies", "_layers")
_NUMBER = re.compile(r"_\d+$")
# By the class of a layer: the axes of its kernel, which is its first variable.
_KERNELS = {
    "dense": 2,
    "conv1d": 3,
    "conv2d": 4,
    "conv3d": 5,
    "depthwise_conv1d": 3,
    "depthwise_conv2d": 4,
    "separable_conv1d": 3,
    "separable_conv2d": 4,
}
_NO_KERNEL = re.compile(r"transpose|embedding|lstm|gru|rnn|cell|attention|einsum")


def _read(contents: Contents, _: Names) -> Found:
    weights: dict[str, Array] = {}
    left: list[str] = []
    guessed: list[str] = []
    optimizer = 0
    for path, array in contents.state.items():
        named = _VARIABLE.fullmatch(path)
        scopes = [s for s in (named[1] or "").split("/") if s not in _HOLDERS] if named else []
        if scopes[:1] == ["optimizer"]:
            optimizer += 1
        elif array.ndim > 1:
            layer, kind = "/".join(scopes), _NUMBER.sub("", scopes[-1]) if scopes else ""
            kernel = _kernel(kind, int(named[2]) if named else 0, array, path)
            if named is None or kernel is None:
                left.append(path)
                continue
            if kind.startswith("separable"):
                layer += "/pointwise" if named[2] == "1" else "/depthwise"
            weights[layer] = kernel
            if kind not in _KERNELS:
                guessed.append(layer)
    notes = [TURNED]
    if guessed:
        notes.append(
            "taken for convolutions and matrices by their axes, for the file does not name their "
            f"classes: {', '.join(guessed)}"
        )
    if left:
        notes.append(
            f"left out, for they are no kernels of dense layers or convolutions: {', '.join(left)}"
        )
    if optimizer:
        notes.append("the optimizer's variables were left out")
    if any(w.ndim == 2 for w in weights.values()) and any(w.ndim > 2 for w in weights.values()):
        notes.append(FLATTENED)
    if weights and all(zero_or_one(w) for w in weights.values()):
        return Found(weights, notes=[*notes, "kernels that are all 0 or 1 were read as masks"])
    return by_zeros(weights, notes)


def _kernel(kind: str, number: int, array: Array, path: str) -> Array | None:
    """Return a variable as (out, in / groups, ...), None where it is no such kernel."""
    if kind.startswith("separable") and number == 1:
        return out_first(array)
    if number or _NO_KERNEL.search(path):
        return None
    if kind in _KERNELS and array.ndim != _KERNELS[kind]:
        return None
    if kind.startswith(("depthwise", "separable")):
        return depthwise_out_first(array)
    # Of other classes, matrices and images' kernels are what they look like; three axes may be
    # attention's.
    return out_first(array) if kind in _KERNELS or array.ndim in (2, 4) else None


def _state(contents: Contents) -> State:
    return {path: a for path, a in contents.state.items() if _VARIABLE.fullmatch(path)}


TOOL = Tool(
    "keras",
    "HDF5 datasets .../vars/0, as Keras 3 writes them",
    lambda c: c.container in ("h5", "keras") and bool(_state(c)),
    _read,
)
