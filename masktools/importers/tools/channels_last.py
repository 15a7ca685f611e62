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
_KERAS_KERNELS = ("kernel", "depthwise_kernel")
TURNED = "kernels were turned from (kh, kw, in, out) to (out, in, kh, kw)"
FLATTENED = (
    "columns of a matrix behind a Flatten stay in the order (y, x, channel) in which it was trained"
)


def out_first(kernel: Array) -> Array:
    """Return (spatial..., in, out) as (out, in, spatial...)."""
    return np.moveaxis(kernel, (-1, -2), (0, 1))


def depthwise_out_first(kernel: Array) -> Array:
    """Return (spatial..., in, multiplier) as (in * multiplier, 1, spatial...)."""
    *spatial, channels, multiplier = kernel.shape
    turned = np.moveaxis(kernel, (-2, -1), (0, 1))
    return turned.reshape(channels * multiplier, 1, *spatial)


# TensorFlow Model Optimization ----------------------------------------------------------------


def _keras_layer(path: str) -> tuple[str, str]:
    """Return a dataset's layer and its last name, without wrappers and repetitions of the layer.

    Keras 2 writes ``conv/conv/kernel:0``, Keras 3 ``conv/sequential/conv/kernel``.
    """
    *scopes, leaf = path.split("/")
    names: list[str] = []
    for scope in scopes:
        name = scope.removeprefix(_WRAP)
        if names[-1:] != [name]:
            names.append(name)
    if names and names[0] == names[-1]:
        names = names[:1]
    return "/".join(names), leaf.removesuffix(":0")


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
    masks = _collect(contents, ("mask",))
    notes = [TURNED]
    classes = contents.tree.get(MODEL_CONFIG)
    if not isinstance(classes, Mapping):
        classes = {}
        notes.append("the file names no layer classes: each kernel was taken for a convolution's")
    for layer, (leaf, kernel) in list(kernels.items()):
        name = layer.rpartition("/")[2]
        kind = str(classes.get(name, ""))
        if "Transpose" in kind:
            notes.append(f"layer {layer!r} was left out: a transposed convolution")
            del kernels[layer]
            masks.pop(layer, None)
        elif leaf == "kernel" and "depthwise" in (kind or name).lower():
            kernels[layer] = ("depthwise_kernel", kernel)  # Keras 3 calls it like any other.
    lost = sorted(set(masks) - set(kernels))
    if lost:
        raise FormatError(f"{contents.path}: masks without a kernel: {', '.join(lost)}")
    weights = {layer: _turn(leaf, kernel) for layer, (leaf, kernel) in kernels.items()}
    if any(w.ndim == 2 for w in weights.values()) and any(w.ndim > 2 for w in weights.values()):
        notes.append(FLATTENED)
    left = [
        path
        for path, array in contents.state.items()
        if array.ndim > 1 and _keras_layer(path)[1] not in (*_KERAS_KERNELS, "mask")
    ]
    if left:
        notes.append(f"left out, for they are no kernels: {', '.join(left)}")
    if not masks:
        return by_zeros(weights, notes)
    turned = {layer: _turn(kernels[layer][0], mask) for layer, (_, mask) in masks.items()}
    notes.append(f"the prefix {_WRAP!r} was stripped")
    return Found(turned, {layer: weights[layer] for layer in turned}, notes=notes)


def _turn(leaf: str, kernel: Array) -> Array:
    if kernel.ndim < 2:
        return kernel
    if leaf == "depthwise_kernel":
        return depthwise_out_first(kernel)
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
    notes = [TURNED]
    if not masks and others and all(zero_or_one(a) for a in others.values()):
        masks, others = others, {}
        notes.append("kernels that are all 0 or 1 were read as masks")
    weights = {layer: out_first(weight) for layer, weight in others.items() if weight.ndim > 1}
    if any(w.ndim == 2 for w in weights.values()) and any(w.ndim > 2 for w in weights.values()):
        notes.append(FLATTENED)
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
    Tool("tfmot", "HDF5 datasets .../kernel, with .../mask or stripped", _is_tfmot, _read_tfmot),
    Tool(
        "jaxpruner",
        "flattened pytree paths that end in 'kernel', masks below 'masks'",
        _is_jaxpruner,
        _read_jaxpruner,
    ),
)
