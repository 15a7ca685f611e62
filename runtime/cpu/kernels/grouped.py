"""Convolutions and products as calls of the kernels: groups of rows go over runs of lanes."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.cpu.kernels import image_layers
from runtime.cpu.kernels.bfloat16 import as_tiles
from runtime.cpu.kernels.depthwise import is_depthwise
from runtime.cpu.kernels.inputs import source_of
from runtime.cpu.kernels.items import Cut, cut, whole
from runtime.cpu.kernels.pixel_runs import pixel_runs
from runtime.cpu.kernels.runs import Pooling, Runs, Window, plane_runs, window_of
from runtime.cpu.memory.layout import Image, View
from runtime.cpu.program import Assembly
from runtime.cpu.weights.row_groups import Float32, Int64, Packed, shape_of
from runtime.errors import PlanError
from runtime.plan import steps as s

# Entries behind the last column's offset: the kernels prefetch that far ahead.
OFFSET_PADDING = 64


def convolution(assembly: Assembly, at: int, step: s.Convolution) -> None:
    """Add the calls of a convolution, and of the pooling that it takes in."""
    window = window_of(step)
    pooling, output = assembly.pooling(at)
    y = assembly.image(assembly.view(output))
    x = assembly.view(step.inputs[0])
    skip = assembly.view(step.inputs[1]) if len(step.inputs) == 2 else None
    if is_depthwise(step) and pooling is None:
        source = image_layers.depthwise_input(assembly, at, step, x, y, window)
        if source is not None:
            image_layers.depthwise(assembly, at, step, source, y, skip, window)
            return
    layer(assembly, at, step, x, y, skip, window, pooling)


def product(assembly: Assembly, at: int, step: s.Product) -> None:
    """Add the calls of a product: a convolution whose window is the whole of its input."""
    x, y = assembly.view(step.inputs[0]), assembly.view(step.output)
    skip = assembly.view(step.inputs[1]) if len(step.inputs) == 2 else None
    if len(y.shape) > 2:
        _product_of_many(assembly, at, step, x, y, skip)
        return
    image = assembly.in_planes(at, x)
    window = Window((image.height, image.width))
    layer(assembly, at, step, x, assembly.image(y), skip, window, None)


def _product_of_many(
    assembly: Assembly, at: int, step: s.Product, x: View, y: View, skip: View | None
) -> None:
    """Multiply the last of several axes: all others become lanes, in copies."""
    lanes = prod(y.shape[:-1])

    def flat(view: View) -> tuple[View, View]:
        """Return planes of features, and the same seen with the view's own axes."""
        planes = assembly.placement.memory((lanes, view.shape[-1]), at)
        seen = planes.reshaped(view.shape)
        assert seen is not None
        return planes, seen

    planes, seen = flat(x)
    assembly.call("copy", at, x, seen)
    added = None
    if skip is not None:
        added, seen = flat(skip)
        assembly.call("copy", at, skip, seen)
    out, seen = flat(y)
    layer(assembly, at, step, planes, assembly.image(out), added, Window((1, 1)), None)
    assembly.call("copy", at, seen, y)


def layer(
    assembly: Assembly,
    at: int,
    step: s.Weighted,
    x: View,
    y: Image,
    skip: View | None,
    window: Window,
    pooling: Pooling | None,
) -> None:
    """Add the call of a layer, after what it needs of its input."""
    if assembly.methods[at].winograd:
        image_layers.winograd(assembly, at, step, x, y, skip, window)
        return
    if assembly.methods[at].windows:
        image_layers.rows(assembly, at, step, x, y, skip, window, pooling)
        return
    vector = assembly.machine.vector
    product = assembly.machine.product
    scheme, narrow = assembly.methods[at].scheme, assembly.methods[at].narrow
    source = source_of(assembly, at, x, y, window, narrow)
    if narrow or y.lanes % vector == 0:
        apart = not narrow and not product
        runs = pixel_runs(source.image, y, source.window, vector, pooling, apart)
    else:
        runs = plane_runs(source.image, y, source.window, vector)
    groups = step.groups if isinstance(step, s.Convolution) else 1
    shape = shape_of(step.weight, groups, window.taps)
    packed = assembly.packed(step.weight, scheme, shape)
    configuration = assembly.configure(step)
    if narrow:
        made = whole(packed, runs, assembly.machine, configuration)
    else:
        made = cut(packed, runs, assembly.machine, source.image.channels, configuration)
    added = None if skip is None else assembly.like(at, skip, y)
    given = arrays(packed, made, source.columns, assembly.bias(step.bias))
    assembly.call(
        "convolution_bfloat16" if product else "narrow" if narrow else "convolution",
        at,
        as_tiles(given) if product else given,
        source.image,
        y,
        added,
        assembly.activation(step.activation),
        {
            "tile_vectors": configuration.tile_vectors,
            "prefetch": configuration.prefetch,
            "parts_first": made.parts_first,
            "kernel": product,
            "scale": 1.0 if pooling is None or pooling.largest else 1.0 / prod(pooling.window),
        },
    )


def arrays(packed: Packed, made: Cut, columns: Int64, bias: Float32) -> dict[str, NDArray[Any]]:
    """Return the arrays of a layer, as cpu/layer.h names them.

    Raises
    ------
    PlanError
        If the planes lie farther apart than 32 bits count.
    """
    if columns.size and int(columns.max()) >= 1 << 31:
        raise PlanError(
            "backend 'cpu': the input of a layer has more than 2**31 elements; use a smaller batch"
        )
    offsets = np.zeros(len(packed.columns) + OFFSET_PADDING, np.int32)
    np.take(columns.astype(np.int32), packed.columns, out=offsets[: len(packed.columns)])
    runs: Runs = made.runs
    return {
        "rows": packed.rows,
        "row_starts": packed.row_starts,
        "offsets": offsets,
        "offset_starts": packed.column_starts,
        "tap_starts": packed.tap_starts,
        "weights": packed.weights,
        "weight_starts": packed.weight_starts,
        "flags": packed.flags,
        "bias": bias,
        "runs": runs.table,
        "tap_sets": runs.tap_sets,
        "tap_set_starts": runs.tap_set_starts,
        "masks": runs.masks,
        "chunk_starts": made.chunk_starts,
        "panel_starts": made.panel_starts,
        "part_starts": made.part_starts,
    }
