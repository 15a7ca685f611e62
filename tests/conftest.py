"""Settings that every test shares."""

from __future__ import annotations

from hypothesis import settings

# The same examples everywhere, and no deadline: machines are noisy, and timings are no tests.
settings.register_profile("masktools", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("masktools")
