"""Which parameter a mask belongs to, by its name, and how it covers that parameter by its shape."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from masktools.importers.contents import Array, join
from masktools.importers.unwrap import is_mask_key

# What people put before "mask" that names no parameter.
_KINDS = ("weight", "weights", "kernel", "pruning", "prune", "pruned", "binary", "sparsity", "bin")


def layer_of(parameter: str) -> str:
    """Return a parameter's layer: its name without ``.weight``, '' for a bare ``weight``.

    Examples
    --------
    >>> layer_of("conv1.weight"), layer_of("attn.in_proj_weight")
    ('conv1', 'attn.in_proj_weight')
    """
    return "" if parameter == "weight" else parameter.removesuffix(".weight")


def masked_layer(name: str) -> str:
    """Return the layer that a mask's name names.

    Examples
    --------
    >>> [masked_layer(n) for n in ("c.mask", "c.weight_mask", "c.weight.mask", "c.weight", "c")]
    ['c', 'c', 'c', 'c', 'c']
    >>> masked_layer("attn.in_proj_weight_mask")
    'attn.in_proj_weight'
    """
    module, _, leaf = name.rpartition(".")
    if leaf in ("mask", "masks"):
        return layer_of(module)
    what = leaf.removesuffix("_mask").removeprefix("mask_").strip("_")
    if what == leaf:
        return layer_of(name)
    return layer_of(module) if what in _KINDS else join(module, what)


def is_mask_name(name: str) -> bool:
    """Tell whether an array is called like a mask, and not like one of biases."""
    leaf = name.rpartition(".")[2]
    return is_mask_key(leaf) and "bias" not in leaf


def matrices(state: Mapping[str, Array]) -> dict[str, Array]:
    """Return the parameters of two or more axes by layer; nothing that is called a mask."""
    return {
        layer_of(name): array
        for name, array in state.items()
        if array.ndim > 1 and not is_mask_name(name) and array.dtype.kind == "f"
    }


def covers(mask: Array, shape: tuple[int, ...]) -> bool:
    """Tell whether `spread` gives a mask of `shape`."""
    return mask.shape == shape or spread(mask, shape) is not None


def spread(mask: Array, shape: tuple[int, ...]) -> Array | None:
    """Return the mask of all weights, from one mask for each row, column or window.

    Parameters
    ----------
    mask : ndarray
        (out,) or (out, in / groups), or as many axes as the weight, some of them 1. For matrices
        also (in,).
    shape : tuple of int
        The weight's.

    Returns
    -------
    ndarray or None
        A view; None where the shapes do not go together, or go together in two ways.

    Examples
    --------
    >>> spread(np.array([1, 0]), (2, 3)).tolist()
    [[1, 1, 1], [0, 0, 0]]
    """
    axes = len(shape)
    if mask.ndim == axes:
        fits = all(m in (1, n) for m, n in zip(mask.shape, shape, strict=True))
        return np.broadcast_to(mask, shape) if fits else None
    if mask.ndim == 1:
        ends = [axis for axis in (0, 1)[: 2 if axes == 2 else 1] if shape[axis] == mask.size]
    elif mask.ndim == 2 and axes > 2 and mask.shape == shape[:2] != shape[2:]:
        ends = [0]
    else:
        return None
    if len(ends) != 1:
        return None
    behind = 0 if ends == [1] else axes - mask.ndim
    return np.broadcast_to(mask.reshape(*mask.shape, *(1,) * behind), shape)
