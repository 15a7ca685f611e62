"""Take steps out of a plan: those that nothing reads, and those that another one takes in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from runtime.plan.steps import (
    Activate,
    Activation,
    Arithmetic,
    Concat,
    Convolution,
    Product,
    ScaleShift,
    Slice,
    Step,
    Weighted,
)

Shapes = Mapping[str, tuple[int | None, ...]]


def simplified(steps: list[Step], results: set[str], shapes: Shapes) -> list[Step]:
    """Return fewer steps that compute the same results.

    Parameters
    ----------
    steps : list of Step
        In order.
    results : set of str
        The values that must be there in the end.
    shapes : mapping of str to tuple of int or None
        Of every value; None where it follows the batch.
    """
    slices = {step.output: step for step in steps if isinstance(step, Slice)}
    whole = [_of_wholes(step, slices, shapes) for step in steps]
    return _fused(_used(whole, results), results, shapes)


def _of_wholes(step: Step, slices: Mapping[str, Slice], shapes: Shapes) -> Step:
    """Let a Concat read values of which it reads all slices in order, as networks that split do."""
    if not isinstance(step, Concat):
        return step
    inputs: list[str] = []
    at = 0
    while at < len(step.inputs):
        count = _slices_of_whole(step, at, slices, shapes)
        inputs.append(slices[step.inputs[at]].inputs[0] if count else step.inputs[at])
        at += count or 1
    # One value alone would be a copy of itself, which no step is.
    return replace(step, inputs=tuple(inputs)) if len(inputs) > 1 else step


def _slices_of_whole(concat: Concat, at: int, slices: Mapping[str, Slice], shapes: Shapes) -> int:
    """Return how many inputs from one on are all slices of a value, in order; 0 if they are not."""
    end, source = 0, None
    for count, name in enumerate(concat.inputs[at:], 1):
        part = slices.get(name)
        if part is None or (part.axes, part.steps) != ((concat.axis,), (1,)):
            return 0
        if part.starts != (end,) or part.inputs[0] != (source or part.inputs[0]):
            return 0
        source, (end,) = part.inputs[0], part.ends
        if end == shapes[source][concat.axis]:
            return count
    return 0


def _used(steps: list[Step], results: set[str]) -> list[Step]:
    """Leave out steps whose output nothing reads."""
    needed = set(results)
    kept = []
    for step in reversed(steps):
        if step.output in needed:
            needed.update(step.inputs)
            kept.append(step)
    return kept[::-1]


def _fused(steps: list[Step], results: set[str], shapes: Shapes) -> list[Step]:
    """Merge each step into the step before it, if no other step reads the value between."""
    readers = Counter(value for step in steps for value in step.inputs)
    readers.update(results)
    made_by: dict[str, int] = {}
    merged: list[Step | None] = []
    for step in steps:
        # The merged step stands where the later one stood: everything it reads is made by then.
        at = sorted(made_by[v] for v in step.inputs if v in made_by and readers[v] == 1)
        new = step
        for index in reversed(at):
            before = merged[index]
            both = _merge(before, step, shapes) if before is not None else None
            if both is not None:
                merged[index] = None
                new = both
                break
        made_by[new.output] = len(merged)
        merged.append(new)
    return [step for step in merged if step is not None]


def _merge(before: Step, step: Step, shapes: Shapes) -> Step | None:
    """Return one step that does `before`, then `step`; None where there is none."""
    if isinstance(step, Activate):
        return _activated(before, step.activation, step.output)
    if isinstance(step, ScaleShift) and isinstance(before, ScaleShift):
        apart = before.shift is None and before.activation is None and step.scale is None
        return replace(before, shift=step.shift, output=step.output) if apart else None
    if not (isinstance(step, Arithmetic) and step.op == "Add" and len(step.inputs) == 2):
        return None
    if not isinstance(before, Weighted) or before.activation or len(before.inputs) == 2:
        return None
    skip = step.inputs[1 if step.inputs[0] == before.output else 0]
    if shapes[skip] != shapes[before.output]:
        return None  # A skip that broadcasts is an addition of its own.
    return replace(
        before, inputs=(*before.inputs, skip), output=step.output, activation=step.activation
    )


def _activated(step: Step, activation: Activation, output: str) -> Step | None:
    if isinstance(step, Convolution | Product | ScaleShift | Arithmetic) and not step.activation:
        return replace(step, activation=activation, output=output)
    return None
