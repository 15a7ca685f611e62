"""Layers for the CUDA kernels: made, run under the emulation, and compared."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cuda_emulation
import numpy as np
from cuda_tables import GEOMETRY, Memory, Tables, aligned, joined, pack

from runtime.cuda import configuration
from runtime.cuda.configuration import Limits, Problem
from runtime.plan.steps import ACTIVATIONS

LIMITS = {
    75: Limits(75, 68, 65536, 65536),
    80: Limits(80, 108, 166912, 167936, threads_per_processor=2048),
    90: Limits(90, 132, 232448, 233472, threads_per_processor=2048),
}
OPS = ("", *ACTIVATIONS)
# What memory holds that a kernel should not read, or not write.
UNTOUCHED = 777.0


@dataclass(frozen=True)
class Layer:
    """A convolution, by its blocks: (rows, columns) index arrays that may share rows."""

    channels: int
    size: tuple[int, int]
    rows: int
    blocks: tuple[tuple[np.ndarray, np.ndarray], ...]
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    batch: int = 8
    groups: int = 1
    activation: str = ""
    skip: bool = False
    seed: int = 0
    extra_halo: int = 0  # of the input, beyond what this layer reads

    @property
    def outputs(self) -> tuple[int, int]:
        top, left, bottom, right = self.pads
        spans = [d * (k - 1) + 1 for d, k in zip(self.dilations, self.kernel, strict=True)]
        padded = (self.size[0] + top + bottom, self.size[1] + left + right)
        return tuple(
            (n - span) // stride + 1
            for n, span, stride in zip(padded, spans, self.strides, strict=True)
        )

    @property
    def lanes(self) -> int:
        return configuration.lanes(self.batch)

    def problem(self, dtype: str) -> Problem:
        positions = self.outputs[0] * self.outputs[1] * self.lanes
        blocks = tuple((len(rows), len(columns)) for rows, columns in self.blocks)
        return Problem(dtype, positions, self.lanes, blocks, self.activation)


def blocks_of(rows, columns, heights, depths, seed=0):
    """Return disjoint blocks of the given heights and depths, of random rows and columns."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(rows)
    starts = np.cumsum([0, *heights])
    assert starts[-1] <= rows
    return tuple(
        (np.sort(order[a:b]), np.sort(rng.choice(columns, depth, replace=False)))
        for a, b, depth in zip(starts[:-1], starts[1:], depths, strict=True)
    )


def rounded(x, dtype):
    """Return numbers as a type holds them, in float64."""
    if dtype == "float16":
        return x.astype(np.float16).astype(np.float64)
    x = np.ascontiguousarray(x, np.float32)
    if dtype == "tf32":
        x = ((x.view(np.uint32) + 0x1000) & np.uint32(0xFFFFE000)).view(np.float32)
    return x.astype(np.float64)


@dataclass
class Data:
    """A layer's numbers, as float64 that the type holds exactly."""

    x: np.ndarray
    weights: list[np.ndarray]
    bias: np.ndarray
    skip: np.ndarray | None
    alpha: float = 0.2
    beta: float = 0.6

    @classmethod
    def of(cls, layer: Layer, dtype: str) -> Data:
        rng = np.random.default_rng(layer.seed)
        normal = rng.standard_normal
        x = rounded(normal((layer.batch, layer.channels, *layer.size)), dtype)
        weights = [rounded(normal((len(r), len(c))), dtype) for r, c in layer.blocks]
        bias = rounded(normal(layer.rows), "float32")
        shape = (layer.batch, layer.rows, *layer.outputs)
        skip = rounded(normal(shape), "float16") if layer.skip else None
        if layer.activation in ("Log", "Sqrt"):  # of sums above zero
            x, weights, bias = abs(x), [abs(w) for w in weights], abs(bias)
            skip = None if skip is None else abs(skip)
        if layer.activation == "Exp":  # of sums that float16 holds the powers of
            weights = [w / 4 for w in weights]
        return cls(x, weights, bias, skip)


def expected(layer: Layer, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Return the layer's output, and the sum of the sizes of what is added up in each number."""
    (sy, sx), (dy, dx), (ky, kx) = layer.strides, layer.dilations, layer.kernel
    top, left, bottom, right = layer.pads
    x = np.pad(data.x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    height, width = layer.outputs
    sums = np.zeros((layer.batch, layer.rows, height, width))
    sizes = np.zeros_like(sums)
    channels = layer.channels // layer.groups
    for (rows, columns), weights in zip(layer.blocks, data.weights, strict=True):
        group = rows[0] // (layer.rows // layer.groups)
        c, y, z = np.unravel_index(columns, (channels, ky, kx))
        taps = np.stack(
            [
                x[
                    :,
                    group * channels + c[i],
                    y[i] * dy : y[i] * dy + sy * (height - 1) + 1 : sy,
                    z[i] * dx : z[i] * dx + sx * (width - 1) + 1 : sx,
                ]
                for i in range(len(columns))
            ],
            axis=1,
        )
        sums[:, rows] += np.einsum("rk,nkyx->nryx", weights, taps)
        sizes[:, rows] += np.einsum("rk,nkyx->nryx", abs(weights), abs(taps))
    sums += data.bias[:, None, None]
    sizes += abs(data.bias)[:, None, None]
    if data.skip is not None:
        sums += data.skip
        sizes += abs(data.skip)
    return activated(layer.activation, sums, data.alpha, data.beta), sizes


def activated(op, x, alpha, beta):
    """Return the activation in float64."""
    with np.errstate(over="ignore"):
        return {
            "": lambda: x,
            "Relu": lambda: np.maximum(x, 0),
            "Clip": lambda: np.minimum(np.maximum(x, alpha), beta),
            "LeakyRelu": lambda: np.where(x >= 0, x, alpha * x),
            "Sigmoid": lambda: 1 / (1 + np.exp(-x)),
            "HardSigmoid": lambda: np.clip(alpha * x + beta, 0, 1),
            "HardSwish": lambda: x * np.clip(x / 6 + 0.5, 0, 1),
            "Softplus": lambda: np.logaddexp(x, 0),
            "Elu": lambda: np.where(x >= 0, x, alpha * np.expm1(x)),
            "Tanh": lambda: np.tanh(x),
            "Erf": lambda: np.vectorize(math.erf)(x),
            "Gelu": lambda: x * np.vectorize(math.erfc)(-x / math.sqrt(2)) / 2,
            "Swish": lambda: x / (1 + np.exp(-alpha * x - beta * x**3)),
            "Mish": lambda: x * np.tanh(np.logaddexp(x, 0)),
            "Exp": lambda: np.exp(x),
            "Log": lambda: np.log(x),
            "Sqrt": lambda: np.sqrt(x),
            "ThresholdedRelu": lambda: np.where(x <= alpha, 0, x),
            "Sin": lambda: np.sin(x),
            "Cos": lambda: np.cos(x),
            "Floor": lambda: np.floor(x),
            "Ceil": lambda: np.ceil(x),
            "Round": lambda: np.rint(x),
            "Sign": lambda: np.sign(x),
        }[op]()


def tolerance(layer: Layer, dtype: str, wanted: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return how far off sums in float32, rounded to the type, may be."""
    longest = sum(len(columns) for _, columns in layer.blocks) + 8
    steep = {
        "HardSwish": lambda: 1.5,
        "Erf": lambda: 1.2,
        "Gelu": lambda: 1.2,
        "Mish": lambda: 1.2,
        "Swish": lambda: 2.0,
        "Exp": lambda: wanted,
        "Log": lambda: np.exp(-wanted),
        "Sqrt": lambda: 0.5 / wanted,
    }.get(layer.activation, lambda: 1.0)()
    within = steep * longest * 2.0**-24 * sizes + 2.0**-22 * abs(wanted) + 1e-7
    return within + (2.0**-11 * abs(wanted) + 2.0**-24 if dtype == "float16" else 0)


def run(layer, c, capability=90, schedule=0, data=None, module=None):
    """Run a layer under the emulation.

    Returns
    -------
    (y, data)
        The output, (N, rows, H, W) float64; what was computed with.
    """
    data = data or Data.of(layer, c.dtype)
    number = np.float16 if c.dtype == "float16" else np.float32
    more = layer.extra_halo
    x = Memory.of(data.x, layer.lanes, tuple(p + more for p in layer.pads), c.dtype)
    shape = (layer.batch, layer.rows, *layer.outputs)
    y = Memory.of(np.full(shape, np.nan), layer.lanes, (1, 2, 0, 1), c.dtype, around=UNTOUCHED)
    skip = None
    if data.skip is not None:
        skip = Memory.of(data.skip, layer.lanes, (0, 1, 2, 0), c.dtype, around=np.nan)
    tables = pack(layer, data, c, x.place)
    height, width = layer.outputs
    geometry = np.zeros((), GEOMETRY)
    geometry["positions"] = positions = height * width * layer.lanes
    geometry["lanes"], geometry["width"] = layer.lanes, width
    geometry["block_tiles"] = len(tables.block_tiles)
    geometry["remainder_tiles"] = len(tables.remainder_tiles)
    geometry["x"] = (x.place[0], *(p * s for p, s in zip(x.place[1:], layer.strides, strict=True)))
    geometry["y"], geometry["skip"] = y.place, skip.place if skip else (0, 0, 0)
    geometry["activation"] = (OPS.index(layer.activation), data.alpha, data.beta)
    slots = sum(map(len, tables.slots.values()))
    partial = aligned(np.full(max(slots, 1) * positions, np.nan, np.float32))
    bias = aligned(data.bias.astype(np.float32))
    origin = more * (x.place[1] + x.place[2])
    tiles = np.array(tables.block_tiles + tables.remainder_tiles, np.int32)
    module = module or cuda_emulation.build(cuda_emulation.render([c]), capability)
    epilogue = (bias, skip and skip.from_(skip.origin), y.from_(y.origin))
    module.launch(
        c.name,
        c.grid(len(tables.block_tiles), len(tables.remainder_tiles), positions),
        (c.threads,),
        (
            x.from_(origin),
            joined(tables.weights, number),
            joined(tables.remainder_weights, np.float32),
            joined(tables.columns, np.int32),
            tiles,
            np.array(tables.targets, np.int32),
            *epilogue,
            partial,
            geometry,
        ),
        c.shared_bytes,
        schedule,
    )
    if tables.slots:
        finish(tables, c.dtype, capability, schedule, partial, epilogue, geometry)
    around = y.array.copy()
    top, left = y.halo[:2]
    around[:, top : top + height, left : left + width] = UNTOUCHED
    assert np.all(around == UNTOUCHED), "the halo of the output was written to"
    return y.interior(layer.batch), data


def finish(tables, dtype, capability, schedule, partial, epilogue, geometry):
    """Add up the rows that have several partial sums."""
    name = "finish_float16" if dtype == "float16" else "finish_float32"
    rows = np.array(list(tables.slots), np.int32)
    starts = np.cumsum([0, *map(len, tables.slots.values())]).astype(np.int32)
    slots = np.concatenate([*tables.slots.values(), [0]]).astype(np.int32)
    module = cuda_emulation.build(cuda_emulation.expand("finish.cu"), capability)
    grid = (-(-int(geometry["positions"]) // 256), len(rows))
    module.launch(
        name, grid, (256,), (partial, rows, starts, slots, *epilogue, geometry), 0, schedule
    )


def finish_alone(layer, dtype, data, slots):
    """Return what the finishing kernel makes of slots that hold 1, 2, 4, ... at every position."""
    shape = (layer.batch, layer.rows, *layer.outputs)
    y = Memory.of(np.full(shape, np.nan), layer.lanes, (0, 1, 1, 0), dtype, around=UNTOUCHED)
    skip = Memory.of(data.skip, layer.lanes, (1, 0, 0, 1), dtype, around=np.nan)
    geometry = np.zeros((), GEOMETRY)
    geometry["positions"] = positions = layer.outputs[0] * layer.outputs[1] * layer.lanes
    geometry["lanes"], geometry["width"] = layer.lanes, layer.outputs[1]
    geometry["y"], geometry["skip"] = y.place, skip.place
    geometry["activation"] = (OPS.index(layer.activation), data.alpha, data.beta)
    partial = aligned(np.repeat(2.0 ** np.arange(3), positions).astype(np.float32))
    epilogue = (
        aligned(data.bias.astype(np.float32)),
        skip.from_(skip.origin),
        y.from_(y.origin),
    )
    tables = Tables(slots=dict(enumerate(slots)))
    finish(tables, dtype, 90, 0, partial, epilogue, geometry)
    return y.interior(layer.batch)


def check(layer, c, capability=90, schedule=0, module=None):
    """Run a layer and compare it with what it should be."""
    y, data = run(layer, c, capability, schedule, module=module)
    compare(layer, c.dtype, y, data)


def compare(layer, dtype, y, data):
    """Fail unless every number is within what its sum in float32 may be off."""
    wanted, sizes = expected(layer, data)
    off = abs(y - wanted) - tolerance(layer, dtype, wanted, sizes)
    assert np.all(off <= 0), f"off by {np.nanmax(off)} too much, {np.isnan(y).sum()} are NaN"


def with_(layer, **changes):
    """Return the layer with some things changed."""
    return replace(layer, **changes)
