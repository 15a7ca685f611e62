"""SynFlow: keep the weights that most of the flow from inputs to outputs passes, without data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.func import functional_call

from masktools.checks import check_count
from masktools.errors import MaskError
from masktools.prune.gradients.losses import gradients
from masktools.prune.gradients.preserved import preserved
from masktools.prune.gradients.prunable import (
    GraphOrPath,
    Masks,
    Prunable,
    Scores,
    parameter,
)

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def synflow(
    module: nn.Module,
    shape: Sequence[int],
    density: float,
    *,
    rounds: int = 100,
    masks: Mapping[str, ArrayLike] | None = None,
    empty: str = "refuse",
    graph: GraphOrPath = None,
    skip: Iterable[str] = (),
    include: Iterable[str] = (),
) -> Masks:
    """Keep the weights of a module that carry most of its flow, without any data: SynFlow.

    With all parameters replaced by their magnitudes and an input of ones, R is the sum of the
    outputs, and |w| · ∂R/∂|w| the part of R that passes a weight. All layers compete by it, in
    rounds between which the flow is computed again.

    Parameters
    ----------
    module : torch.nn.Module
        It is left bit for bit as it was. Computed in float64, whatever its dtype.
    shape : sequence of int
        Of one input, without the batch: (channels, height, width).
    density : float
        Kept weights / all weights, of the pruned layers together; above 0, at most 1.
    rounds : int, default 100
        After round k of n, density^(k/n) of the weights are left. What is pruned stays pruned.
    masks, empty, graph, skip, include
        As `snip`. With `masks`, the rounds lead from their density to the one asked for.

    Returns
    -------
    dict of ndarray of bool
        As `snip`.

    Raises
    ------
    TypeError
        If an argument is of another kind.
    MaskError
        As `snip`, or if no flow reaches the outputs, or more than float64 can hold.

    Notes
    -----
    Normalisations (BatchNorm and others, as modules) pass their input on unchanged, parameters
    whose name ends in ``bias`` are zero, and buffers stay as they are. In a chain of
    convolutions, matrices and ReLUs the scores of each layer sum to R, so that no layer is emptied
    while there are weights for all. Beside a branch that passes far more, a shortcut may be: give
    ``empty="report"`` where that may happen. Exactly ⌊density · N + ½⌋ of the N weights are
    kept. Layers that stay dense: see `snip`.

    References
    ----------
    Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic
    flow", NeurIPS 2020.
    """
    check_count("rounds", rounds, 1)
    for size in shape:
        check_count("shape", size, 1)
    layers = Prunable.of(module, graph, skip, include, masks=masks, empty=empty)
    count = layers.count(density)
    start = layers.remaining / layers.total
    with preserved(module), _normalising_nothing(module):
        module.eval()
        for number in range(1, rounds + 1):
            left = start * (density / start) ** (number / rounds)
            # Rounding must not take more than the last round does, nor give back.
            left_count = max(min(int(left * layers.total + 0.5), layers.remaining), count)
            kept = layers.best(flow(module, layers, shape), left_count)
            layers = replace(layers, earlier=kept)
    return layers.finished(layers.earlier)


def flow(module: nn.Module, layers: Prunable, shape: Sequence[int]) -> dict[str, Scores]:
    """Return the part of the flow that passes each weight of the pruned layers, under their masks.

    Parameters
    ----------
    module : torch.nn.Module
        In evaluation mode.
    layers : Prunable
    shape : sequence of int
        Of one input.
    """
    sizes = {
        name: weight.detach().double().abs().requires_grad_()
        for name, weight in layers.masked().items()
    }
    parameters = {
        name: torch.zeros_like(one, dtype=torch.float64)
        if name.endswith("bias")
        else one.detach().double().abs()
        for name, one in module.named_parameters()
    }
    buffers = {
        name: one.detach().to(torch.float64 if one.is_floating_point() else one.dtype, copy=True)
        for name, one in module.named_buffers()
    }
    weights = {parameter(name): size for name, size in sizes.items()}
    device = next(iter(sizes.values())).device
    ones = torch.ones((1, *shape), dtype=torch.float64, device=device)
    outputs = functional_call(module, {**parameters, **buffers, **weights}, (ones,))
    if not isinstance(outputs, Tensor):
        raise TypeError(f"SynFlow needs a module of one output, got {type(outputs).__name__}")
    total = outputs.sum()
    amount = float(total.detach())
    if not math.isfinite(amount) or amount == 0:
        raise MaskError(
            f"the flow from inputs to outputs is {amount}: no mask can be made of it; look "
            "for a layer that is all zero, or ask for a larger density"
        )
    slopes = gradients(total, sizes)
    return {name: (size * slopes[name]).detach().cpu().numpy() for name, size in sizes.items()}


@contextmanager
def _normalising_nothing(module: nn.Module) -> Iterator[None]:
    """Let every normalisation pass its input on."""
    before = {
        part: vars(part).get("forward") for part in module.modules() if isinstance(part, _NORMS)
    }
    for part in before:
        part.forward = _same  # type: ignore[method-assign]
    try:
        yield
    finally:
        for part, forward in before.items():
            del part.forward
            if forward is not None:
                part.forward = forward  # type: ignore[method-assign]


def _same(x: Tensor) -> Tensor:
    return x
