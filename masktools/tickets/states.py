"""The states that training takes and gives: every parameter and buffer of a network, by name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from masktools.checks import BoolArray, as_mask, listed
from masktools.errors import MaskError, TicketError
from masktools.named_layers import NamedLayers

State = dict[str, NDArray[Any]]
Masks = dict[str, BoolArray]

_KINDS = "biuf"


def check_state(state: Mapping[str, NDArray[Any]], what: str) -> State:
    """Return a copy of a state, whose arrays can be stored as they are.

    Parameters
    ----------
    state : mapping of str to ndarray of bool, int or float
        Not changed.
    what : str
        For the message: where the state is from.

    Raises
    ------
    TypeError
        If it is no mapping of names to NumPy arrays of numbers.
    TicketError
        If it is empty.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"{what} must map names to arrays, got {type(state).__name__}")
    if not state:
        raise TicketError(f"{what} is empty: give every parameter and buffer of the network")
    checked: State = {}
    for name, array in state.items():
        if not isinstance(name, str):
            raise TypeError(f"{what}: a name must be a string, got {name!r}")
        if not isinstance(array, (np.ndarray, np.generic)):
            kind = type(array).__name__
            raise TypeError(f"{what}: {name!r} must be a NumPy array, got {kind}")
        if array.dtype.kind not in _KINDS or array.dtype.itemsize > 8:
            raise TypeError(
                f"{what}: {name!r} must hold bool, integers or floats of at most 64 bits, "
                f"got dtype {array.dtype}"
            )
        checked[name] = np.array(array, array.dtype.newbyteorder("="), order="C")
    return checked


def pruned_layers(
    state: State, skip: Iterable[str] = (), include: Iterable[str] = ()
) -> tuple[str, ...]:
    """Return the layers that a search prunes: every convolution, unless it is told otherwise.

    Parameters
    ----------
    state : mapping of str to ndarray
        A layer has a weight of 2 dimensions or more, ``layer.weight``; of 3 or more it is a
        convolution.
    skip, include : iterable of str
        Convolutions that keep every weight; other layers that are pruned too.

    Raises
    ------
    MaskError
        If a name is no layer, a layer is in both, or nothing is left to prune.

    Examples
    --------
    >>> shapes = {"a.weight": (4, 3, 1, 1), "norm.weight": (4,), "b.weight": (4, 4, 3, 3),
    ...           "head.weight": (2, 4)}
    >>> state = {name: np.zeros(shape) for name, shape in shapes.items()}
    >>> pruned_layers(state), pruned_layers(state, skip=["a"], include=["head"])
    (('a', 'b'), ('b', 'head'))
    """
    named = NamedLayers.of(skip, include)
    layers = {
        name.removesuffix(".weight"): array.ndim
        for name, array in state.items()
        if name.endswith(".weight") and array.ndim > 1
    }
    named.check(layers)
    found = tuple(
        layer
        for layer, dimensions in layers.items()
        if layer in named.include or (dimensions > 2 and layer not in named.skip)
    )
    if not found:
        raise MaskError(
            f"there is no layer to prune: name layers in include or fewer in skip; {listed(layers)}"
        )
    return found


def full_masks(state: State, layers: Iterable[str]) -> Masks:
    """Return masks that keep every weight of some layers."""
    masks = {layer: np.ones(state[f"{layer}.weight"].shape, np.bool_) for layer in layers}
    return check_masks(masks, state, "the network")


def check_masks(masks: Mapping[str, ArrayLike], state: State, what: str) -> Masks:
    """Return a copy of masks that fit a state, none of which is empty.

    Parameters
    ----------
    masks : mapping of str to array_like of bool
    state : mapping of str to ndarray
    what : str
        For the message: who made the masks.

    Raises
    ------
    TypeError, MaskError
        If one is no mask, or fits no weight of the state; naming the layer.
    TicketError
        If a layer keeps nothing.
    """
    checked = fitting_masks(masks, state, what)
    for layer in emptied(checked):
        raise TicketError(
            f"{what}: layer {layer!r} keeps none of its {checked[layer].size} weights, which cuts "
            "the network there; prune less, or name the layer in skip"
        )
    return checked


def fitting_masks(masks: Mapping[str, ArrayLike], state: State, what: str) -> Masks:
    """Return a copy of masks that fit a state; unlike `check_masks`, one may keep nothing."""
    if not isinstance(masks, Mapping):
        raise TypeError(f"{what}: expected masks by layer, got {type(masks).__name__}")
    if not masks:
        raise MaskError(f"{what}: there are no masks")
    checked: Masks = {}
    for layer, given in masks.items():
        weight = state.get(f"{layer}.weight")
        if weight is None:
            layers = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
            raise MaskError(f"{what}: the state has no layer {layer!r}; {listed(layers)}")
        try:
            mask = as_mask(given)
        except (TypeError, MaskError) as error:
            raise type(error)(f"{what}: layer {layer!r}: {error}") from error
        if mask.shape != weight.shape:
            raise MaskError(
                f"{what}: layer {layer!r}: expected a mask of shape {weight.shape}, "
                f"got {mask.shape}"
            )
        checked[layer] = mask.copy()
    return checked


def emptied(masks: Masks) -> list[str]:
    """Return the layers whose masks keep nothing."""
    return [layer for layer, mask in masks.items() if not mask.any()]


def same_layers(masks: Masks, layers: Iterable[str], what: str) -> Masks:
    """Return the masks of some layers, in their order; raise `MaskError` if others prune too.

    Masks that keep every weight of other layers are left out: `masktools.prune` returns such.
    """
    wanted = list(layers)
    for layer in wanted:
        if layer not in masks:
            raise MaskError(f"{what}: there is no mask of layer {layer!r}; {listed(masks)}")
    for layer, mask in masks.items():
        if layer not in wanted and not mask.all():
            raise MaskError(
                f"{what}: layer {layer!r} is not one of those to prune, and its mask prunes; "
                f"{listed(wanted)}"
            )
    return {layer: masks[layer] for layer in wanted}


def copied(state: State) -> State:
    """Return a copy of a state: what a user's own callable may change."""
    return {name: array.copy() for name, array in state.items()}


def under(state: State, masks: Masks) -> State:
    """Return a copy of a state whose pruned weights are zero; all others keep their bits.

    Examples
    --------
    >>> state = {"a.weight": np.float32([[1, -2], [3, 4]]), "a.bias": np.float32([5, 6])}
    >>> under(state, {"a": np.array([[True, False], [True, True]])})["a.weight"]
    array([[1., 0.],
           [3., 4.]], dtype=float32)
    """
    masked = copied(state)
    for layer, mask in masks.items():
        masked[f"{layer}.weight"][~mask] = 0
    return masked


def kept(masks: Masks) -> int:
    """Return how many weights masks keep."""
    return sum(int(np.count_nonzero(mask)) for mask in masks.values())


def density(masks: Masks) -> float:
    """Return kept weights / all weights of the layers that have a mask."""
    return kept(masks) / sum(mask.size for mask in masks.values())


def digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the hash of arrays by name: the same for the same bits."""
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"{name!r}{array.dtype.str}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
