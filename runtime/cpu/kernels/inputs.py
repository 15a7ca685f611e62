"""What a layer reads: its input in place, a copy with zeros beside its rows, or planes unfolded."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from runtime.cpu.kernels.runs import Window
from runtime.cpu.kernels.unfold import Unfolding, unfolding
from runtime.cpu.memory.halos import WIDEST_HALO
from runtime.cpu.memory.layout import Image, View, round_up
from runtime.cpu.program import Assembly
from runtime.cpu.weights.row_groups import Int64

# Rows of a strided convolution are computed each by itself where that takes no more than this for
# what fills no vector.
WIDEST_GAP = 1.1


@dataclass(frozen=True)
class Source:
    """What a layer reads: an image, or a copy of it that its taps find in place.

    Parameters
    ----------
    image : Image
        Whose lanes the runs count.
    window : Window
        By which the runs read it.
    columns : ndarray of int64, shape (taps * channels,)
        Offset of each (tap, channel).
    """

    image: Image
    window: Window
    columns: Int64


def in_rows(assembly: Assembly, at: int, view: View) -> Image:
    """Return a view as planes one after the other, whose rows are pixels without gaps.

    It is copied where they are not: rows of a transposed image lie among those of other planes.
    """
    x = assembly.in_planes(at, view)
    if x.is_plane and x.plane >= x.height * x.row:
        return x
    return assembly.image(assembly.copied(at, assembly.as_rank_4(view)))


def source_of(
    assembly: Assembly, at: int, view: View, y: Image, window: Window, narrow: bool
) -> Source:
    """Return what a layer reads, after the calls that make it."""
    x = assembly.in_planes(at, view)
    if narrow or y.lanes % assembly.machine.vector == 0:
        return Source(x, window, window.column_offsets(x))
    reach = window.reach(x.width, y.width)
    if window.strides[1] == 1:
        wide = with_halo(assembly, at, view, x, reach)
        if wide is not None:
            return Source(wide, window, window.column_offsets(wide))
    return _unfolded(assembly, at, view, x, y, window)


def with_halo(assembly: Assembly, at: int, view: View, x: Image, reach: int) -> Image | None:
    """Return an image with zeros beside its rows, or a copy; None where that would be too wide."""
    if x.is_plane and x.halo >= reach:
        return x
    if reach > WIDEST_HALO * x.width:
        return None
    copied = assembly.placement.memory((x.batch, x.channels, x.height, x.width), at, reach)
    seen = replace(copied, shape=view.shape) if len(view.shape) == 4 else copied
    assembly.call("copy", at, assembly.as_rank_4(view), seen)
    return assembly.image(copied)


def _unfolded(
    assembly: Assembly, at: int, view: View, x: Image, y: Image, window: Window
) -> Source:
    """Unfold an image into planes of which every tap reads rows as long as the output's."""
    if not x.is_plane:
        view = assembly.copied(at, assembly.as_rank_4(view))
        x = assembly.image(view)
    made = _unfolding(window, y, assembly.machine.vector)
    pitch = max(y.pitch, y.width + made.columns)
    # Taps to the right of a last row's end read beyond it, for lanes that become zeros.
    rows = made.plane_rows(y.height) + (made.columns > 0)
    u = assembly.image(
        assembly.placement.memory((x.batch, x.channels * made.planes, rows, pitch), at)
    )
    assembly.call(
        "unfold", at, x, (x.height, x.width, x.pitch, x.lanes), u, made.origins,
        window.strides, y.height, pitch,
    )  # fmt: skip
    channels = np.arange(x.channels) * made.planes
    planes = made.tap_planes[:, None] + channels
    within = made.tap_rows * u.row + made.tap_columns * u.pixel
    columns = planes * u.plane + within[:, None]
    # Every tap is inside, wherever its row and plane lie: rows and pixels are those of the output.
    seen = replace(u, height=y.height, width=y.width)
    return Source(seen, Window((1, window.taps)), columns.ravel())


def _unfolding(window: Window, y: Image, vector: int) -> Unfolding:
    """Return the planes that a convolution reads: few, unless rows by themselves waste vectors."""
    shape = (window.kernel, window.strides, window.dilations, window.pads)
    made = unfolding(*shape)
    row = y.width * y.pixel
    apart = y.height * round_up(row, vector)
    together = round_up(y.height * y.row, vector)
    long = made.columns <= y.halo or apart <= WIDEST_GAP * together
    return made if long else unfolding(*shape, flowing=True)
