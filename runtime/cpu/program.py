"""A program while it is made: first all calls, then the arena, then the calls are placed in it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import asdict, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from runtime.cpu import poison
from runtime.cpu.calls import Calls
from runtime.cpu.machine import Machine
from runtime.cpu.memory.layout import Image, View, as_image
from runtime.cpu.memory.placement import Placement
from runtime.cpu.memory.slices import Slices
from runtime.cpu.memory.window import Window
from runtime.cpu.weights.row_groups import Float32
from runtime.plan import steps as s
from runtime.plan.plan import Plan

Made = TypeVar("Made")


class Packed(Protocol):
    """Remembers packed weights."""

    def __call__(self, weight: s.Weight, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return a weight as `make` packs it, which is called once for each weight and key."""


class Assembly:
    """The calls of a plan for one batch.

    Parameters
    ----------
    plan : Plan
    placement : Placement
        Where the values of the plan lie.
    slices : Slices
        The steps that are executed slice by slice.
    machine : Machine
        That the calls are cut for.
    packed : Packed
    """

    def __init__(
        self, plan: Plan, placement: Placement, slices: Slices, machine: Machine, packed: Packed
    ) -> None:
        self.plan, self.placement, self.slices = plan, placement, slices
        self.machine, self.packed = machine, packed
        self.calls = Calls(placement)

    @property
    def slice(self) -> int | None:
        """The slice of the batch that calls are made for; None: for all samples."""
        return self.calls.part

    def call(self, method: str, step: int, **fields: object) -> None:
        """Add a call, whose fields have the names that they have in the kernels."""
        self.calls.add(method, step, fields)

    def view(self, name: str) -> View:
        """Return where a value lies: its slice, while calls are made for one."""
        view = self.placement.views[name]
        if self.slice is None:
            return self.placement.wholes.get(name, view)
        return view if view.shape[0] == self.slices.samples else self._part(view)

    def _part(self, view: View) -> View:
        """Return the samples of the present slice."""
        assert self.slice is not None
        first = self.slice * self.slices.samples
        return view.sliced(0, first, first + self.slices.samples)

    def keep_slice(self, at: int) -> None:
        """Add the call that copies what a step has made of a slice to where others read it."""
        name = self.plan.steps[at].output
        if self.slice is not None and name in self.placement.wholes:
            self.call("copy", at, x=self.view(name), y=self._part(self.placement.wholes[name]))

    def image(self, view: View) -> Image:
        """Return a view that is known to be planes, as such."""
        image = as_image(view)
        assert image is not None, view
        return image

    def in_planes(self, at: int, view: View) -> Image:
        """Return a view as planes; copied where its samples are no neighbours."""
        image = as_image(view)
        wanted = self.placement.form((view.shape[0], 1)).lanes
        if image is not None and image.lanes == wanted:
            return image
        return self.image(self.copied(at, view))

    def copied(self, at: int, view: View) -> View:
        """Return a copy of a view in a buffer that this step alone uses."""
        made = self.placement.memory(view.shape, at)
        self.call("copy", at, x=view, y=made)
        return made

    def like(self, at: int, view: View, y: Image) -> Image:
        """Return a view whose rows and pixels lie as those of `y`; copied where they do not."""
        image = as_image(view)
        if image and (image.row, image.pixel, image.lanes) == (y.row, y.pixel, y.lanes):
            return image
        copied = self.placement.memory(view.shape, at, y.pitch - y.width)
        self.call("copy", at, x=view, y=copied)
        return self.image(copied)

    def activation(self, activation: s.Activation | None) -> dict[str, object] | None:
        """Return an activation as the kernels take it."""
        return None if activation is None else asdict(activation)

    def bias(self, bias: s.Array | None) -> Float32:
        """Return a bias as the kernels take it."""
        return np.empty(0, np.float32) if bias is None else bias.astype(np.float32)

    def as_rank_4(self, view: View) -> View:
        """Return (N, C) or (N, C, L) as (N, C, 1, 1) or (N, C, 1, L)."""
        missing = 4 - len(view.shape)
        if missing <= 0:
            return view
        shape, strides = list(view.shape), list(view.strides)
        for _ in range(missing):
            shape.insert(2, 1)
            strides.insert(2, 0)
        return replace(view, shape=tuple(shape), strides=tuple(strides))

    def bound(self, make: Callable[[int], Any]) -> Any:  # noqa: ANN401 - of the compiled module
        """Return the program of all calls.

        Parameters
        ----------
        make : callable
            Makes an empty program, given the elements of its arena.
        """
        offsets, elements = self.placement.buffers.arranged()
        made = make(elements)
        calls = self.calls.made
        if poison.enabled():
            made.poison()
            calls = poison.poisoned(calls, self.placement)
        for call in calls:
            fields = {name: _placed(value, offsets) for name, value in call.fields.items()}
            getattr(made, call.method)(call.step, **fields)
        return made


def _placed(value: object, offsets: list[int]) -> object:
    """Return a field as the kernels take it: views and images with their place in the arena."""
    if isinstance(value, View):
        return (offsets[value.buffer] + value.offset, value.shape, value.strides)
    if isinstance(value, Image):
        return value.fields(offsets[value.buffer] + value.offset)
    if isinstance(value, Window):
        return value.fields
    if isinstance(value, list):
        return [_placed(item, offsets) for item in value]
    return value
