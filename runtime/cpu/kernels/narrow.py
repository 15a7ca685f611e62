"""Rows as the lanes of vectors: for layers whose pixels are too few to fill them."""

from __future__ import annotations

import numpy as np

from runtime.cpu.machine import Machine, Method, Problem
from runtime.cpu.weights.row_groups import Scheme
from runtime.plan.steps import Weight

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


def narrow_method(
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
