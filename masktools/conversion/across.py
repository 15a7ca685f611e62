"""How the layers of a network share one budget: five laws, one of which is the default."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.checks import BoolArray
from masktools.partition.budget import by_gain_per_cost, choose
from masktools.shares import erk, in_proportion

ACROSS = ("log-share", "share", "absolute", "erk", "own")

Gains = NDArray[np.floating[Any]]
Costs = NDArray[np.integer[Any]]

# The gain of what a layer must not go without: before all that is gained by anything else, and
# finite, so that the cheapest comes first where the budget is too small for one of each layer.
_FIRST = float(np.finfo(np.float64).max)


@dataclass(frozen=True, eq=False)
class Offer:
    """The candidates of one layer, with their gains and costs, and how its density is counted.

    Parameters
    ----------
    gain : ndarray of float, shape (n,)
        Saliency that each candidate retains, not negative.
    cost : ndarray of int, shape (n,)
        What each candidate takes of the budget.
    shape : tuple of int
        The weight's own shape.
    own : int
        What the weights cost that the layer's mask keeps.
    """

    gain: Gains = field(repr=False)
    cost: Costs = field(repr=False)
    shape: tuple[int, ...]
    own: int


def spend(offers: Sequence[Offer], budget: int | None, across: str) -> list[BoolArray]:
    """Choose among the candidates of all layers within one budget.

    Parameters
    ----------
    offers : sequence of Offer
        A layer each.
    budget : int or None
        What all chosen candidates may cost together. None leaves each layer what its own mask
        costs, whatever `across` says.
    across : {"log-share", "share", "absolute", "erk", "own"}
        How the layers share it; see Notes.

    Returns
    -------
    list of ndarray of bool
        Per layer, whether each candidate is chosen. Equals are chosen in the order of the layers,
        then of their candidates; what gains nothing is never chosen.

    Notes
    -----
    The first three rank the candidates of all layers together, by gain per cost:

    - ``absolute``: the gains as they are. Σ_l A_l is largest, A_l the saliency that layer l
      retains; a layer of small weights may lose everything.
    - ``share``: each layer's gains divided by the layer's total. Σ_l R_l is largest, R_l the
      share of its saliency that layer l retains; a layer may still lose everything.
    - ``log-share``: Σ_l log R_l. No layer loses everything as long as the budget pays for one
      candidate in each: to lose the last one would cost without end. See `log_shares`.

    The other two settle the density of each layer first, and then choose within the layer:

    - ``erk``: in proportion to (sum of the weight's dimensions) / (their product), the
      Erdős-Rényi-kernel densities of Evci et al.
    - ``own``: in proportion to the density of the layer's mask.

    Both are scaled so that the whole costs the budget. No layer gets more than all of its
    candidates that gain anything cost; what it cannot use goes to the others.

    References
    ----------
    Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", ICLR 2021 (LAMP).
    Evci et al., "Rigging the lottery: making all tickets winners", ICML 2020.
    """
    if budget is None or across in ("erk", "own"):
        budgets = [o.own for o in offers] if budget is None else _budgets(offers, budget, across)
        return [choose(o.gain, o.cost, most) for o, most in zip(offers, budgets, strict=True)]
    gains: Sequence[Gains]
    if across == "log-share":
        gains = log_shares(offers, budget)
    elif across == "share":
        gains = [_shares(offer.gain) for offer in offers]
    else:
        gains = [offer.gain for offer in offers]
    cost = np.concatenate([offer.cost for offer in offers])
    ends = np.cumsum([len(gain) for gain in gains])
    return np.split(choose(np.concatenate(gains), cost, budget), ends[:-1])


def log_shares(offers: Sequence[Offer], budget: int) -> list[NDArray[np.float64]]:
    """Return gains whose sum over a layer's best candidates grows as the log of their share.

    Parameters
    ----------
    offers : sequence of Offer
    budget : int

    Returns
    -------
    list of ndarray of float64, each of shape (n,)
        Of the j-th candidate of a layer by gain per cost: a_j / (a_1 + ... + a_j), a the gains as
        they were. A layer's first candidate has a gain above all others, whatever it costs.

    Notes
    -----
    That is the rule of LAMP, on blocks or rows instead of weights: to first order, what the
    candidate adds to the logarithm of all that the layer retains. Along a layer it falls, so
    that the best candidates of a layer are chosen before the others of that layer.

    Where the first candidates of all layers cost more than the budget, the cheapest one of each
    layer takes their place; where even those do, the cheapest of them are bought.
    """
    orders = [by_gain_per_cost(offer.gain, offer.cost)[0] for offer in offers]
    gains = []
    for offer, order in zip(offers, orders, strict=True):
        ranked = _finite(offer.gain[order])
        gain = np.zeros(len(offer.gain))
        gain[order] = ranked / np.cumsum(ranked)
        gains.append(gain)
    # What costs nothing is bought in any case, and multiplies nothing: it does not save a layer.
    priced = [order[o.cost[order] > 0] for o, order in zip(offers, orders, strict=True)]
    some = [
        (gain, o.cost, at) for gain, o, at in zip(gains, offers, priced, strict=True) if at.size
    ]
    dear = sum(int(cost[at[0]]) for _, cost, at in some) > budget
    for gain, cost, at in some:
        gain[at[np.argmin(cost[at])] if dear else at[0]] = _FIRST
    return gains


def _shares(gain: Gains) -> NDArray[np.float64]:
    """Return a layer's gains as shares of their total."""
    finite = _finite(gain)
    return finite / (float(finite.sum()) or 1.0)


def _finite(gain: Gains) -> NDArray[np.float64]:
    """Return gains in float64; a sum too large for float32 counts as the largest it holds."""
    return np.minimum(gain.astype(np.float64), np.finfo(np.float32).max)


def _budgets(offers: Sequence[Offer], budget: int, across: str) -> list[int]:
    """Return the budget of each layer: in proportion, and none above what it can spend."""
    most = [int(offer.cost[offer.gain > 0].sum()) for offer in offers]
    parts = [
        erk(offer.shape) * int(offer.cost.sum()) if across == "erk" else Fraction(offer.own)
        for offer in offers
    ]
    return [math.floor(share) for share in in_proportion(parts, most, budget)]
