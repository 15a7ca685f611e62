"""Continuous Sparsification: train soft masks beside the weights, and harden them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.func import functional_call

from masktools.checks import check_count
from masktools.errors import MaskError
from masktools.prune.gradients.losses import Loss, checked, cross_entropy
from masktools.prune.gradients.preserved import preserved
from masktools.prune.gradients.prunable import (
    GraphOrPath,
    Masks,
    Prunable,
    check_finite,
    on_device,
    parameter,
)
from masktools.prune.gradients.training import check_batches, train_epoch


def continuous_sparsification(
    module: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    *,
    start: float = 0.0,
    rounds: int = 3,
    epochs: int = 85,
    hardness: float = 200.0,
    penalty: float = 1e-8,
    rate: float = 0.1,
    weight_decay: float = 1e-4,
    loss: Loss = cross_entropy,
    seed: int = 0,
    masks: Mapping[str, ArrayLike] | None = None,
    empty: str = "refuse",
    graph: GraphOrPath = None,
    skip: Iterable[str] = (),
    include: Iterable[str] = (),
) -> Masks:
    """Train a soft mask for every weight together with the weights: Continuous Sparsification.

    Each weight w is multiplied by sigmoid(b · s). Both w and s are trained, while b rises until the
    masks are nearly 0 or 1. There is no density to ask for: `start` steers it.

    Parameters
    ----------
    module : torch.nn.Module
        As it was initialised. What is trained here is given up again: it is left bit for bit as
        it was.
    batches : iterable of (inputs, targets)
        One epoch; gone through anew in each, so no iterator. Each as `snip` takes them.
    start : float, default 0.0
        Of every s. Larger is denser: 0.1 or -0.1, say.
    rounds : int, default 3
    epochs : int, default 85
        In each round.
    hardness : float, default 200.0
        What b rises to in each round, from 1: by the same factor after every epoch.
    penalty : float, default 1e-8
        On the sum of all soft masks, added to the loss.
    rate : float, default 0.1
        The learning rate of w and s, by SGD with Nesterov's momentum of 0.9. A tenth of it after
        56/85 of a round's epochs, a hundredth after 71/85.
    weight_decay : float, default 1e-4
        Of the module's parameters; s has none.
    loss, seed
        As `admm`.
    masks : mapping of str to array_like of bool, default None
        Of an earlier round, at least of the pruned layers: what they prune stays pruned.
    empty, graph, skip, include
        As `snip`.

    Returns
    -------
    dict of ndarray of bool
        As `snip`; a weight is kept where s is above 0 after the last round.

    Raises
    ------
    TypeError
        If an argument is of another kind, or `batches` is an iterator.
    MaskError
        As `snip`, or if there are no batches.

    Notes
    -----
    After each round but the last, s becomes the smaller of `hardness` · s and `start`, and b is 1
    again; the weights are not rewound, the optimisers start afresh. The authors' code multiplies
    the masks by 1 / sigmoid(`start`), which their paper has not, so that the module computes at
    first what it did; here the weights are divided by sigmoid(`start`) once, with the same effect.
    Their tickets are the weights after epoch 2 of the first round, under these masks: keep
    these of your own training. Layers that stay dense: see `snip`.

    References
    ----------
    Savarese et al., "Winning the lottery with continuous sparsification", NeurIPS 2020.
    """
    check_batches(batches)
    for name, number in (("rounds", rounds), ("epochs", epochs)):
        check_count(name, number, 1)
    if not 1 <= hardness < math.inf:
        raise MaskError(f"hardness must be at least 1, got {hardness}")
    if not math.isfinite(start):
        raise MaskError(f"start must be finite, got {start}")
    layers = Prunable.of(module, graph, skip, include, masks=masks, empty=empty)
    with preserved(module, seed):
        module.train()
        for weight in layers.weights.values():
            weight.requires_grad_(True)
        soft = SoftMasks(layers, start)
        trained = [p for p in module.parameters() if p.requires_grad]
        for number in range(rounds):
            if number:
                soft.next_round(hardness)
            optimizers = [
                torch.optim.SGD(
                    parameters, lr=rate, momentum=0.9, nesterov=True, weight_decay=decay
                )
                for parameters, decay in ((trained, weight_decay), (soft.parameters, 0.0))
            ]
            for epoch in range(epochs):
                b = hardness_at(epoch, epochs, hardness)
                for group in (group for one in optimizers for group in one.param_groups):
                    group["lr"] = rate_at(epoch, epochs, rate)

                def loss_of(x: Tensor, y: Tensor, b: float = b) -> Tensor:
                    outputs = functional_call(module, soft.weights(b), (x,))
                    return checked(loss(outputs, y)) + penalty * soft.total(b)

                train_epoch(batches, module, loss_of, optimizers)
        kept = soft.masks()
    return layers.finished(kept)


class SoftMasks:
    """A number s for each weight of the pruned layers, and the soft masks sigmoid(b · s).

    The weights are divided by sigmoid(`start`), in place.

    Parameters
    ----------
    layers : Prunable
    start : float
        Of every s.
    """

    def __init__(self, layers: Prunable, start: float) -> None:
        self._layers, self._start = layers, start
        self.s = {
            name: torch.full_like(weight, start).requires_grad_()
            for name, weight in layers.weights.items()
        }
        self._earlier = {
            name: on_device(mask, layers.weights[name]) for name, mask in layers.earlier.items()
        }
        with torch.no_grad():
            for name, weight in layers.weights.items():
                weight.div_(torch.sigmoid(self.s[name]))

    @property
    def parameters(self) -> list[Tensor]:
        """All s, to be trained."""
        return list(self.s.values())

    def soft(self, b: float) -> dict[str, Tensor]:
        """Return the soft masks, 0 where an earlier mask prunes."""
        return {name: torch.sigmoid(b * s) * self._earlier[name] for name, s in self.s.items()}

    def weights(self, b: float) -> dict[str, Tensor]:
        """Return the weights under the soft masks, by the names of the module's parameters."""
        return {
            parameter(name): mask * self._layers.weights[name]
            for name, mask in self.soft(b).items()
        }

    def total(self, b: float) -> Tensor:
        """Return the sum of all soft masks."""
        return torch.stack([mask.sum() for mask in self.soft(b).values()]).sum()

    def next_round(self, hardness: float) -> None:
        """Set each s to the smaller of `hardness` · s and what it was at first."""
        with torch.no_grad():
            for s in self.s.values():
                s.mul_(hardness).clamp_(max=self._start)

    def masks(self) -> Masks:
        """Return where s is above 0, and no earlier mask prunes."""
        found = {}
        for name, s in self.s.items():
            values = s.detach().double().cpu().numpy()
            check_finite(name, values, None, "soft masks")
            kept: np.ndarray[Any, np.dtype[np.bool_]] = (values > 0) & self._layers.earlier[name]
            found[name] = kept
        return found


def hardness_at(epoch: int, epochs: int, hardness: float) -> float:
    """Return b in an epoch: from 1 in the first to `hardness` in the last.

    Examples
    --------
    >>> [round(hardness_at(epoch, 3, 100.0)) for epoch in range(3)]
    [1, 10, 100]
    """
    return math.pow(hardness, epoch / max(epochs - 1, 1))


def rate_at(epoch: int, epochs: int, rate: float) -> float:
    """Return the learning rate in an epoch: a tenth after 56/85 of them, and again after 71/85.

    Examples
    --------
    >>> [rate_at(epoch, 85, 1.0) for epoch in (55, 56, 70, 71)]
    [1.0, 0.1, 0.1, 0.01]
    """
    falls = (85 * epoch >= 56 * epochs) + (85 * epoch >= 71 * epochs)
    return rate / (1, 10, 100)[falls]
