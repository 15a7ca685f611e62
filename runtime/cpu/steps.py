"""Each kind of step as calls of the compiled kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from runtime.cpu.kernels import grouped as layers
from runtime.cpu.machine import Configuration, Configure, Machine
from runtime.cpu.memory.layout import Shape, View
from runtime.cpu.memory.placement import START
from runtime.cpu.program import Assembly, Packer
from runtime.plan import steps as s
from runtime.plan.plan import Plan


def assemble(
    plan: Plan,
    shapes: Mapping[str, Shape],
    machine: Machine,
    packer: Packer,
    configure: Configure = lambda _: Configuration(),
) -> Assembly:
    """Return the calls of a plan for one batch, in the order of execution.

    Parameters
    ----------
    plan : Plan
    shapes : mapping of str to tuple of int
        Of every value.
    machine : Machine
    packer : callable
        Returns the groups of a weight, given its scheme and shape.
    configure : callable, default the cost model's choice
        Returns how the work of a layer is cut.
    """
    made = Assembly(plan, shapes, machine, packer, configure)
    for number, value in enumerate(plan.inputs):
        made.call("copy_in", START, number, made.view(value.name))
    for part in range(made.slices.parts):
        made.calls.begin(part)
        _emit(made, range(made.slices.steps))
    made.calls.begin(None)
    _emit(made, range(made.slices.steps, len(plan.steps)))
    for number, output in enumerate(plan.outputs):
        made.call("copy_out", START, made.view(plan.results[output.name]), number)
    return made


def _emit(assembly: Assembly, steps: range) -> None:
    """Add the calls of some steps."""
    for at in steps:
        if at not in assembly.taken:
            step = assembly.plan.steps[at]
            _EMITTERS[type(step)](assembly, at, step)
        assembly.keep_slice(at)


# --- steps without weights ---------------------------------------------------------------------


def _wide(*views: View) -> list[View]:
    """Return views of one shape with all samples that may be computed, padding included."""
    lanes = views[-1].lanes
    if any(v.lanes != lanes or (v.strides[0] not in (0, 1)) for v in views if v.shape):
        return list(views)
    return [replace(v, shape=(lanes, *v.shape[1:])) if v.shape else v for v in views]


def _elementwise(
    assembly: Assembly,
    at: int,
    op: str,
    operands: list[Any],
    y: View,
    activation: Any,  # noqa: ANN401
) -> None:
    views = [o.broadcast(y.shape) for o in operands if isinstance(o, View)]
    constants = [o for o in operands if not isinstance(o, View)]
    alike = all(a.ndim < len(y.shape) or a.shape[0] == 1 for a in constants)
    *views, y = _wide(*views, y) if alike else [*views, y]
    given = iter(views)
    operands = [next(given) if isinstance(o, View) else o for o in operands]
    assembly.call("elementwise", at, op, operands, y, activation)


def _arithmetic(assembly: Assembly, at: int, step: s.Arithmetic) -> None:
    operands: list[Any] = [assembly.view(name) for name in step.inputs]
    if step.constant is not None:
        constant = np.ascontiguousarray(step.constant, np.float32).reshape(step.constant.shape)
        operands.insert(0 if step.constant_first else 1, constant)
    y = assembly.view(step.output)
    _elementwise(assembly, at, step.op, operands, y, assembly.activation(step.activation))


def _activate(assembly: Assembly, at: int, step: s.Activate) -> None:
    x, y = assembly.view(step.inputs[0]), assembly.view(step.output)
    _elementwise(assembly, at, "Identity", [x], y, assembly.activation(step.activation))


def _scale_shift(assembly: Assembly, at: int, step: s.ScaleShift) -> None:
    x, y = _wide(assembly.view(step.inputs[0]), assembly.view(step.output))
    scale, shift = (
        None if a is None else np.ascontiguousarray(a, np.float32) for a in (step.scale, step.shift)
    )
    assembly.call("scale_shift", at, x, scale, shift, y, assembly.activation(step.activation))


def _pool(assembly: Assembly, at: int, step: s.Pool) -> None:
    x, y = _wide(assembly.view(step.inputs[0]), assembly.view(step.output))
    assembly.call(
        "pool", at, step.op, assembly.as_rank_4(x), assembly.as_rank_4(y), step.kernel,
        step.strides, step.dilations, step.pads, step.counted,
    )  # fmt: skip


def _mean(assembly: Assembly, at: int, step: s.GlobalAveragePool) -> None:
    x, y = _wide(assembly.view(step.inputs[0]), assembly.view(step.output))
    assembly.call("mean", at, x, y)


def _concat(assembly: Assembly, at: int, step: s.Concat) -> None:
    y = assembly.view(step.output)
    start = 0
    for name in step.inputs:
        x = assembly.view(name)
        part = y.sliced(step.axis, start, start + x.shape[step.axis])
        start += x.shape[step.axis]
        if _same(x, part):
            continue
        assembly.call("copy", at, x, part)


def _same(a: View, b: View) -> bool:
    return (a.buffer, a.offset, a.shape, a.strides) == (b.buffer, b.offset, b.shape, b.strides)


def _moved(assembly: Assembly, at: int, step: s.Step, seen: View | None) -> None:
    """Copy what a step sees of its input, unless its output is that already."""
    y = assembly.view(step.output)
    x = assembly.view(step.inputs[0])
    if seen is not None and _same(seen, y):
        return
    if seen is not None:
        assembly.call("copy", at, seen, y)
        return
    # Neither side's strides tell the other's shape: by way of C order.
    plain = View.plain(assembly.placement.buffers.add(int(np.prod(x.shape)), at), x.shape)
    assembly.call("copy", at, x, plain)
    flat = plain.reshaped(y.shape)
    assembly.call("copy", at, flat, y)


def _slice(assembly: Assembly, at: int, step: s.Slice) -> None:
    x = assembly.view(step.inputs[0])
    _moved(assembly, at, step, x.cut(step.axes, step.starts, step.ends, step.steps))


def _reshape(assembly: Assembly, at: int, step: s.Reshape) -> None:
    x, y = assembly.view(step.inputs[0]), assembly.view(step.output)
    if x.buffer == y.buffer and (x is y or step.output not in assembly.placement.parents):
        return
    _moved(assembly, at, step, x.reshaped(y.shape))


def _transpose(assembly: Assembly, at: int, step: s.Transpose) -> None:
    _moved(assembly, at, step, assembly.view(step.inputs[0]).transposed(step.perm))


def _gather(assembly: Assembly, at: int, step: s.Gather) -> None:
    x, y = assembly.view(step.inputs[0]), assembly.view(step.output)
    indices = [np.ascontiguousarray(i, np.int32) for i in step.indices]
    assembly.call("gather", at, x, y, list(step.axes), indices, step.fill)


def _softmax(assembly: Assembly, at: int, step: s.Softmax) -> None:
    assembly.call(
        "softmax", at, assembly.view(step.inputs[0]), assembly.view(step.output), step.axis
    )


def _pad(assembly: Assembly, at: int, step: s.Pad) -> None:
    x, y = assembly.view(step.inputs[0]), assembly.view(step.output)
    assembly.call("fill", at, y, step.value)
    half = len(step.pads) // 2
    into = y
    for axis, (before, after) in enumerate(zip(step.pads[:half], step.pads[half:], strict=True)):
        size = x.shape[axis]
        x = x.sliced(axis, max(-before, 0), size - max(-after, 0))
        start = max(before, 0)
        into = into.sliced(axis, start, start + x.shape[axis])
    assembly.call("copy", at, x, into)


_EMITTERS: Mapping[type[s.Step], Callable[[Assembly, int, Any], None]] = {
    s.Convolution: layers.convolution,
    s.Product: layers.product,
    s.ScaleShift: _scale_shift,
    s.Arithmetic: _arithmetic,
    s.Activate: _activate,
    s.Pool: _pool,
    s.GlobalAveragePool: _mean,
    s.Concat: _concat,
    s.Slice: _slice,
    s.Gather: _gather,
    s.Reshape: _reshape,
    s.Transpose: _transpose,
    s.Softmax: _softmax,
    s.Pad: _pad,
}
