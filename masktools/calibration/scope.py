"""Choose the layers to calibrate: converted ones, and the dense ones behind them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from masktools.checks import BoolArray
from masktools.errors import MaskError
from masktools.layout import BlockLayout
from masktools.named_layers import NamedLayers
from masktools.network.graph import Graph
from masktools.network.layers import Layer

# Of a dense layer: its four fits and their start, in float64, take two thirds of a gigabyte.
MOST_WEIGHTS = 2**24


@dataclass(frozen=True, eq=False)
class Scope:
    """The layers of a calibration.

    Parameters
    ----------
    stored : mapping of str to ndarray of bool
        Of the converted layers, in the weight's shape: what is stored.
    fitted : mapping of str to ndarray of bool
        Of the layers whose values change: the same, and all of what stayed dense.
    large : tuple of str
        Layers that stayed dense, and are too large to be fitted.
    """

    stored: Mapping[str, BoolArray]
    fitted: Mapping[str, BoolArray]
    large: tuple[str, ...]


def scope(
    graph: Graph,
    known: Mapping[str, Layer],
    layouts: Mapping[str, BlockLayout],
    residual: str,
    skip: Iterable[str],
    dense: bool,
) -> Scope:
    """Return the layers to calibrate: those that were converted, and the dense ones behind them.

    What a converted layer loses, layers behind it make up for, whether they store zeros or not.

    Parameters
    ----------
    graph : Graph
    known : mapping of str to Layer
        Its layers.
    layouts : mapping of str to BlockLayout
        Of the converted layers.
    residual : {"drop", "keep"}
        Whether non-zero weights outside the blocks are stored too.
    skip : iterable of str
        Layers that keep their values.
    dense : bool
        Whether layers that stayed dense are calibrated at all.

    Raises
    ------
    TypeError
        If `skip` is a single name.
    MaskError
        If `skip` names no layer, or a layout matches none or has another shape.
    """
    named = NamedLayers.of(skip)
    named.check(known)
    stored = {}
    for name, layout in layouts.items():
        _check_layout(name, layout, known)
        stored[name] = layout.to_mask()
        if residual == "keep":
            stored[name] |= graph.constants[known[name].weight] != 0
    behind = _behind(graph, known, layouts).difference(named.skip) if dense else set()
    large = {name for name in behind if prod(known[name].shape) > MOST_WEIGHTS}
    whole = {name: np.ones(known[name].shape, np.bool_) for name in sorted(behind - large)}
    fitted = {name: mask for name, mask in {**stored, **whole}.items() if name not in named.skip}
    return Scope(stored, fitted, tuple(sorted(large)))


def _check_layout(name: str, layout: BlockLayout, known: Mapping[str, Layer]) -> None:
    if name not in known:
        raise MaskError(
            f"the network has no layer {name!r}; it has {', '.join(known)}; to calibrate, call "
            "the layers as the network does (names=, --names)"
        )
    if layout.shape != known[name].shape:
        raise MaskError(
            f"layer {name!r}: expected a layout of shape {known[name].shape}, got {layout.shape}"
        )


def _behind(graph: Graph, known: Mapping[str, Layer], converted: Collection[str]) -> set[str]:
    """Return the dense layers that read what follows from a converted one."""
    changed = {node for name in converted for node in known[name].nodes}
    values: set[str] = set()
    behind = set()
    for node in graph.nodes:
        follows = not values.isdisjoint(node.inputs)
        if follows:
            behind.add(node.name)
        if follows or node.name in changed:
            values.update(node.outputs)
    return {
        name
        for name, layer in known.items()
        if name not in converted and not behind.isdisjoint(layer.nodes)
    }
