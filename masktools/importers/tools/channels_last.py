"""Tools of Keras and JAX: kernels are (kh, kw, in, out), and are turned to (out, in, kh, kw)."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from masktools.errors import FormatError
from masktools.importers.containers.h5_file import MODEL_CONFIG
from masktools.importers.contents import Array, Contents, State, count
from masktools.importers.tool import Found, Names, Tool, by_zeros, zero_or_one

_WRAP = "prune_low_magnitude_"
_KERAS_KERNELS = ("kernel:0", "depthwise_kernel:0")
_TURNED = "kernels were turned from (kh, kw, in, out) to (out, in, kh, kw)"
_FLATTENED = (
    "columns of a matrix behind a Flatten stay in the order (y, x, channel) in which it was trained"
)


def out_first(kernel: Array) -> Array:
    """Return (spatial..., in, out) as (out, in, spatial...)."""
    return np.moveaxis(kernel, (-1, -2), (0, 1))


def _depthwise_out_first(kernel: Array) -> Array:
    """Return (kh, kw, in, multiplier) as (in * multiplier, 1, kh, kw)."""
    height, width, channels, multiplier = kernel.shape
    return kernel.transpose(2, 3, 0, 1).reshape(channels * multiplier, 1, height, width)


# TensorFlow Model Optimization ----------------------------------------------------------------


def _keras_layer(path: str) -> tuple[str, str]:
    """Return a dataset's layer, wrappers and the repetition of group and scope taken off."""
    *scopes, leaf = path.split("/")
    names: list[str] = []
    for scope in scopes:
        name = scope.removeprefix(_WRAP)
        if names[-1:] != [name]:
            names.append(name)
    return "/".join(names), leaf


def _collect(contents: Contents, leaves: tuple[str, ...]) -> dict[str, tuple[str, Array]]:
    found: dict[str, tuple[str, Array]] = {}
    for path, array in contents.state.items():
        layer, leaf = _keras_layer(path)
        if leaf not in leaves:
            continue
        if layer in found:
            raise FormatError(
                f"{contents.path}: layer {layer!r} has two of {', '.join(leaves)}; only one is read"
            )
        found[layer] = (leaf, array)
    return found


def _read_tfmot(contents: Contents, _: Names) -> Found:
    kernels = _collect(contents, _KERAS_KERNELS)
    masks = _collect(contents, ("mask:0",))
    notes = [_TURNED]
    classes = contents.tree.get(MODEL_CONFIG)
    if not isinstance(classes, Mapping):
        classes = {}
        notes.append("the file names no layer classes: each kernel was taken for a convolution's")
    for layer in list(kernels):
        if "Transpose" in str(classes.get(layer.rpartition("/")[2])):
            notes.append(f"layer {layer!r} was left out: a transposed convolution")
            del kernels[layer]
            masks.pop(layer, None)
    lost = sorted(set(masks) - set(kernels))
    if lost:
        raise FormatError(f"{contents.path}: masks without a kernel: {', '.join(lost)}")
    weights = {layer: _turn(leaf, kernel) for layer, (leaf, kernel) in kernels.items()}
    if any(w.ndim == 2 for w in weights.values()) and any(w.ndim > 2 for w in weights.values()):
        notes.append(_FLATTENED)
    if not masks:
        return by_zeros(weights, notes)
    turned = {layer: _turn(kernels[layer][0], mask) for layer, (_, mask) in masks.items()}
    notes.append(f"the prefix {_WRAP!r} was stripped")
    return Found(turned, {layer: weights[layer] for layer in turned}, notes=notes)


def _turn(leaf: str, kernel: Array) -> Array:
    if kernel.ndim < 2:
        return kernel
    if leaf == "depthwise_kernel:0" and kernel.ndim == 4:
        return _depthwise_out_first(kernel)
    return out_first(kernel)


def _is_tfmot(contents: Contents) -> bool:
    return contents.container == "h5" and any(
        _keras_layer(path)[1] in _KERAS_KERNELS for path in contents.state
    )


# JaxPruner ------------------------------------------------------------------------------------


def _jax_kernels(state: State) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return (arrays below 'masks', other kernels) by layer, from flattened pytree paths."""
    masks: dict[str, Array] = {}
    others: dict[str, Array] = {}
    for path, array in state.items():
        parts = re.findall(r"\w+", path)
        if not parts or parts[-1] != "kernel":
            continue
        layer = "/".join(p for p in parts[:-1] if p not in ("masks", "params"))
        (masks if "masks" in parts[:-1] else others)[layer] = array
    return masks, others


def _unpack_jax(contents: Contents, layer: str, mask: Array, weight: Array | None) -> Array:
    if mask.ndim != 1 or mask.dtype != np.uint8:
        return mask
    where = f"{contents.path}: layer {layer!r}"
    if weight is None:
        raise FormatError(
            f"{where}: its mask is packed into bits and its shape is not in the file; save the "
            "parameters beside the masks"
        )
    if len(mask) != -(-weight.size // 8):
        raise FormatError(f"{where}: {len(mask)} bytes of packed bits for shape {weight.shape}")
    return np.unpackbits(mask, count=count(weight.shape)).reshape(weight.shape)


def _read_jaxpruner(contents: Contents, _: Names) -> Found:
    masks, others = _jax_kernels(contents.state)
    notes = [_TURNED]
    if not masks and others and all(zero_or_one(a) for a in others.values()):
        masks, others = others, {}
        notes.append("kernels that are all 0 or 1 were read as masks")
    weights = {layer: out_first(weight) for layer, weight in others.items() if weight.ndim > 1}
    if any(w.ndim == 2 for w in weights.values()) and any(w.ndim > 2 for w in weights.values()):
        notes.append(_FLATTENED)
    if not masks:
        return by_zeros(weights, notes)
    full = {
        layer: _unpack_jax(contents, layer, mask, others.get(layer))
        for layer, mask in masks.items()
    }
    turned = {layer: out_first(mask) for layer, mask in full.items() if mask.ndim > 1}
    return Found(turned, {n: w for n, w in weights.items() if n in turned}, notes=notes)


def _is_jaxpruner(contents: Contents) -> bool:
    return contents.container in ("npz", "safetensors") and any(_jax_kernels(contents.state))


TOOLS = (
    Tool(
        "tfmot", "HDF5 datasets .../kernel:0, with .../mask:0 or stripped", _is_tfmot, _read_tfmot
    ),
    Tool(
        "jaxpruner",
        "flattened pytree paths that end in 'kernel', masks below 'masks'",
        _is_jaxpruner,
        _read_jaxpruner,
    ),
)
