"""Peak memory of a fresh process, and how soon it has a first output."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.cpu.networks import Files, Variant, images
from masktools import checkpoint
from runtime.plan import plan
from runtime.plan.steps import Weighted

FRESH = Path(__file__).with_name("fresh.py")


def measure(
    files: Files, variant: Variant, batch: int, threads: int, rounds: int
) -> dict[str, Any]:
    """Return medians over fresh processes, beside the bound on memory.

    The bound on what is used beyond the interpreter with NumPy:
    1.3 x (stored weights + most live activations) + 60 MB; indices are not counted among weights.
    """
    path = files.find(variant, batch, ".safetensors")
    network = plan.build(checkpoint.read(path))
    weights = 4 * sum(step.stored for step in network.steps if isinstance(step, Weighted))
    live = network.peak_bytes(batch)
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "images.npy"
        np.save(inputs, images(variant, batch))
        runs = [fresh(path, inputs, threads) for _ in range(rounds)]
    found = {name: median(run[name] for run in runs) for name in runs[0]}
    used = found["peak_bytes"] - found["interpreter_bytes"]
    bound = 1.3 * (weights + live) + 60e6
    return {
        "network": variant.network, "structure": variant.structure, "density": variant.density,
        "batch": batch, "threads": threads, "weight_bytes": weights, "live_bytes": live,
        "used_bytes": used, "bound_bytes": bound, "used_over_bound": used / bound, **found,
    }  # fmt: skip


def fresh(path: Path, inputs: Path, threads: int) -> dict[str, float]:
    started = time.monotonic()
    arguments = [sys.executable, FRESH, path, inputs, threads, repr(started)]
    done = subprocess.run(list(map(str, arguments)), check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found
