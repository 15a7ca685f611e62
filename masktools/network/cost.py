"""The cost of a network under masks: multiplications by two conventions, of live inputs alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from masktools.checks import BoolArray, as_mask, listed
from masktools.errors import MaskError
from masktools.network.channels import trace
from masktools.network.graph import Graph, Shape, integer
from masktools.network.layers import Layer
from masktools.network.network import Network
from masktools.network.operators.rules import Flow


@dataclass(frozen=True)
class Multiplications:
    """Multiplications by stored weights for one sample.

    Parameters
    ----------
    inside : int
        Those of inputs inside the image: what masktools counts.
    padded : int
        Those and the ones by padding: what the paper counts as FLOPs.
    """

    inside: int = 0
    padded: int = 0

    def __add__(self, other: Multiplications) -> Multiplications:
        return Multiplications(self.inside + other.inside, self.padded + other.padded)


def multiplications(
    graph: Graph,
    masks: Mapping[str, ArrayLike] | None = None,
    weights: Mapping[str, Shape] | None = None,
) -> dict[str, Multiplications]:
    """Return the multiplications of each layer, without those of channels that are dropped.

    Parameters
    ----------
    graph : Graph
        In the normal form of docs/format.md.
    masks : mapping of str to array_like of bool, default None
        The weights that are kept, by the graph's names of layers; a layer without one keeps all.
        Not changed.
    weights : mapping of str to tuple of int, default none
        Shapes of the weights that are sparse, by constant's name.

    Returns
    -------
    dict of str to Multiplications
        By layer, in execution order. A multiplication and its addition count once; biases,
        normalisation and activations do not count.

    Raises
    ------
    GraphError
        If shapes do not fit.
    MaskError
        If a mask belongs to no layer, or has another shape.

    Notes
    -----
    A row that keeps nothing makes a constant channel, and what reads it can be added up before:
    the columns of such a channel do not count. So a refilled network costs, of each layer, (rows
    kept) x (rows kept in the layer before) x taps. A channel is live as long as one of the
    channels that are tied to it is: over a skip add the union counts. That is what the export
    leaves, but for what it must keep: a channel that stands for others at padded borders.

    The paper counts H x W multiplications for each stored weight of a convolution, H x W its
    output, and the classifier: ``padded``. Its 0.314 G for VGG-16 on CIFAR-10 is 0.3132 G so
    counted, and 0.2473 G inside the image.

    Examples
    --------
    >>> from masktools.network.graph import Node, Value
    >>> conv = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "group": 1}
    >>> node = Node("conv", "Conv", ("x", "conv.weight"), ("y",), conv)
    >>> weight = np.ones((8, 4, 3, 3), np.float32)
    >>> network = Graph(
    ...     (Value("x", (None, 4, 6, 6)),), (Value("y", (None, 8, 6, 6)),), (node,),
    ...     {"conv.weight": weight},
    ... )
    >>> multiplications(network)["conv"]
    Multiplications(inside=8192, padded=10368)
    """
    network = Network.of(graph, weights)
    kept = _live(network, _checked(masks or {}, network.layers))
    return {
        name: Multiplications(
            layer.multiplications(kept.get(name)), layer.multiplications(kept.get(name), True)
        )
        for name, layer in network.layers.items()
    }


def total(parts: Mapping[str, Multiplications]) -> Multiplications:
    """Return the multiplications of all layers together."""
    return sum(parts.values(), Multiplications())


def _checked(masks: Mapping[str, ArrayLike], layers: Mapping[str, Layer]) -> dict[str, BoolArray]:
    kept = {}
    for name, mask in masks.items():
        if name not in layers:
            raise MaskError(f"the graph has no layer {name!r}; {listed(layers)}")
        try:
            kept[name] = as_mask(mask)
        except (TypeError, MaskError) as error:
            raise type(error)(f"layer {name!r}: {error}") from error
        if kept[name].shape != layers[name].shape:
            raise MaskError(
                f"layer {name!r}: expected a mask of shape {layers[name].shape}, got "
                f"{kept[name].shape}"
            )
    return kept


def _live(network: Network, masks: Mapping[str, BoolArray]) -> dict[str, BoolArray]:
    """Return masks without the columns that read dropped channels.

    A row that is left without columns drops its own channel, so it goes on until nothing changes.
    """
    if all(_kept_rows(mask).all() for mask in masks.values()):
        return dict(masks)
    flow = trace(network.graph, network.shapes)
    component = flow.components()
    kept, dropped = dict(masks), -1
    while True:
        live = _live_labels(flow, component, network, kept)
        if (gone := int(np.count_nonzero(~live))) == dropped:
            return kept
        dropped = gone
        for name, layer in network.layers.items():
            read = _read(flow, network, layer, live)
            if read is not None and not read.all():
                whole = kept.get(name, np.ones(layer.shape, np.bool_))
                kept[name] = whole & read.reshape(*read.shape, *[1] * (whole.ndim - 2))


def _live_labels(
    flow: Flow, component: NDArray[np.int64], network: Network, kept: Mapping[str, BoolArray]
) -> BoolArray:
    """Return for each label whether it, or one that is tied to it, is made of anything."""
    alive = np.ones(len(component), np.bool_)
    for name, layer in network.layers.items():
        rows = flow.rows[layer.weight.removesuffix(".weight")]
        if layer.role == "depthwise":
            alive[rows] = False  # They pass on what they read.
        elif name in kept:
            alive[rows] = _kept_rows(kept[name])
    together = np.bincount(component, weights=alive) > 0
    return np.asarray(together[component])


def _read(flow: Flow, network: Network, layer: Layer, live: BoolArray) -> BoolArray | None:
    """Return which (row, column's channel) reads a live one; None where channels lie elsewhere."""
    found = np.zeros(layer.shape[:2], np.bool_)
    for node in network.graph.nodes:
        if node.op not in ("Conv", "Gemm") or node.inputs[1] != layer.weight:
            continue
        if len(network.shapes[node.inputs[0]]) != len(layer.shape):
            return None
        groups = integer(node, "group", 1)
        channels = live[flow.labels[node.inputs[0]]].reshape(groups, -1)
        found |= np.repeat(channels, layer.shape[0] // groups, axis=0)
    return found


def _kept_rows(mask: BoolArray) -> BoolArray:
    """Return which rows keep anything, shape (rows,)."""
    matrix = mask.reshape(mask.shape[0], math.prod(mask.shape[1:]))
    return np.asarray(matrix.any(axis=1))
