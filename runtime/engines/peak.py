"""Measure the peak of the machine: fused multiply-adds on registers alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from runtime.cpu import native


def peak(threads: int, seconds: float) -> float:
    """Return multiplications a second by fused multiply-adds on registers alone, on all threads.

    Each thread measures for `seconds`; an addition that comes with a multiplication is not counted.
    """
    measure = native.load().fma_peak
    with ThreadPoolExecutor(threads) as pool:
        rate: float = sum(pool.map(lambda _: measure(seconds), range(threads)))
        return rate
