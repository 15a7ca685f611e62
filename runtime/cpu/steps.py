"""Each kind of step as calls of the compiled kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from runtime.cpu.kernels.problem import LayerCall, Way
from runtime.cpu.memory.layout import Image, View, as_image
from runtime.cpu.memory.placement import START
from runtime.cpu.memory.window import Pooling, Window, window_of
from runtime.cpu.program import Assembly
from runtime.plan import steps as s


def add_calls(
    program: Assembly, ways: Mapping[int, Way], pooled: Mapping[int, tuple[int, Pooling]]
) -> None:
    """Add the calls of a whole plan, in the order of execution.

    Parameters
    ----------
    program : Assembly
        Without calls yet.
    ways : mapping of int to Way
        How each step with weights is computed, by its index.
    pooled : mapping of int to (int, Pooling)
        Of convolutions that pool as they write: the step that pools, and how.
    """
    plan, slices = program.plan, program.slices
    emit = _Emitter(program, ways, pooled)
    for number, value in enumerate(plan.inputs):
        program.call("copy_in", START, index=number, y=program.view(value.name))
    for part in range(slices.parts):
        program.calls.begin(part)
        emit.steps(range(slices.steps))
    program.calls.begin(None)
    emit.steps(range(slices.steps, len(plan.steps)))
    for number, output in enumerate(plan.outputs):
        program.call("copy_out", START, x=program.view(plan.results[output.name]), index=number)


class _Emitter:
    """Adds the calls of steps; those with weights by the kernels that were chosen."""

    def __init__(
        self,
        program: Assembly,
        ways: Mapping[int, Way],
        pooled: Mapping[int, tuple[int, Pooling]],
    ) -> None:
        self._program, self._ways, self._pooled = program, ways, pooled
        self._taken = {pool for pool, _ in pooled.values()}

    def steps(self, steps: range) -> None:
        """Add the calls of some steps."""
        for at in steps:
            step = self._program.plan.steps[at]
            if isinstance(step, s.Convolution):
                self._convolution(at, step)
            elif isinstance(step, s.Product):
                self._product(at, step)
            elif at not in self._taken:
                _EMITTERS[type(step)](self._program, at, step)
            self._program.keep_slice(at)

    def _convolution(self, at: int, step: s.Convolution) -> None:
        """Add the calls of a convolution, and of the pooling that it takes in."""
        program, pooling, output = self._program, None, step.output
        if at in self._pooled:
            pool, pooling = self._pooled[at]
            output = program.plan.steps[pool].output
        x, y = program.view(step.inputs[0]), program.image(program.view(output))
        self._layer(at, step, x, y, self._skip(step), window_of(step), pooling)

    def _product(self, at: int, step: s.Product) -> None:
        """Add the calls of a product: a convolution whose window is the whole of its input."""
        program = self._program
        x, y, skip = program.view(step.inputs[0]), program.view(step.output), self._skip(step)
        if len(y.shape) > 2:
            self._product_of_many(at, step, x, y, skip)
            return
        image = program.in_planes(at, x)
        self._layer(at, step, x, program.image(y), skip, Window((image.height, image.width)))

    def _product_of_many(
        self, at: int, step: s.Product, x: View, y: View, skip: View | None
    ) -> None:
        """Multiply the last of several axes: all others become lanes, in copies."""
        program, lanes = self._program, prod(y.shape[:-1])

        def flat(view: View) -> tuple[View, View]:
            """Return planes of features, and the same seen with the view's own axes."""
            planes = program.placement.memory((lanes, view.shape[-1]), at)
            seen = planes.reshaped(view.shape)
            assert seen is not None
            return planes, seen

        planes, seen = flat(x)
        program.call("copy", at, x=x, y=seen)
        added = None
        if skip is not None:
            added, seen = flat(skip)
            program.call("copy", at, x=skip, y=seen)
        out, seen = flat(y)
        self._layer(at, step, planes, program.image(out), added, Window((1, 1)))
        program.call("copy", at, x=seen, y=y)

    def _skip(self, step: s.Weighted) -> View | None:
        return self._program.view(step.inputs[1]) if len(step.inputs) == 2 else None

    def _layer(
        self,
        at: int,
        step: s.Weighted,
        x: View,
        y: Image,
        skip: View | None,
        window: Window,
        pooling: Pooling | None = None,
    ) -> None:
        way = self._ways[at]
        layer = LayerCall(at, step, way.problem, way.configuration, x, y, skip, window, pooling)
        way.kernel.emit(self._program, layer)


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
    assembly.call("elementwise", at, op=op, operands=operands, y=y, activation=activation)


def _arithmetic(assembly: Assembly, at: int, step: s.Arithmetic) -> None:
    operands: list[Any] = [assembly.view(name) for name in step.inputs]
    if step.constant is not None:
        constant = np.ascontiguousarray(step.constant, np.float32).reshape(step.constant.shape)
        operands.insert(0 if step.constant_first else 1, constant)
    y = assembly.view(step.output)
    _elementwise(assembly, at, step.op, operands, y, assembly.activation(step.activation))


def _where(assembly: Assembly, at: int, step: s.Where) -> None:
    values = iter(step.inputs)
    operands: list[Any] = [
        assembly.view(next(values))
        if constant is None
        else np.ascontiguousarray(constant, np.float32).reshape(constant.shape)
        for constant in step.constants
    ]
    _elementwise(assembly, at, "Where", operands, assembly.view(step.output), None)


def _activate(assembly: Assembly, at: int, step: s.Activate) -> None:
    x, y = assembly.view(step.inputs[0]), assembly.view(step.output)
    _elementwise(assembly, at, "Identity", [x], y, assembly.activation(step.activation))


def _matmul(assembly: Assembly, at: int, step: s.MatMul) -> None:
    y = assembly.view(step.output)
    a, b = (assembly.view(name) for name in step.inputs)
    a, b = (view.broadcast((*y.shape[:-2], *view.shape[-2:])) for view in (a, b))
    assembly.call("matmul", at, a=a, b=b, y=y)


def _scale_shift(assembly: Assembly, at: int, step: s.ScaleShift) -> None:
    x, y = _wide(assembly.view(step.inputs[0]), assembly.view(step.output))
    scale, shift = (
        None if a is None else np.ascontiguousarray(a, np.float32) for a in (step.scale, step.shift)
    )
    assembly.call(
        "scale_shift", at, x=x, scale=scale, shift=shift, y=y,
        activation=assembly.activation(step.activation),
    )  # fmt: skip


def _pool(assembly: Assembly, at: int, step: s.Pool) -> None:
    x, y = _wide(assembly.view(step.inputs[0]), assembly.view(step.output))
    assembly.call(
        "pool", at, op=step.op, x=assembly.as_rank_4(x), y=assembly.as_rank_4(y),
        window=window_of(step), pads_after=step.pads[2:], counted=step.counted,
    )  # fmt: skip


def _mean(assembly: Assembly, at: int, step: s.GlobalAveragePool) -> None:
    x = assembly.view(step.inputs[0])
    pixels = prod(x.shape[2:])
    x, y = _wide(_with_halo(x), assembly.view(step.output))
    assembly.call("mean", at, x=x, y=y, pixels=pixels)


def _with_halo(view: View) -> View:
    """Return planes with the zeros beside their rows, as pixels of one row; others as they are."""
    image = as_image(view)
    if image is None or not view.halo or not image.is_plane or len(view.shape) != 4:
        return view
    shape = (*view.shape[:2], 1, image.height * image.pitch)
    return replace(view, shape=shape, strides=(*view.strides[:3], image.pixel), halo=0)


def _reduce(assembly: Assembly, at: int, step: s.Reduce) -> None:
    x, y = assembly.view(step.inputs[0]), assembly.view(step.output)
    assembly.call("reduce", at, op=step.op, x=x, y=y)


def _concat(assembly: Assembly, at: int, step: s.Concat) -> None:
    y = assembly.view(step.output)
    start = 0
    for name in step.inputs:
        x = assembly.view(name)
        part = y.sliced(step.axis, start, start + x.shape[step.axis])
        start += x.shape[step.axis]
        if _same(x, part):
            continue
        assembly.call("copy", at, x=x, y=part)


def _same(a: View, b: View) -> bool:
    return (a.buffer, a.offset, a.shape, a.strides) == (b.buffer, b.offset, b.shape, b.strides)


def _moved(assembly: Assembly, at: int, step: s.Step, seen: View | None) -> None:
    """Copy the part ``seen`` of a step's input to its output, unless they share memory already."""
    y = assembly.view(step.output)
    x = assembly.view(step.inputs[0])
    if seen is not None and _same(seen, y):
        return
    if seen is not None:
        assembly.call("copy", at, x=seen, y=y)
        return
    # Neither side's strides tell the other's shape: by way of C order.
    plain = View.plain(assembly.placement.buffers.add(int(np.prod(x.shape)), at), x.shape)
    assembly.call("copy", at, x=x, y=plain)
    flat = plain.reshaped(y.shape)
    assembly.call("copy", at, x=flat, y=y)


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
    assembly.call("gather", at, x=x, y=y, axes=list(step.axes), indices=indices, fill=step.fill)


def _interpolate(assembly: Assembly, at: int, step: s.Interpolate) -> None:
    x, y = assembly.view(step.inputs[0]), assembly.view(step.output)
    x, y = _wide(x, y) if step.axis else (x, y)
    assembly.call(
        "interpolate", at, x=x, y=y, axis=step.axis, taps=step.indices.shape[1],
        indices=np.ascontiguousarray(step.indices.ravel(), np.int32),
        weights=np.ascontiguousarray(step.weights.ravel(), np.float32),
    )  # fmt: skip


def _softmax(assembly: Assembly, at: int, step: s.Softmax) -> None:
    x, y = assembly.view(step.inputs[0]), assembly.view(step.output)
    assembly.call("softmax", at, x=x, y=y, axis=step.axis, logarithm=step.logarithm)


def _normalize(assembly: Assembly, at: int, step: s.Normalize) -> None:
    x, y = assembly.view(step.inputs[0]), assembly.view(step.output)
    scale, shift = (
        np.empty(0, np.float32) if part is None else np.ascontiguousarray(part, np.float32).ravel()
        for part in (step.scale, step.shift)
    )
    assembly.call(
        "normalize", at, x=x, y=y, axis=step.axis, epsilon=step.epsilon, scale=scale, shift=shift
    )


def _pad(assembly: Assembly, at: int, step: s.Pad) -> None:
    x, y = assembly.view(step.inputs[0]), assembly.view(step.output)
    assembly.call("fill", at, y=y, value=step.value)
    half = len(step.pads) // 2
    into = y
    for axis, (before, after) in enumerate(zip(step.pads[:half], step.pads[half:], strict=True)):
        size = x.shape[axis]
        x = x.sliced(axis, max(-before, 0), size - max(-after, 0))
        start = max(before, 0)
        into = into.sliced(axis, start, start + x.shape[axis])
    assembly.call("copy", at, x=x, y=into)


_EMITTERS: Mapping[type[s.Step], Callable[[Assembly, int, Any], None]] = {
    s.MatMul: _matmul,
    s.ScaleShift: _scale_shift,
    s.Arithmetic: _arithmetic,
    s.Where: _where,
    s.Activate: _activate,
    s.Pool: _pool,
    s.GlobalAveragePool: _mean,
    s.Reduce: _reduce,
    s.Concat: _concat,
    s.Slice: _slice,
    s.Gather: _gather,
    s.Interpolate: _interpolate,
    s.Reshape: _reshape,
    s.Transpose: _transpose,
    s.Softmax: _softmax,
    s.Normalize: _normalize,
    s.Pad: _pad,
}
