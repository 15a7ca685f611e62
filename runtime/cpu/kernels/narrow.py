"""Rows as the lanes of vectors: for layers whose pixels are too few to fill them."""

from __future__ import annotations

from collections.abc import Mapping

from masktools.checkpoint import SparseWeight
from runtime.cpu.calibration import (
    NARROW_COPIED,
    NARROW_DENSE,
    NARROW_DENSE_LANES,
    NARROW_EFFICIENCY,
    NARROW_LANES,
    NARROW_ROWS,
    NARROW_UNEVEN,
)
from runtime.cpu.kernels.grouped import (
    CONFIGURATIONS,
    Grouped,
    fields_of,
    packed_groups,
)
from runtime.cpu.kernels.inputs import in_place
from runtime.cpu.kernels.items import whole
from runtime.cpu.kernels.pixel_runs import pixel_runs
from runtime.cpu.kernels.problem import Configuration, LayerCall, Problem
from runtime.cpu.kernels.schemes import scheme_of
from runtime.cpu.machine import Machine
from runtime.cpu.memory.window import Pooling
from runtime.cpu.program import Assembly
from runtime.cpu.weights.row_groups import Scheme


class Narrow:
    """Groups whose rows are the lanes of vectors.

    Every pixel of the output is as good as any other, wherever it lies. Vectors along pixels are
    not full on small maps, and rows of pixels at the border are parted.
    """

    name = "narrow"
    configurations: Mapping[str, Configuration] = CONFIGURATIONS

    def __init__(self, grouped: Grouped) -> None:
        self._grouped = grouped

    def cost(self, problem: Problem, machine: Machine) -> float:
        """Return the cost of `Grouped` where this kernel takes less time, else infinity.

        The two are compared with each other alone: beside other kernels this claims no more.
        """
        if scheme_of_lanes(problem, machine) is None:
            return float("inf")
        return self._grouped.cost(problem, machine)

    def weight_bytes(self, problem: Problem, machine: Machine) -> int:
        """Return the memory of the entries of all groups: as many as along pixels."""
        return self._grouped.weight_bytes(problem, machine)

    def halo(self, problem: Problem, machine: Machine) -> int:
        """Return 0: it multiplies what lies inside an image alone."""
        return 0

    def takes(self, pooling: Pooling, problem: Problem, machine: Machine) -> bool:
        """Return False: where samples fill vectors it is not used."""
        return False

    def emit(self, program: Assembly, layer: LayerCall) -> None:
        """Add the call, after those that make what it reads."""
        scheme = scheme_of_lanes(layer.problem, program.machine)
        assert scheme is not None, "a kernel that the cost model would not choose"
        source = in_place(program, layer)
        vector = program.machine.vector
        runs = pixel_runs(source.image, layer.y, source.window, vector, apart=False)
        packed = packed_groups(program, layer, scheme)
        made = whole(packed, runs, program.machine, layer.configuration)
        program.call("narrow", layer.at, **fields_of(program, layer, packed, made, source))


def scheme_of_lanes(problem: Problem, machine: Machine) -> Scheme | None:
    """Return `_scheme` of a layer, worked out once for it."""
    return problem.once(("narrow", machine), lambda: _scheme(problem, machine))


def _scheme(problem: Problem, machine: Machine) -> Scheme | None:
    """Return how a weight is cut into groups of rows that are lanes; None: vectors along pixels.

    The groups are as high as leaves no thread idle.
    """
    shape, vector = problem.shape, machine.vector
    scheme, cost = scheme_of(problem, machine)
    lanes = problem.pixels * problem.lanes
    if problem.lanes % vector == 0:
        return None
    if shape.group_rows > 1 and _fills_up(scheme, problem, lanes):
        scheme = Scheme("dense")
    elif scheme.form == "rows" or shape.group_rows == 1:
        return scheme if lanes <= NARROW_ROWS * vector else None
    elif lanes > NARROW_LANES or _takes_longer(scheme, cost, problem, machine):
        return None
    height = 2 * vector
    groups = -(-shape.rows // height)
    if -(-groups // machine.threads) * machine.threads * height > NARROW_UNEVEN * shape.rows:
        height = vector
    return Scheme(scheme.form, height, unit=vector)


def _fills_up(scheme: Scheme, problem: Problem, lanes: int) -> bool:
    """Return whether zeros cost less than nonzeros by themselves, on a few lanes."""
    shape, weight = problem.shape, problem.weight
    if not isinstance(weight, SparseWeight) or lanes > NARROW_DENSE_LANES:
        return False
    alone = weight.stored if scheme.form == "rows" else _residual(weight)
    return alone >= NARROW_DENSE * shape.rows * shape.group_channels * shape.taps


def _residual(weight: SparseWeight) -> int:
    return weight.residual.values.size if weight.residual is not None else 0


def _takes_longer(scheme: Scheme, cost: float, problem: Problem, machine: Machine) -> bool:
    """Return whether rows that are lanes take longer than vectors along pixels."""
    vector, lanes = machine.vector, problem.pixels * problem.lanes
    vectors = -(-lanes // vector) + (2 if problem.inside(vector) < 1 else 0)
    direct = cost * vectors * vector * problem.inside(vector)
    direct *= 1 if problem.is_plain else NARROW_COPIED
    return _lane_cost(scheme, problem, machine) * lanes > direct


def _lane_cost(scheme: Scheme, problem: Problem, machine: Machine) -> float:
    """Return what a layer costs for one lane, whose rows become the lanes of vectors."""
    shape, weight = problem.shape, problem.weight

    def cost(rows: int, columns: int) -> float:
        vectors = -(-rows // machine.vector)
        share = NARROW_EFFICIENCY[vectors > 1]
        return vectors * machine.vector * columns * problem.covered / share

    if scheme.form == "dense" or not isinstance(weight, SparseWeight):
        return shape.groups * cost(shape.group_rows, shape.group_channels * shape.taps)
    return cost(1, _residual(weight)) + sum(
        cost(len(b.rows), len(b.columns)) for b in weight.layout.blocks
    )
