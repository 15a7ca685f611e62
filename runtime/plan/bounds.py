"""Refuse plans that would cost too much memory or time, before anything is allocated.

A checkpoint of a kilobyte may hold shapes of any size: each of them allowed, their product not.
The numbers and their reasons stand in `masktools.limits`.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from masktools import limits
from runtime.errors import PlanError
from runtime.plan.steps import Convolution, Pool, Step, Weighted

if TYPE_CHECKING:
    from runtime.plan.plan import Plan


def check_cost(plan: Plan) -> None:
    """Raise `PlanError` if a plan would cost more than `masktools.limits` allows.

    Parameters
    ----------
    plan : Plan

    Raises
    ------
    PlanError
        Naming the step and the sizes: the padded image of a convolution or pool, the rows and
        positions of all weights, or the values that are live at once.
    """
    for step in plan.steps:
        if isinstance(step, Convolution | Pool):
            _check_padded(step, plan.shape(step.inputs[0], 1))
    _check_weights([step for step in plan.steps if isinstance(step, Weighted)])
    live = plan.peak_bytes(1, itemsize=1)
    if live > limits.LIVE:
        raise PlanError(
            f"values of {live} numbers are live at once for one sample; {limits.LIVE} are supported"
        )


def _check_padded(step: Convolution | Pool, image: tuple[int, ...]) -> None:
    top, left, bottom, right = step.pads
    height, width = (1, 1, *image[2:])[-2:]
    numbers = image[0] * image[1] * (height + top + bottom) * (width + left + right)
    if numbers > limits.VALUE:
        raise PlanError(
            f"{_where(step)}: an image of shape {image} with pads {step.pads} has {numbers} "
            f"numbers; {limits.VALUE} are supported"
        )


def _check_weights(steps: list[Weighted]) -> None:
    """Bound the tables that list rows, taps and blocks, for each step that packs a weight."""
    stored = sum({id(step.weight): step.stored for step in steps}.values())
    allowed = limits.POSITIONS + limits.POSITIONS_FOR_EACH * stored
    rows = positions = 0
    for step in steps:
        shape = step.weight_shape
        rows += shape[0]
        positions += max(prod(shape), _blocks(step) * prod(shape[2:]))
        if rows > limits.ROWS:
            raise PlanError(
                f"{_where(step)}: a weight of shape {shape}, with those of steps before it {rows} "
                f"rows; {limits.ROWS} are supported"
            )
        if positions > allowed:
            raise PlanError(
                f"{_where(step)}: a weight of shape {shape}, with those of steps before it "
                f"{positions} positions, of which {stored} are stored; {allowed} are supported"
            )


def _blocks(step: Weighted) -> int:
    return 1 if isinstance(step.weight, np.ndarray) else len(step.weight.layout.blocks)


def _where(step: Step) -> str:
    return f"node {step.name!r} ({step.operator})"
