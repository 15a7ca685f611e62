"""Choose a configuration by timing, and remember the choice between runs.

A choice is kept in a file of its own, named by a hash of everything that it depends on: device,
compiler, kernel source and problem. Nothing is trusted on the way back: a file that does not say
what it should is ignored, with a warning, and timed anew.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Generic, TypeVar

from masktools.files import whole_file
from masktools.network.graph import Value
from runtime.errors import KernelError
from runtime.plan.plan import Plan
from runtime.plan.steps import Step

Choice = TypeVar("Choice")
Key = Mapping[str, Any]

FORMAT = 1
# A configuration this much slower than the best so far is not timed again.
HOPELESS = 1.5
ROUNDS = 5
# A remembered choice is a few hundred bytes; more is no file of ours, and is not read.
LARGEST_FILE = 1 << 16


def cache_folder() -> Path:
    """Return the folder of remembered choices.

    ``MASKTOOLS_CACHE`` names it; else it lies where the system keeps caches of a user.
    """
    chosen = os.environ.get("MASKTOOLS_CACHE")
    if chosen:
        return Path(chosen)
    kept = os.environ.get("XDG_CACHE_HOME")
    return (Path(kept) if kept else Path.home() / ".cache") / "masktools"


@dataclass(frozen=True)
class Tuned(Generic[Choice]):
    """The fastest candidate, and how long it took.

    Parameters
    ----------
    choice : Choice
    seconds : float
        Of one run, the median of several.
    remembered : bool
        It comes from the cache: nothing was timed.
    """

    choice: Choice
    seconds: float
    remembered: bool


class Cache:
    """Choices by key, a file for each.

    Parameters
    ----------
    folder : Path
        Made when first written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: Key) -> Path:
        """Return where the choice for a key is kept."""
        return self.folder / f"{hashlib.sha256(_canonical(_whole(key))).hexdigest()[:40]}.json"

    def read(self, key: Key, candidates: Mapping[str, Choice]) -> Tuned[Choice] | None:
        """Return the choice for a key, or None where there is none that can be used.

        Parameters
        ----------
        key : mapping
            What JSON can hold.
        candidates : mapping of str to Choice
            What may be chosen, by name.

        Warns
        -----
        RuntimeWarning
            If a file is there and cannot be used: damaged, written for another key, or naming
            what is no candidate.
        """
        path = self.path(key)
        try:
            with path.open("rb") as file:
                text = file.read(LARGEST_FILE + 1)
            name, seconds = _entry(text, key, candidates)
        except FileNotFoundError:
            return None
        except (OSError, _UnusableEntry) as error:
            warnings.warn(f"{path}: ignored: {error}", RuntimeWarning, stacklevel=2)
            return None
        return Tuned(candidates[name], seconds, remembered=True)

    def write(self, key: Key, name: str, seconds: float) -> None:
        """Remember a choice; a reader sees the whole file or none.

        Warns
        -----
        RuntimeWarning
            If it cannot be written: the choice holds for this run alone.
        """
        path = self.path(key)
        entry = {"key": _whole(key), "choice": name, "seconds": seconds}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as beside:
                beside.write_text(json.dumps(entry, sort_keys=True, indent=1) + "\n")
        except OSError as error:
            warnings.warn(f"{path}: the choice is not remembered: {error}", RuntimeWarning, 2)


def tune(
    key: Key,
    candidates: Mapping[str, Choice],
    time: Callable[[Choice], float],
    cache: Cache,
) -> Tuned[Choice]:
    """Return the fastest candidate, from the cache or by timing them all.

    Parameters
    ----------
    key : mapping
        Everything that the answer depends on.
    candidates : mapping of str to Choice
        By name, the likeliest first.
    time : function of Choice to float
        Runs a candidate and returns seconds; raises `KernelError` where it cannot be run.
    cache : Cache

    Raises
    ------
    KernelError
        If no candidate runs; the first one's error.

    Notes
    -----
    Candidates are timed in turn, round after round, so that a clock that changes hits all of
    them; those far behind are left out of later rounds. Ties go to the earlier candidate.
    """
    found = cache.read(key, candidates)
    if found is not None:
        return found
    seconds: dict[str, list[float]] = {}
    errors: dict[str, KernelError] = {}
    for name, candidate in candidates.items():
        try:
            seconds[name] = [time(candidate)]
        except KernelError as error:  # noqa: PERF203 - what is timed takes far longer
            errors[name] = error
    if not seconds:
        raise KernelError(_failures(errors)) from next(iter(errors.values()), None)
    if errors:
        warnings.warn(_failures(errors), RuntimeWarning, stacklevel=2)
    fastest = min(times[0] for times in seconds.values())
    alive = [name for name, times in seconds.items() if times[0] <= HOPELESS * fastest]
    for _ in range(ROUNDS - 1):
        for name in alive:
            seconds[name].append(time(candidates[name]))
    best = min(alive, key=lambda name: median(seconds[name]))
    took = float(median(seconds[best]))
    cache.write(key, best, took)
    return Tuned(candidates[best], took, remembered=False)


def alone(plan: Plan, step: Step) -> Plan:
    """Return a plan of one step of another, to be timed."""
    names = dict.fromkeys(step.inputs)
    shapes = {name: plan.shapes[name] for name in (*names, step.output)}
    inputs = tuple(Value(name, shapes[name]) for name in names)
    output = Value(step.output, shapes[step.output])
    return Plan(inputs, (output,), {step.output: step.output}, (step,), shapes)


def _failures(errors: Mapping[str, KernelError]) -> str:
    if not errors:
        return "there is no configuration to choose from"
    name, error = next(iter(errors.items()))
    return f"{len(errors)} configurations cannot be run; the first, {name}: {error}"


def _whole(key: Key) -> dict[str, Any]:
    return {"format": FORMAT, **key}


def _canonical(key: Key) -> bytes:
    return json.dumps(key, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


class _UnusableEntry(Exception):  # noqa: N818 - never leaves this module
    """A remembered choice that must not be used; the message says why."""


def _entry(text: bytes, key: Key, names: Collection[str]) -> tuple[str, float]:
    """Return the name, one of `names`, and the seconds that a file remembers for a key."""
    if len(text) > LARGEST_FILE:
        raise _UnusableEntry(f"longer than {LARGEST_FILE} bytes")
    try:
        entry = json.loads(text)
        kept, name, seconds = entry["key"], entry["choice"], entry["seconds"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _UnusableEntry("damaged") from error
    if kept != json.loads(_canonical(_whole(key))):
        raise _UnusableEntry("written for another device, compiler, source or problem")
    if not isinstance(name, str) or name not in names:
        raise _UnusableEntry(f"{name!r} is no configuration of this version")
    if not isinstance(seconds, float) or not (math.isfinite(seconds) and seconds > 0):
        raise _UnusableEntry(f"{seconds!r} is no number of seconds")
    return name, seconds
