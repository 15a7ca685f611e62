"""Convolutions and products as calls of the kernels: what is read in place, and what is not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime import cpu_depthwise as depthwise
from runtime import steps as s
from runtime.cpu_bfloat16 import as_tiles
from runtime.cpu_groups import Packed, shape_of
from runtime.cpu_halos import WIDEST_HALO
from runtime.cpu_items import Cut, cut, whole
from runtime.cpu_layout import Image, View, round_up
from runtime.cpu_pixel_runs import pixel_runs
from runtime.cpu_program import Assembly
from runtime.cpu_runs import ADD, MAX, STORE, Pooling, Runs, Window, plane_runs, window_of
from runtime.cpu_unfold import Unfolding, unfolding
from runtime.cpu_windows import Outputs, choose_tiling
from runtime.cpu_winograd import configured
from runtime.errors import PlanError

Int64 = NDArray[np.int64]

# Rows of a strided convolution are computed each by itself where that takes no more than this for
# what fills no vector.
WIDEST_GAP = 1.1
# Entries behind the last column's offset: the kernels prefetch that far ahead.
OFFSET_PADDING = 64


@dataclass(frozen=True)
class Source:
    """What a layer reads: an image, or a copy of it that its taps find in place.

    Parameters
    ----------
    image : Image
        Whose lanes the runs count.
    window : Window
        By which the runs read it.
    columns : ndarray of int64, shape (taps * channels,)
        Offset of each (tap, channel).
    """

    image: Image
    window: Window
    columns: Int64


def convolution(assembly: Assembly, at: int, step: s.Convolution) -> None:
    """Add the calls of a convolution, and of the pooling that it takes in."""
    window = window_of(step)
    pooling, output = assembly.pooling(at)
    y = assembly.image(assembly.view(output))
    x = assembly.view(step.inputs[0])
    skip = assembly.view(step.inputs[1]) if len(step.inputs) == 2 else None
    if depthwise.is_depthwise(step) and pooling is None:
        source = _depthwise_source(assembly, at, step, x, y, window)
        if source is not None:
            _depthwise(assembly, at, step, source, y, skip, window)
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
        _winograd(assembly, at, step, x, y, skip, window)
        return
    if assembly.methods[at].windows:
        _windows(assembly, at, step, x, y, skip, window, pooling)
        return
    vector = assembly.machine.vector
    product = assembly.machine.product
    scheme, narrow = assembly.methods[at].scheme, assembly.methods[at].narrow
    source = _source(assembly, at, x, y, window, narrow)
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
    given = arrays(packed, made, source.columns, step.bias)
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


def _winograd(
    assembly: Assembly,
    at: int,
    step: s.Weighted,
    view: View,
    y: Image,
    skip: View | None,
    window: Window,
) -> None:
    """Add the call of a dense 3x3 layer by the minimal filtering algorithm."""
    x = _in_rows(assembly, at, view)
    machine = assembly.machine
    assembly.call(
        "winograd",
        at,
        x,
        (x.height, x.width, x.row // x.pixel),
        y,
        (y.height, y.width, y.row // y.pixel, y.halo),
        None if skip is None else assembly.like(at, skip, y),
        y.lanes,
        window.pads,
        {"weights": assembly.packed.winograd(step.weight), "bias": _bias(step.bias)},
        assembly.activation(step.activation),
        configured(
            x.channels, y.channels, y.height, y.width, y.lanes, machine.vector, machine.threads
        ),
    )


def _depthwise_source(
    assembly: Assembly, at: int, step: s.Convolution, view: View, y: Image, window: Window
) -> Image | None:
    """Return what the kernels of depthwise convolutions read, or None where they cannot."""
    vector = assembly.machine.vector
    if not depthwise.in_place(step, y.lanes, vector):
        return None
    x = assembly.in_planes(at, view)
    if y.lanes % vector == 0:
        return x
    return _with_halo(assembly, at, view, x, window.reach(x.width, y.width))


def _depthwise(
    assembly: Assembly,
    at: int,
    step: s.Convolution,
    x: Image,
    y: Image,
    skip: View | None,
    window: Window,
) -> None:
    """Add the call of a depthwise layer."""
    assembly.call(
        "depthwise",
        at,
        x.view,
        y.view,
        y.halo,
        None if skip is None else assembly.like(at, skip, y).view,
        [window.kernel, window.strides, window.dilations, window.pads],
        {"weights": depthwise.weights_of(step, assembly.machine), "bias": _bias(step.bias)},
        assembly.activation(step.activation),
        depthwise.configured(y, assembly.machine),
    )


def _windows(
    assembly: Assembly,
    at: int,
    step: s.Weighted,
    view: View,
    y: Image,
    skip: View | None,
    window: Window,
    pooling: Pooling | None,
) -> None:
    """Add the call of a layer by rows of nonzeros over packed windows."""
    x = _in_rows(assembly, at, view)
    pool = pooling.window if pooling else (1, 1)
    shape = shape_of(step.weight)
    outputs = Outputs(y.height * pool[0], y.width * pool[1], y.lanes, pool)
    machine = assembly.machine
    tiling, _ = choose_tiling(shape, window, outputs, step.stored, machine.vector, machine.threads)
    assert tiling is not None, "a method that the cost model would not choose"
    packed = assembly.packed.panels(step.weight, shape, tiling.channels)
    combine = STORE if pooling is None else MAX if pooling.largest else ADD
    # Pooled pixels of all samples, of which this is a slice, are no neighbours: they are copied.
    into = y
    if not y.is_plane:
        y = assembly.image(assembly.placement.temporary(_image_shape(y), at))
    assembly.call(
        "rows",
        at,
        x,
        (x.height, x.width, x.row // x.pixel),
        y,
        (y.height, y.width, y.row // y.pixel, y.halo),
        None if skip is None else assembly.like(at, skip, y),
        y.lanes,
        (*window.kernel, *window.strides, *window.dilations, *window.pads),
        {**vars(packed), "bias": _bias(step.bias)},
        assembly.activation(step.activation),
        {
            **tiling._asdict(),
            "combine": combine,
            "pool_y": pool[0],
            "pool_x": pool[1],
            "scale": 1.0 / prod(pool) if combine == ADD else 1.0,
        },
    )
    if into is not y:
        assembly.call("copy", at, y.view, into.view)


def _in_rows(assembly: Assembly, at: int, view: View) -> Image:
    """Return a view as planes whose rows are pixels without gaps; copied where they are not."""
    x = assembly.in_planes(at, view)
    return x if x.is_plane else assembly.image(assembly.copied(at, assembly.as_rank_4(view)))


def _source(
    assembly: Assembly, at: int, view: View, y: Image, window: Window, narrow: bool
) -> Source:
    """Return what a layer reads, after the calls that make it."""
    x = assembly.in_planes(at, view)
    if narrow or y.lanes % assembly.machine.vector == 0:
        return Source(x, window, window.column_offsets(x))
    reach = window.reach(x.width, y.width)
    if window.strides[1] == 1:
        wide = _with_halo(assembly, at, view, x, reach)
        if wide is not None:
            return Source(wide, window, window.column_offsets(wide))
    return _unfolded(assembly, at, view, x, y, window)


def _with_halo(assembly: Assembly, at: int, view: View, x: Image, reach: int) -> Image | None:
    """Return an image with zeros beside its rows, or a copy; None where that would be too wide."""
    if x.is_plane and x.halo >= reach:
        return x
    if reach > WIDEST_HALO * x.width:
        return None
    copied = assembly.placement.memory(_image_shape(x), at, reach)
    seen = replace(copied, shape=view.shape) if len(view.shape) == 4 else copied
    assembly.zero_halo(at, copied)
    assembly.call("copy", at, assembly.as_rank_4(view), seen)
    return assembly.image(copied)


def _unfolded(
    assembly: Assembly, at: int, view: View, x: Image, y: Image, window: Window
) -> Source:
    """Unfold an image into planes of which every tap reads rows as long as the output's."""
    if not x.is_plane:
        view = assembly.copied(at, assembly.as_rank_4(view))
        x = assembly.image(view)
    made = _unfolding(window, y, assembly.machine.vector)
    pitch = max(y.row // y.pixel, y.width + made.columns)
    # Taps to the right of a last row's end read beyond it, for lanes that become zeros.
    rows = made.plane_rows(y.height) + (made.columns > 0)
    u = assembly.image(
        assembly.placement.memory((x.batch, x.channels * made.planes, rows, pitch), at)
    )
    assembly.call(
        "unfold", at, x, (x.height, x.width, x.row // x.pixel, x.lanes), u, made.origins,
        window.strides, y.height, pitch,
    )  # fmt: skip
    channels = np.arange(x.channels) * made.planes
    planes = made.tap_planes[:, None] + channels
    within = made.tap_rows * u.row + made.tap_columns * u.pixel
    columns = planes * u.plane + within[:, None]
    # Every tap is inside, wherever its row and plane lie: rows and pixels are those of the output.
    seen = replace(u, height=y.height, width=y.width)
    return Source(seen, Window((1, window.taps)), columns.ravel())


def _unfolding(window: Window, y: Image, vector: int) -> Unfolding:
    """Return the planes that a convolution reads: few, unless rows by themselves waste vectors."""
    shape = (window.kernel, window.strides, window.dilations, window.pads)
    made = unfolding(*shape)
    row = y.width * y.pixel
    apart = y.height * round_up(row, vector)
    together = round_up(y.height * y.row, vector)
    long = made.columns <= y.halo or apart <= WIDEST_GAP * together
    return made if long else unfolding(*shape, flowing=True)


def _bias(bias: s.Array | None) -> NDArray[np.float32]:
    return np.empty(0, np.float32) if bias is None else bias.astype(np.float32)


def _image_shape(x: Image) -> tuple[int, int, int, int]:
    return (x.batch, x.channels, x.height, x.width)


def arrays(
    packed: Packed, made: Cut, columns: Int64, bias: s.Array | None
) -> dict[str, NDArray[Any]]:
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
        "bias": _bias(bias),
        "runs": runs.table,
        "tap_sets": runs.tap_sets,
        "tap_set_starts": runs.tap_set_starts,
        "masks": runs.masks,
        "chunk_starts": made.chunk_starts,
        "panel_starts": made.panel_starts,
        "part_starts": made.part_starts,
    }
