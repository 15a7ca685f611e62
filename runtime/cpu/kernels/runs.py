"""Runs: lanes of a convolution's output whose taps inside the image are the same.

Taps in the padding are left out exactly where a run is a pixel, or pixels of one row: nothing is
multiplied by zeros. Where vectors run along the pixels, rows of taps above and below the image are
left out, and the halo gives the zeros beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from runtime.cpu import native
from runtime.cpu.memory.layout import LINE, Image, round_up
from runtime.cpu.memory.window import Pooling, Window

Int64 = NDArray[np.int64]
Int32 = NDArray[np.int32]


def combine_of(pooling: Pooling | None) -> str:
    """Return how a sum joins the output: "store", "add", or "max" of both."""
    if pooling is None:
        return "store"
    return "max" if pooling.largest else "add"


def empty_runs(count: int) -> NDArray[np.void]:
    """Return runs with all fields 0, but without a mask."""
    made = np.zeros(count, native.run_type())
    made["mask"] = -1
    made["combine"] = native.numbers("combine")["store"]
    return made


@dataclass(frozen=True, eq=False)
class Runs:
    """The runs of one convolution.

    Parameters
    ----------
    table : ndarray of `native.run_type`, shape (runs,)
        As cpu/kernels/grouped/layer.h tells.
    units : ndarray of int64
        Where work may be cut: the first run of each unit, and the number of runs. Runs of one unit
        write the same lanes.
    tap_sets : ndarray of int32
        Ranges of taps, first and last + 1.
    tap_set_starts : ndarray of int64
    masks : ndarray of int32
    vector : int
        Elements of a vector.
    period : int
        Lanes after which the masks repeat.
    """

    table: NDArray[np.void]
    units: Int64
    tap_sets: Int32
    tap_set_starts: Int64
    masks: Int32
    vector: int
    period: int = 1

    @property
    def lanes(self) -> Int64:
        """Lanes of each run."""
        lanes: Int64 = self.table["lanes"]
        return lanes

    @property
    def taps(self) -> Int64:
        """Taps of each tap set."""
        ranges = self.tap_sets.reshape(-1, 2)
        counts = np.concatenate([[0], np.cumsum(ranges[:, 1] - ranges[:, 0])])
        taken: Int64 = np.diff(counts[self.tap_set_starts])
        return taken


class TapSets:
    """Sets of taps, each kept once."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._ranges: list[Int32] = []

    def number(self, taps: NDArray[np.bool_]) -> int:
        """Return the number of a set, given which taps are in it."""
        key = taps.tobytes()
        if key not in self._numbers:
            self._numbers[key] = len(self._ranges)
            edges = np.diff(np.concatenate([[False], taps.ravel(), [False]]).astype(np.int8))
            self._ranges.append(
                np.stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)], axis=1).astype(
                    np.int32
                )
            )
        return self._numbers[key]

    def arrays(self) -> tuple[Int32, Int64]:
        """Return all ranges, and where those of each set start."""
        lengths = [0, *(len(r) for r in self._ranges)]
        flat = np.concatenate([*self._ranges, np.empty((0, 2), np.int32)])
        return flat.ravel().astype(np.int32), np.cumsum(lengths, dtype=np.int64)


def plane_runs(x: Image, y: Image, window: Window, vector: int) -> Runs:
    """Return runs along the pixels of rows, and of several rows where their pitch is one.

    Parameters
    ----------
    x, y : Image
        With halos as `window` needs them; of the same `pixel`.
    window : Window
        With a stride of 1 along x.
    vector : int
        Elements of a vector.
    """
    sets = TapSets()
    rows = classes(window.inside(0, x.height, y.height))
    every = np.ones(window.kernel[1], np.bool_)
    together = flows(x, y, window, vector)
    width, halo = y.width * y.pixel, y.halo * y.pixel
    made: list[tuple[int, ...]] = []  # input, output, lanes, tap set, mask
    if halo:  # The zeros before the first row: no tap, and the mask takes the bias away.
        none = sets.number(np.zeros(window.taps, np.bool_))
        made.append((0, -halo, halo, none, 0))
    for y0, y1, taps_y in rows:
        number = sets.number(np.outer(taps_y, every))
        for first in [y0] if together else range(y0, y1):
            source = (first * window.strides[0] - window.pads[0]) * x.row
            source -= window.pads[1] * x.pixel
            target = first * y.row
            if together:
                made.append((source, target, (y1 - y0) * y.row, number, halo if halo else -1))
                continue
            made.append((source, target, width, number, -1))
            if halo:
                made.append((0, target + width, halo, none, 0))
    longest = max(lanes for _, _, lanes, *_ in made)
    masks = _masks(halo, width, longest) if halo else np.empty(0, np.int32)
    table = empty_runs(len(made))
    for name, values in zip(
        ("input", "output", "lanes", "tap_set", "mask"), np.array(made).T, strict=True
    ):
        table[name] = values
    table["input_step"] = table["output_step"] = vector
    return Runs(table, np.arange(len(table) + 1), *sets.arrays(), masks, vector, halo + width)


def flows(x: Image, y: Image, window: Window, vector: int) -> bool:
    """Return whether rows are computed together, halos included, and not each by itself."""
    if window.strides[0] != 1 or x.row != y.row or x.pixel != y.pixel:
        return False
    if y.row != (y.width + y.halo) * y.pixel:
        return False  # what lies between the rows is not y's to write
    alone = y.height * -(-(y.width * y.pixel) // vector)
    return -(-(y.height * y.row) // vector) <= alone


def split(runs: Runs, longest: int) -> Runs:
    """Return runs of at most ``longest`` lanes; those that share their lanes stay whole.

    Parameters
    ----------
    runs : Runs
    longest : int
        A multiple of the vector.
    """
    table = runs.table
    if (runs.lanes <= longest).all() or len(runs.units) - 1 < len(table):
        return runs
    pieces = -(-runs.lanes // longest)
    which = np.repeat(np.arange(len(table)), pieces)
    piece = np.arange(len(which)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    made = table[which]
    shift = piece * longest
    for side in ("input", "output"):
        made[side] += shift // runs.vector * made[f"{side}_step"]
    made["lanes"] = np.minimum(longest, made["lanes"] - shift)
    masked = made["mask"] >= 0
    made["mask"][masked] = (made["mask"][masked] + shift[masked]) % runs.period
    return replace(
        runs,
        table=made,
        units=np.arange(len(made) + 1),
        masks=runs.masks[: round_up(longest, LINE) + runs.period],
    )


def _masks(halo: int, width: int, longest: int) -> Int32:
    """Return masks of halos and rows in turn, for runs of `longest` lanes from any of them."""
    period = np.repeat(np.array([0, -1], np.int32), [halo, width])
    return np.resize(period, round_up(longest, LINE) + len(period))


def classes(inside: NDArray[np.bool_]) -> list[tuple[int, int, NDArray[np.bool_]]]:
    """Return ranges of neighbours whose taps are the same, with those taps."""
    changes = np.flatnonzero((inside[1:] != inside[:-1]).any(axis=1)) + 1
    edges = [0, *changes.tolist(), len(inside)]
    return [(a, b, inside[a]) for a, b in pairwise(edges)]
