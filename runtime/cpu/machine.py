"""Properties of a processor that the cost model uses, read from the one that it runs on."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from runtime.cpu import calibration, processor

# Vectors of 512 bits, in float32 elements.
WIDE = 16


class Machine(NamedTuple):
    """Properties of a processor that the cost model uses.

    Parameters
    ----------
    vector : int
        float32 elements of a vector.
    threads : int
    level1 : int
        Bytes of a core's first-level cache for data.
    near : int
        Bytes of cache that a core reads at nearly full speed: its second level, or more where the
        third is fast.
    multiplications, loads : int
        Of vectors, that a core begins in a cycle.
    clock : float
        Cycles a second where vectors are busy, about.
    """

    vector: int
    threads: int
    level1: int = calibration.LEVEL1
    near: int = calibration.LEVEL2
    multiplications: int = calibration.MULTIPLICATIONS
    loads: int = calibration.LOADS
    clock: float = calibration.CLOCK

    @property
    def rate(self) -> float:
        """Multiplications a second of one thread, from registers: its peak."""
        return self.vector * self.multiplications * self.clock


@lru_cache(maxsize=8)
def machine_here(vector: int, threads: int) -> Machine:
    """Return the machine that this process runs on.

    Parameters
    ----------
    vector : int
        float32 elements of a vector of the variant that is loaded.
    threads : int
    """
    known = processor.model()
    multiplications, loads = issued(known, vector)
    return Machine(
        vector,
        threads,
        processor.cache_bytes(1) or calibration.LEVEL1,
        near_bytes(known, processor.cache_bytes(2) or calibration.LEVEL2),
        multiplications,
        loads,
    )


def near_bytes(known: processor.Model, level2: int) -> int:
    """Return how many bytes of cache a core reads at nearly full speed.

    Parameters
    ----------
    known : Model
    level2 : int
        Bytes of its second-level cache.

    Examples
    --------
    >>> near_bytes(processor.Model("EPYC", "AuthenticAMD"), 1 << 20)
    2097152
    """
    return level2 * calibration.NEAR_LEVELS.get(known.vendor, 1)


def issued(known: processor.Model, vector: int) -> tuple[int, int]:
    """Return how many vector multiplications, and loads of a vector, begin in a cycle.

    Parameters
    ----------
    known : Model
    vector : int
        float32 elements of a vector.

    Notes
    -----
    By the vendors' numbers, not by a clock: the same file gives the same result, bit for bit, in
    every process of a machine. Two of each where nothing else is known, as of 256 bits everywhere.

    AMD's Zen 4 (family 25) and the mobile kinds of Zen 5 compute 512 bits in two halves. Of
    Intel's processors, mobile and desktop ones have one multiplier of 512 bits, and so have the
    first Xeons that bear the names Bronze, Silver or Gold 5.
    """
    if vector < WIDE:
        return calibration.MULTIPLICATIONS, calibration.LOADS
    if known.vendor == "AuthenticAMD":
        mobile = known.family == 26 and known.model >> 4 in (2, 6)
        return (1, 1) if known.family == 25 or mobile else (2, 2)
    if known.vendor == "GenuineIntel" and known.family == 6:
        one = known.model in (0x66, 0x7D, 0x7E, 0x8C, 0x8D, 0xA7)
        small = known.model == 0x55 and re.search(r"Bronze|Silver|Gold 5", known.name)
        return (1, 2) if one or small else (2, 2)
    return calibration.MULTIPLICATIONS, calibration.LOADS
