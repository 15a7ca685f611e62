"""One piece of memory for all values of a run: buffers that are never live together share it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from runtime.cpu.memory.layout import LINE, round_up


@dataclass
class Buffer:
    """Elements that are needed from one step to another, both included."""

    elements: int
    first: int
    last: int


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
        self._buffers: list[Buffer] = []

    def add(self, elements: int, at: int) -> int:
        """Return the number of a new buffer that is needed at a step."""
        self._buffers.append(Buffer(elements, at, at))
        return len(self._buffers) - 1

    def touch(self, number: int, at: int) -> None:
        """Keep a buffer live at a step."""
        buffer = self._buffers[number]
        buffer.first, buffer.last = min(buffer.first, at), max(buffer.last, at)

    def elements(self, number: int) -> int:
        """Return how large a buffer is."""
        return self._buffers[number].elements

    def arranged(self) -> tuple[list[int], int]:
        """Return the offset of each buffer, and the elements of an arena that holds all.

        The largest is placed first, each in the smallest gap between those that are live with it.
        """
        offsets = [0] * len(self._buffers)
        # Those that were placed, by the steps at which they are live: a network of n steps would
        # otherwise look at n * n pairs.
        placed: defaultdict[int, list[int]] = defaultdict(list)
        total = 0
        order = sorted(range(len(offsets)), key=lambda i: (-self._buffers[i].elements, i))
        for number in order:
            buffer = self._buffers[number]
            size = round_up(buffer.elements, LINE)
            steps = range(buffer.first, buffer.last + 1)
            offsets[number] = self._gap(size, {i for at in steps for i in placed[at]}, offsets)
            total = max(total, offsets[number] + size)
            for at in steps:
                placed[at].append(number)
        return offsets, total

    def _gap(self, size: int, beside: set[int], offsets: list[int]) -> int:
        live = sorted(
            (offsets[i], offsets[i] + round_up(self._buffers[i].elements, LINE)) for i in beside
        )
        best, best_room, end = -1, 0, 0
        for begin, after in live:
            room = begin - end
            if room >= size and (best < 0 or room < best_room):
                best, best_room = end, room
            end = max(end, after)
        return best if best >= 0 else end
