"""The layers that a network's weights are pruned in, and those that keep every weight."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from masktools.checks import BoolArray, as_array, as_mask, check_layers, listed
from masktools.errors import MaskError
from masktools.named_layers import NamedLayers
from masktools.network.graph import Graph
from masktools.network.layers import Layer
from masktools.roles import dense_because, fitting, layers_under, transposed

Arrays = dict[str, NDArray[Any]]


def check_weights(weights: Mapping[str, ArrayLike]) -> Arrays:
    """Return the weights of every layer as arrays, whose kind and number of axes are checked.

    Parameters
    ----------
    weights : mapping of str to array_like of float
        Not changed; the same arrays where they are some.

    Raises
    ------
    TypeError, MaskError
        Naming the layer.
    """
    check_layers("weights", weights)
    if not weights:
        raise MaskError("there are no weights to prune")
    arrays = {}
    for name, weight in weights.items():
        array = as_array(weight, f"layer {name!r}: its weights")
        if array.dtype.kind not in "biuf":
            raise TypeError(f"layer {name!r}: expected real weights, got dtype {array.dtype}")
        if array.ndim not in (2, 3, 4):
            raise MaskError(
                f"layer {name!r}: expected weights of shape (out, in, kh, kw), (out, in, k) or "
                f"(out, in), got {array.shape}; leave biases and statistics out"
            )
        arrays[name] = array
    return arrays


def masks_of(
    what: str, masks: Mapping[str, ArrayLike], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, BoolArray]:
    """Return the masks of some layers out of an argument, checked.

    Parameters
    ----------
    what : str
        The argument's name, for errors.
    masks : mapping of str to array_like of bool
        Of at least the layers in `shapes`. Not changed.
    shapes : mapping of str to tuple of int

    Raises
    ------
    TypeError, MaskError
        Naming the layer.
    """
    check_layers(what, masks)
    found = {}
    for name, shape in shapes.items():
        if name not in masks:
            raise MaskError(f"{what} has no mask of layer {name!r}; {listed(masks)}")
        try:
            mask = as_mask(masks[name])
        except (TypeError, MaskError) as error:
            raise type(error)(f"{what}: layer {name!r}: {error}") from error
        if mask.shape != shape:
            raise MaskError(
                f"{what}: layer {name!r}: expected a mask of shape {shape}, got {mask.shape}"
            )
        found[name] = mask
    return found


def staying_dense(
    weights: Mapping[str, NDArray[Any]],
    graph: Graph | str | os.PathLike[str] | None,
    named: NamedLayers,
) -> dict[str, str]:
    """Say of each layer why it keeps every weight; an empty text where it is pruned.

    Parameters
    ----------
    weights : mapping of str to ndarray
    graph : Graph or path of an ONNX file, or None
    named : NamedLayers

    Raises
    ------
    MaskError
        If the graph lacks a layer or has it in another shape, if a named layer is not there, or
        if no layer is left to prune.
    """
    shapes = {name: weight.shape for name, weight in weights.items()}
    reasons = dense_because(shapes, None if graph is None else _known(graph, shapes), named)
    if all(reasons.values()):
        why = [f"{name!r} ({reason})" for name, reason in reasons.items()]
        raise MaskError(
            "there is no layer to prune, unless layers are named in include: "
            + ", ".join(why[:4])
            + ", ..." * (len(why) > 4)
        )
    return reasons


def _known(
    graph: Graph | str | os.PathLike[str], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Layer]:
    """Return the graph's layer of each weight; of transposed convolutions the one they became."""
    if not isinstance(graph, Graph):
        from masktools.network.onnx.reader import read_onnx

        graph = read_onnx(graph)
    found = layers_under(graph, shapes, "weights")
    other = {name: found[phases] for name, phases in transposed(found, shapes).items()}
    return {
        name: other.get(name) or fitting(name, shape, found, "weights")
        for name, shape in shapes.items()
    }


def finite(name: str, weight: NDArray[Any]) -> NDArray[np.floating[Any]]:
    """Return the magnitudes of a layer's weights, shape (n,); raise where one is not finite.

    Parameters
    ----------
    name : str
    weight : ndarray of real numbers
        Not changed.
    """
    floats = weight if weight.dtype.kind == "f" else weight.astype(np.float64)
    magnitudes: NDArray[np.floating[Any]] = np.abs(floats).reshape(-1)
    wrong = ~np.isfinite(magnitudes)
    if wrong.any():
        at = np.unravel_index(int(np.argmax(wrong)), weight.shape)
        raise MaskError(
            f"layer {name!r}: weights must be finite to be compared, got {weight[at]} at "
            f"{tuple(map(int, at))}; repair them, or name the layer in skip"
        )
    return magnitudes
