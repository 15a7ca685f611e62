"""Layers whose kernels go over images by themselves: no runs tell them where their taps lie.

Depthwise convolutions, dense windows of three by the minimal filtering algorithm, and rows of
nonzeros over windows that the first level of the cache holds.
"""

from __future__ import annotations

from math import prod

from runtime.cpu.kernels import depthwise as depthwise_kernel
from runtime.cpu.kernels.inputs import in_rows, with_halo
from runtime.cpu.kernels.runs import ADD, MAX, STORE, Pooling, Window
from runtime.cpu.kernels.windows import Outputs, choose_tiling
from runtime.cpu.kernels.winograd import configured
from runtime.cpu.memory.layout import Image, View
from runtime.cpu.program import Assembly
from runtime.cpu.weights.row_groups import shape_of
from runtime.plan import steps as s


def depthwise_input(
    assembly: Assembly, at: int, step: s.Convolution, view: View, y: Image, window: Window
) -> Image | None:
    """Return what the kernels of depthwise convolutions read, or None where they cannot."""
    vector = assembly.machine.vector
    if not depthwise_kernel.in_place(step, y.lanes, vector):
        return None
    x = assembly.in_planes(at, view)
    if y.lanes % vector == 0:
        return x
    return with_halo(assembly, at, view, x, window.reach(x.width, y.width))


def depthwise(
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
        {
            "weights": depthwise_kernel.weights_of(step, assembly.machine),
            "bias": assembly.bias(step.bias),
        },
        assembly.activation(step.activation),
        depthwise_kernel.configured(y, assembly.machine),
    )


def winograd(
    assembly: Assembly,
    at: int,
    step: s.Weighted,
    view: View,
    y: Image,
    skip: View | None,
    window: Window,
) -> None:
    """Add the call of a dense 3x3 layer by the minimal filtering algorithm."""
    x = in_rows(assembly, at, view)
    machine = assembly.machine
    assembly.call(
        "winograd",
        at,
        *_images(assembly, at, x, y, skip),
        window.pads,
        {"weights": assembly.packed.winograd(step.weight), "bias": assembly.bias(step.bias)},
        assembly.activation(step.activation),
        configured(
            x.channels, y.channels, y.height, y.width, y.lanes, machine.vector, machine.threads
        ),
    )


def rows(
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
    x = in_rows(assembly, at, view)
    pool = pooling.window if pooling else (1, 1)
    shape = shape_of(step.weight)
    outputs = Outputs(y.height * pool[0], y.width * pool[1], y.lanes, pool)
    machine = assembly.machine
    tiling, _ = choose_tiling(shape, window, outputs, step.stored, machine.vector, machine.threads)
    assert tiling is not None, "a method that the cost model would not choose"
    packed = assembly.packed.panels(step.weight, shape, tiling.channels)
    combine = STORE if pooling is None else MAX if pooling.largest else ADD
    # Pooled pixels of all samples, of which this is a slice, are no neighbours: they are copied.
    made = y if y.is_plane else _beside(assembly, at, y)
    assembly.call(
        "rows",
        at,
        *_images(assembly, at, x, made, skip),
        (*window.kernel, *window.strides, *window.dilations, *window.pads),
        {**vars(packed), "bias": assembly.bias(step.bias)},
        assembly.activation(step.activation),
        {
            **tiling._asdict(),
            "combine": combine,
            "pool_y": pool[0],
            "pool_x": pool[1],
            "scale": 1.0 / prod(pool) if combine == ADD else 1.0,
        },
    )
    if made is not y:
        assembly.call("copy", at, made.view, y.view)


def _images(
    assembly: Assembly, at: int, x: Image, y: Image, skip: View | None
) -> tuple[object, ...]:
    """Return input, output and skip branch as the kernels take them, with their sizes."""
    return (
        x,
        (x.height, x.width, x.pitch),
        y,
        (y.height, y.width, y.pitch, y.halo),
        None if skip is None else assembly.like(at, skip, y),
        y.lanes,
    )


def _beside(assembly: Assembly, at: int, y: Image) -> Image:
    """Return an image as large, in memory of its own, whose pixels are neighbours."""
    shape = (y.batch, y.channels, y.height, y.width)
    return assembly.image(assembly.placement.memory(shape, at))
