"""How functions of one number, arithmetic and softmax are written in the normal form.

What can be said by operators that are there is: a negation is a product, a power is products.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.network.onnx.node import Source
from masktools.network.onnx.reading import Pass, Rewrites

LARGEST = float(np.finfo(np.float32).max)
# Whole powers beyond this one are refused: each doubling is a product of its own.
HIGHEST_POWER = 64


def axis_of(ctx: Pass, source: Source, default: int) -> int:
    """Take the attribute `axis`, counted from the front."""
    axis, rank = source.take("axis", default), len(ctx.shape(source.inputs[0]))
    return source.axes((axis,), rank)[0]


def plain(**attributes: float) -> Callable[[Pass, Source], None]:
    """Return the rewrite of an operator that only has attributes of type float."""

    def rewrite(ctx: Pass, source: Source) -> None:
        values: dict[str, Any] = {
            name: float(source.take(name, default)) for name, default in attributes.items()
        }
        ctx.emit(source.op, source.inputs[:1], source.outputs[0], source.name, **values)

    return rewrite


class Steps:
    """Emits several nodes for one of the file, by their operators and what these read.

    Parameters
    ----------
    ctx : Pass
    source : Source
        All nodes are named after it.
    """

    def __init__(self, ctx: Pass, source: Source) -> None:
        self._ctx, self._source = ctx, source

    def add(self, op: str, *inputs: str | float, **attributes: float) -> str:
        """Emit a node whose inputs are tensors or numbers, and return its output."""
        made = self._ctx.fresh(f"{self._source.outputs[0]}_{op.lower()}")
        self._emit(made, op, inputs, attributes)
        return made

    def end(self, op: str, *inputs: str | float, **attributes: float) -> None:
        """Emit the last node, which makes the output."""
        self._emit(self._source.outputs[0], op, inputs, attributes)

    def _emit(
        self, made: str, op: str, inputs: tuple[str | float, ...], attributes: dict[str, float]
    ) -> None:
        names = [i if isinstance(i, str) else self._ctx.number(i) for i in inputs]
        values: dict[str, Any] = {name: float(value) for name, value in attributes.items()}
        self._ctx.emit(op, names, made, self._source.name, **values)


# --- functions of one number --------------------------------------------------------------------


def _clip(ctx: Pass, source: Source) -> None:
    bounds: dict[str, Any] = {}
    for index, name in enumerate(("min", "max"), 1):
        value = source.take(name)
        if value is None and source.input(index):
            value = ctx.constant_input(source, index, name).item()
        if value is not None and abs(value) < LARGEST:
            bounds[name] = float(value)
    ctx.emit("Clip", source.inputs[:1], source.outputs[0], source.name, **bounds)


def _gelu(ctx: Pass, source: Source) -> None:
    form = source.take("approximate", "none")
    ctx.emit("Gelu", source.inputs, source.outputs[0], source.name, approximate=form)


def _abs(ctx: Pass, source: Source) -> None:
    Steps(ctx, source).end("LeakyRelu", source.inputs[0], alpha=-1)


def _neg(ctx: Pass, source: Source) -> None:
    Steps(ctx, source).end("Mul", source.inputs[0], -1.0)


def _reciprocal(ctx: Pass, source: Source) -> None:
    Steps(ctx, source).end("Div", 1.0, source.inputs[0])


def _softsign(ctx: Pass, source: Source) -> None:
    steps, x = Steps(ctx, source), source.inputs[0]
    size = steps.add("LeakyRelu", x, alpha=-1)
    steps.end("Div", x, steps.add("Add", size, 1.0))


def _tan(ctx: Pass, source: Source) -> None:
    steps, x = Steps(ctx, source), source.inputs[0]
    steps.end("Div", steps.add("Sin", x), steps.add("Cos", x))


def _selu(ctx: Pass, source: Source) -> None:
    alpha = source.take("alpha", 1.67326319217681884765625)
    gamma = source.take("gamma", 1.05070102214813232421875)
    steps = Steps(ctx, source)
    steps.end("Mul", steps.add("Elu", source.inputs[0], alpha=alpha), float(gamma))


def _celu(ctx: Pass, source: Source) -> None:
    """Below zero alpha * (exp(x / alpha) - 1): Elu of x / alpha, times alpha."""
    alpha, steps, x = float(source.take("alpha", 1.0)), Steps(ctx, source), source.inputs[0]
    if alpha == 1:
        steps.end("Elu", x, alpha=1)
        return
    if alpha <= 0:
        raise source.refuse(f"attribute alpha={alpha} is not supported, only one above 0")
    steps.end("Mul", steps.add("Elu", steps.add("Div", x, alpha), alpha=1), alpha)


def _power(ctx: Pass, source: Source) -> None:
    given = ctx.constant_input(source, 1, "the exponent")
    if given.size != 1 or not math.isfinite(given.item()):
        raise source.refuse(
            f"an exponent of shape {given.shape} is not supported, only one finite number"
        )
    ctx.remove(source, powered(ctx, source, source.inputs[0], float(given.item())))


def powered(ctx: Pass, source: Source, x: str, exponent: float) -> str:
    """Emit nodes that make a power of a value, and return their output."""
    steps, size = Steps(ctx, source), abs(exponent)
    if size % 0.5 or (size % 1 and size > HIGHEST_POWER):
        # Of a number below zero this is NaN, as the power is.
        return steps.add("Exp", steps.add("Mul", steps.add("Log", x), exponent))
    if not 0 < size <= HIGHEST_POWER:
        raise source.refuse(
            f"the exponent {exponent:g} is not supported; a whole one may be 1 to "
            f"{HIGHEST_POWER} or -1 to -{HIGHEST_POWER}"
        )
    factors = [steps.add("Sqrt", x)] if size % 1 else []
    factors += [_whole_power(steps, x, int(size))] if size >= 1 else []
    value = factors[0] if len(factors) == 1 else steps.add("Mul", *factors)
    return steps.add("Div", 1.0, value) if exponent < 0 else value


def _whole_power(steps: Steps, x: str, power: int) -> str:
    if power == 1:
        return x
    square = _whole_power(steps, steps.add("Mul", x, x), power // 2)
    return steps.add("Mul", square, x) if power % 2 else square


# --- arithmetic ---------------------------------------------------------------------------------


def _arithmetic(ctx: Pass, source: Source) -> None:
    Steps(ctx, source).end(source.op, *with_infinities(ctx, source))


def with_infinities(ctx: Pass, source: Source) -> list[str]:
    """Return the inputs of a node; nodes make those that are constants and not all finite.

    Constants of a checkpoint are finite, and masks of attention are not: ln(0) is made of a value.
    """
    names = list(source.inputs)
    for at, name in enumerate(names):
        array = ctx.constant(name)
        if array is not None and array.dtype.kind == "f" and not np.isfinite(array).all():
            value = next(n for n in source.inputs if ctx.constant(n) is None)
            names[at] = _with_infinities(ctx, source, array, value)
    return names


def _with_infinities(ctx: Pass, source: Source, array: NDArray[Any], value: str) -> str:
    """Return a tensor that broadcasts with a value as an array with infinities or NaN does."""
    steps, rank = Steps(ctx, source), len(ctx.shape(value))
    one = value
    if rank > 1:  # One number of each sample will do.
        one, rest = ctx.fresh(f"{value}_first"), (1,) * (rank - 1)
        ctx.emit(
            "Slice", [value], one, source.name,
            starts=(0,) * (rank - 1), ends=rest, axes=tuple(range(1, rank)), steps=rest,
        )  # fmt: skip
    zero = steps.add("Greater", one, one)
    finite, alone = np.isfinite(array), array.size == 1 and array.ndim <= rank
    made = ctx.fresh(f"{source.name}.finite")
    ctx.constants[made] = np.where(finite, array, 0).astype(np.float32)
    for number in np.unique(array[~finite]):
        less = steps.add("Sub", zero, 1.0) if np.isnan(number) else zero
        special = steps.add("Log", less)
        special = steps.add("Sub", 0.0, special) if number > 0 else special
        if alone:
            return special
        where = ctx.fresh(f"{source.name}.where")
        ctx.constants[where] = np.isnan(array) if np.isnan(number) else array == number
        made = steps.add("Where", where, special, made)
    return made


def _of_any_number(op: str) -> Callable[[Pass, Source], None]:
    """Return the rewrite of an operator of any number of inputs: two at a time."""

    def rewrite(ctx: Pass, source: Source) -> None:
        # Values first: no node of the normal form has constants alone.
        first, *others = sorted(source.inputs, key=lambda name: ctx.constant(name) is not None)
        steps = Steps(ctx, source)
        for name in others:
            bound = _bound(ctx, op, first, name)
            first = steps.add("Clip", first, **bound) if bound else steps.add(op, first, name)
        ctx.remove(source, first)

    return rewrite


def _bound(ctx: Pass, op: str, x: str, other: str) -> dict[str, float]:
    """Return a maximum or minimum with one number as the attribute of a Clip, if it is one."""
    array = ctx.constant(other)
    side = {"Max": "min", "Min": "max"}.get(op)
    if side is None or array is None or array.size != 1 or array.ndim > len(ctx.shape(x)):
        return {}
    return {side: float(array.item())} if abs(array.item()) < LARGEST else {}


def _prelu(ctx: Pass, source: Source) -> None:
    x, slope = source.inputs
    array = ctx.constant(slope)
    if array is not None and array.size == 1:
        Steps(ctx, source).end("LeakyRelu", x, alpha=float(array.item()))
    else:
        _arithmetic(ctx, source)


# --- softmax ------------------------------------------------------------------------------------


def _softmax(ctx: Pass, source: Source) -> None:
    x, y = source.inputs[0], source.outputs[0]
    axis = axis_of(ctx, source, -1 if ctx.opset >= 13 else 1)
    shape = ctx.shape(x)
    if ctx.opset >= 13 or math.prod(shape[axis + 1 :]) == 1:
        ctx.emit(source.op, [x], y, source.name, axis=axis)
        return
    # Before operator set 13 it was taken over all axes from this one on, as if they were one.
    flat, soft = ctx.fresh(f"{x}_flat"), ctx.fresh(f"{y}_flat")
    ctx.emit("Flatten", [x], flat, f"{source.name}_flatten", axis=axis)
    ctx.emit(source.op, [flat], soft, source.name, axis=1)
    ctx.emit("Reshape", [soft], y, f"{source.name}_reshape", shape=(-1, *shape[1:]))


ELEMENTWISE: Rewrites = {
    "Abs": _abs,
    "Add": _arithmetic,
    "Ceil": plain(),
    "Celu": _celu,
    "Clip": _clip,
    "Cos": plain(),
    "Div": _arithmetic,
    "Elu": plain(alpha=1.0),
    "Erf": plain(),
    "Exp": plain(),
    "Floor": plain(),
    "Gelu": _gelu,
    "HardSigmoid": plain(alpha=0.2, beta=0.5),
    "HardSwish": plain(),
    "LeakyRelu": plain(alpha=0.01),
    "Log": plain(),
    "LogSoftmax": _softmax,
    "Max": _of_any_number("Max"),
    "Min": _of_any_number("Min"),
    "Mish": plain(),
    "Mul": _arithmetic,
    "Neg": _neg,
    "PRelu": _prelu,
    "Pow": _power,
    "Reciprocal": _reciprocal,
    "Relu": plain(),
    "Round": plain(),
    "Selu": _selu,
    "Sigmoid": plain(),
    "Sign": plain(),
    "Sin": plain(),
    "Softmax": _softmax,
    "Softplus": plain(),
    "Softsign": _softsign,
    "Sqrt": plain(),
    "Sub": _arithmetic,
    "Sum": _of_any_number("Add"),
    "Swish": plain(alpha=1.0),
    "Tan": _tan,
    "Tanh": plain(),
    "ThresholdedRelu": plain(alpha=1.0),
}
