"""The CPU backend: drives the compiled kernels of `cpu/`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from runtime import cpu_isa
from runtime import steps as s
from runtime.backend import Availability
from runtime.cpu_configuration import Machine
from runtime.cpu_groups import Packed, Scheme
from runtime.cpu_groups import Shape as LayerShape
from runtime.cpu_packing import pack
from runtime.cpu_steps import assemble
from runtime.errors import BackendUnavailable, PlanError
from runtime.plan import Plan

Array = NDArray[Any]
Shape = tuple[int, ...]

DTYPES = ("float32",)


class CpuBackend:
    """Native kernels on the processor's cores."""

    name = "cpu"

    def __init__(self) -> None:
        self._packed: WeakKeyDictionary[Plan, PackedWeights] = WeakKeyDictionary()

    def available(self) -> Availability:
        """Return which variant runs here, or why none does."""
        try:
            module = cpu_isa.load()
        except BackendUnavailable as error:
            return Availability(False, str(error))
        return Availability(True, f"{module.isa}, {default_threads()} threads")

    def compile(
        self, plan: Plan, input_shapes: Mapping[str, Shape], dtype: str, threads: int | None
    ) -> CpuExecutable:
        """Return the plan, packed and placed for inputs of the given shapes.

        Raises
        ------
        PlanError
            If `dtype` is not float32, or there are more threads than processors may be counted.
        """
        if dtype not in DTYPES:
            raise PlanError(f"backend 'cpu' computes in {' or '.join(DTYPES)}, not {dtype}")
        module = cpu_isa.load()
        machine = Machine(module.lanes, threads or default_threads())
        packed = self._packed.setdefault(plan, PackedWeights())
        return CpuExecutable(plan, input_shapes, module, machine, packed)

    def upload(self, array: Any) -> Array:  # noqa: ANN401
        """Return the array itself, in C order."""
        return np.ascontiguousarray(array)

    def download(self, array: Array) -> Array:
        """Return the array itself."""
        return array

    def synchronize(self) -> None:
        """Do nothing: a run waits by itself."""


class PackedWeights:
    """The groups of a plan's weights: each weight is packed once, for all shapes of inputs."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, Scheme, LayerShape], tuple[s.Weight, Packed]] = {}

    def __call__(self, weight: s.Weight, scheme: Scheme, shape: LayerShape) -> Packed:
        """Return the groups of a weight."""
        key = (id(weight), scheme, shape)
        if key not in self._made:
            self._made[key] = (weight, pack(weight, scheme, shape))
        return self._made[key][1]


class CpuExecutable:
    """A program of the compiled kernels; threads may share it."""

    def __init__(
        self,
        plan: Plan,
        input_shapes: Mapping[str, Shape],
        module: Any,  # noqa: ANN401
        machine: Machine,
        packed: PackedWeights,
    ) -> None:
        batch = plan.batch(input_shapes)
        shapes = {name: plan.shape(name, batch) for name in plan.shapes}
        assembly = assemble(plan, shapes, machine, packed)
        self._program = assembly.program(lambda elements: module.Program(elements, machine.threads))
        self._inputs = tuple(value.name for value in plan.inputs)
        self._outputs = [(v.name, shapes[plan.results[v.name]]) for v in plan.outputs]
        self._steps = len(plan.steps)

    def run(
        self, inputs: Mapping[str, Array], seconds: list[float] | None = None
    ) -> dict[str, Array]:
        """Run every step; see `runtime.backend.Executable`."""
        outputs = {name: np.empty(shape, np.float32) for name, shape in self._outputs}
        elapsed = None if seconds is None else np.zeros(self._steps)
        self._program.run([inputs[n] for n in self._inputs], list(outputs.values()), elapsed)
        if seconds is not None and elapsed is not None:
            seconds.extend(elapsed.tolist())
        return outputs


def default_threads() -> int:
    """Return how many threads are used unless the caller says: the processors this process has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
