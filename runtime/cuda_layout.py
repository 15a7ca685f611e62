"""Where the numbers of every value lie on the device: layouts, halos, and one arena for them all.

A value (N, d1, .., dr) lies with its batch innermost: [d1] .. [dr][lanes], its first axis rounded
up to `lanes`. Whatever tap and stride a convolution has, the samples of a pixel that it reads are
one contiguous run. Around the two spatial axes of a value that a padded convolution reads there is
a halo of zeros: kernels write real pixels alone, and halos stay zero because memory with a halo is
handed on only to values whose halo lies in the same places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from runtime.errors import PlanError
from runtime.plan import Plan
from runtime.steps import Convolution, Reshape

Shape = tuple[int, ...]
Halo = tuple[int, int, int, int]

NO_HALO: Halo = (0, 0, 0, 0)
# Kernels count elements in 32 bits.
LARGEST = 2**31 - 1
# Elements that every value's memory starts a multiple of: 128 bytes of the narrowest type, the
# line of a GPU's caches.
ALIGNMENT = 64


@dataclass(frozen=True)
class Layout:
    """The place of each element of a value, relative to where its memory starts.

    Parameters
    ----------
    shape : tuple of int
        (N, d1, .., dr), as the network sees it.
    lanes : int
        Numbers along the first axis, rounded up; the rest holds nothing that anyone reads.
    halo : (int, int, int, int)
        Zeros above, left, below and right of the last two axes; a value of rank 3 has one row.

    Examples
    --------
    >>> layout = Layout((3, 2, 4, 5), lanes=8, halo=(1, 1, 1, 1))
    >>> layout.strides, layout.origin, layout.size
    ((1, 336, 56, 8), 64, 672)
    """

    shape: Shape
    lanes: int
    halo: Halo = NO_HALO

    @property
    def padded(self) -> Shape:
        """The axes from 1 on, halo included."""
        sizes = list(self.shape[1:])
        top, left, bottom, right = self.halo
        if len(sizes) > 1:
            sizes[-1] += left + right
        if len(sizes) > 2:
            sizes[-2] += top + bottom
        return tuple(sizes)

    @property
    def strides(self) -> Shape:
        """Elements from one entry of an axis to the next, axis by axis."""
        strides, step = [], self.lanes
        for size in reversed(self.padded):
            strides.append(step)
            step *= size
        return (1, *reversed(strides)) if self.shape else ()

    @property
    def origin(self) -> int:
        """Elements before the first real one."""
        strides = self.strides
        top, left = self.halo[:2]
        first = left * strides[-1] if len(strides) > 2 else 0
        return first + (top * strides[-2] if len(strides) > 3 else 0)

    @property
    def size(self) -> int:
        """Elements in all, halo included."""
        return prod(self.padded) * self.lanes

    @property
    def plane(self) -> int:
        """Elements of one channel, halo included: all axes from 2 on."""
        return prod(self.padded[1:]) * self.lanes


@dataclass(frozen=True)
class Image:
    """A value of rank 2 to 4 as a convolution or a pool sees it: (N, C, H, W), in elements.

    Parameters
    ----------
    channels, height, width : int
    channel, y, x : int
        Strides.
    origin : int
        Of the first real pixel of the first channel.
    """

    channels: int
    height: int
    width: int
    channel: int
    y: int
    x: int
    origin: int


def image(layout: Layout) -> Image:
    """Return (N, C) as one pixel, (N, C, L) as one row, (N, C, H, W) as it is.

    Examples
    --------
    >>> image(Layout((3, 2, 5), lanes=4, halo=(0, 1, 0, 1)))
    Image(channels=2, height=1, width=5, channel=28, y=28, x=4, origin=4)
    """
    sizes, strides = layout.shape[1:], layout.strides[1:]
    height, width = (1, 1, *sizes[1:])[-2:]
    across = strides[-1] if len(sizes) > 1 else strides[0]
    down = strides[-2] if len(sizes) > 2 else strides[0]
    return Image(sizes[0], height, width, strides[0], down, across, layout.origin)


def layouts(plan: Plan, batch: int, lanes: Callable[[int], int]) -> dict[str, Layout]:
    """Return the layout of every value.

    Parameters
    ----------
    plan : Plan
    batch : int
    lanes : function of int to int
        How many lanes a first axis of so many takes.

    Raises
    ------
    PlanError
        If a value holds more elements than 32 bits count.
    """
    halos: dict[str, Halo] = {}
    for step in plan.steps:
        if isinstance(step, Convolution):
            value = step.inputs[0]
            wanted = _halo(step, plan.shape(value, batch), plan.shape(step.output, batch))
            halos[value] = _widest(halos.get(value, NO_HALO), wanted)
    made: dict[str, Layout] = {}
    for value in plan.shapes:
        shape = plan.shape(value, batch)
        layout = Layout(shape, lanes(shape[0]) if shape else 1, halos.get(value, NO_HALO))
        if layout.size > LARGEST:
            raise PlanError(
                f"value {value!r} of shape {shape} takes {layout.size} numbers on the device, "
                f"which counts to {LARGEST}: run a smaller batch"
            )
        made[value] = layout
    return made


def shares(step: Reshape, values: Mapping[str, Layout]) -> bool:
    """Return whether a Reshape leaves every number where it is.

    It does where neither side has a halo and the first axis, which lies innermost, stays.
    """
    before, after = values[step.inputs[0]], values[step.output]
    return before.halo == after.halo == NO_HALO and before.shape[:1] == after.shape[:1]


def _halo(step: Convolution, ins: Shape, outs: Shape) -> Halo:
    """Return how far outside the image a convolution reads, on each side."""
    top, left = step.pads[:2]
    (height, width), (rows, columns) = ((1, 1, *s[2:])[-2:] for s in (ins, outs))
    below, right = (
        max(0, (count - 1) * stride + dilation * (taps - 1) + 1 - before - size)
        for count, stride, dilation, taps, before, size in zip(
            (rows, columns),
            step.strides,
            step.dilations,
            step.kernel,
            (top, left),
            (height, width),
            strict=True,
        )
    )
    return (top, left, below, right)


def _widest(a: Halo, b: Halo) -> Halo:
    top, left, bottom, right = (max(pair) for pair in zip(a, b, strict=True))
    return (top, left, bottom, right)


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
    return places, _end(placed)


def _end(placed: Iterable[tuple[int, int, Storage]]) -> int:
    return max((end for _, end, _ in placed), default=0)
