"""Every benchmark command starts: all modules that it needs are there."""

from __future__ import annotations

import subprocess
import sys

import pytest
from paths import BENCHMARKS, ROOT

COMMANDS = sorted(
    path.stem
    for path in BENCHMARKS.iterdir()
    if (path / "__main__.py").exists()
    or (path.suffix == ".py" and "__main__" in path.read_text(encoding="utf-8"))
)


def test_the_commands_are_found():
    assert {"cpu", "gpu", "conversion", "calibrate", "tables"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_how_it_is_used(command):
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{command}", "--help"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout
