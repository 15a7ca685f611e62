"""The place of each value of a plan in memory: a buffer of its own, or a view of another value.

Reshapes, transpositions and slices are views wherever strides can tell them, and the parts of a
concatenation along the channels are computed where the whole will lie. A skip branch, or an
operand, that nothing reads again is written over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from math import prod

from runtime.cpu.memory.arena import Buffers
from runtime.cpu.memory.halos import halos
from runtime.cpu.memory.layout import Form, Shape, View, as_image, padded_batch
from runtime.cpu.memory.slices import WHOLE, Slices
from runtime.plan import steps as s
from runtime.plan.plan import Plan

START = -1  # when inputs are copied in; outputs are copied out after the last step


class Placement:
    """The views of all values of a plan, for one batch.

    Parameters
    ----------
    plan : Plan
    shapes : mapping of str to tuple of int
        Of every value.
    vector : int
        Elements of a vector.
    fused : mapping of int to int, default none
        Steps whose output is never written, as the step that reads it is part of them; and that
        step.
    slices : Slices, default none
        The steps that are executed slice by slice.
    halos_wanted : mapping of int to int, default none
        Pixels of zeros that a step wants beside the rows of its first input, by its index.
    """

    def __init__(
        self,
        plan: Plan,
        shapes: Mapping[str, Shape],
        vector: int,
        fused: Mapping[int, int] | None = None,
        slices: Slices = WHOLE,
        halos_wanted: Mapping[int, int] | None = None,
    ) -> None:
        self.buffers = Buffers()
        # How each buffer is laid out that is no array in C order: who has a halo stands here alone.
        self.forms: dict[int, Form] = {}
        self.views: dict[str, View] = {}
        # Of all samples: values that sliced steps make and others read. A slice lies in `views`.
        self.wholes: dict[str, View] = {}
        self._plan = plan
        self._kept = frozenset(plan.results.values())
        self._read_until: dict[int, int] = defaultdict(lambda: START)  # of each buffer
        self._slices = slices
        made = slices.made(plan)
        self._whole_shapes = shapes
        self._shapes = slices.shapes(plan, shapes)
        self._vector = vector
        self._halos = halos(plan, self._shapes, vector, halos_wanted or {})
        self.parents = {
            part: (whole, start)
            for part, (whole, start) in _parents(plan).items()
            if (part in made) == (whole in made)
        }
        fused = fused or {}
        hidden = {plan.steps[i].output for i in fused}
        for value in plan.inputs:
            self._place(value.name, START)
        for at, step in enumerate(plan.steps):
            for name in step.inputs:
                if name not in hidden:
                    self._touch(name, at)
            # A step that is part of an earlier one is written when that is executed.
            when = min([at, *(i for i, j in fused.items() if j == at)])
            if step.output not in hidden:
                self._make(step, when)
                if at < slices.steps and self._read_from(step.output, slices.steps):
                    self._make_whole(step.output, at)
        for name in plan.results.values():
            self._touch(name, len(plan.steps))

    def form(self, shape: Shape, halo: int = 0) -> Form:
        """Return how a new buffer for a value of rank 2 to 4 is laid out."""
        height, width = (1, 1, *shape[2:])[-2:] if len(shape) > 2 else (1, 1)
        lanes = padded_batch(shape[0], self._vector)
        return Form(shape[0], shape[1], height, width, lanes, halo)

    def memory(self, shape: Shape, at: int, halo: int = 0) -> View:
        """Return a view of a new buffer, rank 2 to 4, that one step alone needs so far."""
        form = self.form(shape, halo)
        buffer = self.buffers.add(form.elements, at)
        self.forms[buffer] = form
        return View.of_form(buffer, form, shape)

    def of_slice(self, buffer: int) -> bool:
        """Return whether a buffer holds one slice of the batch, of each slice in turn."""
        form = self.forms.get(buffer)
        return form is not None and self._slices.parts > 0 and form.batch == self._slices.samples

    def _touch(self, name: str, at: int) -> None:
        sliced = START < at < self._slices.steps
        view = self.views[name] if sliced else self._of_all(name)
        self.buffers.touch(view.buffer, at)
        if sliced and view.shape[0] != self._slices.samples:
            self._touch_all_slices(view)

    def _of_all(self, name: str) -> View:
        """Return where all samples of a value lie, as steps that are not sliced see it."""
        return self.wholes.get(name, self.views[name])

    def _touch_all_slices(self, view: View) -> None:
        """Keep a value of all samples while any slice is executed."""
        self.buffers.touch(view.buffer, 0)
        self.buffers.touch(view.buffer, self._slices.steps - 1)

    def _read_from(self, name: str, at: int) -> bool:
        """Return whether a value is read by a step from the given one on, or is a result."""
        return name in self._kept or any(i >= at for i in self._plan.readers[name])

    def _make_whole(self, name: str, at: int) -> None:
        """Give all samples of a value memory, beside that of a slice, which a step copies there."""
        self.buffers.touch(self.views[name].buffer, at)
        self.wholes[name] = self.memory(self._whole_shapes[name], 0)
        self._read_until[self.wholes[name].buffer] = self._last_reader(name)
        self._touch_all_slices(self.wholes[name])

    def _make(self, step: s.Step, at: int) -> None:
        view = self._as_view(step) or self._over_input(step, at)
        if view is None:
            self._place(step.output, at)
        else:
            self._see(step.output, view)
        self._touch(step.output, at)

    def _place(self, name: str, at: int) -> None:
        """Give a value memory: its part of a concatenation, or a buffer of its own."""
        if name in self.parents:
            whole, start = self.parents[name]
            if whole not in self.views:
                self._place(whole, at)
            view = self.views[whole].sliced(1, start, start + self._shapes[name][1])
            self._see(name, view)
        else:
            self._see(name, self._fresh(name, at))
        self._touch(name, at)

    def _over_input(self, step: s.Step, at: int) -> View | None:
        """Return where an input of a step lies that the output may be written over.

        That is the skip branch of a layer, or an operand of a step that goes through elements one
        by one: each element is read before it is written, and the lines of a new buffer need not
        be fetched. The input must lie as a buffer for the output would, and nothing else read it
        from here on.
        """
        shape = self._shapes[step.output]
        if not 2 <= len(shape) <= 4:
            return None
        if isinstance(step, s.Weighted):
            inputs = step.inputs[1:]
        elif isinstance(step, s.Arithmetic | s.ScaleShift | s.Activate):
            inputs = step.inputs
        else:
            return None
        form = self.form(shape, self._halos.get(step.output, 0))
        for name in inputs:
            view = self.views[name]
            if view == View.of_form(view.buffer, form, shape) and self._is_last_read(
                name, step, at
            ):
                return view
        return None

    def _is_last_read(self, candidate: str, step: s.Step, at: int) -> bool:
        """Return whether nothing but this input of a step reads its buffer from there on."""
        buffer = self.views[candidate].buffer
        reads = [
            name
            for name in step.inputs
            if name in self.views and buffer in (self.views[name].buffer, self._of_all(name).buffer)
        ]
        return reads == [candidate] and self._read_until[buffer] <= at

    def _see(self, name: str, view: View) -> None:
        """Give a value its view, and remember until when its buffer is read."""
        self.views[name] = view
        self._read_until[view.buffer] = max(self._last_reader(name), self._read_until[view.buffer])

    def _last_reader(self, name: str) -> int:
        """Return the last step that reads a value; the number of all where it is a result."""
        if name in self._kept:
            return len(self._plan.steps)
        return max(self._plan.readers[name], default=START)

    def _fresh(self, name: str, at: int) -> View:
        shape = self._shapes[name]
        if not 2 <= len(shape) <= 4:
            return View.plain(self.buffers.add(prod(shape), at), shape)
        return self.memory(shape, at, self._halos.get(name, 0))

    def _as_view(self, step: s.Step) -> View | None:
        """Return a step's output as a view of its input, where it is one."""
        if step.output in self.parents or step.output in self.views:
            return self.views.get(step.output)
        # None of these steps is sliced: they see all samples.
        if isinstance(step, s.Reshape):
            return self._reshaped(step)
        if isinstance(step, s.Transpose):
            return self._of_all(step.inputs[0]).transposed(step.perm)
        if isinstance(step, s.Slice):
            view = self._of_all(step.inputs[0])
            return view.cut(step.axes, step.starts, step.ends, step.steps)
        return None

    def _reshaped(self, step: s.Reshape) -> View | None:
        before, shape = self._of_all(step.inputs[0]), self._shapes[step.output]
        # A product reads the pixels of an image in place: it is a convolution as large as that.
        flat = len(shape) == 2 and shape[0] == before.shape[0] and as_image(before) is not None
        products = all(
            isinstance(self._plan.steps[at], s.Product) for at in self._plan.readers[step.output]
        )
        kept = step.output in self._kept
        return before if flat and products and not kept else before.reshaped(shape)


def _parents(plan: Plan) -> dict[str, tuple[str, int]]:
    """Return, for values that are parts of a concatenation, the whole and their first channel.

    The last concatenation takes its parts first: one that joins fewer of the same parts is then
    a part itself.
    """
    parents: dict[str, tuple[str, int]] = {}
    channels = plan.shapes
    for step in reversed(plan.steps):
        if not (isinstance(step, s.Concat) and step.axis == 1 and _is_image(channels, step.output)):
            continue
        sizes = [int(channels[name][1] or 0) for name in step.inputs]
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        first = parents.get(step.inputs[0])
        if (
            first
            and step.output not in parents
            and all(
                parents.get(name) == (first[0], first[1] + start)
                for name, start in zip(step.inputs, starts, strict=True)
            )
        ):
            parents[step.output] = first
            continue
        for name, start in zip(step.inputs, starts, strict=True):
            parents.setdefault(name, (step.output, start))
    return parents


def _is_image(shapes: Mapping[str, tuple[int | None, ...]], name: str) -> bool:
    return 2 <= len(shapes[name]) <= 4
