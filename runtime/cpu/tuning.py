"""How a layer is computed: what was fastest before, a timing now, or the proposed way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from masktools.checkpoint import SparseWeight
from runtime.cpu import processor
from runtime.cpu.choice.choose import is_lean
from runtime.cpu.kernels.problem import Kernel, Way
from runtime.cpu.machine import Machine
from runtime.cpu.memory.layout import Shape
from runtime.plan import steps as s
from runtime.plan.plan import Plan
from runtime.tuning import Cache, alone, cache_folder, tune

# Makes the program of a plan whose layers are computed as told, by the index of each.
Make = Callable[[Plan, Mapping[str, Shape], Mapping[int, Way]], Any]

# Seconds that a timing takes at least: a layer of a few microseconds is run more than once.
LEAST_TIMING = 2e-3


class Tuner:
    """Replaces what the cost model proposes by what was fastest.

    Parameters
    ----------
    kernels : sequence of Kernel
    machine : Machine
    module : module
        Of the compiled kernels.
    dtype : str
        Of the numbers.
    make : callable
        Makes a program.
    tuned : bool
        Time the candidates where no choice is remembered; else the proposal is taken there.
    """

    def __init__(
        self,
        kernels: Sequence[Kernel],
        machine: Machine,
        module: Any,  # noqa: ANN401
        dtype: str,
        make: Make,
        tuned: bool,
    ) -> None:
        self._kernels, self._machine, self._make, self._tuned = kernels, machine, make, tuned
        self._module, self._dtype = module, dtype

    def ways(
        self, plan: Plan, shapes: Mapping[str, Shape], proposed: Mapping[int, Way]
    ) -> Mapping[int, Way]:
        """Return how each layer is computed.

        Parameters
        ----------
        plan : Plan
        shapes : mapping of str to tuple of int
            Of every value.
        proposed : mapping of int to Way
            By the cost model.
        """
        remembered = Cache(cache_folder())
        # A user who never tunes has no such folder, and pays nothing.
        if not self._tuned and not remembered.folder.is_dir():
            return proposed
        machine = machine_key(self._machine, self._module, self._dtype)
        found = {}
        for at, way in proposed.items():
            step = plan.steps[at]
            assert isinstance(step, s.Weighted)
            key = {**machine, "problem": problem_key(step, shapes)}
            candidates = candidates_of(way, self._kernels, self._machine)
            if self._tuned:
                time = _timed(plan, step, shapes, self._make)
                found[at] = tune(key, candidates, time, remembered).choice
            else:
                known = remembered.read(key, candidates)
                found[at] = known.choice if known else way
        return found


def candidates_of(proposed: Way, kernels: Sequence[Kernel], machine: Machine) -> dict[str, Way]:
    """Return the ways to compute a layer that are worth timing, by name, the proposed one first.

    Every kernel that can compute it, and other cuts of its work where there are some. Weights
    larger than dense ones are timed only where they are proposed: the network's memory is bounded.
    """
    problem = proposed.problem
    others = [
        kernel
        for kernel in kernels
        if kernel is not proposed.kernel
        and kernel.cost(problem, machine) < float("inf")
        and is_lean(kernel, problem, machine)
    ]
    found = {}
    for kernel in (proposed.kernel, *others):
        found[kernel.name] = Way(kernel, problem)
        for name, configuration in kernel.configurations.items():
            found[f"{kernel.name}, {name}"] = Way(kernel, problem, configuration)
    return found


def machine_key(machine: Machine, module: Any, dtype: str) -> dict[str, Any]:  # noqa: ANN401
    """Return what a choice depends on beside the problem."""
    return {
        "device": processor.model().name,
        "variant": module.isa,
        "source": _digest(module.__file__),
        "machine": machine._asdict(),
        "dtype": dtype,
    }


def problem_key(step: s.Weighted, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Return a layer as a key: its shapes, and how its weights are stored."""
    weight = step.weight
    blocks: list[int] = []
    if isinstance(weight, SparseWeight):
        heights = [len(block.rows) for block in weight.layout.blocks]
        blocks = np.bincount(heights).tolist() if heights else []
    window = [getattr(step, name, None) for name in ("strides", "dilations", "pads", "groups")]
    return {
        "operator": step.operator,
        "weights": list(step.weight_shape),
        "stored": step.stored,
        "blocks": blocks,
        "values": [list(shapes[name]) for name in (*step.inputs, step.output)],
        "window": [list(w) if isinstance(w, tuple) else w for w in window],
    }


def _timed(
    plan: Plan, step: s.Weighted, shapes: Mapping[str, Shape], make: Make
) -> Callable[[Way], float]:
    """Return a function that runs one step in a given way and returns the seconds it took."""
    single = alone(plan, step)
    random = np.random.default_rng(0)
    inputs = [random.standard_normal(shapes[v.name], np.float32) for v in single.inputs]
    outputs = [np.empty(shapes[step.output], np.float32)]
    programs: dict[Way, Any] = {}

    def seconds(way: Way) -> float:
        if way not in programs:
            programs[way] = make(single, shapes, {0: way})
            programs[way].run(inputs, outputs, None)
        took, runs = np.zeros(1), 0
        while not runs or took[0] < LEAST_TIMING:
            programs[way].run(inputs, outputs, took)
            runs += 1
        return float(took[0]) / runs

    return seconds


@lru_cache(maxsize=4)
def _digest(path: str) -> str:
    """Return a hash of the compiled kernels: other kernels, other choices."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
