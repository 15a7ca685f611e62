"""Slices of a batch: the first steps of a network, for some samples after the others.

A pixel of many samples is too wide for large maps: three rows of all channels leave the second
level of the cache before the next row reads them again. Slices keep them there, and what they pass
from step to step takes the memory of one slice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from runtime.cpu.calibration import LEAST_PIXELS, LEAST_SLICES, LEAST_VECTORS, MOST_WEIGHTS
from runtime.cpu.machine import Machine
from runtime.cpu.memory.layout import LINE, Shape
from runtime.plan import steps as s
from runtime.plan.plan import Plan


class Slices(NamedTuple):
    """Which steps are executed slice by slice: all of them for one slice before the next.

    Parameters
    ----------
    steps : int
        The first so many.
    samples : int
        Of a slice.
    parts : int
        Slices of the batch.
    """

    steps: int = 0
    samples: int = 0
    parts: int = 0

    def made(self, plan: Plan) -> set[str]:
        """Return the values that the sliced steps make."""
        return {step.output for step in plan.steps[: self.steps]}

    def shapes(self, plan: Plan, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """Return the shapes of values, of those that the sliced steps make for one slice."""
        made = self.made(plan)
        return {
            name: (self.samples, *shape[1:]) if name in made else shape
            for name, shape in shapes.items()
        }


WHOLE = Slices()  # nothing is sliced


def slices_of(
    plan: Plan, shapes: Mapping[str, Shape], machine: Machine, weight_bytes: Mapping[int, int]
) -> Slices:
    """Return the slices of a plan, a pure function of its shapes and the machine.

    Parameters
    ----------
    plan : Plan
    shapes : mapping of str to tuple of int
        Of every value.
    machine : Machine
    weight_bytes : mapping of int to int
        Of each step with weights, as its kernel reads them, by its index.
    """
    samples = max(LINE, machine.vector)
    batch = shapes[plan.inputs[0].name][0] if shapes[plan.inputs[0].name] else 1
    if batch % samples or batch < LEAST_SLICES * samples:
        return WHOLE
    count = 0
    for at, step in enumerate(plan.steps):
        values = [shapes[name] for name in (*step.inputs, step.output)]
        if not _sliceable(step) or any(len(v) != 4 or v[0] != batch for v in values):
            break
        if weight_bytes.get(at, 0) > MOST_WEIGHTS:
            break
        pixels = values[-1][2] * values[-1][3]
        least = LEAST_VECTORS * machine.threads * machine.vector
        if pixels < LEAST_PIXELS or pixels * samples < least:
            break
        count += 1
    return Slices(count, samples, batch // samples) if count > 1 else WHOLE


def _sliceable(step: s.Step) -> bool:
    """Return whether a step computes each sample from that sample alone."""
    if isinstance(step, s.Arithmetic | s.Where):
        constants = [step.constant] if isinstance(step, s.Arithmetic) else step.constants
        return all(c is None or c.ndim < 4 or c.shape[0] == 1 for c in constants)
    if isinstance(step, s.Concat):
        return step.axis == 1
    return isinstance(step, s.Convolution | s.ScaleShift | s.Activate | s.Pool)
