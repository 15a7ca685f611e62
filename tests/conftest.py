"""Settings that every test shares."""

from __future__ import annotations

import os

import pytest
from draws import start_anew
from hypothesis import settings

from runtime.cpu.poison import POISON

# The same examples everywhere, and no deadline: machines are noisy, and timings are no tests.
settings.register_profile("masktools", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("masktools")

# What the CPU backend's memory holds before it is written is NaN: a step that reads it is seen.
os.environ.setdefault(POISON, "1")


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """Let each test draw the same numbers, in whatever order and on whatever worker tests run."""
    start_anew()
