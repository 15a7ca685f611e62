"""A loss, and the samples that it is taken on, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from masktools.errors import MaskError
from masktools.prune.gradients.prunable import parameter

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits; raise `MaskError` where classes are out of range.

    Parameters
    ----------
    outputs : Tensor of float, shape (N, classes, ...)
    targets : Tensor of int64, shape (N, ...)
    """
    if not isinstance(outputs, Tensor) or outputs.ndim < 2:
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise MaskError(
            f"cross-entropy needs outputs of shape (samples, classes), got {shape}: give loss="
        )
    if targets.is_floating_point() or targets.dtype == torch.bool:
        raise TypeError(f"cross-entropy needs classes as integers, got {targets.dtype}: give loss=")
    wanted = (outputs.shape[0], *outputs.shape[2:])
    if tuple(targets.shape) != wanted:
        raise MaskError(f"expected targets of shape {wanted}, got {tuple(targets.shape)}")
    least, most, classes = int(targets.min()), int(targets.max()), outputs.shape[1]
    if least < 0 or most >= classes:
        wrong = least if least < 0 else most
        raise MaskError(f"targets must be classes from 0 to {classes - 1}, got {wrong}")
    return functional.cross_entropy(outputs, targets.long())


def samples(
    module: nn.Module,
    inputs: Any,  # noqa: ANN401 - a tensor or what NumPy takes for an array
    targets: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor]:
    """Return inputs and targets as tensors where the module is; floats in its dtype.

    Raises
    ------
    MaskError
        If there are none, or not equally many.
    """
    x, y = as_inputs(module, inputs), torch.as_tensor(targets)
    if y.ndim == 0 or len(x) != len(y):
        raise MaskError(f"there are {len(x)} inputs, but targets of shape {tuple(y.shape)}")
    return x, y.to(x.device)


def as_inputs(module: nn.Module, inputs: Any) -> Tensor:  # noqa: ANN401
    """Return inputs as a tensor where the module is; floats in its dtype."""
    x = torch.as_tensor(inputs)
    if x.ndim == 0 or len(x) == 0:
        raise MaskError(f"there are no inputs: their shape is {tuple(x.shape)}")
    example = next(p for p in module.parameters() if p.is_floating_point())
    return x.to(example.device, example.dtype if x.is_floating_point() else x.dtype)


def loss_under(
    module: nn.Module, weights: Mapping[str, Tensor], batch: tuple[Tensor, Tensor], loss: Loss
) -> Tensor:
    """Return the loss of a batch with the weights of some layers replaced.

    Raises
    ------
    MaskError
        If it is not finite.
    """
    named = {parameter(name): weight for name, weight in weights.items()}
    return checked(loss(functional_call(module, named, (batch[0],)), batch[1]))


def checked(value: Tensor) -> Tensor:
    """Return a loss; raise unless it is one finite number."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"the loss must be a tensor of one number, got {shape}")
    if not bool(torch.isfinite(value).all()):
        raise MaskError(
            f"the loss is {value.item()}: look for inputs, weights or statistics that are not "
            "finite, or for a learning rate too large"
        )
    return value.reshape(())


def gradients(
    value: Tensor, weights: Mapping[str, Tensor], *, create_graph: bool = False
) -> dict[str, Tensor]:
    """Return the gradient of a number in the weights of each layer.

    Raises
    ------
    MaskError
        Naming a layer that it does not depend on.
    """
    if not value.requires_grad:
        raise MaskError("the loss depends on none of the weights: compute it of the outputs")
    found: Sequence[Tensor | None] = torch.autograd.grad(
        value, list(weights.values()), create_graph=create_graph, allow_unused=True
    )
    result = {}
    for name, gradient in zip(weights, found, strict=True):
        if gradient is None:
            raise MaskError(
                f"layer {name!r}: the outputs do not depend on its weights; name it in skip"
            )
        result[name] = gradient
    return result


def steady(module: nn.Module) -> None:
    """Let BatchNorm work by the statistics of the batch, and dropout by nothing."""
    module.train()
    for part in module.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            part.eval()
