"""Where the numbers of a value lie on the device, and the halos around images.

A value (N, d1, .., dr) lies with its batch innermost: [d1] .. [dr][lanes], its first axis rounded
up to `lanes`. Whatever tap and stride a convolution has, the samples of a pixel that it reads are
one contiguous run. Around the two spatial axes of a value that a padded convolution reads there is
a halo of zeros: kernels write real pixels alone, and halos stay zero because memory with a halo is
handed on only to values whose halo lies in the same places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

from runtime.errors import PlanError
from runtime.plan.plan import Plan
from runtime.plan.steps import Convolution, Reshape

Shape = tuple[int, ...]
Halo = tuple[int, int, int, int]

NO_HALO: Halo = (0, 0, 0, 0)
# Kernels count elements in 32 bits, and the threads of the last block beyond them.
LARGEST = 2**31 - 2**16


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
        Lanes that a first axis of the given size takes.

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
