"""Dense 3x3 convolutions by the minimal filtering algorithm F(4x4, 3x3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from masktools.forks import PRODUCTS
from runtime.cpu.calibration import (
    WINOGRAD_BYTE,
    WINOGRAD_CHANNELS,
    WINOGRAD_PIECES,
    WINOGRAD_PIECES_TRANSFORM,
    WINOGRAD_PIXELS,
    WINOGRAD_PIXELS_TRANSFORM,
    WINOGRAD_PRODUCTS,
    WINOGRAD_SHARE,
    WINOGRAD_SINGLE,
    WINOGRAD_TRANSFORM,
    WINOGRAD_UNCACHED,
    WINOGRAD_WHOLE,
    WINOGRAD_WHOLE_TRANSFORM,
)
from runtime.cpu.kernels.inputs import in_rows, skip_of
from runtime.cpu.kernels.problem import Configuration, LayerCall, Problem, plain_halo
from runtime.cpu.machine import Machine
from runtime.cpu.memory.layout import round_up
from runtime.cpu.memory.window import Pooling
from runtime.cpu.program import Assembly
from runtime.plan.steps import Weight

ROWS = 16  # that lie next to each other: kWinogradRows of the kernels
POSITIONS = 36  # products of a tile

TILE = 4  # outputs of a tile along an axis

_A, _B = 3 / 4, 4 / 3  # the points are 0, A, -A, B, -B and infinity


class Winograd:
    """A quarter of the multiplications of a dense 3x3 window, from weights four times as large."""

    name = "winograd"
    configurations: Mapping[str, Configuration] = {}

    def cost(self, problem: Problem, machine: Machine) -> float:
        """Return what products and transforms of all tiles cost; infinite for other windows."""
        shape, window = problem.shape, problem.window
        fits = window is not None and window.kernel == (3, 3) and problem.is_plain
        few = min(shape.channels, shape.rows) < WINOGRAD_CHANNELS
        if not fits or shape.groups > 1 or few:
            return float("inf")
        tiles = _tiles(problem.height, problem.width) * problem.lanes
        cut = _cut(shape.channels, shape.rows, tiles, machine)
        rounds = -(-cut.items // machine.threads)  # Threads that have no item wait.
        computed = rounds * machine.threads * cut.vectors * machine.vector / problem.lanes
        more = self.weight_bytes(problem, machine) - problem.dense_bytes
        whole = _tile_cost(shape.channels, cut.rows, *_measured(problem.lanes, machine.vector))
        return computed * whole + WINOGRAD_BYTE * more / problem.lanes

    def weight_bytes(self, problem: Problem, machine: Machine) -> int:
        """Return the memory of the transformed weights."""
        return 4 * POSITIONS * round_up(problem.shape.rows, ROWS) * problem.shape.channels

    def halo(self, problem: Problem, machine: Machine) -> int:
        """Return the halo that other kernels would read: this one reads pixels with any."""
        return plain_halo(problem, machine)

    def takes(self, pooling: Pooling, problem: Problem, machine: Machine) -> bool:
        """Return False: tiles of outputs are no pooling windows."""
        return False

    def emit(self, program: Assembly, layer: LayerCall) -> None:
        """Add the call, after those that make what it reads."""
        x, y, machine, weight = in_rows(program, layer), layer.y, program.machine, layer.step.weight
        program.call(
            "winograd",
            layer.at,
            x=x,
            y=y,
            skip=skip_of(program, layer),
            window=layer.window,
            weights=program.packed(weight, ("winograd",), lambda: transformed(dense(weight))),
            bias=program.bias(layer.step.bias),
            activation=program.activation(layer.step.activation),
            **configured(x.channels, y.channels, y.height, y.width, y.lanes, machine),
        )


def dense(weight: Weight) -> NDArray[np.float32]:
    """Return a weight with all its zeros."""
    return weight if isinstance(weight, np.ndarray) else weight.to_dense()


def _tiles(height: int, width: int) -> int:
    return -(-height // TILE) * -(-width // TILE)


def _measured(lanes: int, vector: int) -> tuple[float, float]:
    """Return the share of the peak, and what transforming an entry takes, of a whole layer."""
    if lanes == 1:
        return WINOGRAD_PIXELS, WINOGRAD_PIXELS_TRANSFORM
    if lanes % vector:
        return WINOGRAD_PIECES, WINOGRAD_PIECES_TRANSFORM
    return WINOGRAD_WHOLE, WINOGRAD_WHOLE_TRANSFORM


def _tile_cost(channels: int, rows: int, efficiency: float, transform: float) -> float:
    """Return what a tile costs: its products at a share of the peak, and its transforms."""
    return POSITIONS * (rows * channels / efficiency + transform * (rows + channels))


def _filter_transform() -> NDArray[np.float64]:
    """Return G, (6, 3): the filter's polynomial at each point, over the product of differences."""
    points = np.array([0, _A, -_A, _B, -_B])
    apart = points[:, None] - points
    np.fill_diagonal(apart, 1)
    finite = points[:, None] ** np.arange(3) / apart.prod(axis=1)[:, None]
    return np.vstack([finite, [0, 0, 1]])


def transformed(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Transform and pack the weights of a convolution.

    Parameters
    ----------
    weight : ndarray of float32, shape (rows, channels, 3, 3)
        Not changed.

    Returns
    -------
    ndarray of float32, shape (ceil(rows / 16), 36, channels, 16)
        Computed in float64 and rounded once; zeros for the rows beyond. 4 times as large.

    References
    ----------
    A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, with other
    points: at 0, 1, -1, 2, -2 the rounding errors are about five times as large.

    Examples
    --------
    >>> transformed(np.ones((20, 3, 3, 3), dtype=np.float32)).shape
    (2, 36, 3, 16)
    """
    rows, channels = weight.shape[:2]
    g = _filter_transform()
    both = np.kron(g, g)
    blocks = -(-rows // ROWS)
    packed = np.zeros((blocks, POSITIONS, channels, ROWS), dtype=np.float32)
    for block in range(blocks):  # not at once: in float64 the whole takes eight times its memory
        part = weight[block * ROWS : (block + 1) * ROWS]
        taps = part.reshape(len(part), -1, 9).transpose(2, 1, 0).astype(np.float64)
        with PRODUCTS:
            made = both @ taps.reshape(9, -1)
        packed[block, :, :, : len(part)] = made.reshape(POSITIONS, channels, -1)
    return packed


def configured(
    channels: int, rows: int, height: int, width: int, lanes: int, machine: Machine
) -> dict[str, Any]:
    """Return how the work is cut, as the kernels take it.

    Parameters
    ----------
    channels, rows : int
        Of the layer.
    height, width : int
        Of the output.
    lanes : int
        Elements of a pixel.
    machine : Machine

    Returns
    -------
    dict
        ``vectors`` of tiles in a block, ``row_blocks`` whose products are kept, ``parts`` of the
        rows, each an item: what takes least time, where all threads work on items of one size.

    Examples
    --------
    >>> configured(64, 64, 32, 32, 64, Machine(16, 2))
    {'vectors': 2, 'row_blocks': 8, 'parts': 1}
    """
    cut = _cut(channels, rows, _tiles(height, width) * lanes, machine)
    row_blocks = 8 if cut.vectors == 2 else 16
    return {"vectors": cut.vectors, "row_blocks": row_blocks, "parts": cut.parts}


class Cut(NamedTuple):
    """How the work of a layer is cut into items.

    Parameters
    ----------
    vectors : int
        Of tiles in a block.
    parts : int
        Of the rows.
    rows : int
        That an item computes.
    items : int
        Parts of all blocks.
    """

    vectors: int
    parts: int
    rows: int
    items: int


def _cut(channels: int, rows: int, tiles: int, machine: Machine) -> Cut:
    """Return the cut that takes least time, where all threads work on items of one size."""
    vector, threads = machine.vector, machine.threads
    most = WINOGRAD_SHARE * machine.near
    row_blocks = -(-rows // ROWS)

    def time(cut: Cut) -> float:
        cached = POSITIONS * channels * cut.vectors * vector * 4 <= most
        share = WINOGRAD_PRODUCTS if cut.vectors == 2 else WINOGRAD_SINGLE
        share *= 1 if cached else WINOGRAD_UNCACHED
        work = _tile_cost(channels, cut.rows, share, WINOGRAD_TRANSFORM)
        return -(-cut.items // threads) * cut.vectors * work

    cuts = [
        Cut(vectors, parts, -(-row_blocks // parts) * ROWS, -(-tiles // (vectors * vector)) * parts)
        for vectors in (2, 1)
        for parts in range(1, min(row_blocks, 2 * threads) + 1)
    ]
    return min(cuts, key=time)
