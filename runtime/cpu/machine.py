"""What is known of a processor: the words of the cost model."""

from __future__ import annotations

from typing import NamedTuple


class Machine(NamedTuple):
    """What the cost model knows of a processor.

    Parameters
    ----------
    vector : int
        float32 elements of a vector.
    threads : int
    level2 : int
        Bytes of a core's second-level cache.
    rate : float
        Multiplications a second of one thread, from registers.
    """

    vector: int
    threads: int
    level2: int = 1 << 20
    rate: float = 100e9
