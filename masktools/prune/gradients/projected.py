"""ADMM: train towards weights that are mostly zero, then keep the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from masktools.checks import BoolArray, check_count
from masktools.errors import MaskError
from masktools.prune.counts import ACROSS, counts, largest
from masktools.prune.gradients.losses import Loss, checked, cross_entropy
from masktools.prune.gradients.preserved import preserved
from masktools.prune.gradients.prunable import (
    GraphOrPath,
    Masks,
    Prunable,
    check_finite,
    on_device,
)
from masktools.prune.gradients.training import Optimizer, check_batches, train_epoch

_STRONGEST = 1e-1


def admm(
    module: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    density: float,
    *,
    across: str = "global",
    steps: int = 20,
    epochs: int = 1,
    penalty: float = 1e-4,
    optimizer: Optimizer | None = None,
    loss: Loss = cross_entropy,
    seed: int = 0,
    masks: Mapping[str, ArrayLike] | None = None,
    empty: str = "refuse",
    graph: GraphOrPath = None,
    skip: Iterable[str] = (),
    include: Iterable[str] = (),
) -> Masks:
    """Train a module towards its own pruned form, and keep the weights of that form: ADMM.

    Each layer keeps a fixed number of weights. In each outer step the module is trained with a
    pull on its weights towards the nearest that have no more than that number; in the end the
    largest are kept.

    Parameters
    ----------
    module : torch.nn.Module
        Trained. What is trained here is given up again: it is left bit for bit as it was.
    batches : iterable of (inputs, targets)
        One epoch; gone through anew in each, so no iterator. Each as `snip` takes them.
    density : float
        Kept weights / all weights, of the pruned layers together; above 0, at most 1.
    across : {"global", "uniform", "erk", "lamp"}
        How many weights each layer keeps, of the trained module: see
        `masktools.prune.magnitude`.
    steps : int, default 20
        Outer steps.
    epochs : int, default 1
        In each of them.
    penalty : float, default 1e-4
        How strong the pull is at first; ten times as strong after each quarter of the steps, up
        to 0.1.
    optimizer : callable, default SGD of rate 0.01, momentum 0.9 and weight decay 1e-4
        Of a list of parameters; called once.
    loss : callable, default mean cross-entropy
        Of (outputs, targets), a tensor of one number.
    seed : int, default 0
        Of PyTorch's random numbers: dropout, and loaders that shuffle.
    masks : mapping of str to array_like of bool, default None
        Of an earlier round, at least of the pruned layers: what they prune is held at zero, and
        never kept.
    empty, graph, skip, include
        As `snip`.

    Returns
    -------
    dict of ndarray of bool
        As `snip`.

    Raises
    ------
    TypeError
        If an argument is of another kind, or `batches` is an iterator.
    MaskError
        As `snip`, or if there are no batches.

    Notes
    -----
    For the weights W of a layer, Z its pruned form, U the sum of their differences, and Π(V) the
    largest of V in their places and zeros elsewhere: train on the loss + (r/2)‖W - Z + U‖², then
    Z ← Π(W + U) and U ← U + W - Z, from Z = Π(W) and U = 0. The masks are the support of Π(W) at
    the end. U is the dual variable divided by r, the strength of the pull, so where r grows
    tenfold U is divided by ten.
    Training is in training mode. Layers that stay dense: see `snip`.

    References
    ----------
    Zhang et al., "A systematic DNN weight pruning framework using alternating direction method of
    multipliers", ECCV 2018.
    """
    check_batches(batches)
    for name, number in (("steps", steps), ("epochs", epochs)):
        check_count(name, number, 1)
    if not 0 <= penalty <= _STRONGEST:
        raise MaskError(f"penalty must be from 0 to {_STRONGEST}, got {penalty}")
    if across not in ACROSS:
        raise MaskError(f"across must be one of {', '.join(ACROSS)}, got {across!r}")
    layers = Prunable.of(module, graph, skip, include, masks=masks, empty=empty)
    count = layers.count(density)
    with preserved(module, seed):
        module.train()
        layers.hold()
        pull = Splitting(layers, layer_counts(layers, count, across))
        layers.finished(pull.masks())  # before anything is trained
        for weight in layers.weights.values():
            weight.requires_grad_(True)
        sgd = (optimizer or _sgd)([p for p in module.parameters() if p.requires_grad])
        sgd.register_step_post_hook(lambda *_: layers.hold())
        for step in range(steps):
            pull.strengthen(min(penalty * 10.0 ** (4 * step // steps), _STRONGEST))
            for _ in range(epochs):
                train_epoch(
                    batches,
                    module,
                    lambda x, y: checked(loss(module(x), y)) + pull.penalty(),
                    [sgd],
                )
            pull.update()
        kept = pull.masks()
    return layers.finished(kept)


class Splitting:
    """Weights W, their pruned forms Z, and the sums U of their differences, by layer.

    Parameters
    ----------
    layers : Prunable
        Its weights are read as they are trained, and never changed.
    kept : mapping of str to int
        How many weights of each layer Z keeps.
    """

    def __init__(self, layers: Prunable, kept: Mapping[str, int]) -> None:
        self._layers, self._kept = layers, kept
        self.strength = 0.0
        self.pruned = {name: self._project(name, w) for name, w in layers.weights.items()}
        self.sums = {name: torch.zeros_like(w) for name, w in layers.weights.items()}

    def penalty(self) -> Tensor:
        """Return half the strength times the square of W - Z + U, over all layers."""
        squares = [
            (weight - self.pruned[name] + self.sums[name]).square().sum()
            for name, weight in self._layers.weights.items()
        ]
        return self.strength / 2 * torch.stack(squares).sum()

    def strengthen(self, strength: float) -> None:
        """Set the strength of the pull; what U stands for, the strength times U, stays."""
        if self.strength and strength != self.strength:
            for one in self.sums.values():
                one.mul_(self.strength / strength)
        self.strength = strength

    def update(self) -> None:
        """Set Z to the pruned form of W + U, then add W - Z to U."""
        with torch.no_grad():
            for name, weight in self._layers.weights.items():
                self.pruned[name] = self._project(name, weight + self.sums[name])
                self.sums[name].add_(weight - self.pruned[name])

    def masks(self) -> Masks:
        """Return the places of the weights that the pruned form of W keeps."""
        return {name: self._support(name, w) for name, w in self._layers.weights.items()}

    def _support(self, name: str, values: Tensor) -> BoolArray:
        earlier = self._layers.earlier[name]
        sizes = values.detach().double().abs().cpu().numpy()
        check_finite(name, sizes, None, "weights in training")
        mask = earlier.copy()
        mask[earlier] = largest(sizes[earlier], self._kept[name])
        return mask

    def _project(self, name: str, values: Tensor) -> Tensor:
        """Return the nearest to some values that has no more weights than the layer keeps."""
        return values.detach() * on_device(self._support(name, values), values)


def layer_counts(layers: Prunable, count: int, across: str) -> dict[str, int]:
    """Return how many weights each layer keeps when the largest stay, of those that are left."""
    scores = [
        weight.detach().double().abs().cpu().numpy()[layers.earlier[name]]
        for name, weight in layers.weights.items()
    ]
    sizes = [layers.shapes[name] for name in layers.weights]
    if across in ("uniform", "erk") and layers.remaining < layers.total:
        raise MaskError(
            f"across={across!r} gives layers numbers that earlier masks may not leave them: give "
            "'global' or 'lamp'"
        )
    return dict(zip(layers.weights, counts(scores, sizes, count, across), strict=True))


def _sgd(parameters: list[Any]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-4)
