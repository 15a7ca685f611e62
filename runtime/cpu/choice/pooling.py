"""Pooling that a convolution does as it writes: the full-sized output is never stored."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from runtime.cpu.kernels.runs import Pooling
from runtime.cpu.kernels.windows import WINDOW_BYTES
from runtime.cpu.machine import Machine, Method
from runtime.cpu.memory.layout import Shape, padded_batch
from runtime.plan import steps as s
from runtime.plan.plan import Plan

# Vectors of a pixel from which a convolution may write into a pooled one: below, runs of single
# pixels would be too short for the kernels.
POOLED_VECTORS = 4
# Pixels of a pooling window, at most: they are computed one after the other; those of a window of
# inputs that rows of nonzeros go over, at once.
POOLED_PIXELS, POOLED_AT_ONCE = 16, 4


def pooled_steps(
    plan: Plan, shapes: Mapping[str, Shape], machine: Machine, methods: Mapping[int, Method]
) -> dict[int, tuple[int, Pooling]]:
    """Return, for convolutions that write into a pooled value, that step and how it pools.

    Parameters
    ----------
    plan : Plan
    shapes : mapping of str to tuple of int
        Of every value.
    machine : Machine
        Where it computes in bfloat16, maxima alone are taken in: a mean would be rounded at each
        sum.
    methods : mapping of int to Method
        How each convolution is computed, by its index.
    """
    made_by = {step.output: at for at, step in enumerate(plan.steps)}
    found = {}
    for at, step in enumerate(plan.steps):
        pooling = _window(step, shapes, machine.vector)
        before = made_by.get(step.inputs[0]) if pooling else None
        if pooling is None or before is None or (machine.product and not pooling.largest):
            continue
        conv = plan.steps[before]
        alone = len(plan.readers[conv.output]) == 1 and conv.output not in plan.results.values()
        if not isinstance(conv, s.Convolution) or methods[before].winograd:
            continue
        if methods[before].windows:
            at_once = prod(pooling.window)
            # The smallest tile: its window has to fit, whatever strides and dilations are.
            window_bytes = at_once * prod(conv.kernel) * 4 * machine.vector
            if at_once > POOLED_AT_ONCE or window_bytes > WINDOW_BYTES:
                continue
        # Single rows go over many pixels at a time, of the panels that the cache holds.
        elif methods[before].scheme.form == "rows":
            continue
        if len(conv.inputs) == 1 and alone:
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
