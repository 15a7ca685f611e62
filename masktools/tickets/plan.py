"""The numbers of a search: how long it trains, where it goes back to, how much it prunes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from masktools.checks import check_count
from masktools.errors import MaskError, TicketError

SCHEDULES = ("rest", "full")
PRUNE_FROM = ("round", "dense", "initial")


@dataclass(frozen=True)
class Plan:
    """The numbers of a search; see `masktools.tickets.find_ticket`."""

    total: int
    rewind: int
    rate: float
    schedule: str
    prune_from: str
    seed: int

    def __post_init__(self) -> None:
        check_count("total", self.total, 1)
        check_count("rewind", self.rewind, 0)
        check_count("seed", self.seed, 0)
        if self.rewind >= self.total:
            raise MaskError(f"rewind must be less than total, {self.total}, got {self.rewind}")
        if isinstance(self.rate, bool) or not isinstance(self.rate, (int, float)):
            raise TypeError(f"rate must be a number, got {type(self.rate).__name__}")
        if not 0 < self.rate < 1:
            raise MaskError(f"rate must be above 0 and below 1, got {self.rate}")
        check_schedule(self.schedule)
        if self.prune_from not in PRUNE_FROM:
            known = ", ".join(PRUNE_FROM)
            raise MaskError(f"prune_from must be one of {known}, got {self.prune_from!r}")

    def gone(self, left: int) -> int:
        """Return how many of the weights that are left a round prunes, at least one.

        Examples
        --------
        >>> Plan(10, 1, 0.29, "rest", "round", 0).gone(100), 0.29 * 100
        (29, 28.999999999999996)
        """
        gone = math.floor(Fraction(str(float(self.rate))) * left)
        if gone == 0:
            raise TicketError(f"rate {self.rate} prunes none of the {left} weights that are left")
        return gone

    def snapshots(self, steps: Iterable[int]) -> list[int]:
        """Return steps of the dense run as integers; raise unless all are in the schedule."""
        found = list(steps)
        for step in found:
            check_count("snapshots", step, 0)
            if step > self.total:
                raise MaskError(f"snapshots: step {step} is after the last, {self.total}")
        return [int(step) for step in found]


def check_schedule(schedule: str) -> None:
    """Raise `MaskError` unless a schedule is one of those there are."""
    if schedule not in SCHEDULES:
        raise MaskError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")


def first_step(schedule: str, step: int) -> int:
    """Return the step at which training from a state of `step` begins."""
    return 0 if schedule == "full" else step
