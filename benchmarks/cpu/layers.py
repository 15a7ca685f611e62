"""Single sparse convolutions, as shares of the machine's peak, where a network would have them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from torch import nn

import runtime
from benchmarks.cpu.networks import grouped, unstructured, zoo
from benchmarks.cpu.report import share_of_peak
from masktools.export import from_onnx
from runtime.engines.peak import peak
from runtime.engines.turns import PEAK, Times

# Width of the map, channels, kernel: the middle of VGG-16 and ResNet at 32 x 32, and 1 x 1 layers.
LAYERS = (
    *((32, 64, 3), (16, 128, 3), (8, 256, 3), (4, 512, 3), (2, 512, 3)),
    *((16, 256, 1), (8, 512, 1)),
)
HEIGHTS = (8, 16, 32, 64)
DENSITIES = (0.2, 0.1)


def measure(batch: int, threads: int, rounds: int) -> list[dict[str, Any]]:
    """Return a record for each layer, height and density; height 1 is unstructured."""
    found = []
    for width, channels, kernel in LAYERS:
        for density in DENSITIES:
            for height in (1, *HEIGHTS):
                where = {"width": width, "channels": channels, "kernel": kernel, "density": density}
                how = {"height": height, "batch": batch, "threads": threads}
                found.append(where | how | layer(**where, **how, rounds=rounds))
    return found


def layer(
    width: int,
    channels: int,
    kernel: int,
    density: float,
    height: int,
    batch: int,
    threads: int,
    rounds: int,
) -> dict[str, float]:
    """Return the share of peak, and the time, of a convolution between two others like it."""
    rng = np.random.default_rng(0)
    shape = (channels, channels, kernel, kernel)
    masks = {
        f"{number}.0": (
            unstructured(shape, density, rng)
            if height == 1
            else grouped(shape, density, height, rng)
        )
        for number in (1, 2, 3)
    }
    convolutions = [zoo.norm_conv(channels, channels, kernel) for _ in masks]
    module = nn.Sequential(zoo.norm_conv(3, channels, 1), *convolutions).eval()
    zoo.randomise(module)
    x = rng.standard_normal((batch, 3, width, width), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layers.safetensors"
        from_onnx(zoo.to_onnx(module, width), path, masks=masks, residual="keep")
        model = runtime.load(path, backend="cpu", threads=threads)
    middle = model.profile(x)[2]
    seconds, peaks = beside_peak(lambda: model.profile(x)[2].seconds, threads, rounds)
    share = share_of_peak(middle.multiplications, Times(tuple(seconds), tuple(peaks)))
    return {"milliseconds": median(seconds) * 1e3, "share_of_peak": share}


def beside_peak(
    run: Callable[[], float], threads: int, rounds: int
) -> tuple[list[float], list[float]]:
    """Return what each round measured, and the machine's peak around each round."""
    found, peaks = [], []
    before = peak(threads, PEAK)
    for _ in range(rounds):
        found.append(run())
        after = peak(threads, PEAK)
        peaks.append((before + after) / 2)
        before = after
    return found, peaks
