"""The CPU backend: drives the compiled kernels of `cpu/`."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

# What np.unique imports when it is first called: a child forked meanwhile would hang in its import.
import numpy.ma
from numpy.typing import NDArray

from masktools.forks import lock_of
from runtime.backend import Availability
from runtime.cpu import native
from runtime.cpu.compiler import Compiler
from runtime.cpu.machine import machine_here
from runtime.cpu.processor import cores
from runtime.errors import BackendUnavailable, PlanError
from runtime.plan import steps as s
from runtime.plan.plan import Plan

Array = NDArray[Any]
Shape = tuple[int, ...]
Made = TypeVar("Made")

DTYPES = ("float32", "bfloat16")
MOST_THREADS = 256
# Set to 1, ways to cut a layer are timed where no choice is remembered, and the choice is kept.
TUNE = "MASKTOOLS_CPU_TUNE"


class CpuBackend:
    """Native kernels on the processor's cores.

    Parameters
    ----------
    tuned : bool, default None
        Time the ways to cut each layer, once for each machine and shape, and remember the fastest.
        None asks the environment: `MASKTOOLS_CPU_TUNE=1`.
    """

    name = "cpu"

    def __init__(self, tuned: bool | None = None) -> None:
        self.tuned = os.environ.get(TUNE) == "1" if tuned is None else tuned
        self._packed: WeakKeyDictionary[Plan, PackedWeights] = WeakKeyDictionary()

    def available(self) -> Availability:
        """Return which variant runs here, or why none does."""
        try:
            module = native.load()
        except BackendUnavailable as error:
            return Availability(False, str(error))
        return Availability(True, f"{module.isa} kernels, {cores()} cores")

    def compile(
        self, plan: Plan, input_shapes: Mapping[str, Shape], dtype: str, threads: int | None
    ) -> CpuExecutable:
        """Return the plan, packed and placed for inputs of the given shapes.

        Raises
        ------
        PlanError
            If the processor does not compute in `dtype`, or there are more than `MOST_THREADS`
            threads.
        """
        if dtype not in DTYPES:
            raise PlanError(f"backend 'cpu' computes in {' or '.join(DTYPES)}, not {dtype}")
        module = native.load()
        threads = threads or cores()
        if threads > MOST_THREADS:
            raise PlanError(f"backend 'cpu' takes at most {MOST_THREADS} threads, not {threads}")
        machine = machine_here(module.lanes, threads)
        packed = self._packed.setdefault(plan.base or plan, PackedWeights())
        compiler = Compiler(module, machine, dtype, packed, self.tuned)
        return CpuExecutable(plan, plan.batch(input_shapes), compiler)

    def upload(self, array: Any) -> Array:  # noqa: ANN401
        """Return the array itself, in C order."""
        return np.ascontiguousarray(array)

    def download(self, array: Array) -> Array:
        """Return the array itself."""
        return array

    def synchronize(self) -> None:
        """Do nothing: a run waits by itself."""


class PackedWeights:
    """The weights of a plan as kernels read them: each is packed once, for all shapes of inputs."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, Hashable], tuple[s.Weight, Any]] = {}

    def __call__(self, weight: s.Weight, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return a weight as `make` packs it, which is called once for each weight and key."""
        known = (id(weight), key)
        if known not in self._made:
            self._made[known] = (weight, make())
        made: Made = self._made[known][1]
        return made


class CpuExecutable:
    """A program of the compiled kernels, made when it first runs; threads may share it."""

    def __init__(self, plan: Plan, batch: int, compiler: Compiler) -> None:
        self._shapes = {name: plan.shape(name, batch) for name in plan.shapes}
        self._inputs = tuple(value.name for value in plan.inputs)
        self._outputs = [(v.name, self._shapes[plan.results[v.name]]) for v in plan.outputs]
        self._steps = len(plan.steps)
        self._plan, self._compiler = plan, compiler
        self._lock = lock_of(self)
        self._made: Any = None

    @property
    def program(self) -> Any:  # noqa: ANN401 - of the compiled module
        """The program of the kernels."""
        if self._made is None:
            with self._lock:
                if self._made is None:
                    self._made = self._compiler.program(self._plan, self._shapes)
        return self._made

    def run(
        self, inputs: Mapping[str, Array], seconds: list[float] | None = None
    ) -> dict[str, Array]:
        """Run every step; see `runtime.backend.Executable`."""
        outputs = {name: np.empty(shape, np.float32) for name, shape in self._outputs}
        elapsed = None if seconds is None else np.zeros(self._steps)
        self.program.run([inputs[n] for n in self._inputs], list(outputs.values()), elapsed)
        if seconds is not None and elapsed is not None:
            seconds.extend(elapsed.tolist())
        return outputs
