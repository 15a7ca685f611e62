"""GraSP: keep the weights that let the gradient flow on, before any training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from masktools.checks import check_count
from masktools.errors import MaskError
from masktools.prune.gradients.losses import (
    Loss,
    cross_entropy,
    gradients,
    loss_under,
    samples,
    steady,
)
from masktools.prune.gradients.preserved import preserved
from masktools.prune.gradients.prunable import GraphOrPath, Masks, Prunable


def grasp(
    module: nn.Module,
    inputs: Any,  # noqa: ANN401 - a tensor or what NumPy takes for an array
    targets: Any,  # noqa: ANN401
    density: float,
    *,
    batch: int | None = None,
    temperature: float = 200.0,
    loss: Loss = cross_entropy,
    masks: Mapping[str, ArrayLike] | None = None,
    empty: str = "refuse",
    graph: GraphOrPath = None,
    skip: Iterable[str] = (),
    include: Iterable[str] = (),
) -> Masks:
    """Keep the weights of a module without which its gradient would shrink most: GraSP.

    Before any training, on a few samples: ten of each class. All layers compete by w · (H g),
    with its sign, where g is the gradient of the loss and H its Hessian.

    Parameters
    ----------
    module : torch.nn.Module
        As it was initialised. It is left bit for bit as it was.
    inputs, targets
        As `snip`.
    density : float
        Kept weights / all weights, of the pruned layers together; above 0, at most 1.
    batch : int, default None
        How many samples to run at once; None runs all. The gradient is summed over the whole
        before the Hessian is applied, batch after batch. With BatchNorm, batches have statistics
        of their own.
    temperature : float, default 200.0
        What the outputs are divided by before the loss.
    loss : callable, default mean cross-entropy
        Of (outputs, targets), a mean over the samples.
    masks, empty, graph, skip, include
        As `snip`.

    Returns
    -------
    dict of ndarray of bool
        As `snip`.

    Raises
    ------
    TypeError, MaskError
        As `snip`.

    Notes
    -----
    H g is the gradient of ⟨g, ∇L⟩ with g held fast. Both are of the pruned layers alone; the
    authors' code has the classifier among them. Removing the weights of the largest -w · (H g),
    as the paper does, is keeping those of the largest w · (H g); the released code of Chen et al.
    (ICML 2022) takes magnitudes of it, which is another rule. Exactly ⌊density · N + ½⌋ of the N
    weights are kept. BatchNorm works by the statistics of the batch, and dropout is off. Layers
    that stay dense: see `snip`.

    References
    ----------
    Wang et al., "Picking winning tickets before training by preserving gradient flow", ICLR 2020.
    """
    if batch is not None:
        check_count("batch", batch, 1)
    if not temperature > 0:
        raise MaskError(f"temperature must be above 0, got {temperature}")
    layers = Prunable.of(module, graph, skip, include, masks=masks, empty=empty)
    count = layers.count(density)
    with preserved(module):
        steady(module)
        weights = layers.masked()
        whole = samples(module, inputs, targets)
        size = batch or len(whole[0])

        def losses() -> Iterator[Tensor]:
            """Yield each batch's part of the mean loss of all samples."""
            for x, y in zip(*(torch.split(one, size) for one in whole), strict=True):
                part = loss_under(
                    module, weights, (x, y), lambda out, t: loss(out / temperature, t)
                )
                yield part * (len(x) / len(whole[0]))

        scores = {
            name: (weights[name].detach().double() * one.double()).cpu().numpy()
            for name, one in _hessian_times_gradient(losses, weights).items()
        }
    return layers.finished(layers.best(scores, count))


def _hessian_times_gradient(
    losses: Callable[[], Iterator[Tensor]],
    weights: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Return H g of each layer: g of all losses first, then H of one after the other."""
    fixed: dict[str, Tensor] = {}
    for part in losses():
        for name, slope in gradients(part, weights).items():
            fixed[name] = fixed[name] + slope if name in fixed else slope
    total: dict[str, Tensor] = {}
    for part in losses():
        slopes = gradients(part, weights, create_graph=True)
        inner = sum((fixed[name] * slope).sum() for name, slope in slopes.items())
        assert isinstance(inner, Tensor)
        for name, one in gradients(inner, weights).items():
            total[name] = total[name] + one if name in total else one
    return total
