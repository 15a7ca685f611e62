"""Input of a layer as its kernel reads it: in place, copied with zero borders, or unfolded."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from runtime.cpu.calibration import WIDEST_GAP, WIDEST_HALO
from runtime.cpu.kernels.problem import LayerCall
from runtime.cpu.kernels.unfold import Unfolding, unfolding
from runtime.cpu.memory.layout import Image, round_up
from runtime.cpu.memory.window import Window
from runtime.cpu.program import Assembly
from runtime.cpu.weights.row_groups import Int64


@dataclass(frozen=True)
class Source:
    """The image that a layer's kernel reads: its input itself, or a copy that suits the kernel.

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


def in_rows(program: Assembly, layer: LayerCall) -> Image:
    """Return a layer's input as planes one after the other, whose rows are pixels without gaps.

    It is copied where they are not: rows of a transposed image lie among those of other planes.
    """
    x = program.in_planes(layer.at, layer.x)
    if x.is_plane and x.plane >= x.height * x.row:
        return x
    return program.image(program.copied(layer.at, program.as_rank_4(layer.x)))


def in_place(program: Assembly, layer: LayerCall) -> Source:
    """Return a layer's input as planes, for runs of whole pixels or of single lanes."""
    x = program.in_planes(layer.at, layer.x)
    return Source(x, layer.window, layer.window.column_offsets(x))


def along_pixels(program: Assembly, layer: LayerCall) -> Source:
    """Return what vectors along pixels read: taps side by side, and zeros beside the rows."""
    x = program.in_planes(layer.at, layer.x)
    if layer.window.strides[1] == 1:
        wide = with_halo(program, layer, x)
        if wide is not None:
            return Source(wide, layer.window, layer.window.column_offsets(wide))
    return _unfolded(program, layer, x)


def with_halo(
    program: Assembly, layer: LayerCall, x: Image, widest: float = WIDEST_HALO
) -> Image | None:
    """Return an input with zeros beside its rows, or a copy; None where that would be too wide."""
    reach = layer.window.reach(x.width, layer.y.width)
    if x.is_plane and x.halo >= reach:
        return x
    if reach > widest * x.width:
        return None
    at, view = layer.at, layer.x
    copied = program.placement.memory((x.batch, x.channels, x.height, x.width), at, reach)
    seen = replace(copied, shape=view.shape) if len(view.shape) == 4 else copied
    program.call("copy", at, x=program.as_rank_4(view), y=seen)
    return program.image(copied)


def skip_of(program: Assembly, layer: LayerCall) -> Image | None:
    """Return the skip branch with rows and pixels as the output has them."""
    return None if layer.skip is None else program.like(layer.at, layer.skip, layer.y)


def _unfolded(program: Assembly, layer: LayerCall, x: Image) -> Source:
    """Unfold an image into planes of which every tap reads rows as long as the output's."""
    at, y, window = layer.at, layer.y, layer.window
    if not x.is_plane:
        x = program.image(program.copied(at, program.as_rank_4(layer.x)))
    made = _unfolding(window, y, program.machine.vector)
    pitch = max(y.pitch, y.width + made.columns)
    # Taps to the right of a last row's end read beyond it, for lanes that become zeros.
    rows = made.plane_rows(y.height) + (made.columns > 0)
    shape = (x.batch, x.channels * made.planes, rows, pitch)
    u = program.image(program.placement.memory(shape, at))
    program.call(
        "unfold", at, x=x, y=u, origins=made.origins, strides=window.strides, rows=y.height
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
