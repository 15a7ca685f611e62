"""The calls of a program, in order, and the zeros that must be there before each.

A buffer's margins are the halo beside its rows and the lanes by which its batch is padded. Most
steps write pixels and know nothing of margins. So the first call that touches a buffer is preceded
by one that zeroes all its margins, whoever writes the buffer and in how many parts. No kernel
leaves anything but zeros in a halo.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

from runtime.cpu.memory.layout import Form, Image, View, as_image
from runtime.cpu.memory.placement import Placement

# Which argument a method writes; None: nothing in the arena.
_WRITTEN = {
    "copy_in": 1,
    "copy_out": None,
    "copy": 1,
    "fill": 0,
    "elementwise": 2,
    "scale_shift": 3,
    "pool": 2,
    "mean": 1,
    "softmax": 1,
    "gather": 1,
    "unfold": 2,
    "depthwise": 1,
    "convolution": 2,
    "convolution_bfloat16": 2,
    "narrow": 2,
    "winograd": 2,
    "rows": 2,
}
# Kernels that write zeros beside the rows that they write, in their one pass over the output.
_WRITE_HALOS = {
    "depthwise", "convolution", "convolution_bfloat16", "narrow", "winograd", "rows",
}  # fmt: skip


class Call(NamedTuple):
    """A method of the program that is made; views among the arguments are still without offset.

    Parameters
    ----------
    method : str
    step : int
    arguments : tuple
    part : int or None, default None
        The slice of the batch that it is made for.
    """

    method: str
    step: int
    arguments: tuple[Any, ...]
    part: int | None = None

    def views(self) -> Iterator[View]:
        """Return all views among the arguments."""
        yield from _views(self.arguments)


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

    def add(self, method: str, step: int, *arguments: object) -> None:
        """Add a call, after those that zero the margins of a buffer that it touches first."""
        call = Call(method, step, arguments, self.part)
        number = _WRITTEN[method]
        if number is not None:
            (written,) = _views([arguments[number]])
            if written.buffer not in self._begun:
                self._begun.add(written.buffer)
                self._zero_margins(method, step, written)
        for view in call.views():
            assert view.buffer in self._begun, f"{method} reads a buffer that nothing has written"
            assert not view.halo or _owns(self._placement.forms.get(view.buffer), view), view
        self.made.append(call)

    def _zero_margins(self, method: str, step: int, written: View) -> None:
        """Add the calls that zero a buffer's margins, but for those that the method itself writes.

        Nothing computes with what lies in padded lanes, but a denormal number there costs time.
        """
        form = self._placement.forms.get(written.buffer)
        if form is None:
            return
        whole = prod(written.shape[1:]) == form.channels * form.height * form.width
        if form.halo and not (whole and written.halo and method in _WRITE_HALOS):
            self._fill(step, _halo(written.buffer, form))
        if form.lanes > form.batch and not (whole and written.shape[0] == form.lanes):
            self._fill(step, _padded_lanes(written.buffer, form))

    def _fill(self, step: int, view: View) -> None:
        self.made.append(Call("fill", step, (view, 0.0), self.part))


def _views(arguments: Any) -> Iterator[View]:  # noqa: ANN401
    for argument in arguments:
        if isinstance(argument, View):
            yield argument
        elif isinstance(argument, Image):
            yield argument.view
        elif isinstance(argument, list | tuple):
            yield from _views(argument)


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
