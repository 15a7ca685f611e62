"""Sources of masks for `find_ticket`: the largest weights that are left, or some at random.

A source is any callable ``source(state, masks, density, seed)`` that returns a mask for each layer
in `masks`: ``floor(density * N + 0.5)`` of their N weights are kept. `state` has every parameter
and buffer; both arguments are copies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from masktools.errors import MaskError, TicketError
from masktools.prune.counts import Scores, largest, number_kept
from masktools.prune.layers import finite
from masktools.shares import in_proportion, rounded
from masktools.tickets.states import Masks, State, kept

Source = Callable[[State, Masks, float, int], Mapping[str, ArrayLike]]
ACROSS = ("global", "uniform")


def magnitude(across: str = "global") -> Source:
    """Keep the largest of the weights that the masks still keep.

    In `find_ticket` this is iterative magnitude pruning; with ``prune_from="dense"`` it is the
    one-shot form.

    Parameters
    ----------
    across : {"global", "uniform"}
        All layers compete; or each loses the same share of what it still keeps.

    Returns
    -------
    callable
        A source. Of equals those stay that come first. Weights that are pruned stay pruned.

    Examples
    --------
    >>> state = {"a.weight": np.array([[4.0, -3, 0, 1]]), "b.weight": np.array([[9.0, 8, 7, 6]])}
    >>> masks = {"a": np.array([[True, True, False, True]]), "b": np.ones((1, 4), bool)}
    >>> for across in ("global", "uniform"):
    ...     found = magnitude(across)(state, masks, 0.5, 0)
    ...     print(found["a"].astype(int), found["b"].astype(int))
    [[0 0 0 0]] [[1 1 1 1]]
    [[1 1 0 0]] [[1 1 0 0]]
    """
    _check(across)

    def source(state: State, masks: Masks, density: float, seed: int) -> Masks:
        scores = [finite(layer, state[f"{layer}.weight"]) for layer in masks]
        return _best(scores, masks, density, across)

    return source


def random(across: str = "global") -> Source:
    """Keep weights that are drawn at random from those that the masks still keep: a control.

    Parameters
    ----------
    across : {"global", "uniform"}
        As `magnitude`.

    Examples
    --------
    >>> masks = {"a": np.ones((20, 30), bool)}
    >>> int(random()({}, masks, 0.25, seed=1)["a"].sum())
    150
    """
    _check(across)

    def source(state: State, masks: Masks, density: float, seed: int) -> Masks:
        drawn = np.random.default_rng(seed)
        scores: list[Scores] = [drawn.random(mask.size) for mask in masks.values()]
        return _best(scores, masks, density, across)

    return source


def _check(across: str) -> None:
    if across not in ACROSS:
        raise MaskError(f"across must be one of {', '.join(ACROSS)}, got {across!r}")


def _best(scores: list[Scores], masks: Masks, density: float, across: str) -> Masks:
    """Keep the largest scores where the masks keep; pruned weights rank below all others."""
    count = number_kept(density, sum(mask.size for mask in masks.values()))
    left = [int(np.count_nonzero(mask)) for mask in masks.values()]
    if count > sum(left):
        fullest = max(masks, key=lambda layer: masks[layer].size - np.count_nonzero(masks[layer]))
        raise TicketError(
            f"density {density:.4g} is {count} weights, and the masks keep {kept(masks)}: pruned "
            f"weights do not come back; layer {fullest!r} has lost most"
        )
    ranked = [
        np.where(mask.reshape(-1), score, -1)
        for score, mask in zip(scores, masks.values(), strict=True)
    ]
    ends = np.cumsum([len(one) for one in ranked])[:-1]
    if across == "global":
        chosen = np.split(largest(np.concatenate(ranked), count), ends)
    else:
        shares = rounded(in_proportion(left, left, count))
        chosen = [largest(one, share) for one, share in zip(ranked, shares, strict=True)]
    return {
        layer: one.reshape(mask.shape)
        for (layer, mask), one in zip(masks.items(), chosen, strict=True)
    }
