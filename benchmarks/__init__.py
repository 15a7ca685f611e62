"""Benchmarks: each is a command, `python -m benchmarks.NAME` from the repository."""

import sys
from pathlib import Path

# The networks of the tests are measured too.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
