"""Train a module for a source of masks: batches, an optimiser, one epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from masktools.errors import MaskError
from masktools.prune.gradients.losses import checked, samples

Optimizer = Callable[[list[Any]], torch.optim.Optimizer]


def check_batches(batches: object) -> None:
    """Raise unless batches can be gone through again and again: an iterator ends after once."""
    if not isinstance(batches, Iterable):
        raise TypeError(
            f"batches must hold pairs of inputs and targets, got {type(batches).__name__}"
        )
    if isinstance(batches, Iterator):
        raise TypeError(
            "batches can be gone through only once, but there is an epoch after the first: give a "
            "list or a DataLoader"
        )


def train_epoch(
    batches: Iterable[tuple[Any, Any]],
    module: nn.Module,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    optimizers: Iterable[torch.optim.Optimizer],
) -> None:
    """Take one step of the optimisers on each batch, on a loss of (inputs, targets).

    Raises
    ------
    TypeError, MaskError
        If there is no batch, or one is no pair of inputs and targets, or the loss is not finite.
    """
    number = 0
    for number, batch in enumerate(batches, 1):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TypeError(f"batch {number}: expected a pair of inputs and targets")
        try:
            value = checked(loss_of(*samples(module, *batch)))
        except MaskError as error:
            raise MaskError(f"batch {number}: {error}") from error
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
    if not number:
        raise MaskError("there are no batches")
