"""Which kernel computes each layer: a pure function of weights, shapes and the machine.

Every kernel says what a layer costs by it, in multiplications at the processor's peak. Nothing here
knows an arena, a file or a clock; the tuner measures what this proposes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runtime.cpu.kernels.problem import Kernel, Problem, Way, problem_of
from runtime.cpu.machine import Machine
from runtime.cpu.memory.layout import Shape
from runtime.plan import steps as s
from runtime.plan.plan import Plan

# Bytes that weights larger than dense ones may add to what the file stores: a constant, and a share
# of the file's.
MORE_BYTES = 24 << 20
MORE_SHARE = 0.25


def choose_ways(
    plan: Plan, shapes: Mapping[str, Shape], machine: Machine, kernels: Sequence[Kernel]
) -> dict[int, Way]:
    """Return how each step with weights is computed, by its index.

    Parameters
    ----------
    plan : Plan
    shapes : mapping of str to tuple of int
        Of every value.
    machine : Machine
    kernels : sequence of Kernel
        In order: of those that cost the same, the first is taken.
    """
    problems = {
        at: problem_of(step, shapes, machine.vector)
        for at, step in enumerate(plan.steps)
        if isinstance(step, s.Weighted)
    }
    chosen = choose_kernels(list(problems.values()), machine, kernels)
    return {
        at: Way(kernel, problem)
        for (at, problem), kernel in zip(problems.items(), chosen, strict=True)
    }


def choose_kernels(
    problems: Sequence[Problem], machine: Machine, kernels: Sequence[Kernel]
) -> list[Kernel]:
    """Return the kernel that costs least for each layer of a network, within its memory.

    Parameters
    ----------
    problems : sequence of Problem
    machine : Machine
    kernels : sequence of Kernel
        In order: of those that cost the same, the first is taken.

    Notes
    -----
    Weights that take more memory than dense ones are given to layers in the order of what that
    saves for each byte, as long as the network's weights stay near what the file stores.
    """
    chosen, gains = [], []
    for number, problem in enumerate(problems):
        costs = {kernel: kernel.cost(problem, machine) for kernel in kernels}
        lean = [kernel for kernel in kernels if is_lean(kernel, problem, machine)]
        best = min(lean, key=costs.__getitem__)
        chosen.append(best)
        for kernel in kernels:
            gain = costs[best] - costs[kernel]
            if kernel not in lean and gain > 0:
                more = kernel.weight_bytes(problem, machine) - 4 * problem.stored
                gains.append((gain * problem.lanes / more, number, more, kernel))
    file = sum(4 * problem.stored for problem in problems)
    left = MORE_BYTES + MORE_SHARE * file
    for _, number, more, kernel in sorted(gains, key=lambda gain: gain[:3], reverse=True):
        if more <= left and is_lean(chosen[number], problems[number], machine):
            left -= more
            chosen[number] = kernel
    return chosen


def is_lean(kernel: Kernel, problem: Problem, machine: Machine) -> bool:
    """Return whether a kernel reads weights no larger than the dense weight."""
    return kernel.weight_bytes(problem, machine) <= problem.dense_bytes
