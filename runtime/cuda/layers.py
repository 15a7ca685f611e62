"""Steps with weights: how their values are addressed, and the launches that run one.

Convolutions and products are one thing here. A layer's output is a grid of pixels; a column is one
number that a pixel reads, at an offset that is the same for all pixels; a row is a channel of the
output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from masktools.checkpoint import SparseWeight
from runtime.cuda import structs
from runtime.cuda.configuration import REMAINDER_ROWS, Configuration, Problem, Type
from runtime.cuda.launches import CONVOLUTIONS, Launch, Memory, Table, blocks
from runtime.cuda.layout import LARGEST, Image, Layout, image
from runtime.cuda.pieces import Indices, Piece, pieces
from runtime.cuda.tables import Tables, pack
from runtime.errors import PlanError
from runtime.plan.plan import Plan
from runtime.plan.steps import Convolution, Product, Weighted

# Rows that one launch finishes: the most blocks that a grid has along its second axis.
MOST_ROWS = 65535

Configure = Callable[[Weighted, Problem], Configuration]


@dataclass(frozen=True, eq=False)
class Addresses:
    """Where a layer's numbers lie, relative to where the memory of each value starts.

    Parameters
    ----------
    x : int
        What tap (0, 0) of the first pixel reads of channel 0.
    down, across : int
        From there to what the next pixel down, and across, reads.
    taps : ndarray of int64, shape (taps,)
        From a pixel's first tap to each tap.
    channel : int
        From an input channel to the next.
    y, skip : Image
        `skip` is `y` where there is no skip add.
    """

    x: int
    down: int
    across: int
    taps: NDArray[np.int64]
    channel: int
    y: Image
    skip: Image

    def columns(self, columns: Indices) -> Indices:
        """Return what each column reads, relative to a pixel's first tap."""
        channel, tap = np.divmod(columns.astype(np.int64), len(self.taps))
        return (channel * self.channel + self.taps[tap]).astype(np.int32)


def addresses(step: Weighted, values: Mapping[str, Layout]) -> Addresses:
    """Return where a layer's numbers lie."""
    x, y, *skip = (values[value] for value in (step.inputs[0], step.output, *step.inputs[1:]))
    return ADDRESSES[type(step)](step, x, y, skip[0] if skip else y)


def _of_product(step: Product, x: Layout, y: Layout, skip: Layout) -> Addresses:
    read, taps = features(x), np.zeros(1, np.int64)
    return Addresses(read.origin, read.y, read.x, taps, read.channel, features(y), features(skip))


def _of_convolution(step: Convolution, x: Layout, y: Layout, skip: Layout) -> Addresses:
    read = image(x)
    (sy, sx), (dy, dx) = step.strides, step.dilations
    ky, kx = np.indices(step.kernel).reshape(2, -1)
    return Addresses(
        read.origin - step.pads[0] * read.y - step.pads[1] * read.x,
        sy * read.y,
        sx * read.x,
        ky * dy * read.y + kx * dx * read.x,
        read.channel,
        image(y),
        image(skip),
    )


# For each kind of step with weights, the function that says where its numbers lie.
ADDRESSES: Mapping[type[Weighted], Callable[[Any, Layout, Layout, Layout], Addresses]] = {
    Convolution: _of_convolution,
    Product: _of_product,
}


def features(layout: Layout) -> Image:
    """Return a value as a Gemm sees it: its last axis is channels, those between are pixels.

    Examples
    --------
    >>> features(Layout((3, 4, 5), lanes=8))
    Image(channels=5, height=1, width=4, channel=8, y=40, x=40, origin=0)
    """
    sizes, strides = layout.shape[1:-1], layout.strides[1:-1]
    last = layout.strides[-1]
    if len(sizes) > 2:  # Such values have no halo: their axes lie together.
        sizes, strides = (prod(sizes),), strides[-1:]
    height, width = (1, 1, *sizes)[-2:]
    across = strides[-1] if sizes else last
    down = strides[-2] if len(sizes) > 1 else across
    return Image(layout.shape[-1], height, width, last, down, across, layout.origin)


@dataclass(frozen=True, eq=False)
class Layer:
    """A step with weights, cut for the kernel that was chosen for it."""

    step: Weighted
    at: Addresses
    configuration: Configuration
    tables: Tables
    positions: int
    lanes: int

    @property
    def partial_sums(self) -> int:
        """Numbers, float32, that wait in the arena for the rest of their sum."""
        return self.tables.partials * self.positions


def layer(step: Weighted, values: Mapping[str, Layout], dtype: str, configure: Configure) -> Layer:
    """Choose a kernel for a step, and cut and pack its weights for it.

    Parameters
    ----------
    step : Weighted
    values : mapping of str to Layout
    dtype : str
        float32, tf32 or float16.
    configure : function of (Weighted, Problem) to Configuration

    Raises
    ------
    PlanError
        If a table is longer than the device counts.
    """
    at = addresses(step, values)
    lanes = values[step.output].lanes
    positions = at.y.height * at.y.width * lanes
    parts = weights(step)
    problem = Problem(
        cast("Type", dtype),
        positions,
        lanes,
        tuple((len(part.rows), len(part.columns)) for part in parts),
        step.activation.op if step.activation else "",
    )
    chosen = configure(step, problem)
    rows = step.weight_shape[0]
    try:
        tables = pack(parts, rows, chosen, REMAINDER_ROWS, at.columns)
    except OverflowError as error:
        raise PlanError(f"layer {step.name!r}: {error}") from error
    if tables.partials * positions > LARGEST:
        raise PlanError(
            f"layer {step.name!r}: {tables.partials} partial sums of {positions} positions each "
            f"are more than the device counts; run a smaller batch"
        )
    return Layer(step, at, chosen, tables, positions, lanes)


def check_range(plan: Plan) -> None:
    """Refuse weights that float16 does not hold.

    Raises
    ------
    PlanError
        That names the layer.
    """
    for step in plan.steps:
        if not isinstance(step, Weighted):
            continue
        if isinstance(step.weight, SparseWeight):
            parts = (step.weight, step.weight.residual)
            stored = [part.values for part in parts if part is not None]
        else:
            stored = [step.weight]
        largest = max(float(np.abs(values).max(initial=0)) for values in stored)
        if largest > float(np.finfo(np.float16).max):
            raise PlanError(f"layer {step.name!r}: a weight of {largest:.6g} is beyond float16")


def weights(step: Weighted) -> list[Piece]:
    """Return a step's weights as pieces."""
    return pieces(step.weight, step.groups if isinstance(step, Convolution) else 1)


def launches(made: Layer, offsets: Mapping[str, int], partial: int | None) -> list[Launch]:
    """Return the launches of a layer: the tiles, then the rows whose sums are still in parts.

    Parameters
    ----------
    made : Layer
    offsets : mapping of str to int
        Where the memory of each value starts in the arena.
    partial : int or None
        Where partial sums go, if there are any.
    """
    step, at, tables = made.step, made.at, made.tables
    configuration = made.configuration
    remainders = len(tables.tiles) - tables.block_tiles
    skipped = len(step.inputs) == 2
    rows = step.weight_shape[0]
    bias = np.zeros(rows, np.float32) if step.bias is None else step.bias.astype(np.float32)
    y = Memory(offsets[step.output] + at.y.origin)
    skip = Memory(offsets[step.inputs[1]] + at.skip.origin) if skipped else None
    sums = None if partial is None else Memory(partial)
    geometry = structs.geometry(
        positions=made.positions,
        lanes=made.lanes,
        width=at.y.width,
        block_tiles=tables.block_tiles,
        remainder_tiles=remainders,
        x=(at.channel, at.down, at.across),
        y=(at.y.channel, at.y.y, at.y.x),
        skip=(at.skip.channel, at.skip.y, at.skip.x) if skipped else (0, 0, 0),
        activation=structs.activation(step.activation),
    )
    ends = (Table(bias), skip, y)
    tiles = Launch(
        CONVOLUTIONS,
        configuration.name,
        (
            Memory(offsets[step.inputs[0]] + at.x),
            Table(tables.weights),
            Table(tables.remainder_weights),
            Table(tables.columns),
            Table(tables.tiles),
            Table(tables.targets),
            *ends,
            sums,
            geometry,
        ),
        configuration.grid(tables.block_tiles, remainders, made.positions),
        (configuration.threads,),
        configuration.shared_bytes,
    )
    half = configuration.dtype == "float16"
    count = len(tables.finish_rows)
    return [tiles] + [
        Launch(
            "finish.cu",
            "finish_float16" if half else "finish_float32",
            (
                sums,
                Table(tables.finish_rows[first : first + MOST_ROWS]),
                Table(tables.finish_starts[first : first + MOST_ROWS + 1]),
                Table(tables.finish_slots),
                *ends,
                geometry,
            ),
            (*blocks(made.positions), min(count - first, MOST_ROWS)),
        )
        for first in range(0, count, MOST_ROWS)
    ]
