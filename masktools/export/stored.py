"""Decide which weights of a layer are stored, and how: dense, in blocks, or as residual."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from masktools.checkpoint.weights import SparseWeight
from masktools.checks import as_mask, check_layers
from masktools.errors import MaskError
from masktools.layout import BlockLayout
from masktools.named_layers import NONE, NamedLayers
from masktools.network.layers import ROLES, Layer

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.floating[Any]]

RESIDUALS = ("error", "keep", "drop")
MIN_ROWS = 4
SHOWN = 4  # layers in a message
# Without a mask, a zero may be chance: a random float32 is exactly 0 once in some ten million.
DENSE = 0.99
# First layers and classifiers read few inputs or have few rows. In blocks of 8 rows at density 0.2,
# on two cores of a Xeon, they took a third of the time that they took dense, to all of it. Rows of
# their own are another matter: a classifier of 1000 took up to 2.2 times as long at batch 1.
SPARSE = 0.25
# Above, what blocks leave out is no reason to refuse: a few rows that died in training, say.
NEARLY_DENSE = 0.9


@dataclass(frozen=True, eq=False)
class Stored:
    """The weights of one layer on their way into a checkpoint.

    Parameters
    ----------
    weight : ndarray of float32, the layer's shape
        Zero where nothing is stored.
    layout : BlockLayout or None
        None where the layer stays dense.
    residual : ndarray of bool, the layer's shape, or None
        Positions stored beside the blocks.
    """

    weight: FloatArray
    layout: BlockLayout | None = None
    residual: BoolArray | None = None

    def kept(self) -> BoolArray:
        """Return the positions that are stored."""
        if self.layout is None:
            return np.ones(self.weight.shape, np.bool_)
        blocks = self.layout.to_mask()
        return blocks if self.residual is None else blocks | self.residual

    def sparse(self) -> SparseWeight | None:
        """Return the weight as a checkpoint stores it, or None if it is stored as a dense array."""
        layout = self.layout
        if layout is None or (len(layout.blocks) == 1 and layout.stored == self.weight.size):
            return None
        return SparseWeight.from_dense(self.weight, layout, self.residual)


def check_wishes(layouts: object, masks: object, residual: str) -> None:
    """Check the types of the arguments of `select`, before any work is done."""
    if residual not in RESIDUALS:
        raise MaskError(f"residual must be one of {', '.join(RESIDUALS)}, got {residual!r}")
    for name, given in (("layouts", layouts), ("masks", masks)):
        if given is not None:
            check_layers(name, given)
    if isinstance(layouts, Mapping):
        for name, layout in layouts.items():
            if not isinstance(layout, BlockLayout):
                raise TypeError(
                    f"layouts: layer {name!r}: expected a BlockLayout, got {type(layout).__name__}"
                )


def select(
    layers: Mapping[str, Layer],
    weights: Mapping[str, FloatArray],
    layouts: Mapping[str, BlockLayout] | None,
    masks: Mapping[str, ArrayLike] | None,
    residual: str,
    say: Callable[[str], None],
    places: Mapping[str, BoolArray] | None = None,
    named: NamedLayers = NONE,
) -> dict[str, Stored]:
    """Decide which weights of each layer are stored, and in which blocks.

    Parameters
    ----------
    layers : mapping of str to Layer
    weights : mapping of str to ndarray
        By layer. Not changed.
    layouts : mapping of str to BlockLayout, default None
        Fixes the blocks of the layers that it names.
    masks : mapping of str to array_like of bool, default None
        The weights that count; all others are zero. None reads the zeros of the weights; a layer
        of few zeros that no blocks hold stays dense then, and so does one with a role, unless
        it is to be included or gains (see `SPARSE`).
    residual : {"error", "keep", "drop"}
        What becomes of kept weights outside the blocks.
    say : callable
        Is told of layers in whose blocks zeros are stored, of those that stay dense although they
        have zeros, and of weights that masks prune though they are not zero.
    places : mapping of str to ndarray of bool, default None
        Of layers with zeros that are no weights of the file: where its weights are.
    named : NamedLayers, default none
        Where the zeros are read: layers whose zeros are not, or are although their role would
        leave them dense.

    Raises
    ------
    MaskError
        If a shape differs, if there is a residual under ``"error"``, or if `named` has
        layers that are not there.
    """
    named.check(layers)
    stored = {}
    outside: dict[str, tuple[int, float]] = {}
    pruned: dict[str, int] = {}
    for name, layer in layers.items():
        weight, own = weights[name], (places or {}).get(name)
        keep = None
        if masks is not None and name in masks:
            keep = _fitting(layer, masks[name])
            pruned[name] = int(np.count_nonzero(weight[~keep]))
        elif layouts is not None and name in layouts:
            keep = weight != 0
        elif masks is None and layouts is None and name not in named.skip:
            keep = _read(layer, weight, own, named.include, say)
        fixed = (layouts or {}).get(name)
        if fixed is None and keep is not None and own is not None and np.array_equal(keep, own):
            keep = None
        layout = _layout(layer, keep, fixed)
        if layout is not None and keep is not None and masks is None and layouts is None:
            left = (keep if own is None else keep[own]).mean()
            nearly = residual == "error" and left > NEARLY_DENSE
            layout = None if nearly and layout.residual(keep).any() else layout
        if keep is None or layout is None:
            blocks = None
            if own is not None and not own.all():
                blocks = BlockLayout.from_mask(own, 1, layer.groups, whole=True)
            stored[name] = Stored(weight, blocks)
            continue
        filled = layout.fill(keep) if fixed is None else 0
        if filled:
            say(
                f"layer {name!r}: {filled} weights that are zero lie inside its blocks and are "
                "stored: taken for kept weights that are zero by accident"
            )
        beside = layout.residual(keep)
        if beside.any():
            total = np.abs(weight[keep]).sum(dtype=np.float64)
            share = np.abs(weight[beside]).sum(dtype=np.float64) / total if total else 0.0
            outside[name] = (int(beside.sum()), float(share))
        inside = keep if residual == "keep" else keep & ~beside
        stored[name] = Stored(
            np.where(inside, weight, np.float32(0)),
            layout,
            beside if residual == "keep" and beside.any() else None,
        )
    if outside and residual == "error":
        raise MaskError(_complaint(outside))
    if any(pruned.values()):
        say(_left_out({name: count for name, count in pruned.items() if count}))
    return stored


def _read(
    layer: Layer,
    weight: FloatArray,
    own: BoolArray | None,
    include: Collection[str],
    say: Callable[[str], None],
) -> BoolArray | None:
    """Return which weights of a layer count, by its zeros; None if it stays dense."""
    keep: BoolArray = weight != 0
    left = float((keep if own is None else keep[own]).mean())
    if left > DENSE:
        return None
    if not layer.role or layer.name in include:
        return keep
    if layer.role != "depthwise" and left <= SPARSE:
        layout = _layout(layer, keep, None)
        if layout is not None and not layout.residual(keep).any():
            return keep
    say(
        f"layer {layer.name!r}: {ROLES[layer.role]} stays dense, though {1 - left:.1%} of its "
        f"weights are zero; include={[layer.name]} (--include {layer.name}) stores it sparse"
    )
    return None


def _layout(layer: Layer, keep: BoolArray | None, given: BlockLayout | None) -> BlockLayout | None:
    """Return the blocks of a layer, None for a dense one."""
    if given is not None:
        if given.shape != layer.shape:
            raise MaskError(
                f"layer {layer.name!r}: expected a layout of shape {layer.shape}, got {given.shape}"
            )
        try:
            layout = BlockLayout(given.shape, given.blocks, layer.groups)
            layout.check(full=True)
        except MaskError as error:
            hint = ""
            if given.groups != layer.groups:
                hint = (
                    f"; the layout has convolution groups: {given.groups}, the layer: "
                    f"{layer.groups}; convert with graph= (--graph), which tells them"
                )
            raise MaskError(f"layer {layer.name!r}: {error}{hint}") from error
        return layout
    if keep is None or keep.all():
        return None
    # Whole rows are structure however few they are: a layer may keep two channels.
    return BlockLayout.from_mask(keep, MIN_ROWS, layer.groups, whole=True)


def _fitting(layer: Layer, mask: ArrayLike) -> BoolArray:
    try:
        keep = as_mask(mask)
    except (MaskError, TypeError) as error:
        raise type(error)(f"layer {layer.name!r}: {error}") from error
    if keep.shape != layer.shape:
        raise MaskError(
            f"layer {layer.name!r}: expected a mask of shape {layer.shape}, got {keep.shape}"
        )
    return keep


def _left_out(pruned: Mapping[str, int]) -> str:
    """Return what to say of weights that masks prune and the network has not pruned."""
    shown = [f"{name!r} {count}" for name, count in list(pruned.items())[:SHOWN]]
    more = f" and {len(pruned) - SHOWN} layers more" if len(pruned) > SHOWN else ""
    return (
        f"the masks prune {sum(pruned.values())} weights that are not zero in the network: they "
        f"are stored as zeros, layer {', '.join(shown)}{more}. That is what masks are for, but "
        "where the network was pruned before and computes its weights of pruned ones, as weight "
        "standardisation does, give no masks"
    )


def _complaint(outside: Mapping[str, tuple[int, float]]) -> str:
    parts = [
        f"{name!r} {count} ({share:.1%} of its saliency)"
        for name, (count, share) in list(outside.items())[:SHOWN]
    ]
    more = f" and {len(outside) - SHOWN} layers more" if len(outside) > SHOWN else ""
    total = sum(count for count, _ in outside.values())
    return (
        f"{total} kept weights lie outside the dense blocks: layer {', '.join(parts)}{more}; "
        "regroup or refill the masks, or choose residual='keep' (--residual keep), which stores "
        "them one by one, or 'drop', which leaves them out"
    )
