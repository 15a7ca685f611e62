"""Measure the accuracy of bfloat16: outputs of large networks, answers of a trained one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

import runtime
from benchmarks.cpu.networks import Files, Variant, images

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
IMAGES = 16


def outputs(files: Files, variant: Variant) -> dict[str, Any]:
    """Return how far bfloat16 is from float32 on random images.

    The networks' weights are random, so that how often the largest output stays the same is a
    pessimistic figure: trained networks part their classes by more.
    """
    path = files.find(variant, 1, ".safetensors")
    x = images(variant, IMAGES)
    exact, rounded = (runtime.load(path, "cpu", dtype)(x) for dtype in ("float32", "bfloat16"))
    return {
        "network": variant.network, "structure": variant.structure, "density": variant.density,
        "deviation": float(np.abs(exact - rounded).max() / np.abs(exact).max()),
        "same_answer": float((exact.argmax(1) == rounded.argmax(1)).mean()),
    }  # fmt: skip


def digits() -> dict[str, Any]:
    """Return how many test images the retrained digits ticket gets right in either type."""
    tests = load_file(DIGITS / "digitsnet_test_images.safetensors")
    found: dict[str, Any] = {"network": "digitsnet", "structure": "regrouped"}
    for dtype in ("float32", "bfloat16"):
        model = runtime.load(DIGITS / "digitsnet_regrouped.safetensors", "cpu", dtype)
        answers = model(tests["images"].astype(np.float32) / 16).argmax(axis=1)
        found[f"right_{dtype}"] = float((answers == tests["labels"]).mean())
    return found
