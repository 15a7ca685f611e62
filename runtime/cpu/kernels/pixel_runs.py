"""Runs where the samples of a pixel fill vectors: within a pixel, or from pixel to pixel.

Taps in the padding are left out exactly. A kernel wants several vectors that read the same columns:
those of one pixel where it has enough, else one of each pixel of a row or of a column.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.cpu import native
from runtime.cpu.calibration import LEAST_LINE, WIDE_PIXEL
from runtime.cpu.kernels.runs import Runs, TapSets, classes, combine_of, empty_runs
from runtime.cpu.memory.layout import LINE, Image, round_up
from runtime.cpu.memory.window import Pooling, Window


class _Line(NamedTuple):
    """How a run goes over a block of pixels.

    Parameters
    ----------
    rows, pixels : int
        Of the block, that the run covers: along x, along y, or both where rows follow each other.
    lanes : int
        Of the run.
    parts : int
        Runs that share those pixels: each has one vector of every pixel.
    steps : (int, int)
        Elements from one vector to the next, of x and of y.
    """

    rows: int
    pixels: int
    lanes: int
    parts: int
    steps: tuple[int, int]


def pixel_runs(
    x: Image,
    y: Image,
    window: Window,
    vector: int,
    pooling: Pooling | None = None,
    apart: bool = True,
) -> Runs:
    """Return runs that lie within pixels, or go over pixels whose taps are the same.

    Parameters
    ----------
    x, y : Image
        `y` is what is written: of the pooled size where there is `pooling`.
    window : Window
    vector : int
        Elements of a vector.
    pooling : Pooling, default None
    apart : bool, default True
        Whether vectors of a run may lie apart.

    Notes
    -----
    With pooling, the pixels of a window write the same lanes, one after the other; pixels that no
    window holds are not computed.
    """
    step = pooling.window if pooling else (1, 1)
    sets = TapSets()
    rows, columns = (
        classes(window.inside(axis, size, pixels * step[axis]).reshape(pixels, -1))
        for axis, size, pixels in ((0, x.height, y.height), (1, x.width, y.width))
    )
    parts, turns = [], []  # runs, and which pixel of its pooling window each is
    for (y0, y1, taps_y), (x0, x1, taps_x) in product(rows, columns):
        line = _line(x, y, window, step, (y1 - y0, x1 - x0), vector, apart)
        i, j, lane = (
            a.ravel()
            for a in np.meshgrid(
                np.arange(y0, y1, line.rows),
                np.arange(x0, x1, line.pixels),
                np.arange(line.parts) * vector,
                indexing="ij",
            )
        )
        for a, b in np.ndindex(*step):
            inside = taps_y.reshape(step[0], -1)[a], taps_x.reshape(step[1], -1)[b]
            part = empty_runs(len(i))
            part["input"] = ((i * step[0] + a) * window.strides[0] - window.pads[0]) * x.row
            part["input"] += ((j * step[1] + b) * window.strides[1] - window.pads[1]) * x.pixel
            part["input"] += lane
            part["output"] = i * y.row + j * y.pixel + lane
            part["lanes"], part["tap_set"] = line.lanes, sets.number(np.outer(*inside))
            if (a, b) != (0, 0):
                part["combine"] = native.numbers("combine")[combine_of(pooling)]
            part["input_step"], part["output_step"] = line.steps
            parts.append(part)
            turns.append(np.full(len(i), a * step[1] + b))
    if y.halo:
        parts.append(_halo_runs(y, sets.number(np.zeros(window.taps, np.bool_)), vector))
        turns.append(np.zeros(len(parts[-1]), np.int64))
    table, turn = np.concatenate(parts), np.concatenate(turns)
    order = np.lexsort((turn, table["output"]))
    made = table[order]
    units = np.append(np.flatnonzero(turn[order] == 0), len(table))
    masks = np.zeros(round_up(y.halo * y.pixel, LINE), np.int32)
    return Runs(made, units, *sets.arrays(), masks, vector)


def _halo_runs(y: Image, tap_set: int, vector: int) -> NDArray[np.void]:
    """Return runs that write the zeros before the first row of a value and after each."""
    at = np.append(-y.halo * y.pixel, np.arange(y.height) * y.row + y.width * y.pixel)
    runs = empty_runs(len(at))
    runs["output"], runs["lanes"], runs["tap_set"], runs["mask"] = at, y.halo * y.pixel, tap_set, 0
    runs["input_step"] = runs["output_step"] = vector
    return runs


def _line(
    x: Image,
    y: Image,
    window: Window,
    step: tuple[int, int],
    block: tuple[int, int],
    vector: int,
    apart: bool,
) -> _Line:
    """Return how runs go over a block of pixels, `step` pixels of which make one of the output."""
    high, wide = block
    strides = (window.strides[0] * step[0], window.strides[1] * step[1])
    narrow = apart and y.lanes % vector == 0 and y.lanes < WIDE_PIXEL * vector
    along_x = wide >= min(high, LEAST_LINE)
    neighbours = strides[1] == 1 and x.pixel == y.pixel == x.lanes == y.lanes
    if neighbours and (along_x or not narrow):
        # Whole rows follow each other where no tap is left out beside the image.
        together = wide == y.width and strides[0] == 1 and x.row == y.row == wide * y.pixel
        rows = high if together else 1
        return _Line(rows, wide, rows * wide * y.lanes, 1, (vector, vector))
    if not narrow:
        return _Line(1, 1, y.lanes, 1, (vector, vector))
    parts = y.lanes // vector
    if along_x:
        return _Line(1, wide, wide * vector, parts, (strides[1] * x.pixel, y.pixel))
    return _Line(high, 1, high * vector, parts, (strides[0] * x.row, y.row))
