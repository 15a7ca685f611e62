"""Rows of nonzeros over windows that the first level of the cache holds: how a layer is tiled.

A row shares nothing with the next but its inputs, so each multiplication loads one: it is the cache
that bounds it. What a tile of outputs reads is packed, a panel of channels at a time, and all rows
go over it. A pure function chooses the tile, by a cost in cycles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import NamedTuple

from runtime.cpu.calibration import (
    LOADS,
    WINDOW_ADDRESS,
    WINDOW_COPY,
    WINDOW_FINISH,
    WINDOW_LOAD,
    WINDOW_PIECE,
    WINDOW_POOLED,
    WINDOW_ROW,
    WINDOW_SHARE,
    WINDOW_STRETCH,
    WINDOW_SUM,
)
from runtime.cpu.kernels.inputs import in_rows, skip_of
from runtime.cpu.kernels.problem import Configuration, LayerCall, Problem, plain_halo
from runtime.cpu.kernels.runs import combine_of
from runtime.cpu.machine import Machine
from runtime.cpu.memory.layout import Image, round_up
from runtime.cpu.memory.window import Pooling, Window
from runtime.cpu.program import Assembly
from runtime.cpu.weights.nonzeros import compressed, pack_panels
from runtime.cpu.weights.row_groups import Shape

# How a window is packed: shared by all taps, or a copy for each column of taps, or for each tap.
SHARED, COLUMNS, TAPS = "none", "columns", "taps"

# Vectors of a tile, by the elements of one: half of the registers (kRowVectors of the kernels).
VECTORS = {16: 16}
FEW_VECTORS = 8


class Windows:
    """Rows of nonzeros, all of which go over one packed window before the next."""

    name = "windows"
    configurations: Mapping[str, Configuration] = {}

    def cost(self, problem: Problem, machine: Machine) -> float:
        """Return the cost of the best tiling; infinity for blocks, and where no tiling fits."""
        if not problem.is_rows or problem.window is None:
            return float("inf")
        outputs = Outputs(problem.height, problem.width, problem.lanes)
        return choose_tiling(problem.shape, problem.window, outputs, problem.stored, machine)[1]

    def weight_bytes(self, problem: Problem, machine: Machine) -> int:
        """Return the memory of the nonzeros."""
        return 4 * problem.stored

    def halo(self, problem: Problem, machine: Machine) -> int:
        """Return the halo that other kernels would read: this one reads pixels with any."""
        return plain_halo(problem, machine)

    def takes(self, pooling: Pooling, problem: Problem, machine: Machine) -> bool:
        """Return whether the smallest tile fits: its window holds all pixels that are pooled."""
        at_once = prod(pooling.window)
        window_bytes = at_once * problem.shape.taps * 4 * machine.vector
        return at_once <= WINDOW_POOLED and window_bytes <= _most_bytes(machine)

    def emit(self, program: Assembly, layer: LayerCall) -> None:
        """Add the call, after those that make what it reads."""
        x, y, machine = in_rows(program, layer), layer.y, program.machine
        pool = layer.pooling.window if layer.pooling else (1, 1)
        shape, weight = layer.shape, layer.step.weight
        outputs = Outputs(y.height * pool[0], y.width * pool[1], y.lanes, pool)
        tiling, _ = choose_tiling(shape, layer.window, outputs, layer.step.stored, machine)
        assert tiling is not None, "a kernel that the cost model would not choose"
        channels = tiling.channels
        packed = program.packed(
            weight, ("panels", shape, channels),
            lambda: pack_panels(compressed(weight), shape, channels),
        )  # fmt: skip
        # Pooled pixels of all samples, of which this is a slice, are no neighbours: copy them.
        made = y if y.is_plane else _beside(program, layer.at, y)
        program.call(
            "rows",
            layer.at,
            x=x,
            y=made,
            skip=skip_of(program, replace(layer, y=made)),
            window=layer.window,
            weights=packed.weights,
            columns=packed.columns,
            starts=packed.starts,
            bias=program.bias(layer.step.bias),
            activation=program.activation(layer.step.activation),
            combine=combine_of(layer.pooling),
            pool=pool,
            scale=layer.scale,
            **fields_of(tiling),
        )
        if made is not y:
            program.call("copy", layer.at, x=made.view, y=y.view)


def _most_bytes(machine: Machine) -> int:
    """Return the bytes of a window, at most."""
    return int(WINDOW_SHARE * machine.level1)


def _beside(program: Assembly, at: int, y: Image) -> Image:
    """Return an image as large, in memory of its own, whose pixels are neighbours."""
    return program.image(program.placement.memory((y.batch, y.channels, y.height, y.width), at))


class Tiling(NamedTuple):
    """How a layer is cut into tiles.

    Parameters
    ----------
    rows, pixels, samples : int
        Of a tile of outputs.
    copies : str
        `SHARED`, `COLUMNS` or `TAPS`.
    channels : int
        Of a panel.
    parts : int
        Items that share the rows of a tile's weights.
    """

    rows: int
    pixels: int
    samples: int
    copies: str
    channels: int
    parts: int = 1


def fields_of(tiling: Tiling) -> dict[str, object]:
    """Return a tiling as the kernels take it."""
    return {
        "tile": (tiling.rows, tiling.pixels, tiling.samples),
        "copies": tiling.copies,
        "panel_channels": tiling.channels,
        "parts": tiling.parts,
    }


class Outputs(NamedTuple):
    """Size of a layer's output: rows, pixels of a row, elements of a pixel, pooling window."""

    height: int
    width: int
    lanes: int
    pool: tuple[int, int] = (1, 1)


@lru_cache(maxsize=256)
def choose_tiling(
    shape: Shape, window: Window, outputs: Outputs, nonzeros: int, machine: Machine
) -> tuple[Tiling | None, float]:
    """Return the tiles that take least time, and how long, or None and infinity.

    Parameters
    ----------
    shape : Shape
    window : Window
    outputs : Outputs
        Of the convolution, before pooling.
    nonzeros : int
        Of the weight.
    machine : Machine

    Returns
    -------
    Tiling or None
        None where no window is small enough, or the layer has convolution groups.
    float
        Multiplications at peak that take as long, for one lane.

    Examples
    --------
    >>> shape, window = Shape(256, 256, 9), Window((3, 3), pads=(1, 1))
    >>> choose_tiling(shape, window, Outputs(8, 8, 64), 118_000, Machine(16, 2))[0]
    Tiling(rows=2, pixels=8, samples=16, copies='none', channels=14, parts=1)
    """
    best, least = None, float("inf")
    vector = machine.vector
    if shape.groups > 1 or nonzeros == 0:
        return best, least
    for tile in _tiles(window, outputs, vector):
        for tiling, time in _times(tile, shape, window, outputs, nonzeros, machine):
            if time < least:
                best, least = tiling, time
    return best, least * machine.threads * machine.multiplications * vector / outputs.lanes


def _tiles(window: Window, outputs: Outputs, vector: int) -> Iterator[Tiling]:
    """Yield tiles without their panels and parts."""
    ways = [TAPS] if window.taps == 1 else [SHARED, TAPS]
    if window.taps > 1 and window.strides[0] == 1:
        ways.append(COLUMNS)
    for samples in sorted({min(vector, outputs.lanes), outputs.lanes}):
        for rows in _even(outputs.height, outputs.pool[0]):
            for pixels in _even(outputs.width, outputs.pool[1]):
                yield from (Tiling(rows, pixels, samples, copies, 0) for copies in ways)


def _even(size: int, unit: int) -> list[int]:
    """Return lengths of parts that differ little, the longest of each way to cut `size`.

    Examples
    --------
    >>> _even(14, 1)
    [14, 7, 5, 4, 3, 2, 1]
    """
    units = size // unit
    return sorted({-(-units // parts) * unit for parts in range(1, units + 1)}, reverse=True)


def _times(
    tiling: Tiling,
    shape: Shape,
    window: Window,
    outputs: Outputs,
    nonzeros: int,
    machine: Machine,
) -> Iterator[tuple[Tiling, float]]:
    """Yield a tiling for each number of parts, and its cycles."""
    vector, threads = machine.vector, machine.threads
    vectors, elements, pieces = _window(tiling, window, outputs, vector)
    most = _most_bytes(machine) // 4 // elements
    if most < 1 or vectors > VECTORS.get(vector, FEW_VECTORS):
        return
    panels = -(-shape.channels // most)
    channels = -(-shape.channels // panels)
    a_row = nonzeros / shape.rows
    # Of whole vectors, where the constants were measured LOADS begin in a cycle.
    wide = LOADS / machine.loads
    loads = 2 + wide * vectors * (1 + _crossing(tiling, window, vector))
    stretches = tiling.rows * (1 if tiling.samples == outputs.lanes else tiling.pixels)
    addresses = tiling.rows if tiling.copies == SHARED else 1
    row = a_row * (loads * WINDOW_LOAD + addresses * WINDOW_ADDRESS)
    row += panels * (WINDOW_ROW + WINDOW_SUM * wide * vectors)
    row += WINDOW_FINISH * wide * vectors + WINDOW_STRETCH * stretches
    packing = shape.channels * (pieces * WINDOW_PIECE + wide * elements / vector * WINDOW_COPY)
    tiles = (
        -(-outputs.height // tiling.rows)
        * -(-outputs.width // tiling.pixels)
        * -(-outputs.lanes // tiling.samples)
    )
    for parts in range(1, min(shape.rows, 4 * threads) + 1):
        of_item = -(-shape.rows // parts) * row + packing
        time = -(-tiles * parts // threads) * of_item
        yield tiling._replace(channels=channels, parts=parts), time


def _window(tiling: Tiling, window: Window, outputs: Outputs, vector: int) -> tuple[int, int, int]:
    """Return the vectors of a tile, and of one channel's window the elements and the pieces."""
    lanes = tiling.pixels * tiling.samples
    reach = [(k - 1) * d for k, d in zip(window.kernel, window.dilations, strict=True)]
    together = tiling.samples == outputs.lanes
    if tiling.copies == SHARED:
        pixels = tiling.pixels + reach[1] // window.strides[1]
        rows = (tiling.rows - 1) * window.strides[0] + reach[0] + 1
        phases = len({k * window.dilations[1] % window.strides[1] for k in range(window.kernel[1])})
        elements = phases * rows * round_up(pixels * tiling.samples, vector)
        vectors = tiling.rows * -(-lanes // vector)
        return vectors, elements, phases * rows * (1 if together else pixels)
    copies, rows = (
        (window.kernel[1], tiling.rows + reach[0])
        if tiling.copies == COLUMNS
        else (window.taps, tiling.rows)
    )
    elements = copies * round_up(rows * lanes, vector)
    pieces = copies * rows * (1 if together else tiling.pixels)
    return -(-tiling.rows * lanes // vector), elements, pieces


def _crossing(tiling: Tiling, window: Window, vector: int) -> float:
    """Return the share of loads that cross a cache line."""
    if tiling.copies == TAPS:
        return 0.0
    if tiling.copies == COLUMNS:
        shifts = [k * window.dilations[0] * tiling.pixels for k in range(window.kernel[0])]
    else:
        shifts = [k * window.dilations[1] // window.strides[1] for k in range(window.kernel[1])]
    crossing = [shift * tiling.samples % vector != 0 for shift in shifts]
    return sum(crossing) / len(crossing)
