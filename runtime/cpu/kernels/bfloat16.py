"""Layers in bfloat16: how weights are rounded, tiled and chosen between, and where that can run.

Values in the arena are bfloat16, sums float32. Products need instructions of their own: AMX, which
multiplies 16 rows by 32 columns at once, or AVX512-BF16, which multiplies pairs of columns.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.checkpoint import SparseWeight
from runtime.cpu.calibration import (
    BFLOAT16_COLUMN,
    BFLOAT16_GATHER,
    BFLOAT16_LANES,
    BFLOAT16_ROW,
    BFLOAT16_TILE,
)
from runtime.cpu.kernels.grouped import Grouped, fields_of
from runtime.cpu.kernels.items import cut
from runtime.cpu.kernels.problem import LayerCall, Problem
from runtime.cpu.machine import Machine
from runtime.cpu.memory.window import Pooling
from runtime.cpu.program import Assembly
from runtime.cpu.weights.pack import pack
from runtime.cpu.weights.row_groups import Packed, Scheme, Shape, balanced
from runtime.errors import PlanError
from runtime.plan.steps import Weight

UInt16 = NDArray[np.uint16]

# A tile of weights, as cpu/bfloat16_product.h has it.
TILE_ROWS, TILE_COLUMNS = 16, 32
# Entries of 16 bits to which the weights of each group are aligned: a cache line.
LINE = 32
# Rows of a group, at most: they share the gathering of their columns.
LARGEST_HEIGHT = 128


class Bfloat16Grouped(Grouped):
    """Groups of rows as `Grouped` has them, but taller, multiplied by instructions of their own.

    Parameters
    ----------
    product : str
        "amx" or "avx512_bf16".
    """

    name = "grouped bfloat16"

    def __init__(self, product: str) -> None:
        self._product = product

    def cost(self, problem: Problem, machine: Machine) -> float:
        """Return what all groups cost for each lane; see `Kernel`."""
        nanoseconds = self._scheme(problem)[1] / BFLOAT16_LANES
        share = problem.pixels * problem.inside(machine.vector)
        return nanoseconds * share * machine.rate * 1e-9

    def weight_bytes(self, problem: Problem, machine: Machine) -> int:
        """Return the memory of the entries of all groups, without what fills their tiles."""
        return super().weight_bytes(problem, machine) // 2

    def takes(self, pooling: Pooling, problem: Problem, machine: Machine) -> bool:
        """Return whether it pools: maxima alone, for a mean would be rounded at each sum."""
        return pooling.largest and super().takes(pooling, problem, machine)

    def scheme(self, problem: Problem, machine: Machine) -> Scheme:
        """Return how a weight is cut into groups."""
        return self._scheme(problem)[0]

    def emit(self, program: Assembly, layer: LayerCall) -> None:
        """Add the call, after those that make what it reads."""
        source, runs = self.source(program, layer, apart=False)
        weight, shape = layer.step.weight, layer.shape
        scheme = self.scheme(layer.problem, program.machine)
        packed = program.packed(
            weight, ("tiles", scheme, shape), lambda: pack_tiles(weight, scheme, shape)
        )
        made = cut(packed, runs, program.machine, source.image.channels, layer.configuration)
        fields = fields_of(program, layer, packed, made, source)
        program.call("convolution_bfloat16", layer.at, **fields, product=self._product)

    def _scheme(self, problem: Problem) -> tuple[Scheme, float]:
        return problem.once(
            ("scheme", self._product),
            lambda: choose_scheme(problem.weight, problem.shape.groups, self._product),
        )


def product_kernel(module: Any) -> str:  # noqa: ANN401 - a compiled module
    """Return the fastest kernel for products of bfloat16 that runs here.

    Parameters
    ----------
    module : module
        The variant of the kernels that is loaded.

    Raises
    ------
    PlanError
        If there is none: with what it would need.
    """
    kernels = module.bfloat16_kernels()
    if not kernels:
        raise PlanError(
            "backend 'cpu' computes in bfloat16 on processors with AMX-BF16 or AVX512-BF16 alone, "
            f"by the variant avx512; here the variant is {module.isa}, and neither was found: "
            "use dtype 'float32'"
        )
    return str(kernels[0])


def rounded(values: NDArray[np.float32]) -> UInt16:
    """Return the bits of the nearest bfloat16 numbers, ties to even; NaN stays NaN.

    Parameters
    ----------
    values : ndarray of float32
        Not changed.

    Examples
    --------
    >>> [hex(b) for b in rounded(np.array([1.0, 1.00390625, 1.01171875], np.float32))]
    ['0x3f80', '0x3f80', '0x3f82']
    """
    words = np.ascontiguousarray(values, np.float32).view(np.uint32)
    nearest = ((words + np.uint32(0x7FFF) + ((words >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), (words >> 16 | 0x40).astype(np.uint16), nearest)


def choose_scheme(weight: Weight, groups: int, kernel: str) -> tuple[Scheme, float]:
    """Return how a weight is cut into groups: by blocks, by rows of nonzeros, or densely.

    Parameters
    ----------
    weight : ndarray or SparseWeight
    groups : int
        Convolution groups.
    kernel : str
        "amx" or "avx512_bf16".

    Returns
    -------
    Scheme
        The one that takes least time by the cost model.
    float
        Nanoseconds of one core that 64 lanes take.

    Notes
    -----
    AMX multiplies so much faster than anything gathers that a weight of single nonzeros is
    multiplied densely, zeros too, from a density of about 0.1 on: the result is the same.
    """
    shape = weight.shape if isinstance(weight, np.ndarray) else weight.layout.shape
    dense = Scheme("dense", LARGEST_HEIGHT)
    columns = int(prod(shape[1:]))
    heights = balanced(shape[0] // groups, LARGEST_HEIGHT)
    costs = {dense: groups * sum(group_cost(height, columns, kernel) for height in heights)}
    if isinstance(weight, SparseWeight):
        rows = weight.stored * BFLOAT16_COLUMN + shape[0] * BFLOAT16_ROW
        costs[Scheme("rows", 1)] = rows
        costs[Scheme("blocks", LARGEST_HEIGHT)] = _blocks_cost(weight, kernel)
    best = min(costs, key=lambda scheme: costs[scheme])
    return best, costs[best]


def group_cost(rows: int, columns: int, kernel: str) -> float:
    """Return what a group takes for 64 lanes, in nanoseconds of one core."""
    if rows == 1:
        return columns * BFLOAT16_COLUMN + BFLOAT16_ROW
    row_tiles = -(-rows // TILE_ROWS) if kernel == "amx" else rows / TILE_ROWS
    return (
        -(-columns // TILE_COLUMNS) * (BFLOAT16_GATHER[kernel] + BFLOAT16_TILE[kernel] * row_tiles)
        + rows * BFLOAT16_ROW
    )


def _blocks_cost(weight: SparseWeight, kernel: str) -> float:
    cost = sum(
        group_cost(height, len(block.columns), kernel)
        for block in weight.layout.blocks
        for height in balanced(len(block.rows), LARGEST_HEIGHT)
    )
    if weight.residual is not None:
        kept = np.count_nonzero(np.diff(weight.residual.row_offsets))
        cost += weight.residual.values.size * BFLOAT16_COLUMN + int(kept) * BFLOAT16_ROW
    return cost


def pack_tiles(weight: Weight, scheme: Scheme, shape: Shape) -> Packed:
    """Return a weight as groups of bfloat16, as cpu/bfloat16_convolution.h takes them.

    Parameters
    ----------
    weight : ndarray or SparseWeight
        Not changed.
    scheme : Scheme
    shape : Shape

    Returns
    -------
    Packed
        Its `weights` are uint16: of a group of several rows, tiles of 16 rows x 32 columns, zeros
        where it has no more; of a group of one row, float32 numbers in two entries each.
    """
    packed = pack(weight, scheme, shape)
    bits = rounded(packed.weights)
    heights, widths = packed.heights.tolist(), packed.widths.tolist()
    sizes = [_entries(rows, columns) for rows, columns in zip(heights, widths, strict=True)]
    starts = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=starts[1:])
    tiles = _aligned(int(starts[-1]))
    for at, size, first, rows, columns in zip(
        starts.tolist(), sizes, packed.weight_starts.tolist(), heights, widths, strict=False
    ):
        given = bits[first : first + rows * columns]
        if rows == 1:
            tiles[at + 1 : at + 2 * columns : 2] = given  # the upper halves, in the order of bytes
            continue
        down, along = -(-rows // TILE_ROWS), -(-columns // TILE_COLUMNS)
        wide = np.zeros((down * TILE_ROWS, along * TILE_COLUMNS), np.uint16)
        wide[:rows, :columns] = given.reshape(columns, rows).T
        tiles[at : at + size].reshape(down, along, TILE_ROWS, TILE_COLUMNS)[...] = wide.reshape(
            down, TILE_ROWS, along, TILE_COLUMNS
        ).swapaxes(1, 2)
    return replace(packed, weights=tiles, weight_starts=starts[:-1])


def _entries(rows: int, columns: int) -> int:
    """Return the entries of 16 bits that a group takes."""
    if rows == 1:
        return -(-2 * columns // LINE) * LINE
    return -(-rows // TILE_ROWS) * -(-columns // TILE_COLUMNS) * TILE_ROWS * TILE_COLUMNS


def _aligned(size: int) -> UInt16:
    """Return zeros that begin on a cache line."""
    memory = np.zeros(size + LINE, np.uint16)
    first = -memory.ctypes.data % 64 // 2
    return memory[first : first + size]
