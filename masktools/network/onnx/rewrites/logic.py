"""How comparisons, logic and Where are written in the normal form.

All values are float32: what is true or false in the file is 1 or 0.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from masktools.network.onnx.node import Source
from masktools.network.onnx.reading import Pass, Rewrites
from masktools.network.onnx.rewrites.elementwise import Steps, with_infinities

# A count up to this is exact in float32.
COUNTED = 2**24


def _comparison(op: str, turned: bool = False) -> Callable[[Pass, Source], None]:
    """Return the rewrite of a comparison as another one, of operands in the other order or not."""

    def rewrite(ctx: Pass, source: Source) -> None:
        a, b = with_infinities(ctx, source)
        Steps(ctx, source).end(op, *((b, a) if turned else (a, b)))

    return rewrite


def _not(ctx: Pass, source: Source) -> None:
    Steps(ctx, source).end("Sub", 1.0, source.inputs[0])


def _joined(op: str) -> Callable[[Pass, Source], None]:
    """Return the rewrite of And or Or as arithmetic of ones and zeros."""

    def rewrite(ctx: Pass, source: Source) -> None:
        Steps(ctx, source).end(op, *source.inputs)

    return rewrite


def _xor(ctx: Pass, source: Source) -> None:
    steps = Steps(ctx, source)
    steps.end("Sub", 1.0, steps.add("Equal", *source.inputs))


def _is_nan(ctx: Pass, source: Source) -> None:
    steps, x = Steps(ctx, source), source.inputs[0]
    steps.end("Sub", 1.0, steps.add("Equal", x, x))


def _cast(ctx: Pass, source: Source) -> None:
    steps = Steps(ctx, source)
    steps.end("Sub", 1.0, steps.add("Equal", source.inputs[0], 0.0))


def _noted(rewrite: Callable[[Pass, Source], None]) -> Callable[[Pass, Source], None]:
    """Return a rewrite that notes its output as a boolean of the file."""

    def noting(ctx: Pass, source: Source) -> None:
        rewrite(ctx, source)
        ctx.booleans.add(source.outputs[0])

    return noting


def cast_to_bool(ctx: Pass, source: Source) -> None:
    """Write a Cast to a boolean: whether a number is not zero."""
    if source.inputs[0] in ctx.booleans:
        ctx.remove(source)
    else:
        _noted(_cast)(ctx, source)


def cast_to_count(ctx: Pass, source: Source) -> None:
    """Write a Cast of booleans to whole numbers, as PyTorch sums them: they stay ones and zeros."""
    if prod(ctx.shape(source.inputs[0])[1:]) > COUNTED:
        raise source.refuse(f"more than {COUNTED} booleans cannot be counted in float32")
    ctx.counts.add(source.first)
    ctx.remove(source)


def _where(ctx: Pass, source: Source) -> None:
    Steps(ctx, source).end("Where", *with_infinities(ctx, source))


_BOOLEANS: Rewrites = {
    "And": _joined("Mul"),
    "Equal": _comparison("Equal"),
    "Greater": _comparison("Greater"),
    "GreaterOrEqual": _comparison("GreaterOrEqual"),
    "IsNaN": _is_nan,
    "Less": _comparison("Greater", turned=True),
    "LessOrEqual": _comparison("GreaterOrEqual", turned=True),
    "Not": _not,
    "Or": _joined("Max"),
    "Xor": _xor,
}
LOGIC: Rewrites = {
    **{op: _noted(rewrite) for op, rewrite in _BOOLEANS.items()},
    "Where": _where,
}
