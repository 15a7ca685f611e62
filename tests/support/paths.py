"""Where the tests find files of the repository."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
SUPPORT = TESTS / "support"
GOLDEN = TESTS / "data" / "golden"
MASK_FILES = TESTS / "data" / "mask_files"
BENCHMARKS = ROOT / "benchmarks"
