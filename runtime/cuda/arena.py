"""One piece of memory for all values of a network, each placed for as long as it lives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

from runtime.cuda.layout import NO_HALO, Layout, shares
from runtime.plan.lifetimes import Span, lifetimes, pack
from runtime.plan.plan import Plan

# Elements that every value's memory starts a multiple of: 128 bytes of the narrowest type, the
# line of a GPU's caches.
ALIGNMENT = 64

Kind: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Arena:
    """One piece of memory and the place of every value in it.

    Parameters
    ----------
    elements : int
        Size of the whole.
    offsets : dict of str to int
        Where each value's memory starts; a Reshape that moves nothing starts where its input does.
    zeroed : tuple of (int, int)
        Start and end of the parts that hold halos: to be set to zero once, before anything runs.
    """

    elements: int
    offsets: dict[str, int]
    zeroed: tuple[tuple[int, int], ...]


def arena(plan: Plan, values: Mapping[str, Layout], scratch: Mapping[int, int]) -> Arena:
    """Place every value so that those alive at the same time lie apart.

    Parameters
    ----------
    plan : Plan
    values : mapping of str to Layout
    scratch : mapping of int to int
        Elements that a step needs while it runs, by its index; placed as ``scratch:INDEX``.

    Returns
    -------
    Arena

    Notes
    -----
    Packed by `runtime.plan.lifetimes.pack`. Where halos lie, each geometry has memory of its own,
    counted in planes.
    """
    spans, owners = lifetimes(plan, lambda value: values[value].size, lambda s: shares(s, values))
    spans.update({f"scratch:{at}": Span(size, at, at) for at, size in scratch.items()})
    kinds: dict[Kind, list[str]] = {}
    for name in spans:
        kinds.setdefault(_kind(values[name]) if name in values else (), []).append(name)
    places: dict[str, int] = {}
    zeroed = []
    end = 0
    for kind, names in kinds.items():
        grain = prod(kind[:3]) if kind else ALIGNMENT
        within, size = pack([spans[name] for name in names], grain)
        places.update({name: end + at for name, at in zip(names, within, strict=True)})
        if kind:
            zeroed.append((end, end + size))
        end += -(-size // ALIGNMENT) * ALIGNMENT
    offsets = {value: places[owners[value]] for value in values}
    offsets.update({f"scratch:{at}": places[f"scratch:{at}"] for at in scratch})
    return Arena(end, offsets, tuple(zeroed))


def _kind(layout: Layout) -> Kind:
    """Return what memory may be handed on to: to values of the same kind alone.

    Height, width and lanes of a plane, then its halo; of values without a halo nothing.
    """
    if layout.halo == NO_HALO:
        return ()
    height, width = (1, *layout.padded[1:])[-2:]
    return (height, width, layout.lanes, *layout.halo)
