"""Depthwise convolutions: which of them the kernels take in place, their weights, how work is cut.

Each plane of the output reads one plane of the input: there are no columns to share, and what
bounds the time is the memory that is read and written.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from runtime.cpu.calibration import BANDWIDTH, DEPTHWISE_ITEMS, LEAST_ITEM, WIDEST_DEPTHWISE_HALO
from runtime.cpu.kernels.bfloat16 import rounded
from runtime.cpu.kernels.inputs import skip_of, with_halo
from runtime.cpu.kernels.problem import Configuration, Kernel, LayerCall, Problem, row_halo
from runtime.cpu.machine import Machine
from runtime.cpu.memory.layout import Image
from runtime.cpu.memory.window import Pooling
from runtime.cpu.program import Assembly
from runtime.cpu.weights.row_groups import Float32
from runtime.plan.steps import Weight

# Rows that the kernels compute together.
TILE_ROWS = 4


class Depthwise:
    """Each plane of the output reads one plane of the input.

    Parameters
    ----------
    pooled : Kernel
        What computes a layer instead that is pooled as it is written.
    as_bfloat16 : bool, default False
        Whether weights are rounded as all values are.
    """

    name = "depthwise"
    configurations: Mapping[str, Configuration] = {}

    def __init__(self, pooled: Kernel, as_bfloat16: bool = False) -> None:
        self._pooled = pooled
        self._as_bfloat16 = as_bfloat16

    def cost(self, problem: Problem, machine: Machine) -> float:
        """Return what it multiplies, at peak: memory bounds it, and no kernel moves less of it."""
        shape, window, vector = problem.shape, problem.window, machine.vector
        if window is None or shape.groups == 1 or shape.group_channels > 1:
            return float("inf")
        widest = WIDEST_DEPTHWISE_HALO * problem.image[1]
        wide = problem.lanes % vector and problem.reach > widest
        if wide or not finds_pixels(window.strides[1], problem.lanes, vector):
            return float("inf")
        return problem.stored * problem.pixels * problem.inside(vector)

    def weight_bytes(self, problem: Problem, machine: Machine) -> int:
        """Return the memory of all taps of all rows."""
        return problem.dense_bytes

    def halo(self, problem: Problem, machine: Machine) -> int:
        """Return the zeros by which vectors along pixels read their taps, at any stride."""
        return row_halo(problem, machine, WIDEST_DEPTHWISE_HALO)

    def takes(self, pooling: Pooling, problem: Problem, machine: Machine) -> bool:
        """Return whether the kernel that takes its place then does."""
        return self._pooled.takes(pooling, problem, machine)

    def emit(self, program: Assembly, layer: LayerCall) -> None:
        """Add the call, after those that make what it reads."""
        if layer.pooling is not None:
            self._pooled.emit(program, layer)
            return
        step, y = layer.step, layer.y
        x = program.in_planes(layer.at, layer.x)
        if y.lanes % program.machine.vector:
            wide = with_halo(program, layer, x, WIDEST_DEPTHWISE_HALO)
            assert wide is not None, "a kernel that the cost model would not choose"
            x = wide
        program.call(
            "depthwise",
            layer.at,
            x=x,
            y=y,
            skip=skip_of(program, layer),
            window=layer.window,
            weights=weights_of(step.weight, self._as_bfloat16),
            bias=program.bias(step.bias),
            activation=program.activation(step.activation),
            **configured(y, program.machine),
        )


def finds_pixels(stride: int, lanes: int, vector: int) -> bool:
    """Return whether the kernels find the pixels that a row of the output reads.

    Parameters
    ----------
    stride : int
        Along x.
    lanes : int
        Elements of a pixel.
    vector : int
        Elements of a vector.

    Notes
    -----
    Vectors within pixels take any stride. Those along pixels take every one, or choose every
    second one of two vectors: then a whole number of pixels makes a vector.
    """
    return lanes % vector == 0 or stride == 1 or (stride == 2 and vector % lanes == 0)


def weights_of(weight: Weight, as_bfloat16: bool) -> Float32:
    """Return the weights as the kernels take them, (rows, taps); rounded where values are."""
    dense = weight if isinstance(weight, np.ndarray) else weight.to_dense()
    flat = np.ascontiguousarray(dense.reshape(len(dense), -1), np.float32)
    if not as_bfloat16:
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
    wanted = min(moved / BANDWIDTH / LEAST_ITEM, DEPTHWISE_ITEMS * machine.threads)
    return {"strips": strips, "parts": max(int(wanted) // strips, 1)}
