"""How long each value of a plan is needed, which values share memory, and how memory is packed.

Backends lay values out in their own ways, but the questions are the same for all of them: from
which step to which is a piece of memory needed, and where does it fit beside the others?
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from runtime.plan.steps import Reshape

if TYPE_CHECKING:
    from runtime.plan.plan import Plan

START = -1  # when inputs are there, before the first step


@dataclass
class Span:
    """Memory that is needed from one step to another.

    Parameters
    ----------
    size : int
        In elements, or whatever its user counts in.
    first, last : int
        The steps, both included; `START` for inputs, the number of steps for outputs.
    """

    size: int
    first: int
    last: int

    def touch(self, at: int) -> None:
        """Keep the memory at a step too."""
        self.first, self.last = min(self.first, at), max(self.last, at)


def lifetimes(
    plan: Plan, size: Callable[[str], int], shares: Callable[[Reshape], bool]
) -> tuple[dict[str, Span], dict[str, str]]:
    """Return the memory that the values of a plan need.

    Parameters
    ----------
    plan : Plan
    size : function of str to int
        How much a value takes.
    shares : function of Reshape to bool
        Whether the output of that step lies where its input does.

    Returns
    -------
    spans : dict of str to Span
        By the value that the memory is first made for, in the order of execution. An input lasts
        until the first step has run, an output of the network to the end.
    owners : dict of str to str
        For every value, the value whose memory it lies in.
    """
    spans = {value.name: Span(size(value.name), START, 0) for value in plan.inputs}
    owners = {name: name for name in spans}
    for at, step in enumerate(plan.steps):
        if isinstance(step, Reshape) and shares(step):
            owners[step.output] = owners[step.inputs[0]]
        else:
            owners[step.output] = step.output
            spans[step.output] = Span(size(step.output), at, at)
        for value in (*step.inputs, step.output):
            spans[owners[value]].touch(at)
    for value in plan.results.values():
        spans[owners[value]].touch(len(plan.steps))
    return spans, owners


def most_at_once(spans: Iterable[Span]) -> int:
    """Return the sum of the sizes that are needed at one step, at the worst of all steps.

    Examples
    --------
    >>> most_at_once([Span(100, 0, 1), Span(50, 1, 2), Span(80, 2, 2)])
    150
    """
    change: Counter[int] = Counter()
    for span in spans:
        change[span.first] += span.size
        change[span.last + 1] -= span.size
    return max(accumulate(change[at] for at in sorted(change)), default=0)


def pack(spans: Sequence[Span], grain: int) -> tuple[list[int], int]:
    """Place memory so that spans that share a step do not overlap.

    Parameters
    ----------
    spans : sequence of Span
    grain : int
        Every offset is a multiple of it.

    Returns
    -------
    offsets : list of int
        Of each span.
    size : int
        Of the whole, a multiple of `grain`.

    Notes
    -----
    The largest first, of equal ones the earlier in `spans`; each in the smallest gap between those
    that are needed with it. For the networks tried, within a few percent of `most_at_once`.

    Examples
    --------
    >>> pack([Span(100, 0, 1), Span(50, 1, 2), Span(80, 2, 2)], 16)
    ([0, 112, 0], 176)
    """
    offsets = [0] * len(spans)
    ends = [0] * len(spans)
    # Those that were placed, by the steps at which they are needed: a network of n steps would
    # otherwise look at n * n pairs.
    placed: defaultdict[int, list[int]] = defaultdict(list)
    for number in sorted(range(len(spans)), key=lambda i: (-spans[i].size, i)):
        span = spans[number]
        size = -(-span.size // grain) * grain
        steps = range(span.first, span.last + 1)
        beside = {i for at in steps for i in placed[at]}
        offsets[number] = _gap(size, sorted((offsets[i], ends[i]) for i in beside))
        ends[number] = offsets[number] + size
        for at in steps:
            placed[at].append(number)
    return offsets, max(ends, default=0)


def _gap(size: int, taken: Sequence[tuple[int, int]]) -> int:
    """Return where the smallest gap starts that holds `size`; behind all where none does.

    Parameters
    ----------
    size : int
    taken : sequence of (int, int)
        Starts and ends, by start; they may overlap.
    """
    gaps = []
    end = 0
    for start, after in taken:
        if start - end >= size:
            gaps.append((start - end, end))
        end = max(end, after)
    return min(gaps)[1] if gaps else end
