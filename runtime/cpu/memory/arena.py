"""One piece of memory for all values of a run: buffers that are never live together share it."""

from __future__ import annotations

from runtime.cpu.memory.layout import LINE
from runtime.plan.lifetimes import Span, pack


class Buffers:
    """The buffers of a program, while it is made.

    Examples
    --------
    >>> buffers = Buffers()
    >>> a, b, c = buffers.add(100, 0), buffers.add(50, 1), buffers.add(80, 2)
    >>> buffers.touch(a, 1); buffers.touch(b, 2)
    >>> offsets, elements = buffers.arranged()
    >>> offsets[a] == offsets[c], elements
    (True, 176)
    """

    def __init__(self) -> None:
        self._buffers: list[Span] = []

    def add(self, elements: int, at: int) -> int:
        """Return the number of a new buffer that is needed at a step."""
        self._buffers.append(Span(elements, at, at))
        return len(self._buffers) - 1

    def touch(self, number: int, at: int) -> None:
        """Keep a buffer live at a step."""
        self._buffers[number].touch(at)

    def elements(self, number: int) -> int:
        """Return how large a buffer is."""
        return self._buffers[number].size

    def arranged(self) -> tuple[list[int], int]:
        """Return the offset of each buffer, and the elements of an arena that holds all."""
        return pack(self._buffers, LINE)
