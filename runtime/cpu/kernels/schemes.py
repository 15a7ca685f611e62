"""How a weight is cut into groups: by blocks, by rows, or densely, whatever costs least."""

from __future__ import annotations

import numpy as np

from masktools.checkpoint import SparseWeight
from runtime.cpu.kernels.problem import Problem
from runtime.cpu.machine import Machine
from runtime.cpu.weights.row_groups import LARGEST_HEIGHT, Scheme, balanced
from runtime.plan.steps import Weight

# Share of the peak that groups of 1, 2, ... rows reach: a column is loaded once for all of them.
EFFICIENCY = (0.0, 0.30, 0.60, 0.68, 0.75, 0.80, 0.84, 0.86, 0.88)
# What beginning and ending a row's sum costs, in columns.
ROW_COLUMNS = 4
# Rows of nonzeros: the channels of a panel at least, and the columns that a row keeps of them; the
# taps that make a panel worth it, and the vectors of lanes that each thread needs.
LEAST_CHANNELS, LEAST_COLUMNS = 16, 24
LEAST_TAPS, LEAST_VECTORS = 4, 8


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


def scheme_of(problem: Problem) -> tuple[Scheme, float]:
    """Return `choose_scheme` of a layer, worked out once for it."""
    return problem.once("scheme", lambda: choose_scheme(problem.weight, problem.shape.groups))


def from_first_level(scheme: Scheme, problem: Problem, machine: Machine) -> Scheme:
    """Return rows of nonzeros cut into panels of channels that the first level of the cache holds.

    A row by itself loads a column for each multiplication, so it is the cache that bounds it: all
    rows go over the same few channels before the next ones. Not where a row would keep too few
    columns of a panel, nor where there are too few lanes to share among threads: a panel's rows
    are not parted.
    """
    shape = problem.shape
    if not problem.is_rows or scheme.form == "dense" or shape.taps < LEAST_TAPS or shape.groups > 1:
        return scheme
    density = problem.stored / max(shape.rows * shape.channels * shape.taps, 1)
    channels = LEAST_CHANNELS
    while channels * shape.taps * density * problem.inside(machine.vector) < LEAST_COLUMNS:
        channels *= 2
        if channels >= shape.channels:
            return scheme
    few = problem.pixels * problem.lanes < LEAST_VECTORS * machine.vector * machine.threads
    return scheme if few or 4 * channels > shape.channels else Scheme("rows", 1, channels)
