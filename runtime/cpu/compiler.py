"""From a plan to a program of the compiled kernels: choose, place, assemble, bind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from runtime.cpu.choice.choose import choose_ways
from runtime.cpu.choice.kernels import kernels_of
from runtime.cpu.choice.pooling import pooled_steps
from runtime.cpu.kernels.problem import Way, problem_of
from runtime.cpu.machine import Machine
from runtime.cpu.memory.layout import Shape
from runtime.cpu.memory.placement import Placement
from runtime.cpu.memory.slices import WHOLE, Slices, slices_of
from runtime.cpu.memory.window import Pooling
from runtime.cpu.program import Assembly, Packed
from runtime.cpu.steps import add_calls
from runtime.cpu.tuning import Tuner
from runtime.plan import steps as s
from runtime.plan.plan import Plan


class Choice(NamedTuple):
    """Choices made for a plan and its shapes before any value is given a place in memory.

    Parameters
    ----------
    ways : mapping of int to Way
        How each step with weights is computed, by its index.
    pooled : mapping of int to (int, Pooling)
        Of convolutions that pool as they write: the step that pools, and how.
    slices : Slices
        The steps that are executed for some samples after the others.
    """

    ways: Mapping[int, Way]
    pooled: Mapping[int, tuple[int, Pooling]]
    slices: Slices


class Compiler:
    """Makes programs for one machine and one type of numbers.

    Parameters
    ----------
    module : module
        The variant of the kernels that is loaded.
    machine : Machine
    dtype : str
        "float32" or "bfloat16".
    packed : Packed
        Remembers packed weights between programs.
    tuned : bool
        Whether layers of which no choice is remembered are timed.

    Raises
    ------
    PlanError
        If the processor does not compute in `dtype`.
    """

    def __init__(
        self,
        module: Any,  # noqa: ANN401
        machine: Machine,
        dtype: str,
        packed: Packed,
        tuned: bool,
    ) -> None:
        self._module, self._machine, self._dtype, self._packed = module, machine, dtype, packed
        self._kernels = kernels_of(dtype, module)
        self._tuner = Tuner(self._kernels, machine, module, dtype, self._program, tuned)

    def program(self, plan: Plan, shapes: Mapping[str, Shape]) -> Any:  # noqa: ANN401
        """Return a plan as a program of the compiled module, for values of the given shapes."""
        proposed = choose_ways(plan, shapes, self._machine, self._kernels)
        return self._program(plan, shapes, self._tuner.ways(plan, shapes, proposed))

    def _program(self, plan: Plan, shapes: Mapping[str, Shape], ways: Mapping[int, Way]) -> Any:  # noqa: ANN401
        choice = self.choose(plan, shapes, ways)
        placement = self.place(plan, shapes, choice)
        return self.bind(self.assemble(plan, choice, placement))

    def choose(self, plan: Plan, shapes: Mapping[str, Shape], ways: Mapping[int, Way]) -> Choice:
        """Return which steps pool as they write, and which run slice by slice of the batch."""
        pooled = pooled_steps(plan, shapes, self._machine, ways)
        if self._dtype == "bfloat16":
            # Its products take more lanes at a time than a slice has.
            return Choice(ways, pooled, WHOLE)
        weight_bytes = {
            at: way.kernel.weight_bytes(way.problem, self._machine) for at, way in ways.items()
        }
        return Choice(ways, pooled, slices_of(plan, shapes, self._machine, weight_bytes))

    def place(self, plan: Plan, shapes: Mapping[str, Shape], choice: Choice) -> Placement:
        """Return where all values lie, with the zeros beside them that kernels want."""
        vector = self._machine.vector
        of_slice = choice.slices.shapes(plan, shapes)
        wanted = {
            at: choice.ways[at].kernel.halo(problem_of(step, of_slice, vector), self._machine)
            for at, step in enumerate(plan.steps)
            if isinstance(step, s.Weighted)
        }
        fused = {at: pool for at, (pool, _) in choice.pooled.items()}
        return Placement(plan, shapes, vector, fused, choice.slices, wanted)

    def assemble(self, plan: Plan, choice: Choice, placement: Placement) -> Assembly:
        """Return all calls, with values still at no place in the arena."""
        made = Assembly(plan, placement, choice.slices, self._machine, self._packed)
        add_calls(made, choice.ways, choice.pooled)
        return made

    def bind(self, assembly: Assembly) -> Any:  # noqa: ANN401
        """Return the calls as a program of the compiled module, in an arena that holds all."""
        threads, dtype = self._machine.threads, self._dtype
        return assembly.bound(lambda elements: self._module.Program(elements, threads, dtype))
