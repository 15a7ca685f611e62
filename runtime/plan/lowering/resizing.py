"""Lower Resize to steps: a Gather, or a weighted sum along each axis."""

from __future__ import annotations

from typing import cast

from masktools.network.graph import Node, integer, ints, real, where
from runtime.errors import PlanError
from runtime.plan.lowering.context import Context, Rows, border
from runtime.plan.positions import is_copied, is_whole, resized_positions
from runtime.plan.steps import Gather, Interpolate, Step
from runtime.plan.taps import Taps, cubic, linear, resized_taps

# What a tap takes of the entries that a plan may list: its index, and its weight of twice the size.
ENTRIES_PER_TAP = 3


def _resize(context: Context, node: Node) -> list[Step]:
    return _nearest(context, node) if node.attributes["mode"] == "nearest" else _sums(context, node)


def _nearest(context: Context, node: Node) -> list[Step]:
    axes = ints(node, "axes")
    ins, outs = context.sizes(node, axes), context.shapes[node.outputs[0]]
    scales = cast("tuple[float, ...] | None", node.attributes.get("scales"))
    roi = cast("tuple[float, ...]", node.attributes.get("roi", (0.0, 1.0) * len(axes)))
    modes = (
        str(node.attributes["coordinate_transformation_mode"]),
        str(node.attributes["nearest_mode"]),
    )
    context.pick(node, tuple(cast("int", outs[axis]) for axis in axes))
    indices = tuple(
        resized_positions(
            modes,
            ins[axis],
            cast("int", outs[axis]),
            None if scales is None else scales[i],
            (roi[i], roi[i + len(axes)]),
        )
        for i, axis in enumerate(axes)
    )
    if all(is_whole(at, ins[a]) for at, a in zip(indices, axes, strict=True)):
        return []
    fill = real(node, "extrapolation_value", 0.0)
    return [Gather(**border(node), axes=axes, indices=indices, fill=fill)]


def _sums(context: Context, node: Node) -> list[Step]:
    """Return a step for each axis that is resized, those that shrink most first.

    Of equal ones the last axis comes first: its rows are the slower ones, and then the fewest.
    """
    axes = ints(node, "axes")
    ins = context.sizes(node, axes)
    outs = {axis: cast("int", context.shapes[node.outputs[0]][axis]) for axis in axes}
    scales = cast("tuple[float, ...] | None", node.attributes.get("scales"))
    given = dict(zip(axes, scales or (None,) * len(axes), strict=True))
    resized = [axis for axis in axes if not is_copied(ins[axis], outs[axis], given[axis])]
    resized.sort(key=lambda axis: (outs[axis] / ins[axis], -axis))
    steps: list[Step] = []
    value, shape = node.inputs[0], context.shapes[node.inputs[0]]
    for axis in resized:
        indices, weights = _taps(context, node, ins[axis], outs[axis], given[axis])
        shape = (*shape[:axis], outs[axis], *shape[axis + 1 :])
        made = node.outputs[0] if axis == resized[-1] else context.between(node, shape)
        steps.append(
            Interpolate(
                name=node.name,
                inputs=(value,),
                output=made,
                axis=axis,
                indices=indices,
                weights=weights,
            )
        )
        value = made
    return steps


def _taps(context: Context, node: Node, size: int, resized: int, scale: float | None) -> Taps:
    mode = str(node.attributes["coordinate_transformation_mode"])
    if node.attributes["mode"] == "linear":
        context.pick(node, (2 * ENTRIES_PER_TAP * resized,))
        return resized_taps(linear, mode, size, resized, scale)
    context.pick(node, (4 * ENTRIES_PER_TAP * resized,))
    kernel, outside = cubic(real(node, "cubic_coeff_a")), bool(integer(node, "exclude_outside"))
    try:
        return resized_taps(kernel, mode, size, resized, scale, outside)
    except ValueError as error:
        coefficient = node.attributes["cubic_coeff_a"]
        raise PlanError(f"{where(node)}: attribute cubic_coeff_a={coefficient}: {error}") from error


RESIZING: Rows = {"Resize": _resize}
