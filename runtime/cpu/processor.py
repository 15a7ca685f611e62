"""Facts that the operating system tells: processor model, cache sizes, cores of this process.

Linux tells in /proc and /sys. Where a file is missing or says something else, the answer is None or
the most cautious one: nothing here raises.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20}


class Model(NamedTuple):
    """Which processor it is.

    Parameters
    ----------
    name : str
        For people. Virtual machines often hide the rest of it.
    vendor : str, default ""
        "AuthenticAMD", "GenuineIntel", ...
    family, model : int, default 0
        As the vendor numbers them; 0 where the system does not tell.
    """

    name: str
    vendor: str = ""
    family: int = 0
    model: int = 0


@lru_cache(maxsize=4)
def model(root: Path = ROOT) -> Model:
    """Return which processor this is."""
    found: dict[str, str] = {}
    for line in (_text(root / "proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    name = found.get("model name") or platform.processor() or platform.machine()
    family, number = (_number(found.get(key, "")) for key in ("cpu family", "model"))
    return Model(name, found.get("vendor_id", ""), family, number)


def cache_bytes(level: int, root: Path = ROOT) -> int | None:
    """Return the size of a core's cache for data, of the first or second level; None: not told.

    Of processors with cores of two kinds, the first that this process may use.
    """
    caches = root / f"sys/devices/system/cpu/cpu{min(processors())}/cache"
    for folder in sorted(caches.glob("index*")):
        kind, of_level = _text(folder / "type"), _text(folder / "level")
        if of_level == str(level) and kind in ("Data", "Unified"):
            size = re.fullmatch(r"(\d+)([KM]?)", _text(folder / "size") or "")
            if size and int(size[1]):
                return int(size[1]) * _UNITS[size[2]]
    return None


def processors() -> Collection[int]:
    """Return the numbers of the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def cores(root: Path = ROOT, of: Collection[int] | None = None) -> int:
    """Return how many cores this process has: as many threads as it is good to start.

    Parameters
    ----------
    root : Path
        Of the system's files.
    of : collection of int, default `processors()`
        Numbers of the processors that it may use.

    Notes
    -----
    Two processors that share a core share its multiplications, and count once. A control group may
    grant less time than the processors have; what is left of a core is not counted.
    """
    found = set()
    for number in processors() if of is None else of:
        topology = root / f"sys/devices/system/cpu/cpu{number}/topology"
        siblings = _text(topology / "core_cpus_list") or _text(topology / "thread_siblings_list")
        found.add(siblings or str(number))
    return max(min([len(found), *(int(granted) for granted in _granted(root))]), 1)


def _granted(root: Path) -> Iterator[float]:
    """Yield the processors' time that each control group of this process may use, in processors."""
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / ("sys/fs/cgroup/cpu" if controllers else "sys/fs/cgroup")
        folder = base / path.strip("/")
        # A container often sees its own group as the first, whatever its path: all above count.
        while True:
            yield from _quota(folder)
            if folder == base or base not in folder.parents:
                break
            folder = folder.parent


def _quota(folder: Path) -> Iterator[float]:
    second = (_text(folder / "cpu.max") or "").split()
    first = [_text(folder / f"cpu.cfs_{what}_us") or "" for what in ("quota", "period")]
    for pair in (second, first):
        if len(pair) == 2 and all(number.isdigit() and int(number) for number in pair):
            yield int(pair[0]) / int(pair[1])


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
