"""A debug mode of the CPU backend: whatever no call has written, or no value is left in, is NaN.

A step that reads what nobody wrote, or what an earlier run left, then shows in the outputs. The
arena begins each run as NaN, each buffer is filled with NaN when its life begins, in each slice of
the batch anew, and when it ends; scratch is NaN before each item of work.
"""

from __future__ import annotations

import os
from collections import defaultdict

from runtime.cpu.calls import Call
from runtime.cpu.memory.layout import View
from runtime.cpu.memory.placement import START, Placement

# Set to 1, programs are poisoned when they are made.
POISON = "MASKTOOLS_CPU_POISON"


def enabled() -> bool:
    """Return whether the environment asks for the debug mode."""
    return os.environ.get(POISON) == "1"


def poisoned(calls: list[Call], placement: Placement) -> list[Call]:
    """Return the calls with those between them that fill buffers with NaN.

    Parameters
    ----------
    calls : list of Call
        Not changed.
    placement : Placement
        Of what they work on.
    """
    first: dict[tuple[int, int | None], int] = {}
    last: dict[tuple[int, int | None], int] = {}
    for at, call in enumerate(calls):
        for view in call.views():
            life = (view.buffer, call.part if placement.of_slice(view.buffer) else None)
            first.setdefault(life, at)
            last[life] = at
    fills: dict[int, list[Call]] = defaultdict(list)
    for ends, shift in ((first, 0), (last, 1)):
        for (buffer, part), at in ends.items():
            elements = placement.buffers.elements(buffer)
            whole = View.plain(buffer, (elements,))
            fills[at + shift].append(Call("fill", START, {"y": whole, "value": float("nan")}, part))
    made: list[Call] = []
    for at, call in enumerate(calls):
        # What ends makes room for what begins: both are unwritten yet.
        made += [*fills[at], call]
    return made + fills[len(calls)]
