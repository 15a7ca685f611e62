"""One piece of memory for all values of a network, each placed for as long as it lives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from runtime.cuda.layout import NO_HALO, Layout, shares
from runtime.plan.plan import Plan
from runtime.plan.steps import Reshape

# Elements that every value's memory starts a multiple of: 128 bytes of the narrowest type, the
# line of a GPU's caches.
ALIGNMENT = 64


@dataclass
class Storage:
    """Memory that some values share, one after another or, by Reshape, at once.

    Parameters
    ----------
    name : str
        The value that it is first made for.
    size : int
        Elements.
    first, last : int
        The steps between which it must be kept, both included; -1 is before the first step.
    kind : tuple
        What it may be handed on to: memory of the same kind alone.
    """

    name: str
    size: int
    first: int
    last: int
    kind: tuple[int, ...] = ()


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
    Largest first, each at the lowest place that is free for as long as it lives: within a few
    percent of the most that is alive at once for the networks tried. Where halos lie, each
    geometry has memory of its own, counted in planes.
    """
    stored, owner = _storages(plan, values)
    for index, size in scratch.items():
        stored.append(Storage(f"scratch:{index}", size, index, index))
    kinds: dict[tuple[int, ...], list[Storage]] = {}
    for storage in stored:
        kinds.setdefault(storage.kind, []).append(storage)
    places: dict[str, int] = {}
    zeroed = []
    end = 0
    for kind, members in kinds.items():
        grain = prod(kind[:2]) * kind[2] if kind else ALIGNMENT
        within, size = _placed(members, grain)
        places.update({name: end + at for name, at in within.items()})
        if kind:
            zeroed.append((end, end + size))
        end += -(-size // ALIGNMENT) * ALIGNMENT
    offsets = {value: places[owner[value]] for value in values}
    offsets.update({f"scratch:{index}": places[f"scratch:{index}"] for index in scratch})
    return Arena(end, offsets, tuple(zeroed))


def _storages(plan: Plan, values: Mapping[str, Layout]) -> tuple[list[Storage], dict[str, str]]:
    """Return the storages and, for each value, the name of the one that it lies in."""
    owner: dict[str, str] = {}
    stored: dict[str, Storage] = {}

    def add(value: str, first: int) -> None:
        layout = values[value]
        kind: tuple[int, ...] = ()
        if layout.halo != NO_HALO:
            height, width = (1, *layout.padded[1:])[-2:]
            kind = (height, width, layout.lanes, *layout.halo)
        owner[value] = value
        stored[value] = Storage(value, layout.size, first, first, kind)

    for given in plan.inputs:
        add(given.name, -1)
    for index, step in enumerate(plan.steps):
        if isinstance(step, Reshape) and shares(step, values):
            owner[step.output] = owner[step.inputs[0]]
        else:
            add(step.output, index)
        for value in (*step.inputs, step.output):
            stored[owner[value]].last = index
    for value in plan.results.values():
        stored[owner[value]].last = len(plan.steps)
    return list(stored.values()), owner


def _placed(members: Sequence[Storage], grain: int) -> tuple[dict[str, int], int]:
    """Return where each storage starts, a multiple of `grain`, and where the last one ends."""
    placed: list[tuple[int, int, Storage]] = []
    for storage in sorted(members, key=lambda s: (-s.size, s.first)):
        at = 0
        for start, end, other in sorted(placed, key=lambda p: p[0]):
            apart = other.last < storage.first or storage.last < other.first
            if apart or end <= at:
                continue
            if at + storage.size <= start:
                break
            at = -(-end // grain) * grain
        placed.append((at, at + storage.size, storage))
    places = {storage.name: start for start, _, storage in placed}
    return places, max((end for _, end, _ in placed), default=0)
