"""Scores of channels that need data: by what layers make on a batch, and by gradients of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.func import functional_call

from masktools.checks import listed
from masktools.errors import MaskError
from masktools.prune.gradients.losses import (
    Loss,
    as_inputs,
    cross_entropy,
    loss_under,
    samples,
)
from masktools.prune.gradients.preserved import preserved
from masktools.prune.gradients.prunable import check_finite, layers_of, on_device, parameter
from masktools.prune.layers import masks_of

CRITERIA = ("feature-l1", "feature-l2", "first-order", "molchanov")

Rows = dict[str, NDArray[np.float64]]


def channel_scores(
    module: nn.Module,
    inputs: Any,  # noqa: ANN401 - a tensor or what NumPy takes for an array
    targets: Any = None,  # noqa: ANN401
    *,
    criterion: str = "feature-l1",
    masks: Mapping[str, ArrayLike] | None = None,
    loss: Loss = cross_entropy,
) -> Rows:
    """Score the output channels of each layer on a batch, as `masktools.refill` takes scores.

    Parameters
    ----------
    module : torch.nn.Module
        Trained. It is left bit for bit as it was.
    inputs : Tensor or array_like, shape (samples, ...)
        One batch, taken to the module's device, floats in its dtype.
    targets : Tensor or array_like of int, shape (samples,), default None
        What `loss` takes; needed for the criteria that have a gradient.
    criterion : {"feature-l1", "feature-l2", "first-order", "molchanov"}
        With z what a layer makes, before BatchNorm: Σ |z|; (Σ z²)^½; Σ |z · ∂L/∂z|, over all
        samples and pixels of a channel; or (Σ w · ∂L/∂w)² over the weights of its row.
    masks : mapping of str to array_like of bool, default None
        Under which the module computes; layers without one are whole.
    loss : callable, default mean cross-entropy
        Of (outputs, targets), a tensor of one number.

    Returns
    -------
    dict of ndarray of float64, shape (rows,)
        Of each convolution (of one or two dimensions) and each matrix that the module calls:
        ``masktools.convert(..., method="refill", criterion=criterion, scores=...)`` takes it.

    Raises
    ------
    TypeError
        If an argument is of another kind, or targets are missing.
    MaskError
        If targets are out of range, the loss or a score is not finite, or a mask does not fit:
        naming the layer.

    Notes
    -----
    The module is in evaluation mode: BatchNorm works by its running statistics. What
    a layer makes counts for each time that it is called. Appendix A8 of Chen et al. (ICML 2022)
    compares the first three; ``"first-order"`` is what they sum, while the paper that they cite has
    ``"molchanov"``. Their released code scores every layer by the map of the first.

    References
    ----------
    Molchanov et al., "Importance estimation for neural network pruning", CVPR 2019.
    """
    if criterion not in CRITERIA:
        raise MaskError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}")
    if targets is None and criterion in ("first-order", "molchanov"):
        raise TypeError(f"criterion {criterion!r} has a gradient of the loss: give targets")
    found = layers_of(module)
    with preserved(module):
        module.eval()
        weights = _masked(found, masks)
        if criterion.startswith("feature"):
            scores = _of_features(module, found, weights, as_inputs(module, inputs), criterion)
        elif criterion == "first-order":
            maps = maps_and_slopes(module, weights, samples(module, inputs, targets), loss)
            scores = {name: _sum([z * dz for z, dz in pairs]) for name, pairs in maps.items()}
        else:
            scores = _of_weights(module, weights, samples(module, inputs, targets), loss)
    rows = {name: score.cpu().numpy() for name, score in scores.items()}
    for name, score in rows.items():
        check_finite(name, score, None)
    return rows


def maps_and_slopes(
    module: nn.Module, weights: Mapping[str, Tensor], batch: tuple[Tensor, Tensor], loss: Loss
) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Return what each layer makes and the loss's gradient in it, channels first, call by call.

    Parameters
    ----------
    module : torch.nn.Module
    weights : mapping of str to Tensor
        Of the layers to watch, as they are to compute.
    batch : tuple of Tensor
        Inputs and targets.
    loss : callable
    """
    made: dict[str, list[Tensor]] = {name: [] for name in weights}

    def keep(name: str, output: Tensor) -> Tensor:
        output = output if output.requires_grad else output.detach().requires_grad_()
        made[name].append(output)
        return output.clone()  # what comes next may overwrite it

    with _watched(layers_of(module), keep):
        value = loss_under(module, weights, batch, loss)
    outputs = [(name, z) for name, calls in made.items() for z in calls]
    slopes = torch.autograd.grad(value, [z for _, z in outputs], materialize_grads=True)
    found: dict[str, list[tuple[Tensor, Tensor]]] = {n: [] for n, calls in made.items() if calls}
    for (name, z), slope in zip(outputs, slopes, strict=True):
        part = layers_of(module)[name]
        found[name].append((_by_channel(part, z.detach()), _by_channel(part, slope)))
    return found


def _of_features(
    module: nn.Module,
    found: Mapping[str, nn.Module],
    weights: Mapping[str, Tensor],
    x: Tensor,
    criterion: str,
) -> dict[str, Tensor]:
    sums: dict[str, Tensor] = {}

    def add(name: str, output: Tensor) -> None:
        z = _by_channel(found[name], output).detach().double()
        one = (z.abs() if criterion == "feature-l1" else z.square()).sum(1)
        sums[name] = sums[name] + one if name in sums else one

    with torch.no_grad(), _watched(found, add):
        functional_call(module, {parameter(name): w for name, w in weights.items()}, (x,))
    return {name: sums[name].sqrt() if criterion == "feature-l2" else sums[name] for name in sums}


def _of_weights(
    module: nn.Module, weights: Mapping[str, Tensor], batch: tuple[Tensor, Tensor], loss: Loss
) -> dict[str, Tensor]:
    called: set[str] = set()
    with _watched(layers_of(module), lambda name, _: called.add(name)):
        value = loss_under(module, weights, batch, loss)
    used = [name for name in weights if name in called]
    slopes = torch.autograd.grad(value, [weights[name] for name in used], materialize_grads=True)
    return {
        name: (weights[name].detach().double() * slope.double()).flatten(1).sum(1).square()
        for name, slope in zip(used, slopes, strict=True)
    }


def _masked(found: Mapping[str, Any], masks: Mapping[str, ArrayLike] | None) -> dict[str, Tensor]:
    """Return the weights of all layers under the masks of some; leaves."""
    given = {} if masks is None else masks
    for name in given:
        if name not in found:
            raise MaskError(f"masks: there is no layer {name!r}; {listed(found)}")
    keep = masks_of("masks", given, {name: tuple(found[name].weight.shape) for name in given})
    weights = {}
    for name, part in found.items():
        weight = part.weight.detach().clone()
        if name in keep:
            weight *= on_device(keep[name], weight)
        weights[name] = weight.requires_grad_()
    return weights


def _by_channel(part: nn.Module, z: Tensor) -> Tensor:
    """Return what a layer makes as (channels, values of each)."""
    axis = z.ndim - 1 if isinstance(part, nn.Linear) else 1
    return z.movedim(axis, 0).flatten(1)


def _sum(products: list[Tensor]) -> Tensor:
    return torch.stack([one.double().abs().sum(1) for one in products]).sum(0)


@contextmanager
def _watched(
    found: Mapping[str, nn.Module], seen: Callable[[str, Tensor], Tensor | None]
) -> Iterator[None]:
    """Call a function of (layer, output) whenever a layer is called; what it returns goes on."""
    handles = [
        part.register_forward_hook(lambda _, __, output, name=name: seen(name, output))
        for name, part in found.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
