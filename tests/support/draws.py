"""Numbers that tests draw: the same in each test, whatever ran before it."""

from __future__ import annotations

import numpy as np

RANDOM = np.random.default_rng(0)
_START = RANDOM.bit_generator.state


def start_anew() -> None:
    """Draw again what was drawn first."""
    RANDOM.bit_generator.state = _START
