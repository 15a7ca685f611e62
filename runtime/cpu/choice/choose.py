"""How each layer is computed: a pure function of its weights, its shape and the machine.

A cost model in multiplications at the processor's peak. Nothing here knows an arena, a file or a
clock; the tuner measures what this proposes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from runtime.cpu.choice.schemes import choose_scheme, from_first_level, is_rows, stored
from runtime.cpu.kernels.narrow import narrow_method
from runtime.cpu.kernels.windows import Outputs, choose_tiling
from runtime.cpu.machine import Machine, Method, Problem
from runtime.plan.steps import Weight

# Lanes of an output from which rows by themselves reach half of what the scheme's cost tells: their
# runs are short below.
ROW_LANES = 128
# Share of the peak that the products of the minimal filtering algorithm reach, and what
# transforming an entry of a tile costs, in multiplications.
WINOGRAD_EFFICIENCY = 0.42
WINOGRAD_TRANSFORM = 12
# Channels and rows below which its transforms are not paid back.
WINOGRAD_CHANNELS = 16
# Weights that it may add to what the file stores: a constant, and a share of the file's.
WINOGRAD_BYTES = 24 << 20
WINOGRAD_SHARE = 0.25


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
        if scheme.form != "dense" and is_rows(weight):
            direct *= 1 + ROW_LANES / (pixels * problem.lanes)
        windows = windows_cost(weight, problem, machine)
        method = Method(from_first_level(scheme, weight, problem, machine), windows=True)
        if windows >= direct:
            narrow = narrow_method(scheme, cost, weight, problem, machine)
            method = narrow or replace(method, windows=False)
        methods.append(method)
        costs.append(min(direct, windows))
    file = sum(stored(weight) * 4 for weight, _ in layers)
    left = WINOGRAD_BYTES + WINOGRAD_SHARE * file
    gains = []
    for number, ((weight, problem), cost) in enumerate(zip(layers, costs, strict=True)):
        gain = cost - winograd_cost(problem, machine)
        more = 4 * (36 * problem.shape.rows * problem.shape.channels - stored(weight))
        if gain > 0:
            gains.append((gain * problem.lanes / more, number, more))
    for _, number, more in sorted(gains, reverse=True):
        if more <= left:
            left -= more
            methods[number] = Method(methods[number].scheme, winograd=True)
    return methods


def windows_cost(weight: Weight, problem: Problem, machine: Machine) -> float:
    """Return the cost of rows of nonzeros over windows for one sample; infinite for other weights.

    Parameters
    ----------
    weight : ndarray or SparseWeight
    problem : Problem
    machine : Machine
    """
    if not is_rows(weight) or problem.window is None:
        return float("inf")
    outputs = Outputs(problem.height, problem.width, problem.lanes)
    return choose_tiling(
        problem.shape, problem.window, outputs, stored(weight), machine.vector, machine.threads
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
