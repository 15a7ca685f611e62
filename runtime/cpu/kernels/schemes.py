"""How a weight is cut into groups: by blocks, by rows, or densely, whatever costs least."""

from __future__ import annotations

import numpy as np

from masktools.checkpoint import SparseWeight
from runtime.cpu.calibration import (
    GROUP_EFFICIENCY,
    LOADS,
    MULTIPLICATIONS,
    PANEL_CHANNELS,
    PANEL_COLUMNS,
    PANEL_TAPS,
    PANEL_VECTORS,
    ROW_COLUMNS,
)
from runtime.cpu.kernels.problem import Problem
from runtime.cpu.machine import Machine
from runtime.cpu.weights.row_groups import LARGEST_HEIGHT, Scheme, balanced
from runtime.plan.steps import Weight


def choose_scheme(weight: Weight, machine: Machine, groups: int = 1) -> tuple[Scheme, float]:
    """Return how a weight is cut into groups, by blocks, by rows, or densely, and what it costs.

    Parameters
    ----------
    weight : ndarray or SparseWeight
    machine : Machine
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
    costs = {Scheme("dense"): _dense_cost(shape[0], int(np.prod(shape[1:])), machine, groups)}
    if isinstance(weight, SparseWeight):
        costs[Scheme("blocks")] = _blocks_cost(weight, machine)
        costs[Scheme("rows", 1)] = _rows_cost(weight.stored, shape[0], machine)
    best = min(costs, key=lambda scheme: costs[scheme])
    return best, costs[best]


def _dense_cost(rows: int, columns: int, machine: Machine, groups: int) -> float:
    heights = balanced(rows // groups, LARGEST_HEIGHT)
    return groups * sum(_group_cost(height, columns, machine) for height in heights)


def _blocks_cost(weight: SparseWeight, machine: Machine) -> float:
    cost = sum(
        _group_cost(height, len(block.columns), machine)
        for block in weight.layout.blocks
        for height in balanced(len(block.rows), LARGEST_HEIGHT)
    )
    if weight.residual is not None:
        kept = np.count_nonzero(np.diff(weight.residual.row_offsets))
        cost += _rows_cost(weight.residual.values.size, int(kept), machine)
    return cost


def _rows_cost(nonzeros: int, rows: int, machine: Machine) -> float:
    """Return the cost of single rows, in multiplications at peak."""
    return nonzeros / efficiency(1, machine) + rows * ROW_COLUMNS


def _group_cost(height: int, columns: int, machine: Machine) -> float:
    """Return the cost of a group, in multiplications at peak."""
    return height * columns / efficiency(height, machine) + height * ROW_COLUMNS


def efficiency(height: int, machine: Machine) -> float:
    """Return the share of the peak that a group reaches.

    Low groups wait for loads. Where a processor begins more of them for each multiplication than
    the one that was measured, they come as much nearer to what the highest group reaches.
    """
    loads = machine.loads / machine.multiplications * MULTIPLICATIONS / LOADS
    return min(
        GROUP_EFFICIENCY[height] * loads, max(GROUP_EFFICIENCY[height], GROUP_EFFICIENCY[-1])
    )


def scheme_of(problem: Problem, machine: Machine) -> tuple[Scheme, float]:
    """Return `choose_scheme` of a layer, worked out once for it."""
    return problem.once(
        ("scheme", machine), lambda: choose_scheme(problem.weight, machine, problem.shape.groups)
    )


def from_first_level(scheme: Scheme, problem: Problem, machine: Machine) -> Scheme:
    """Return rows of nonzeros cut into panels of channels that the first level of the cache holds.

    A row by itself loads a column for each multiplication, so it is the cache that bounds it: all
    rows go over the same few channels before the next ones. Not where a row would keep too few
    columns of a panel, nor where there are too few lanes to share among threads: a panel's rows
    are not parted.
    """
    shape = problem.shape
    if not problem.is_rows or scheme.form == "dense" or shape.taps < PANEL_TAPS or shape.groups > 1:
        return scheme
    density = problem.stored / max(shape.rows * shape.channels * shape.taps, 1)
    channels = PANEL_CHANNELS
    while channels * shape.taps * density * problem.inside(machine.vector) < PANEL_COLUMNS:
        channels *= 2
        if channels >= shape.channels:
            return scheme
    few = problem.pixels * problem.lanes < PANEL_VECTORS * machine.vector * machine.threads
    return scheme if few or 4 * channels > shape.channels else Scheme("rows", 1, channels)
