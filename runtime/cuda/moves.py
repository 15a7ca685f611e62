"""Steps that move numbers, or add up a few, as launches of move.cu and interpolate.cu."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from runtime.cuda import structs
from runtime.cuda.launches import Launch, Memory, Place, Table, axes_of, blocks
from runtime.cuda.layout import NO_HALO, Layout
from runtime.plan import steps as s


def _move(
    place: Place,
    sizes: Sequence[int],
    y: tuple[Memory, Sequence[int]],
    x: tuple[Memory, Sequence[int]],
    tables: Mapping[int, Any] | None = None,
    fill: float = 0.0,
) -> Launch:
    """Return the launch of y[i, ..] = x[table(i), ..]; memory comes with strides.

    Real numbers alone are moved: lanes beyond the batch would be written over other samples where
    the first axis is cut or joined.
    """
    tables = tables or {}
    order = axes_of(len(sizes))
    starts, joined = {}, [np.empty(0, np.int32)]
    for axis, indices in tables.items():
        starts[axis] = sum(map(len, joined))
        joined.append(indices)
    walk, starts_struct = structs.move(
        [sizes[axis] for axis in order],
        [y[1][axis] for axis in order],
        [x[1][axis] for axis in order],
        [starts.get(axis, -1) for axis in order],
    )
    places = Table(np.concatenate(joined).astype(np.int32)) if tables else None
    return Launch(
        "move.cu",
        f"move_{place.suffix}",
        (x[0], places, y[0], walk, starts_struct, np.float32(fill)),
        blocks(int(walk["count"][0])),
    )


def _whole(place: Place, value: str) -> tuple[Memory, tuple[int, ...]]:
    return place.first(value), place.values[value].strides


def concat(step: s.Concat, place: Place) -> Iterator[Launch]:
    """Yield a launch for each part."""
    memory, strides = _whole(place, step.output)
    at = memory.at
    for value in step.inputs:
        shape = place.values[value].shape
        yield _move(place, shape, (Memory(at), strides), _whole(place, value))
        at += shape[step.axis] * strides[step.axis]


def slice_(step: s.Slice, place: Place) -> Iterator[Launch]:
    """Yield the launch of a Slice."""
    memory, strides = _whole(place, step.inputs[0])
    at, steps = memory.at, list(strides)
    for axis, start, by in zip(step.axes, step.starts, step.steps, strict=True):
        at += start * strides[axis]
        steps[axis] *= by
    shape = place.values[step.output].shape
    yield _move(place, shape, _whole(place, step.output), (Memory(at), steps))


def gather(step: s.Gather, place: Place) -> Iterator[Launch]:
    """Yield the launch of a Gather."""
    tables = dict(zip(step.axes, step.indices, strict=True))
    yield _between_values(step, place, tables, step.fill)


def interpolate(step: s.Interpolate, place: Place) -> Iterator[Launch]:
    """Yield the launch of an Interpolate, of interpolate.cu."""
    x, y = (place.values[value] for value in (step.inputs[0], step.output))
    order = axes_of(len(y.shape))
    walk = structs.apart(
        [y.shape[axis] for axis in order],
        [y.strides[axis] for axis in order],
        [x.strides[axis] for axis in order],
    )
    yield Launch(
        "interpolate.cu",
        f"interpolate_{place.suffix}",
        (
            place.first(step.inputs[0]),
            Table(np.ascontiguousarray(step.indices, np.int32)),
            Table(np.ascontiguousarray(step.weights, np.float32)),
            place.first(step.output),
            walk,
            np.int32(order.index(step.axis)),
            np.int32(step.indices.shape[1]),
        ),
        blocks(int(walk["count"][0])),
    )


def pad(step: s.Pad, place: Place) -> Iterator[Launch]:
    """Yield the launch of a Pad; negative pads crop."""
    shape = place.values[step.inputs[0]].shape
    tables = {}
    for axis, size in enumerate(shape):
        begin, end = step.pads[axis], step.pads[axis + len(shape)]
        if begin or end:
            at = np.arange(-begin, size + end)
            tables[axis] = np.where((at < 0) | (at >= size), -1, at)
    yield _between_values(step, place, tables, step.value)


def _between_values(step: s.Step, place: Place, tables: Mapping[int, Any], fill: float) -> Launch:
    shape = place.values[step.output].shape
    ends = (_whole(place, step.output), _whole(place, step.inputs[0]))
    return _move(place, shape, *ends, tables, fill)


def transpose(step: s.Transpose, place: Place) -> Iterator[Launch]:
    """Yield the launch of a Transpose."""
    memory, strides = _whole(place, step.inputs[0])
    moved = [strides[axis] for axis in step.perm]
    shape = place.values[step.output].shape
    yield _move(place, shape, _whole(place, step.output), (memory, moved))


def between(before: Layout, after: Layout) -> tuple[Layout, Layout]:
    """Return two layouts of one scratch memory: a Reshape writes by the first, reads by the second.

    With the batch innermost where it stays the first axis; else as one sample of all numbers,
    which lie in C order then.
    """
    if before.shape[:1] == after.shape[:1] != ():
        return (
            Layout(before.shape, before.shape[0], NO_HALO),
            Layout(after.shape, after.shape[0], NO_HALO),
        )
    return Layout((1, *before.shape), 1, NO_HALO), Layout((1, *after.shape), 1, NO_HALO)


def reshape(step: s.Reshape, place: Place) -> Iterator[Launch]:
    """Yield the launches of a Reshape: none where numbers stay, else two through scratch memory."""
    before, after = place.values[step.inputs[0]], place.values[step.output]
    if place.scratch is None:
        return
    written, read = (
        (Memory(place.scratch), layout.strides[len(layout.shape) - len(shape) :])
        for layout, shape in zip(between(before, after), (before.shape, after.shape), strict=True)
    )
    yield _move(place, before.shape, written, _whole(place, step.inputs[0]))
    yield _move(place, after.shape, _whole(place, step.output), read)
