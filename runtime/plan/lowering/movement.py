"""Lower operators that choose, repeat or order numbers."""

from __future__ import annotations

from typing import cast

import numpy as np

from masktools.network.graph import Node, integer, ints, real
from masktools.network.operators.movement import slices
from runtime.plan.lowering.context import Context, Rows, border
from runtime.plan.positions import padded_positions
from runtime.plan.steps import Concat, Gather, Pad, Slice, Step, Transpose


def _concat(context: Context, node: Node) -> list[Step]:
    if len(node.inputs) == 1:
        return []
    return [
        Concat(
            name=node.name, inputs=node.inputs, output=node.outputs[0], axis=integer(node, "axis")
        )
    ]


def _split(context: Context, node: Node) -> list[Step]:
    axis, start = integer(node, "axis"), 0
    context.sizes(node, (axis,))
    if len(node.outputs) == 1:
        return []
    parts: list[Step] = []
    for output, size in zip(node.outputs, ints(node, "split"), strict=True):
        cut = {"axes": (axis,), "starts": (start,), "ends": (start + size,), "steps": (1,)}
        parts.append(Slice(name=node.name, inputs=node.inputs, output=output, **cut))
        start += size
    return parts


def _slice(context: Context, node: Node) -> list[Step]:
    axes = ints(node, "axes")
    shape = context.sizes(node, axes)
    cuts = slices(node, shape)
    ranges = {axis: range(*cuts[axis].indices(shape[axis])) for axis in axes}
    ranges = {axis: r for axis, r in ranges.items() if r != range(shape[axis])}
    if not ranges:
        return []
    if any(r.step < 0 for r in ranges.values()):
        context.pick(node, tuple(map(len, ranges.values())))
        indices = tuple(np.arange(r.start, r.stop, r.step, dtype=np.int32) for r in ranges.values())
        return [Gather(**border(node), axes=tuple(ranges), indices=indices)]
    return [
        Slice(
            **border(node),
            axes=tuple(ranges),
            starts=tuple(r.start for r in ranges.values()),
            ends=tuple(min(r.stop, r[-1] + 1) for r in ranges.values()),
            steps=tuple(r.step for r in ranges.values()),
        )
    ]


def _gather(context: Context, node: Node) -> list[Step]:
    axis, indices = integer(node, "axis"), ints(node, "indices")
    context.sizes(node, (axis,))
    context.pick(node, (len(indices),))
    return [Gather(**border(node), axes=(axis,), indices=(np.array(indices, np.int32),))]


def _pad(context: Context, node: Node) -> list[Step]:
    pads = ints(node, "pads")
    rank = len(pads) // 2
    axes = tuple(a for a in range(rank) if pads[a] or pads[a + rank])
    if not axes:
        return []
    shape = context.sizes(node, axes)
    mode = str(node.attributes["mode"])
    if mode == "constant":
        return _constant_pad(context, node, pads, shape)
    context.pick(node, tuple(shape[a] + pads[a] + pads[a + rank] for a in axes))
    indices = tuple(padded_positions(mode, shape[a], pads[a], pads[a + rank]) for a in axes)
    return [Gather(**border(node), axes=axes, indices=indices)]


def _constant_pad(
    context: Context, node: Node, pads: tuple[int, ...], shape: tuple[int, ...]
) -> list[Step]:
    """Pad; and only then crop, where an axis keeps nothing of the input."""
    rank = len(pads) // 2
    value = real(node, "value")
    cropped = [min(pads[a], 0) + min(pads[a + rank], 0) for a in range(rank)]
    if all(size + crop > 0 for size, crop in zip(shape, cropped, strict=True)):
        return [Pad(**border(node), pads=pads, value=value)]
    added = tuple(max(n, 0) for n in pads)
    padded = tuple(
        None if n is None else n + added[a] + added[a + rank]
        for a, n in enumerate(context.shapes[node.inputs[0]])
    )
    between = context.between(node, padded)
    along = tuple(a for a in range(rank) if cropped[a])
    ends = tuple(cast("int", padded[a]) + min(pads[a + rank], 0) for a in along)
    pad = Pad(name=node.name, inputs=node.inputs[:1], output=between, pads=added, value=value)
    crop = Slice(
        name=node.name,
        inputs=(between,),
        output=node.outputs[0],
        axes=along,
        starts=tuple(max(-pads[a], 0) for a in along),
        ends=ends,
        steps=(1,) * len(along),
    )
    return [pad, crop]


def _transpose(context: Context, node: Node) -> list[Step]:
    perm = ints(node, "perm")
    if perm == tuple(range(len(perm))):
        return []
    return [Transpose(**border(node), perm=perm)]


MOVEMENT: Rows = {
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Pad": _pad,
    "Transpose": _transpose,
}
