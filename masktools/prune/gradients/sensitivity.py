"""SNIP: keep the weights that the loss is most sensitive to, before any training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from numpy.typing import ArrayLike
from torch import nn

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


def snip(
    module: nn.Module,
    inputs: Any,  # noqa: ANN401 - a tensor or what NumPy takes for an array
    targets: Any,  # noqa: ANN401
    density: float,
    *,
    loss: Loss = cross_entropy,
    masks: Mapping[str, ArrayLike] | None = None,
    empty: str = "refuse",
    graph: GraphOrPath = None,
    skip: Iterable[str] = (),
    include: Iterable[str] = (),
) -> Masks:
    """Keep the weights of a module whose loss would change most without them: SNIP.

    Of one batch, before any training. All layers compete by |w · ∂L/∂w|.

    Parameters
    ----------
    module : torch.nn.Module
        As it was initialised. It is left bit for bit as it was: weights, gradients, buffers,
        modes, and PyTorch's random state.
    inputs : Tensor or array_like, shape (samples, ...)
        One batch, taken to the module's device, floats in its dtype.
    targets : Tensor or array_like of int, shape (samples,)
        What `loss` takes; of the default, classes.
    density : float
        Kept weights / all weights, of the pruned layers together; above 0, at most 1.
    loss : callable, default mean cross-entropy
        Of (outputs, targets), a tensor of one number.
    masks : mapping of str to array_like of bool, default None
        Of an earlier round, at least of the pruned layers: what they prune stays pruned, and is
        zero in the module that is scored.
    empty : {"refuse", "report"}
        What becomes of a layer that loses every weight: an error that names it, or a warning in
        the log.
    graph, skip, include
        Which layers are pruned, as `masktools.prune.magnitude`.

    Returns
    -------
    dict of ndarray of bool
        A mask of each convolution (of one or two dimensions) and each matrix of the module; all
        True where the layer stays dense. Layers that share a weight have one, under the first
        name. Transposed and three-dimensional convolutions have none.

    Raises
    ------
    TypeError
        If an argument is of another kind.
    MaskError
        If the density keeps nothing, targets are out of range, the loss or a score is not finite,
        a layer loses everything or takes no part in the outputs, or there is none to prune.

    Notes
    -----
    |w · ∂L/∂w| is |∂L/∂c| at c = 1 of a gate c that multiplies w. Exactly ⌊density · N + ½⌋ of
    the N weights are kept; of equal scores those stay that come first. BatchNorm works by the
    statistics of the batch, and dropout is off. The paper of Chen et al. (ICML 2022) prunes every
    convolution, and matrices never: name the first layer and depthwise convolutions in `include`,
    and inner matrices in `skip`, to do the same.

    References
    ----------
    Lee et al., "SNIP: single-shot network pruning based on connection sensitivity", ICLR 2019.
    """
    layers = Prunable.of(module, graph, skip, include, masks=masks, empty=empty)
    count = layers.count(density)
    with preserved(module):
        steady(module)
        batch = samples(module, inputs, targets)
        weights = layers.masked()
        slopes = gradients(loss_under(module, weights, batch, loss), weights)
        scores = {
            name: (weight.detach().double() * slopes[name].double()).abs().cpu().numpy()
            for name, weight in weights.items()
        }
    return layers.finished(layers.best(scores, count))
