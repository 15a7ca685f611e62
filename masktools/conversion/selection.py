"""Which layers of a network are converted, and why the others stay dense."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from masktools.checks import BoolArray, FloatArray, as_mask, as_saliency, listed
from masktools.errors import MaskError
from masktools.named_layers import NamedLayers
from masktools.network.layers import Layer
from masktools.roles import dense_because, fitting


@dataclass(frozen=True, eq=False)
class Source:
    """A layer as it goes into a conversion.

    Parameters
    ----------
    name : str
    mask : ndarray of bool
        In the weight's own shape.
    saliency : ndarray of float32, shape (rows, columns)
        |weight| under the mask, or the mask itself.
    groups : int
        Convolution groups; 1 where there is no graph that says otherwise.
    column_cost : ndarray of int64, shape (columns,), or None
        Multiplications that a weight of each column costs; None without a graph.
    dense_because : str
        Why the layer stays dense; empty where it is converted.
    """

    name: str
    mask: BoolArray
    saliency: NDArray[np.float32] = field(repr=False)
    groups: int = 1
    column_cost: NDArray[np.int64] | None = field(default=None, repr=False)
    dense_because: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's own shape."""
        return self.mask.shape

    @property
    def rows(self) -> int:
        """Output channels."""
        return self.shape[0]

    @property
    def columns(self) -> int:
        """Flattened (input channel within its group, y, x)."""
        return math.prod(self.shape[1:])

    @property
    def matrix(self) -> BoolArray:
        """The mask as (rows, columns)."""
        return self.mask.reshape(self.rows, self.columns)

    def multiplications(self, mask: BoolArray) -> int | None:
        """Return the multiplications under a mask (rows, columns), None without a graph."""
        if self.column_cost is None:
            return None
        return int(np.count_nonzero(mask, axis=0) @ self.column_cost)


def select(
    masks: Mapping[str, ArrayLike],
    weights: Mapping[str, ArrayLike] | None,
    known: Mapping[str, Layer] | None,
    named: NamedLayers,
) -> list[Source]:
    """Return every layer that has a mask, checked, with the reason where it stays dense.

    Parameters
    ----------
    masks : mapping of str to array_like of bool
        Not changed.
    weights : mapping of str to array_like of float, or None
        Of at least the layers in `masks`; None takes the masks themselves. Not changed.
    known : mapping of str to Layer, or None
        The layers of the network's graph: they tell the first layer, the classifier, depthwise
        convolutions and convolution groups.
    named : NamedLayers

    Returns
    -------
    list of Source
        In the order of `masks`.

    Raises
    ------
    TypeError
        If an argument is of another kind.
    MaskError
        Naming the layer that does not fit or is not there, and what there is.

    Notes
    -----
    Without a graph, shapes tell the layers that stay dense: see `masktools.roles.dense_because`.

    Where no mask prunes anything the network is dense, and a conversion is to prune it: then no
    layer stays dense because its mask keeps every weight.
    """
    if not masks:
        raise MaskError("there are no masks")
    shapes = {name: np.shape(mask) for name, mask in masks.items()}
    layers = {
        name: None if known is None else fitting(name, shape, known, "a mask")
        for name, shape in shapes.items()
    }
    reasons = dense_because(shapes, known, named)
    arrays = {name: _arrays(name, mask, weights) for name, mask in masks.items()}
    pruned = any(not keep.all() for keep, _ in arrays.values())
    sources = []
    for name, (keep, saliency) in arrays.items():
        layer, reason = layers[name], reasons[name]
        if pruned and keep.all() and not reason and name not in named.include:
            reason = "the mask keeps every weight"
        groups = layer.groups if layer else 1
        sources.append(
            Source(name, keep, saliency, groups, layer.column_cost if layer else None, reason)
        )
    return sources


def _arrays(
    name: str, mask: ArrayLike, weights: Mapping[str, ArrayLike] | None
) -> tuple[BoolArray, NDArray[np.float32]]:
    """Return the mask, and the saliency that it leaves."""
    if weights is not None and name not in weights:
        raise MaskError(f"layer {name!r} has a mask but no weights; {listed(weights)}")
    try:
        keep = as_mask(mask)
        saliency = as_saliency(keep if weights is None else weights[name], keep.shape)
    except (TypeError, MaskError) as error:
        raise type(error)(f"layer {name!r}: {error}") from error
    masked: FloatArray = saliency * keep.reshape(saliency.shape)
    return keep, masked
