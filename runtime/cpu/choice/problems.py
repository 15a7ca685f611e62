"""What each layer of a plan is to the cost model."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from runtime.cpu.choice.choose import choose_methods
from runtime.cpu.kernels.bfloat16 import choose_scheme
from runtime.cpu.kernels.runs import window_of
from runtime.cpu.machine import Machine, Method, Problem
from runtime.cpu.memory.layout import Shape, padded_batch
from runtime.cpu.weights.row_groups import Scheme, shape_of
from runtime.plan import steps as s
from runtime.plan.plan import Plan


def methods_of(plan: Plan, shapes: Mapping[str, Shape], machine: Machine) -> dict[int, Method]:
    """Return how each step with weights is computed, by its index.

    Parameters
    ----------
    plan : Plan
    shapes : mapping of str to tuple of int
        Of every value.
    machine : Machine
    """
    found = [(at, step) for at, step in enumerate(plan.steps) if isinstance(step, s.Weighted)]
    if machine.product:
        return {at: Method(_bfloat16_scheme(step, machine)) for at, step in found}
    layers = [(step.weight, _problem(step, shapes, machine.vector)) for _, step in found]
    methods = choose_methods(layers, machine)
    return {at: method for (at, _), method in zip(found, methods, strict=True)}


def _bfloat16_scheme(step: s.Weighted, machine: Machine) -> Scheme:
    groups = step.groups if isinstance(step, s.Convolution) else 1
    return choose_scheme(step.weight, groups, machine.product)


def _problem(step: s.Weighted, shapes: Mapping[str, Shape], vector: int) -> Problem:
    x, y = shapes[step.inputs[0]], shapes[step.output]
    if not isinstance(step, s.Convolution):
        return Problem(shape_of(step.weight), (1, 1), 1, 1, padded_batch(prod(y[:-1]), vector))
    window = window_of(step)
    (height, width), (rows, columns) = ((1, *shape[2:])[-2:] for shape in (x, y))
    lanes = padded_batch(y[0], vector)
    inside = float(window.inside(0, height, rows).mean())
    covered = inside * float(window.inside(1, width, columns).mean())
    if lanes % vector == 0:
        inside = covered
    plain = window.strides == window.dilations == (1, 1)
    shape = shape_of(step.weight, step.groups)
    return Problem(shape, step.kernel, rows, columns, lanes, inside, covered, plain, window)
