"""How a layer is cut: what was fastest before, a timing now, or the cost model's proposal."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from masktools.checkpoint import SparseWeight
from runtime.cpu.machine import Configuration, Configure, Machine
from runtime.cpu.memory.layout import Shape
from runtime.plan import steps as s
from runtime.plan.plan import Plan
from runtime.tuning import Cache, alone, cache_folder, tune

# Makes the program of a plan, every layer of which is cut as told.
Make = Callable[[Plan, Mapping[str, Shape], Configure], Any]

CANDIDATES = {
    "default": Configuration(),
    "short tiles": Configuration(tile_vectors=12),
    "long tiles": Configuration(tile_vectors=96),
    "near prefetch": Configuration(prefetch=8),
    "far prefetch": Configuration(prefetch=32),
    "no prefetch": Configuration(prefetch=0),
    "one item a thread": Configuration(items=1),
    "many items": Configuration(items=16),
    "small panels": Configuration(panel_share=0.2),
}
# Seconds that a timing takes at least: a layer of a few microseconds is run more than once.
LEAST_TIMING = 2e-3


def chooser(
    plan: Plan,
    shapes: Mapping[str, Shape],
    machine: Machine,
    module: Any,  # noqa: ANN401
    make: Make,
    tuned: bool,
) -> Configure:
    """Return what chooses how a layer is cut.

    Parameters
    ----------
    plan : Plan
    shapes : mapping of str to tuple of int
        Of every value.
    machine : Machine
    module : module
        Of the compiled kernels.
    make : callable
        Makes a program.
    tuned : bool
        Time the candidates where no choice is remembered; else the first is taken there.
    """
    remembered = Cache(cache_folder())
    # Looked for once: a user who never tunes has no such folder, and pays nothing.
    kept = remembered.folder.is_dir()

    def configure(step: s.Weighted) -> Configuration:
        if not tuned and not kept:
            return CANDIDATES["default"]
        key = {**machine_key(machine, module), "problem": problem_key(step, shapes)}
        if not tuned:
            known = remembered.read(key, CANDIDATES)
            return known.choice if known else CANDIDATES["default"]
        program = _timed(plan, step, shapes, make)
        return tune(key, CANDIDATES, program, remembered).choice

    return configure


def machine_key(machine: Machine, module: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return what a choice depends on beside the problem."""
    return {
        "device": processor(),
        "variant": module.isa,
        "source": _digest(module.__file__),
        "threads": machine.threads,
        "product": machine.product,
    }


def problem_key(step: s.Weighted, shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Return a layer as a key: its shapes, and how its weights are stored."""
    weight = step.weight
    blocks: list[int] = []
    if isinstance(weight, SparseWeight):
        heights = [len(block.rows) for block in weight.layout.blocks]
        blocks = np.bincount(heights).tolist() if heights else []
    window = [getattr(step, name, None) for name in ("strides", "dilations", "pads", "groups")]
    return {
        "operator": step.operator,
        "weights": list(step.weight_shape),
        "stored": step.stored,
        "blocks": blocks,
        "values": [list(shapes[name]) for name in (*step.inputs, step.output)],
        "window": [list(w) if isinstance(w, tuple) else w for w in window],
    }


def _timed(
    plan: Plan, step: s.Weighted, shapes: Mapping[str, Shape], make: Make
) -> Callable[[Configuration], float]:
    """Return a function that runs one step, cut as told, and returns the seconds it took."""
    single = alone(plan, step)
    random = np.random.default_rng(0)
    inputs = [random.standard_normal(shapes[v.name], np.float32) for v in single.inputs]
    outputs = [np.empty(shapes[step.output], np.float32)]
    programs: dict[Configuration, Any] = {}

    def seconds(configuration: Configuration) -> float:
        if configuration not in programs:
            programs[configuration] = make(single, shapes, lambda _: configuration)
            programs[configuration].run(inputs, outputs, None)
        took, runs = np.zeros(1), 0
        while not runs or took[0] < LEAST_TIMING:
            programs[configuration].run(inputs, outputs, took)
            runs += 1
        return float(took[0]) / runs

    return seconds


@lru_cache(maxsize=1)
def processor() -> str:
    """Return the name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # Other systems keep it elsewhere.
    return platform.processor() or platform.machine()


@lru_cache(maxsize=4)
def _digest(path: str) -> str:
    """Return a hash of the compiled kernels: other kernels, other choices."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
