"""Channel pruning in one go: the baselines that structured tickets are compared with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from masktools.checks import BoolArray, check_count
from masktools.errors import MaskError
from masktools.prune.counts import largest
from masktools.prune.gradients.channel_criteria import channel_scores
from masktools.prune.gradients.losses import Loss, as_inputs, cross_entropy
from masktools.prune.gradients.preserved import preserved
from masktools.prune.gradients.prunable import (
    GraphOrPath,
    Masks,
    Prunable,
    check_finite,
    layers_of,
)

# How each criterion's authors share the rows among the layers.
CRITERIA = {"l1": "uniform", "gamma": "global", "molchanov": "global", "random": "uniform"}
ACROSS = ("global", "uniform")

RowScores = Mapping[str, NDArray[np.float64]]


def channels(
    module: nn.Module,
    density: float,
    *,
    criterion: str = "l1",
    inputs: Any = None,  # noqa: ANN401 - a tensor or what NumPy takes for an array
    targets: Any = None,  # noqa: ANN401
    across: str | None = None,
    seed: int = 0,
    loss: Loss = cross_entropy,
    empty: str = "refuse",
    graph: GraphOrPath = None,
    skip: Iterable[str] = (),
    include: Iterable[str] = (),
) -> Masks:
    """Keep the best output channels of a module whole, and no others: channel pruning in one go.

    Parameters
    ----------
    module : torch.nn.Module
        Trained. It is left bit for bit as it was.
    density : float
        Kept weights / all weights, of the pruned layers together; above 0, at most 1.
    criterion : {"l1", "gamma", "molchanov", "random"}
        What makes a channel good: the l1 norm of its weights; the magnitude of its factor in the
        BatchNorm that reads it, for modules trained with an l1 penalty on these (network
        slimming); (Σ w · ∂L/∂w)² over its weights; or nothing, it is drawn.
    inputs : Tensor or array_like, shape (samples, ...), default None
        A batch: needed for ``"gamma"``, to see which BatchNorm reads a layer, and for
        ``"molchanov"``.
    targets : Tensor or array_like of int, shape (samples,), default None
        What `loss` takes; needed for ``"molchanov"``.
    across : {"global", "uniform"}, default None
        ``"global"``: the channels of all layers compete, and the best stay as long as their
        weights fit the density. ``"uniform"``: each layer keeps the same share of its channels,
        ⌊density · channels + ½⌋. None takes what the criterion's authors do: global for
        ``"gamma"`` and ``"molchanov"``, uniform for the others.
    seed : int, default 0
        Of ``"random"``.
    loss : callable, default mean cross-entropy
        Of (outputs, targets), for ``"molchanov"``.
    empty, graph, skip, include
        As `snip`.

    Returns
    -------
    dict of ndarray of bool
        As `snip`; each row of a pruned layer is all True or all False.

    Raises
    ------
    TypeError
        If an argument is of another kind, or inputs or targets are missing.
    MaskError
        As `snip`, or if no BatchNorm reads a layer: naming it.

    Notes
    -----
    Of equal scores those channels stay that come first. The density is met as nearly as whole
    channels can: from below where all compete, within half a channel of each layer otherwise. What
    the next layers read is not pruned with a channel: `masktools.export` takes that out. Layers
    that stay dense: see `snip`.

    References
    ----------
    Li et al., "Pruning filters for efficient ConvNets", ICLR 2017 (l1).
    Liu et al., "Learning efficient convolutional networks through network slimming", ICCV 2017
    (gamma).
    Molchanov et al., "Importance estimation for neural network pruning", CVPR 2019.
    """
    check_count("seed", seed, 0)
    if criterion not in CRITERIA:
        raise MaskError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}")
    how = CRITERIA[criterion] if across is None else across
    if how not in ACROSS:
        raise MaskError(f"across must be one of {', '.join(ACROSS)}, got {across!r}")
    if inputs is None and criterion in ("gamma", "molchanov"):
        raise TypeError(f"criterion {criterion!r} runs the module: give inputs")
    layers = Prunable.of(module, graph, skip, include, empty=empty)
    count = layers.count(density)
    if criterion == "molchanov":
        found = channel_scores(module, inputs, targets, criterion=criterion, loss=loss)
        scores: RowScores = {name: _of(found, name) for name in layers.weights}
    elif criterion == "gamma":
        scores = _gammas(module, layers, inputs)
    elif criterion == "random":
        drawn = np.random.default_rng(seed)
        scores = {name: drawn.random(len(weight)) for name, weight in layers.weights.items()}
    else:
        scores = {
            name: weight.detach().double().abs().flatten(1).sum(1).cpu().numpy()
            for name, weight in layers.weights.items()
        }
    for name, score in scores.items():
        check_finite(name, score, None)
    rows = _best(layers, scores, count) if how == "global" else _share(scores, density)
    if not any(kept.any() for kept in rows.values()):
        raise MaskError(f"density {density} keeps no channel of any layer: ask for a larger one")
    masks = {
        name: np.repeat(kept, math.prod(layers.shapes[name][1:])).reshape(layers.shapes[name])
        for name, kept in rows.items()
    }
    return layers.finished(masks)


def _best(layers: Prunable, scores: RowScores, count: int) -> dict[str, BoolArray]:
    """Return which channels stay: the best of all layers, as long as their weights fit."""
    costs = np.concatenate(
        [
            np.full(len(score), math.prod(layers.shapes[name][1:]), np.int64)
            for name, score in scores.items()
        ]
    )
    together = np.concatenate(list(scores.values()))
    order = np.argsort(-together, kind="stable")
    chosen = np.zeros(len(order), np.bool_)
    chosen[order[np.cumsum(costs[order]) <= count]] = True
    ends = np.cumsum([len(score) for score in scores.values()])
    return dict(zip(scores, np.split(chosen, ends[:-1]), strict=True))


def _share(scores: RowScores, density: float) -> dict[str, BoolArray]:
    """Return which channels stay: of each layer the best, the same share."""
    return {
        name: largest(score, min(math.floor(density * len(score) + 0.5), len(score)))
        for name, score in scores.items()
    }


def _gammas(module: nn.Module, layers: Prunable, inputs: Any) -> RowScores:  # noqa: ANN401
    """Return the magnitudes of the factors of the BatchNorm that reads each layer."""
    made: dict[int, tuple[str, Tensor]] = {}  # the tensors too, so that no other gets their place
    factors: dict[str, NDArray[np.float64]] = {}

    def keep(name: str, output: Tensor) -> None:
        made[id(output)] = name, output

    def read(norm: _BatchNorm, arguments: tuple[Tensor, ...]) -> None:
        name, _ = made.get(id(arguments[0]), (None, None))
        if name in layers.weights and norm.weight is not None:
            factors[str(name)] = norm.weight.detach().double().abs().cpu().numpy()

    handles = [
        part.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
        for name, part in layers_of(module).items()
    ]
    handles += [
        part.register_forward_pre_hook(read)
        for part in module.modules()
        if isinstance(part, _BatchNorm)
    ]
    try:
        with preserved(module), torch.no_grad():
            module.eval()
            module(as_inputs(module, inputs))
    finally:
        for handle in handles:
            handle.remove()
    for name in layers.weights:
        if name not in factors:
            raise MaskError(
                f"layer {name!r}: no BatchNorm with factors reads what it makes: name it in skip, "
                "or take another criterion"
            )
    return {name: factors[name] for name in layers.weights}


def _of(scores: RowScores, name: str) -> NDArray[np.float64]:
    if name not in scores:
        raise MaskError(f"layer {name!r} is not called on the inputs: name it in skip")
    return scores[name]
