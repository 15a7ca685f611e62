"""Share one budget among the layers of a network in proportion, none above what it can take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction


def erk(shape: Sequence[int]) -> Fraction:
    """Return the Erdős-Rényi-kernel density of a layer, before it is scaled; exact.

    Parameters
    ----------
    shape : sequence of int
        The weight's own shape.

    Returns
    -------
    Fraction
        (sum of the dimensions) / (their product); 0 for a weight without elements.

    References
    ----------
    Evci et al., "Rigging the lottery: making all tickets winners", ICML 2020.

    Examples
    --------
    >>> erk((64, 16, 3, 3))
    Fraction(43, 4608)
    """
    size = math.prod(shape)
    return Fraction(sum(shape), size) if size else Fraction(0)


def in_proportion(
    parts: Sequence[Fraction | int], most: Sequence[int], budget: int
) -> list[Fraction]:
    """Share a budget in proportion; what a full layer cannot take goes to the others.

    Parameters
    ----------
    parts : sequence of Fraction or int
        Of each layer, not negative. A layer without a part gets nothing.
    most : sequence of int
        What each layer can take.
    budget : int

    Returns
    -------
    list of Fraction
        Per layer; `most` where it is full, in proportion to `parts` over all others. Their sum is
        the budget, unless all layers that have a part are full.

    Examples
    --------
    >>> [str(share) for share in in_proportion([1, 1, 2], [3, 9, 9], 14)]
    ['3', '11/3', '22/3']
    """
    shares = [Fraction(0)] * len(parts)
    left, room = [n for n, part in enumerate(parts) if part], Fraction(budget)
    while left:
        whole = Fraction(sum(parts[n] for n in left))
        full = [n for n in left if room * parts[n] >= most[n] * whole]
        if not full:
            for n in left:
                shares[n] = room * parts[n] / whole
            break
        for n in full:
            shares[n] = Fraction(most[n])
        room -= sum(most[n] for n in full)
        left = [n for n in left if n not in full]
    return shares


def rounded(shares: Sequence[Fraction]) -> list[int]:
    """Round shares to whole numbers of the same sum, each by less than one.

    Parameters
    ----------
    shares : sequence of Fraction
        Their sum is a whole number.

    Returns
    -------
    list of int
        Rounded up where the fraction is largest, equals in their order, and down elsewhere.

    Examples
    --------
    >>> rounded([Fraction(3), Fraction(11, 3), Fraction(22, 3)])
    [3, 4, 7]
    """
    whole = [math.floor(share) for share in shares]
    missing = int(sum(shares)) - sum(whole)
    by_fraction = sorted(range(len(shares)), key=lambda n: whole[n] - shares[n])
    for n in by_fraction[:missing]:
        whole[n] += 1
    return whole
