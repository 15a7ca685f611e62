"""Where values lie in the arena of the CPU backend: planes, halos, and views that copy nothing.

A value (N, C, H, W) is C planes; sample n of pixel (y, x) is element (y * pitch + x) * lanes + n
of its plane. The samples of a pixel are neighbours, so that vectors run along them, or, where the
batch fills no vectors, along samples and pixels together. Then zeros at the end of each row, and
before each plane, stand for the padding that a convolution reads: the halo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from runtime.cpu.calibration import PADDED_BATCH

Shape = tuple[int, ...]

# Elements of a cache line of 64 bytes: planes begin on one.
LINE = 16


def round_up(number: int, unit: int) -> int:
    """Return the least multiple of `unit` that is no less than `number`."""
    return -(-number // unit) * unit


def padded_batch(batch: int, vector: int) -> int:
    """Return how many elements a pixel has: the batch, in whole vectors where that is cheap.

    Parameters
    ----------
    batch : int
    vector : int
        Elements of a vector.

    Examples
    --------
    >>> padded_batch(64, 16), padded_batch(63, 16), padded_batch(17, 16), padded_batch(1, 16)
    (64, 64, 17, 1)
    """
    padded = round_up(batch, vector)
    return padded if padded <= PADDED_BATCH * batch else batch


@dataclass(frozen=True)
class Form:
    """How a value of rank 2 to 4 is laid out when a buffer is made for it.

    Parameters
    ----------
    batch : int
        Samples.
    channels, height, width : int
    lanes : int
        Elements of a pixel: the batch, padded or not.
    halo : int
        Pixels of zeros at the end of each row.
    """

    batch: int
    channels: int
    height: int
    width: int
    lanes: int
    halo: int = 0

    @property
    def pitch(self) -> int:
        """Pixels from one row to the next."""
        return self.width + self.halo

    @property
    def area(self) -> int:
        """Elements of the rows of a plane, halos included."""
        return self.height * self.pitch * self.lanes

    @property
    def plane(self) -> int:
        """Elements from one plane to the next.

        An odd number of cache lines, so that the same pixel of many channels does not fall on a
        few sets of the cache; planes that fill no line stand close together.
        """
        if self.area < LINE and not self.halo:
            return self.area
        lines = -(-self.area // LINE) + -(-self.halo * self.lanes // LINE)
        return (lines | 1) * LINE

    @property
    def lead(self) -> int:
        """Elements of a plane's share that lie before its first pixel; the last are zeros."""
        return self.plane - round_up(self.area, LINE) if self.halo else 0

    @property
    def elements(self) -> int:
        """Elements of a buffer of this form."""
        return self.channels * self.plane


@dataclass(frozen=True)
class View:
    """A value in a buffer, by strides, as in NumPy.

    Parameters
    ----------
    buffer : int
        Number of the buffer.
    offset : int
        Element of the buffer that holds entry (0, 0, ...).
    shape, strides : tuple of int
        In elements.
    lanes : int
        Elements along axis 0 that may be computed: the batch, padded or not.
    halo : int
        Pixels of zeros that a reader finds beyond each side of a row.
    """

    buffer: int
    offset: int
    shape: Shape
    strides: Shape
    lanes: int
    halo: int = 0

    @classmethod
    def of_form(cls, buffer: int, form: Form, shape: Shape) -> View:
        """Return the view of a whole buffer made for a value of the given shape, rank 2 to 4."""
        along = (form.pitch * form.lanes, form.lanes)[4 - len(shape) :] if len(shape) > 2 else ()
        return cls(buffer, form.lead, shape, (1, form.plane, *along), form.lanes, form.halo)

    @classmethod
    def plain(cls, buffer: int, shape: Shape) -> View:
        """Return the view of a buffer in C order."""
        return cls(buffer, 0, shape, contiguous(shape), shape[0] if shape else 1)

    def sliced(self, axis: int, start: int, end: int, step: int = 1) -> View:
        """Return the part ``[start:end:step]`` along an axis."""
        size = len(range(start, end, step))
        shape = (*self.shape[:axis], size, *self.shape[axis + 1 :])
        # Where one entry is left there is no next one: a long step to it could leave the arena.
        stride = self.strides[axis] * (step if size > 1 else 1)
        strides = (*self.strides[:axis], stride, *self.strides[axis + 1 :])
        offset = self.offset + start * self.strides[axis]
        whole = axis == 1 and step == 1
        lanes = self.lanes if axis else size
        return View(self.buffer, offset, shape, strides, lanes, self.halo if whole else 0)

    def cut(
        self,
        axes: Sequence[int],
        starts: Sequence[int],
        ends: Sequence[int],
        steps: Sequence[int],
    ) -> View:
        """Return the part ``[start:end:step]`` along each of several axes."""
        view = self
        for axis, *cut in zip(axes, starts, ends, steps, strict=True):
            view = view.sliced(axis, *cut)
        return view

    def transposed(self, perm: Sequence[int]) -> View:
        """Return the same numbers with axes in the order `perm`."""
        shape, strides = (tuple(t[axis] for axis in perm) for t in (self.shape, self.strides))
        lanes = self.lanes if not perm or perm[0] == 0 else shape[0]
        same = tuple(perm) == tuple(range(len(perm)))
        return View(self.buffer, self.offset, shape, strides, lanes, self.halo if same else 0)

    def reshaped(self, shape: Shape) -> View | None:
        """Return the same numbers under another shape, or None where strides cannot tell it."""
        strides = reshaped_strides(self.shape, self.strides, shape)
        if strides is None:
            return None
        lanes = self.lanes if shape[:1] == self.shape[:1] else (shape[0] if shape else 1)
        return View(self.buffer, self.offset, shape, strides, lanes)

    def broadcast(self, shape: Shape) -> View:
        """Return the value repeated to a shape, as NumPy broadcasts, with strides of zero."""
        missing = len(shape) - len(self.shape)
        sizes = (1,) * missing + self.shape
        strides = (0,) * missing + self.strides
        wide = tuple(
            0 if n == 1 and m != 1 else s for n, m, s in zip(sizes, shape, strides, strict=True)
        )
        return View(self.buffer, self.offset, shape, wide, self.lanes if not missing else shape[0])

    def padded(self, lanes: int) -> tuple[Shape, Shape]:
        """Return shape and strides with `lanes` entries along axis 0."""
        return (lanes, *self.shape[1:]), self.strides


@dataclass(frozen=True)
class Image:
    """A view as a kernel reads or writes it: planes of rows of pixels of lanes.

    Parameters
    ----------
    buffer, offset : int
    channels, plane : int
        Planes, and elements from one to the next.
    height, width : int
    row, pixel : int
        Elements from one row, and from one pixel, to the next.
    batch, lanes : int
        Samples; elements of a pixel.
    halo : int
    """

    buffer: int
    offset: int
    channels: int
    plane: int
    height: int
    width: int
    row: int
    pixel: int
    batch: int
    lanes: int
    halo: int

    @property
    def pitch(self) -> int:
        """Pixels from one row to the next, of one whose rows are lanes without gaps."""
        return self.row // self.pixel

    @property
    def is_plane(self) -> bool:
        """Whether its rows are lanes without gaps: vectors may run along its pixels."""
        return self.pixel == self.lanes and self.row % self.pixel == 0 and self.row >= self.pixel

    def fields(self, offset: int) -> dict[str, int]:
        """Return it as the kernels take it, beginning at an element of the arena."""
        return {
            "offset": offset,
            "planes": self.channels,
            "plane": self.plane,
            "height": self.height,
            "width": self.width,
            "row": self.row,
            "pixel": self.pixel,
            "lanes": self.lanes,
            "halo": self.halo,
        }

    @property
    def view(self) -> View:
        """The view of all lanes, (lanes, channels, height, width)."""
        shape = (self.lanes, self.channels, self.height, self.width)
        strides = (1, self.plane, self.row, self.pixel)
        return View(self.buffer, self.offset, shape, strides, self.lanes, self.halo)


def as_image(view: View) -> Image | None:
    """Return a view of rank 2 to 4 as planes, or None where its samples are not neighbours."""
    rank = len(view.shape)
    if not 2 <= rank <= 4 or (view.strides[0] != 1 and view.shape[0] > 1):
        return None
    height, width = {2: (1, 1), 3: (1, view.shape[-1]), 4: view.shape[2:]}[rank]
    pixel = view.strides[-1] if rank > 2 else view.lanes
    # A row or a pixel that is the only one may be taken to have any stride.
    pixel = view.lanes if width == 1 else pixel
    row = view.strides[2] if rank == 4 and height > 1 else (width + view.halo) * pixel
    return Image(
        view.buffer, view.offset, view.shape[1], view.strides[1], height, width, row, pixel,
        view.shape[0], view.lanes, view.halo,
    )  # fmt: skip


def contiguous(shape: Shape) -> Shape:
    """Return the strides of C order, in elements."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def reshaped_strides(shape: Shape, strides: Shape, wanted: Shape) -> Shape | None:
    """Return the strides of the same elements under another shape.

    Parameters
    ----------
    shape, strides : tuple of int
    wanted : tuple of int
        Of as many entries.

    Returns
    -------
    tuple of int or None
        None where no strides give the order of the entries: they must be copied.

    Examples
    --------
    >>> reshaped_strides((4, 6), (1, 8), (4, 2, 3))
    (1, 24, 8)
    >>> reshaped_strides((4, 6), (1, 8), (24,)) is None
    True
    """
    old = [(n, s) for n, s in zip(shape, strides, strict=True) if n != 1]
    made: list[int] = []
    for size in reversed(wanted):
        if size == 1:
            made.append(0)
            continue
        if not old:
            return None
        n, s = old.pop()
        while n < size or n % size:
            # The axis before continues this one where its stride spans it.
            if not old or old[-1][1] != n * s:
                return None
            n *= old.pop()[0]
        made.append(s)
        if n > size:
            old.append((n // size, s * size))
    return tuple(reversed(made))
