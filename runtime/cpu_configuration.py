"""How each layer is computed: a pure function of its weights, its shape and the machine.

A cost model in multiplications at the processor's peak. Nothing here knows an arena, a file or a
clock; the tuner measures what this proposes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from masktools.checkpoint import SparseWeight
from runtime.cpu_groups import LARGEST_HEIGHT, Scheme, Shape, balanced
from runtime.cpu_runs import Window
from runtime.cpu_windows import Outputs, choose_tiling
from runtime.steps import Weight


class Machine(NamedTuple):
    """What the cost model knows of a processor.

    Parameters
    ----------
    vector : int
        float32 elements of a vector.
    threads : int
    level2 : int
        Bytes of a core's second-level cache.
    rate : float
        Multiplications a second of one thread, from registers.
    product : str
        Kernel for products of bfloat16; empty where all is float32.
    """

    vector: int
    threads: int
    level2: int = 1 << 20
    rate: float = 100e9
    product: str = ""


# Share of the peak that groups of 1, 2, ... rows reach: a column is loaded once for all of them.
EFFICIENCY = (0.0, 0.30, 0.60, 0.68, 0.75, 0.80, 0.84, 0.86, 0.88)
# Lanes of an output from which rows by themselves reach half of that: their runs are short below.
ROW_LANES = 128
# What beginning and ending a row's sum costs, in columns.
ROW_COLUMNS = 4
# Rows of nonzeros: the channels of a panel at least, and the columns that a row keeps of them; the
# taps that make a panel worth it, and the vectors of lanes that each thread needs.
LEAST_CHANNELS, LEAST_COLUMNS = 16, 24
LEAST_TAPS, LEAST_VECTORS = 4, 8
# Rows as lanes: share of the peak that groups of one vector of rows reach, and of two, which share
# each pixel that is broadcast.
NARROW_EFFICIENCY = (0.6, 0.8)
# Lanes of the whole output up to which rows may be lanes instead: beyond, taps find little of x in
# the first level of the cache. Of single rows, which make no vector, a share of one.
NARROW_LANES, NARROW_ROWS = 256, 0.25
# By how much a thread's rows may exceed the mean before groups are made half as high.
NARROW_UNEVEN = 1.1
# What vectors along pixels take where strides or dilations make them read a copy of the input.
COPIED = 1.5
# Share of the peak that the products of the minimal filtering algorithm reach, and what
# transforming an entry of a tile costs, in multiplications.
WINOGRAD_EFFICIENCY = 0.42
WINOGRAD_TRANSFORM = 12
# Channels and rows below which its transforms are not paid back.
WINOGRAD_CHANNELS = 16
# Weights that it may add to what the file stores: a constant, and a share of the file's.
WINOGRAD_BYTES = 24 << 20
WINOGRAD_SHARE = 0.25


class Configuration(NamedTuple):
    """How the work of a layer is cut, where there is a choice.

    Parameters
    ----------
    tile_vectors : int
        Vectors of lanes that all groups of a panel go over before the next lanes.
    prefetch : int
        Columns to prefetch ahead.
    items : int
        Pieces of work for each thread, so that all end at about the same time.
    panel_share : float
        Share of the second-level cache that the weights of a panel may fill.
    """

    tile_vectors: int = 24
    prefetch: int = 16
    items: int = 4
    panel_share: float = 0.5


class Problem(NamedTuple):
    """A layer and the size of its maps.

    Parameters
    ----------
    shape : Shape
    kernel : (int, int)
    height, width : int
        Of the output.
    lanes : int
        Elements of a pixel.
    inside : float
        Share of (tap, pixel) that lies inside the image, of those that are multiplied.
    covered : float
        Share of (tap, pixel) that lies inside the image, of all.
    plain : bool
        Strides and dilations are 1.
    window : Window, default None
        None: of a product.
    """

    shape: Shape
    kernel: tuple[int, int]
    height: int
    width: int
    lanes: int
    inside: float = 1.0
    covered: float = 1.0
    plain: bool = True
    window: Window | None = None


@dataclass(frozen=True)
class Method:
    """How a layer is computed.

    Parameters
    ----------
    scheme : Scheme
        How its weight is cut into groups.
    winograd : bool
        By the minimal filtering algorithm instead, from the dense weight.
    narrow : bool
        Rows are the lanes of vectors, not pixels.
    windows : bool
        By rows of nonzeros over packed windows instead.
    """

    scheme: Scheme
    winograd: bool = False
    narrow: bool = False
    windows: bool = False


def choose_methods(layers: Sequence[tuple[Weight, Problem]], machine: Machine) -> list[Method]:
    """Return how each layer of a network is computed.

    Parameters
    ----------
    layers : sequence of (Weight, Problem)
    machine : Machine

    Notes
    -----
    The minimal filtering algorithm takes four times the memory of a dense weight: layers get it in
    the order of what it saves for each byte, as long as the network's weights stay near what the
    file stores.
    """
    methods, costs = [], []
    for weight, problem in layers:
        scheme, cost = choose_scheme(weight, problem.shape.groups)
        pixels = problem.height * problem.width
        direct = cost * pixels * problem.inside
        if scheme.form != "dense" and _is_rows(weight):
            direct *= 1 + ROW_LANES / (pixels * problem.lanes)
        windows = windows_cost(weight, problem, machine)
        method = Method(_from_first_level(scheme, weight, problem, machine), windows=True)
        if windows >= direct:
            narrow = _narrow(scheme, cost, weight, problem, machine)
            method = narrow or replace(method, windows=False)
        methods.append(method)
        costs.append(min(direct, windows))
    stored = sum(_stored(weight) * 4 for weight, _ in layers)
    left = WINOGRAD_BYTES + WINOGRAD_SHARE * stored
    gains = []
    for number, ((weight, problem), cost) in enumerate(zip(layers, costs, strict=True)):
        gain = cost - winograd_cost(problem, machine)
        more = 4 * (36 * problem.shape.rows * problem.shape.channels - _stored(weight))
        if gain > 0:
            gains.append((gain * problem.lanes / more, number, more))
    for _, number, more in sorted(gains, reverse=True):
        if more <= left:
            left -= more
            methods[number] = Method(methods[number].scheme, winograd=True)
    return methods


def _narrow(
    scheme: Scheme, cost: float, weight: Weight, problem: Problem, machine: Machine
) -> Method | None:
    """Return how a layer is computed whose rows become the lanes of vectors; None: not so.

    Every pixel of the output is then as good as any other, wherever it lies. Else vectors run along
    pixels: those of small maps are not full, and rows of pixels at the border are parted.
    """
    shape = problem.shape
    pixels = problem.height * problem.width
    if problem.lanes % machine.vector == 0:
        return None
    if scheme.form == "rows" or shape.group_rows == 1:
        few = pixels * problem.lanes <= NARROW_ROWS * machine.vector
        return Method(scheme, narrow=True) if few else None
    if pixels * problem.lanes > NARROW_LANES:
        return None
    height = 2 * machine.vector
    groups = -(-shape.rows // height)
    if -(-groups // machine.threads) * machine.threads * height > NARROW_UNEVEN * shape.rows:
        height = machine.vector
    lanes = pixels * problem.lanes
    vectors = -(-lanes // machine.vector) + (2 if problem.inside < 1 else 0)
    direct = cost * vectors * machine.vector * problem.inside * (1 if problem.plain else COPIED)
    if _narrow_cost(scheme, weight, problem, machine) * lanes > direct:
        return None
    return Method(Scheme(scheme.form, height, unit=machine.vector), narrow=True)


def _narrow_cost(scheme: Scheme, weight: Weight, problem: Problem, machine: Machine) -> float:
    """Return what a layer costs for one lane, whose rows become the lanes of vectors."""
    shape = problem.shape

    def cost(rows: int, columns: int) -> float:
        vectors = -(-rows // machine.vector)
        share = NARROW_EFFICIENCY[vectors > 1]
        return vectors * machine.vector * columns * problem.covered / share

    if scheme.form == "dense" or isinstance(weight, np.ndarray):
        return shape.groups * cost(shape.group_rows, shape.group_channels * shape.taps)
    residual = weight.residual.values.size if weight.residual is not None else 0
    return cost(1, residual) + sum(cost(len(b.rows), len(b.columns)) for b in weight.layout.blocks)


def _from_first_level(scheme: Scheme, weight: Weight, problem: Problem, machine: Machine) -> Scheme:
    """Return rows of nonzeros cut into panels of channels that the first level of the cache holds.

    A row by itself loads a column for each multiplication, so it is the cache that bounds it: all
    rows go over the same few channels before the next ones. Not where a row would keep too few
    columns of a panel, nor where there are too few lanes to share among threads: a panel's rows
    are not parted.
    """
    shape = problem.shape
    lanes = problem.height * problem.width * problem.lanes
    if (
        not _is_rows(weight)
        or scheme.form == "dense"
        or shape.taps < LEAST_TAPS
        or shape.groups > 1
    ):
        return scheme
    density = _stored(weight) / max(shape.rows * shape.channels * shape.taps, 1)
    channels = LEAST_CHANNELS
    while channels * shape.taps * density * problem.inside < LEAST_COLUMNS:
        channels *= 2
        if channels >= shape.channels:
            return scheme
    few = lanes < LEAST_VECTORS * machine.vector * machine.threads
    return scheme if few or 4 * channels > shape.channels else Scheme("rows", 1, channels)


def windows_cost(weight: Weight, problem: Problem, machine: Machine) -> float:
    """Return the cost of rows of nonzeros over windows for one sample; infinite for other weights.

    Parameters
    ----------
    weight : ndarray or SparseWeight
    problem : Problem
    machine : Machine
    """
    if not _is_rows(weight) or problem.window is None:
        return float("inf")
    outputs = Outputs(problem.height, problem.width, problem.lanes)
    return choose_tiling(
        problem.shape, problem.window, outputs, _stored(weight), machine.vector, machine.threads
    )[1]


def winograd_cost(problem: Problem, machine: Machine) -> float:
    """Return the cost of the minimal filtering algorithm for one sample; infinite where it is none.

    Parameters
    ----------
    problem : Problem
    machine : Machine
    """
    shape = problem.shape
    tiles = -(-problem.height // 4) * -(-problem.width // 4)
    fits = problem.kernel == (3, 3) and problem.plain and shape.groups == 1
    if (
        not fits
        or min(shape.channels, shape.rows) < WINOGRAD_CHANNELS
        or tiles * problem.lanes < 2 * machine.vector
    ):
        return float("inf")
    products = shape.channels * shape.rows / WINOGRAD_EFFICIENCY
    return 36.0 * tiles * (products + WINOGRAD_TRANSFORM * (shape.channels + shape.rows))


def choose_scheme(weight: Weight, groups: int = 1) -> tuple[Scheme, float]:
    """Return how a weight is cut into groups, by blocks, by rows, or densely, and what it costs.

    Parameters
    ----------
    weight : ndarray or SparseWeight
    groups : int, default 1
        Convolution groups.

    Returns
    -------
    Scheme
        The one that takes least time by the cost model.
    float
        Multiplications at peak that take as long, for one lane.
    """
    shape = weight.shape if isinstance(weight, np.ndarray) else weight.layout.shape
    costs = {Scheme("dense"): _dense_cost(shape[0], int(np.prod(shape[1:])), groups)}
    if isinstance(weight, SparseWeight):
        costs[Scheme("blocks")] = _blocks_cost(weight)
        costs[Scheme("rows", 1)] = weight.stored / EFFICIENCY[1] + shape[0] * ROW_COLUMNS
    best = min(costs, key=lambda scheme: costs[scheme])
    return best, costs[best]


def _dense_cost(rows: int, columns: int, groups: int) -> float:
    heights = balanced(rows // groups, LARGEST_HEIGHT)
    return groups * sum(_group_cost(height, columns) for height in heights)


def _blocks_cost(weight: SparseWeight) -> float:
    cost = sum(
        _group_cost(height, len(block.columns))
        for block in weight.layout.blocks
        for height in balanced(len(block.rows), LARGEST_HEIGHT)
    )
    if weight.residual is not None:
        kept = np.count_nonzero(np.diff(weight.residual.row_offsets))
        cost += weight.residual.values.size / EFFICIENCY[1] + int(kept) * ROW_COLUMNS
    return cost


def _group_cost(height: int, columns: int) -> float:
    """Return the cost of a group, in multiplications at peak."""
    return height * columns / EFFICIENCY[height] + height * ROW_COLUMNS


def _is_rows(weight: Weight) -> bool:
    """Return whether all that a weight stores are rows of nonzeros."""
    return isinstance(weight, SparseWeight) and not weight.layout.blocks


def _stored(weight: Weight) -> int:
    return weight.size if isinstance(weight, np.ndarray) else weight.stored
