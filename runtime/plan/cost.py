"""Count the multiplications of a step exactly."""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from masktools.network.shapes import pixels_inside
from runtime.plan.plan import Plan
from runtime.plan.steps import Convolution, Product, Step, Weighted


def multiplications(plan: Plan, step: Step, batch: int) -> int:
    """Return the multiplications of stored weights whose input lies inside the image.

    Parameters
    ----------
    plan : Plan
    step : Step
        One of the plan's.
    batch : int

    Returns
    -------
    int
        0 for a step without weights.
    """
    if isinstance(step, Product):
        x = plan.shape(step.inputs[0], batch)
        return step.stored * prod(x[:-1])
    if isinstance(step, Convolution):
        return int((_stored_by_tap(step) * _pixels_by_tap(plan, step)).sum()) * batch
    return 0


def density(step: Step) -> float | None:
    """Return stored weights / all weights; None for a step without weights."""
    return step.stored / prod(step.weight_shape) if isinstance(step, Weighted) else None


def _stored_by_tap(step: Convolution) -> NDArray[np.int64]:
    taps = step.kernel[0] * step.kernel[1]
    if isinstance(step.weight, np.ndarray):
        return np.full(taps, step.weight.size // taps, np.int64)
    stored = np.zeros(taps, np.int64)
    for block in step.weight.layout.blocks:
        stored += len(block.rows) * np.bincount(block.columns % taps, minlength=taps)
    if step.weight.residual:
        stored += np.bincount(step.weight.residual.column_indices % taps, minlength=taps)
    return stored


def _pixels_by_tap(plan: Plan, step: Convolution) -> NDArray[np.int64]:
    """Return, for each tap, in how many output pixels of an image it reads inside the image."""
    counts = []
    ins, outs = (plan.shape(value, 1) for value in (step.inputs[0], step.output))
    for axis in (0, 1):
        size, pixels = (1, 1) if len(ins) == 3 and axis == 0 else (ins[axis - 2], outs[axis - 2])
        window = (step.kernel[axis], step.strides[axis], step.dilations[axis], step.pads[axis])
        counts.append(pixels_inside(size, pixels, *window))
    return np.outer(counts[0], counts[1]).ravel()
