"""Zeros beside the rows of values, so that convolutions read them in place: how wide they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from runtime.cpu.calibration import WIDEST_WASTE
from runtime.cpu.memory.layout import Shape, padded_batch
from runtime.plan import steps as s
from runtime.plan.plan import Plan


def halos(
    plan: Plan, shapes: Mapping[str, Shape], vector: int, wanted: Mapping[int, int]
) -> dict[str, int]:
    """Return how many pixels of zeros each value has beside its rows; those with none left out.

    Parameters
    ----------
    plan : Plan
    shapes : mapping of str to tuple of int
        Of every value.
    vector : int
        Elements of a vector.
    wanted : mapping of int to int
        Pixels that a step wants beside the rows of its first input, by its index.
    """
    needed: dict[str, int] = {}
    same = _Classes()
    for at, step in enumerate(plan.steps):
        if at in wanted:
            needed[step.inputs[0]] = max(wanted[at], needed.get(step.inputs[0], 0))
        if isinstance(step, s.Weighted) and len(step.inputs) == 2:
            same.join(step.inputs[1], step.output)
        if (isinstance(step, s.Concat) and step.axis == 1) or (
            isinstance(step, s.Slice) and step.axes == (1,) and step.steps == (1,)
        ):
            for name in step.inputs:
                same.join(name, step.output)
    alike: dict[Shape, str] = {}
    for name, shape in shapes.items():
        if len(shape) > 2 and _rows_waste(shape, vector):
            same.join(alike.setdefault((shape[0], *shape[2:]), name), name)
    widest: dict[str, int] = defaultdict(int)
    for name, reach in needed.items():
        widest[same.of(name)] = max(widest[same.of(name)], reach)
    found = {name: widest[same.of(name)] for name in shapes}
    return {name: halo for name, halo in found.items() if halo}


def _rows_waste(shape: Shape, vector: int) -> bool:
    """Return whether rows of a value fill their vectors badly, so that they should flow together.

    Then all values of one size have one halo, and with it one distance between rows.
    """
    lanes = padded_batch(shape[0], vector)
    row = shape[-1] * lanes
    return lanes % vector != 0 and -(-row // vector) * vector > WIDEST_WASTE * row


class _Classes:
    """Which values must be alike: a forest, each pointing to another of its class."""

    def __init__(self) -> None:
        self._to: dict[str, str] = {}

    def of(self, name: str) -> str:
        while name in self._to:
            name = self._to[name]
        return name

    def join(self, a: str, b: str) -> None:
        a, b = self.of(a), self.of(b)
        if a != b:
            self._to[a] = b
