"""Choose the kernel of each layer: remembered as fastest, timed now, or estimated."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict
from functools import cache
from typing import Any

from runtime.cuda import kernel_source
from runtime.cuda.candidates import candidates
from runtime.cuda.configuration import Configuration, Limits, Problem
from runtime.cuda.device import Device
from runtime.cuda.executable import Built
from runtime.cuda.layers import Configure
from runtime.cuda.program import Program, build
from runtime.plan.plan import Plan
from runtime.plan.steps import Weighted
from runtime.tuning import Cache, alone, cache_folder, tune

# Runs of a layer that are timed as one: a layer of a few microseconds must outlast its start.
COPIES = 20
# Candidates that are timed, the likeliest by estimate: each has to be compiled.
TIMED = 12


def limits(device: Device) -> Limits:
    """Return the limits of a device."""
    return Limits(*device.hardware[1:])


def chooser(device: Device, plan: Plan, batch: int, tuned: bool) -> Configure:
    """Return a function that chooses a layer's kernel: remembered, timed now, or estimated."""
    remembered = Cache(cache_folder())
    can = limits(device)
    kept: dict[str, Any] = {}  # Made when the first layer asks: a plan may have none.

    def configure(step: Weighted, problem: Problem) -> Configuration:
        found = candidates(problem, can)
        named = {f"{c.name}_k{c.split}_w{c.whole_from}": c for c in found}
        if not kept:
            kept.update(device_key(device))
        key = {**kept, "problem": problem_key(problem, plan, step)}
        known = remembered.read(key, named)
        if known or not tuned:
            return known.choice if known else found[0]

        @cache
        def program(candidate: Configuration) -> Program:
            return build(alone(plan, step), batch, problem.dtype, lambda *_: candidate)

        def seconds(candidate: Configuration) -> float:
            return Built(device, program(candidate)).seconds(COPIES)

        likeliest = dict(list(named.items())[:TIMED])
        sources = [kernel_source.render([candidate]) for candidate in likeliest.values()]
        device.compile(sources, kernel_source.OPTIONS)
        return tune(key, likeliest, seconds, remembered).choice

    return configure


def device_key(device: Device) -> dict[str, Any]:
    """Return the properties of a device and its compiler under which a choice is remembered."""
    hardware = device.hardware
    return {
        "device": hardware.name,
        "driver": device.cupy.cuda.runtime.driverGetVersion(),
        "processors": hardware.processors,
        "compiler": device.compiler,
        "source": kernel_source.digest(
            kernel_source.render(()), kernel_source.OPTIONS, device.compiler
        ),
    }


def problem_key(problem: Problem, plan: Plan, step: Weighted) -> dict[str, Any]:
    """Return a problem as a key: a digest of all of it, and a few numbers for people."""
    shapes = [plan.shapes[value][1:] for value in (*step.inputs, step.output)]
    window = [getattr(step, name, None) for name in ("kernel", "strides", "dilations", "pads")]
    blocks = sorted(Counter(problem.blocks).items())
    whole = json.dumps([asdict(problem) | {"blocks": blocks}, shapes, window, step.operator])
    return {
        "dtype": problem.dtype,
        "positions": problem.positions,
        "weights": list(step.weight_shape),
        "stored": step.stored,
        "digest": hashlib.sha256(whole.encode()).hexdigest(),
    }
