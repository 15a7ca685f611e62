"""The calls of a program, in order, and the zeros that must be there before each.

A buffer's margins are the halo beside its rows and the lanes by which its batch is padded. Most
steps write pixels and know nothing of margins. So the first call that touches a buffer is preceded
by one that zeroes all its margins, whoever writes the buffer and in how many parts. No kernel
leaves anything but zeros in a halo.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

from runtime.cpu.memory.layout import Form, Image, View, as_image
from runtime.cpu.memory.placement import Placement


class Call(NamedTuple):
    """A method of the program that is made; views among its fields are still without offset.

    Parameters
    ----------
    method : str
    step : int
    fields : mapping of str to object
        By their names in the kernels. What is written is "y": a view, or an image beside whose
        rows the kernel writes zeros in its one pass over it.
    part : int or None, default None
        The slice of the batch that it is made for.
    """

    method: str
    step: int
    fields: Mapping[str, Any]
    part: int | None = None

    def views(self) -> Iterator[View]:
        """Return all views among the fields."""
        yield from _views(self.fields.values())


class Calls:
    """The calls of a program, while it is made.

    Parameters
    ----------
    placement : Placement
        Of what the calls work on.
    """

    def __init__(self, placement: Placement) -> None:
        self.made: list[Call] = []
        self.part: int | None = None
        self._placement = placement
        self._begun: set[int] = set()

    def begin(self, part: int | None) -> None:
        """Begin the calls for a slice of the batch; None: for all samples.

        What the slice before has left in its buffers is gone: other buffers share their memory.
        """
        self.part = part
        self._begun = {b for b in self._begun if not self._placement.of_slice(b)}

    def add(self, method: str, step: int, fields: Mapping[str, Any]) -> None:
        """Add a call, after those that zero the margins of a buffer that it touches first."""
        call = Call(method, step, fields, self.part)
        if "y" in fields:
            (written,) = _views([fields["y"]])
            if written.buffer not in self._begun:
                self._begun.add(written.buffer)
                self._zero_margins(step, written, isinstance(fields["y"], Image))
        for view in call.views():
            assert view.buffer in self._begun, f"{method} reads a buffer that nothing has written"
            assert not view.halo or _owns(self._placement.forms.get(view.buffer), view), view
        self.made.append(call)

    def _zero_margins(self, step: int, written: View, with_halo: bool) -> None:
        """Add the calls that zero a buffer's margins, but for a halo that the call itself writes.

        Nothing computes with what lies in padded lanes, but a denormal number there costs time.
        """
        form = self._placement.forms.get(written.buffer)
        if form is None:
            return
        whole = prod(written.shape[1:]) == form.channels * form.height * form.width
        if form.halo and not (whole and written.halo and with_halo):
            self._fill(step, _halo(written.buffer, form))
        if form.lanes > form.batch and not (whole and written.shape[0] == form.lanes):
            self._fill(step, _padded_lanes(written.buffer, form))

    def _fill(self, step: int, view: View) -> None:
        self.made.append(Call("fill", step, {"y": view, "value": 0.0}, self.part))


def _views(values: Iterable[Any]) -> Iterator[View]:
    for value in values:
        if isinstance(value, View):
            yield value
        elif isinstance(value, Image):
            yield value.view
        elif isinstance(value, list):
            yield from _views(value)


def _owns(form: Form | None, view: View) -> bool:
    """Return whether the rows of a view are rows of a form with the halo that the view claims."""
    image = as_image(view)
    return (
        form is not None
        and image is not None
        and (image.halo, image.height, image.width) == (form.halo, form.height, form.width)
        and (image.row, image.pixel) == (form.pitch * form.lanes, form.lanes)
        and (image.offset - form.lead) % form.plane == 0
    )


def _halo(buffer: int, form: Form) -> View:
    """Return the halo of a buffer: what follows each row, and what precedes the first alike."""
    lanes, row = form.halo * form.lanes, form.pitch * form.lanes
    shape = (form.channels, form.height + 1, lanes)
    return View(buffer, form.lead - lanes, shape, (form.plane, row, 1), form.channels)


def _padded_lanes(buffer: int, form: Form) -> View:
    """Return the lanes of a buffer beyond its batch."""
    lanes = form.lanes - form.batch
    shape = (lanes, form.channels, form.height, form.width)
    strides = (1, form.plane, form.pitch * form.lanes, form.lanes)
    return View(buffer, form.lead + form.batch, shape, strides, lanes)
