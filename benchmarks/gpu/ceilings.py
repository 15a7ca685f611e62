"""Measure the ceilings of a device, to which the figures of kernels are compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from runtime.cuda import kernel_source
from runtime.cuda.device import Device

SOURCE = Path(__file__).with_suffix(".cu")
BLOCKS_PER_PROCESSOR = 8
THREADS = 256


def ceilings(device: Device, times: int = 4096) -> dict[str, float]:
    """Return bytes and operations a second, by the name of the unit.

    Parameters
    ----------
    device : Device
    times : int
        Repetitions within a kernel: a few milliseconds' worth.
    """
    cupy, hardware = device.cupy, device.hardware
    source = kernel_source.expand("device.cuh") + SOURCE.read_text(encoding="utf-8")
    blocks = hardware.processors * BLOCKS_PER_PROCESSOR
    out = cupy.zeros(1, np.float32)

    def rate(name: str, work: int, *arguments: object) -> float:
        kernel = device.kernel(source, kernel_source.OPTIONS, name, 0)
        threads = blocks * THREADS
        took = seconds(device, lambda: kernel((blocks,), (THREADS,), (*arguments, np.int32(times))))
        return threads * times * work / took

    found = {"copy, B/s": copy_rate(device)}
    buffer = cupy.zeros(1 << 21, np.float32)  # 8 MB: in the second level, beyond the first.
    mask = np.int32((1 << 19) - 1)
    found["L2 to SM, B/s"] = rate("read_cached", 16, buffer, out, mask)
    found["float32, FLOP/s"] = rate("multiply_add", 128, out, np.float32(0.999))
    if hardware.capability >= 75:
        found["float16 tensor, FLOP/s"] = rate("tensor_half", 8 * 4096 // 32, out)
    if hardware.capability >= 80:
        found["tf32 tensor, FLOP/s"] = rate("tensor_tf32", 8 * 2048 // 32, out)
    return found


def copy_rate(device: Device, size: int = 1 << 30) -> float:
    """Return bytes read and written a second when memory is copied."""
    cupy = device.cupy
    source, target = (cupy.zeros(size // 4, np.float32) for _ in range(2))
    return 2 * size / seconds(device, lambda: cupy.copyto(target, source))


def seconds(device: Device, run: Callable[[], object], rounds: int = 7) -> float:
    """Return how long the device takes for what `run` starts: the median, after a first run."""
    cuda = device.cupy.cuda
    run()
    taken = []
    for _ in range(rounds):
        begin, end = cuda.Event(), cuda.Event()
        begin.record()
        run()
        end.record()
        end.synchronize()
        taken.append(cuda.get_elapsed_time(begin, end) / 1e3)
    return median(taken)
