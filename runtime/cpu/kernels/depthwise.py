"""Depthwise convolutions: which of them the kernels take in place, their weights, how work is cut.

Each plane of the output reads one plane of the input: there are no columns to share, and what
bounds the time is the memory that is read and written.
"""

from __future__ import annotations

from math import prod

import numpy as np

from runtime.cpu.kernels.bfloat16 import rounded
from runtime.cpu.machine import Machine
from runtime.cpu.memory.layout import Image
from runtime.cpu.weights.row_groups import Float32
from runtime.plan import steps as s

# Bytes a second that one thread reads and writes beyond its second-level cache, about.
BANDWIDTH = 30e9
# Seconds of work below which an item is not worth handing out; items of a thread, at most.
LEAST_ITEM, MOST_ITEMS = 10e-6, 4
# Rows that the kernels compute together.
TILE_ROWS = 4


def is_depthwise(step: s.Convolution) -> bool:
    """Return whether each row of a convolution reads one channel, and not all the same."""
    return step.groups > 1 and step.weight_shape[1] == 1


def in_place(step: s.Convolution, lanes: int, vector: int) -> bool:
    """Return whether the kernels find the pixels that a row of the output reads.

    Parameters
    ----------
    step : Convolution
        Depthwise.
    lanes : int
        Elements of a pixel.
    vector : int
        Elements of a vector.

    Notes
    -----
    Vectors within pixels take any stride. Those along pixels take every one, or choose every
    second one of two vectors: then a whole number of pixels makes a vector.
    """
    stride = step.strides[1]
    return lanes % vector == 0 or stride == 1 or (stride == 2 and vector % lanes == 0)


def weights_of(step: s.Convolution, machine: Machine) -> Float32:
    """Return the weights as the kernels take them, (rows, taps); rounded where all else is."""
    weight = step.weight if isinstance(step.weight, np.ndarray) else step.weight.to_dense()
    flat = np.ascontiguousarray(weight.reshape(len(weight), -1), np.float32)
    if not machine.product:
        return flat
    words = rounded(flat).astype(np.uint32) << np.uint32(16)
    values: Float32 = words.view(np.float32)
    return values


def configured(y: Image, machine: Machine) -> dict[str, int]:
    """Return how the work is cut, as the kernels take it.

    Parameters
    ----------
    y : Image
        The output.
    machine : Machine

    Returns
    -------
    dict
        ``strips`` of rows, one for each thread: the layers before and after cut their work along
        the pixels too, so that a thread reads what it has written. ``parts`` of the channels, so
        that threads end together.
    """
    if machine.threads == 1:
        return {"strips": 1, "parts": 1}
    strips = min(machine.threads, -(-y.height // TILE_ROWS))
    moved = 2 * 4 * prod((y.channels, y.height, y.width, y.lanes))
    wanted = min(moved / BANDWIDTH / LEAST_ITEM, MOST_ITEMS * machine.threads)
    return {"strips": strips, "parts": max(int(wanted) // strips, 1)}
