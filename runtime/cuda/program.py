"""A plan to launches: layouts, kernels for the layers, memory, and every launch in order.

Nothing here needs a device: the limits of one are enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from runtime.cuda import layers, steps, structs
from runtime.cuda.arena import arena
from runtime.cuda.configuration import Configuration, lanes
from runtime.cuda.launches import Given, Launch, Memory, Place, Result
from runtime.cuda.layout import NO_HALO, Layout, image, layouts
from runtime.plan.plan import Plan
from runtime.plan.steps import Weighted

# Numbers of the tile through which border.cu turns samples around: TILE there.
BORDER_TILE = 2176


@dataclass(frozen=True, eq=False)
class Program:
    """Everything that runs on the device for one shape of the inputs.

    Parameters
    ----------
    dtype : str
        float32, tf32 or float16: what the arena holds, and what layers compute in.
    elements : int
        Size of the arena.
    zeroed : tuple of (int, int)
        Parts of it that must be zero before the first run.
    configurations : tuple of Configuration
        Of the layers' kernels, in the order of the steps.
    enter, leave : mapping of str to Launch
        From the caller's arrays, and to them, by the name of the input or output.
    steps : tuple of tuple of Launch
        For each step of the plan.
    shapes : mapping of str to tuple of int
        Of the outputs.
    """

    dtype: str
    elements: int
    zeroed: tuple[tuple[int, int], ...]
    configurations: tuple[Configuration, ...]
    enter: Mapping[str, Launch]
    steps: tuple[tuple[Launch, ...], ...]
    leave: Mapping[str, Launch]
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def itemsize(self) -> int:
        """Bytes of an element of the arena."""
        return 2 if self.dtype == "float16" else 4


def build(plan: Plan, batch: int, dtype: str, configure: layers.Configure) -> Program:
    """Return the program of a plan.

    Parameters
    ----------
    plan : Plan
    batch : int
    dtype : str
        float32, tf32 or float16.
    configure : function of (Weighted, Problem) to Configuration
        Chooses the kernel of each layer.

    Raises
    ------
    PlanError
        If it needs more than the device counts, or a step has too many axes.
    """
    values = layouts(plan, batch, lanes)
    made = {
        index: layers.layer(step, values, dtype, configure)
        for index, step in enumerate(plan.steps)
        if isinstance(step, Weighted)
    }
    widening = 2 if dtype == "float16" else 1
    scratch = {
        index: made[index].partial_sums * widening
        if index in made
        else steps.scratch_elements(step, values)
        for index, step in enumerate(plan.steps)
    }
    memory = arena(plan, values, {index: size for index, size in scratch.items() if size})
    place = Place(values, memory.offsets, dtype)
    by_step = []
    for index, step in enumerate(plan.steps):
        beside = memory.offsets.get(f"scratch:{index}")
        if index in made:
            by_step.append(tuple(layers.launches(made[index], memory.offsets, beside)))
        else:
            by_step.append(tuple(steps.launches(step, replace(place, scratch=beside))))
    return Program(
        dtype,
        memory.elements,
        memory.zeroed,
        tuple(layer.configuration for layer in made.values()),
        {value.name: enter(value.name, place) for value in plan.inputs},
        tuple(by_step),
        {name: leave(name, value, place) for name, value in plan.results.items()},
        {name: values[value].shape for name, value in plan.results.items()},
    )


def enter(name: str, place: Place) -> Launch:
    """Return the launch that brings an input to where it lies on the device."""
    return _border(f"enter_{place.suffix}", (Given(name), place.first(name)), place.values[name])


def leave(name: str, value: str, place: Place) -> Launch:
    """Return the launch that brings a value to an output of the network."""
    return _border(f"leave_{place.suffix}", (place.first(value), Result(name)), place.values[value])


def _border(kernel: str, ends: tuple[Given | Memory, Memory | Result], layout: Layout) -> Launch:
    samples = layout.shape[0] if layout.shape else 1
    elements = 1
    for size in layout.shape[1:]:
        elements *= size
    if layout.halo == NO_HALO:  # The elements of a sample lie one after another.
        height, width, place = 1, 1, (layout.lanes, layout.lanes, layout.lanes)
    else:
        view = image(layout)
        height, width, place = view.height, view.width, (view.channel, view.y, view.x)
    tile_lanes = min(layout.lanes, 64)
    tile_elements = min(256, (BORDER_TILE // tile_lanes - 1) // 32 * 32)
    border = structs.border(
        samples=samples,
        elements=elements,
        lanes=layout.lanes,
        height=height,
        width=width,
        tile_elements=tile_elements,
        tile_lanes=tile_lanes,
        inside=place,
    )
    grid = (-(-elements // tile_elements), -(-layout.lanes // tile_lanes))
    return Launch("border.cu", kernel, (*ends, border), grid)
