"""Pooling that a convolution does as it writes: the full-sized output is never stored."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.cpu.calibration import POOLED_PIXELS, POOLED_VECTORS
from runtime.cpu.kernels.problem import Way
from runtime.cpu.machine import Machine
from runtime.cpu.memory.layout import Shape, padded_batch
from runtime.cpu.memory.window import Pooling
from runtime.plan import steps as s
from runtime.plan.plan import Plan


def pooled_steps(
    plan: Plan, shapes: Mapping[str, Shape], machine: Machine, ways: Mapping[int, Way]
) -> dict[int, tuple[int, Pooling]]:
    """Return, for convolutions that write into a pooled value, that step and how it pools.

    Parameters
    ----------
    plan : Plan
    shapes : mapping of str to tuple of int
        Of every value.
    machine : Machine
    ways : mapping of int to Way
        How each step with weights is computed, by its index: its kernel says what it takes in.
    """
    made_by = {step.output: at for at, step in enumerate(plan.steps)}
    found = {}
    for at, step in enumerate(plan.steps):
        pooling = _window(step, shapes, machine.vector)
        before = made_by.get(step.inputs[0]) if pooling else None
        if pooling is None or before is None:
            continue
        conv = plan.steps[before]
        alone = len(plan.readers[conv.output]) == 1 and conv.output not in plan.results.values()
        if not isinstance(conv, s.Convolution) or len(conv.inputs) > 1 or not alone:
            continue
        if ways[before].kernel.takes(pooling, ways[before].problem, machine):
            found[before] = (at, pooling)
    return found


def _window(step: s.Step, shapes: Mapping[str, Shape], vector: int) -> Pooling | None:
    """Return the window of a step that pools windows side by side, of whole vectors of samples."""
    if not isinstance(step, s.Pool | s.GlobalAveragePool):
        return None
    x = shapes[step.inputs[0]]
    lanes = padded_batch(x[0], vector)
    if lanes % vector or lanes < POOLED_VECTORS * vector or not 3 <= len(x) <= 4:
        return None
    if isinstance(step, s.GlobalAveragePool):
        window, largest = (1, *x[2:])[-2:], False
    else:
        apart = step.kernel == step.strides and step.dilations == (1, 1)
        if not apart or any(step.pads) or any(step.counted):
            return None
        window, largest = step.kernel, step.op == "MaxPool"
    if window[0] * window[1] > POOLED_PIXELS:
        return None
    return Pooling((window[0], window[1]), largest)
