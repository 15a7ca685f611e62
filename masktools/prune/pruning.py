"""Prune a network's weights by their magnitude, or at random."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from masktools.checks import BoolArray, check_count
from masktools.errors import MaskError
from masktools.named_layers import NamedLayers
from masktools.network.graph import Graph
from masktools.prune.counts import ACROSS, Scores, counts, largest, number_kept
from masktools.prune.layers import Arrays, check_weights, finite, masks_of, staying_dense

Masks = dict[str, BoolArray]


def magnitude(
    weights: Mapping[str, ArrayLike],
    density: float,
    *,
    across: str = "global",
    graph: Graph | str | os.PathLike[str] | None = None,
    skip: Iterable[str] = (),
    include: Iterable[str] = (),
) -> Masks:
    """Keep the largest weights of a network, and prune the others one by one.

    The classifier, the first layer and depthwise convolutions keep every weight unless named in
    `include`: the layers that `masktools.convert` leaves dense.

    Parameters
    ----------
    weights : mapping of str to array_like of float
        By layer: (out, in / groups, kh, kw), (out, in / groups, k) or (out, in). Not changed.
    density : float
        Kept weights / all weights, of the pruned layers together; above 0, at most 1.
    across : {"global", "uniform", "erk", "lamp"}
        How many weights each layer keeps. ``"global"``: all layers compete by magnitude, and one
        of small weights may lose everything. ``"uniform"``: each has the same density.
        ``"erk"``: Erdős-Rényi-kernel densities, in proportion to (sum of the weight's dimensions)
        / (their product), at most 1; what a full layer cannot take goes to the others.
        ``"lamp"``: all layers compete by LAMP scores, w² / (the sum of v² over w and all larger v
        of its layer); no layer loses everything as long as there is a weight for each.
    graph : Graph or path of an ONNX file, default None
        Says which layers are the first, the classifier and depthwise. Without it, shapes tell
        them as far as they can: a convolution that reads at most three channels stays dense, and
        the last matrix.
    skip, include : iterable of str
        Layers that keep every weight in any case; layers that are pruned in any case.

    Returns
    -------
    dict of ndarray of bool
        A mask of each layer in `weights`, in its shape; all True where the layer stays dense.

    Raises
    ------
    TypeError
        If an argument is of another kind.
    MaskError
        If a density keeps nothing, a weight is not finite, the graph lacks a layer, a name is not
        there, or nothing is to be pruned: naming the layer and the value.
    FormatError, GraphError
        If the file of `graph` cannot be read.

    Notes
    -----
    Exactly ⌊density · N + ½⌋ of the N weights are kept. Of equals those stay that come first, by
    the order of the layers and within a layer; with zeros enough, kept weights may be zero.
    For ``"uniform"`` and ``"erk"`` the layers' shares are rounded so that their sum is this
    number: by less than one weight each.

    With ``"global"`` this is the one-shot magnitude pruning of Chen et al. (ICML 2022), except
    that they prune every convolution: name the first layer and depthwise ones in `include`.

    References
    ----------
    Evci et al., "Rigging the lottery: making all tickets winners", ICML 2020 (ERK).
    Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", ICLR 2021 (LAMP).

    Examples
    --------
    >>> weights = {"a": np.array([[0.9, -0.8], [0.7, 0.6]]), "b": np.array([[0.1, -0.5]])}
    >>> magnitude(weights, 0.5, include=["b"])["a"]
    array([[ True,  True],
           [ True, False]])
    >>> magnitude(weights, 0.5, include=["b"], across="uniform")["b"]
    array([[False,  True]])
    """
    _check_across(across, ACROSS)
    arrays = check_weights(weights)
    reasons = staying_dense(arrays, graph, NamedLayers.of(skip, include))
    pruned = {name: arrays[name] for name, reason in reasons.items() if not reason}
    count = number_kept(density, _total(pruned))
    scores = [finite(name, weight) for name, weight in pruned.items()]
    shapes = [weight.shape for weight in pruned.values()]
    return _masks(arrays, pruned, scores, counts(scores, shapes, count, across))


def random(
    weights: Mapping[str, ArrayLike],
    density: float | None = None,
    *,
    seed: int = 0,
    across: str = "global",
    layerwise_like: Mapping[str, ArrayLike] | None = None,
    graph: Graph | str | os.PathLike[str] | None = None,
    skip: Iterable[str] = (),
    include: Iterable[str] = (),
) -> Masks:
    """Keep weights that are drawn at random: the control of any other way of pruning.

    Parameters
    ----------
    weights : mapping of str to array_like of float
        As `magnitude`; only their shapes count.
    density : float, default None
        As `magnitude`; exactly one of it and `layerwise_like` is given.
    seed : int, default 0
    across : {"global", "uniform", "erk"}
        How many weights each layer keeps. ``"global"``: all weights are drawn from alike. The
        others as in `magnitude`.
    layerwise_like : mapping of str to array_like of bool, default None
        Masks of the pruned layers: each keeps as many weights as there, at other places. That
        tells what a mask's structure is worth apart from the densities of its layers.
    graph, skip, include
        As `magnitude`.

    Returns
    -------
    dict of ndarray of bool
        As `magnitude`; the same for the same shapes, seed and counts.

    Raises
    ------
    TypeError, MaskError, FormatError, GraphError
        As `magnitude`.

    Examples
    --------
    >>> weights = {"a": np.zeros((40, 30)), "head": np.zeros((10, 40))}
    >>> {name: int(mask.sum()) for name, mask in random(weights, 0.25, seed=1).items()}
    {'a': 300, 'head': 400}
    """
    _check_across(across, tuple(law for law in ACROSS if law != "lamp"))
    check_count("seed", seed, 0)
    if (density is None) == (layerwise_like is None):
        raise TypeError("give one of density and layerwise_like")
    arrays = check_weights(weights)
    reasons = staying_dense(arrays, graph, NamedLayers.of(skip, include))
    pruned = {name: arrays[name] for name, reason in reasons.items() if not reason}
    drawn = np.random.default_rng(seed)
    scores = [drawn.random(weight.size) for weight in pruned.values()]
    if layerwise_like is not None:
        like = masks_of("layerwise_like", layerwise_like, {n: w.shape for n, w in pruned.items()})
        kept = [int(np.count_nonzero(mask)) for mask in like.values()]
    else:
        shapes = [weight.shape for weight in pruned.values()]
        kept = counts(scores, shapes, number_kept(density, _total(pruned)), across)
    return _masks(arrays, pruned, scores, kept)


def _check_across(across: str, laws: Sequence[str]) -> None:
    if across not in laws:
        raise MaskError(f"across must be one of {', '.join(laws)}, got {across!r}")


def _total(pruned: Arrays) -> int:
    return sum(weight.size for weight in pruned.values())


def _masks(arrays: Arrays, pruned: Arrays, scores: Sequence[Scores], kept: Sequence[int]) -> Masks:
    """Return the mask of every layer: its best weights where it is pruned, else all of them."""
    masks = {name: np.ones(weight.shape, np.bool_) for name, weight in arrays.items()}
    for name, one, count in zip(pruned, scores, kept, strict=True):
        masks[name] = largest(one, count).reshape(masks[name].shape)
    return masks
