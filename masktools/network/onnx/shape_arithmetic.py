"""Follow the formulas of open sizes through what a network computes of its shapes.

Beside each constant that was computed from open sizes stands an array of exact numbers with their
formulas. Operators that move numbers are run on the places of their entries, those that compute on
the entries themselves. What is not followed keeps the number of the example sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.network.onnx.node import Source
from masktools.network.sizes import Size, largest, least

Array = NDArray[Any]
Evaluate = Callable[[Mapping[int, Array]], Sequence[Array]]

# Entries of an array that is followed: shapes are short, images are not.
MOST = 1024
# Numerators and denominators of the constants that sizes are multiplied by.
FINEST = 2**20

# Operators that move numbers.
_MOVED = """
    Concat Expand Flatten Gather GatherElements Identity Reshape Slice Split Squeeze Tile Transpose
    Unsqueeze Where
"""
_MOVING = frozenset(_MOVED.split())


@dataclass(frozen=True)
class Exact:
    """A number without rounding: a size, or a whole number, divided by a whole number."""

    top: int
    under: int = 1

    @property
    def value(self) -> float:
        """The number at the example sizes."""
        return int(self.top) / self.under

    @property
    def whole(self) -> int:
        """The number rounded down."""
        return self.top // self.under


def of_shape(source: Source, shape: Sequence[int]) -> Array:
    """Return the entries of a Shape or Size node whose input has a shape."""
    sizes = [prod(shape)] if source.op == "Size" else list(shape)
    if source.op == "Shape":
        start, end = source.attributes.get("start", 0), source.attributes.get("end", len(sizes))
        sizes = sizes[start:end]
    entries = _objects([Exact(size) for size in sizes])
    return entries.reshape(()) if source.op == "Size" else entries


def follow(
    source: Source,
    values: Sequence[Array | None],
    entries: Sequence[Array | None],
    made: Sequence[Array],
    evaluate: Evaluate,
) -> list[Array | None]:
    """Return the entries of a node's outputs; None for an output that follows from no open size.

    Parameters
    ----------
    source : Source
    values : sequence of ndarray or None
        The node's inputs; None where one is left out.
    entries : sequence of ndarray or None
        The entries of inputs that follow from open sizes.
    made : sequence of ndarray
        The node's outputs.
    evaluate : callable
        Runs the node on other inputs, given by their places.
    """
    nothing: list[Array | None] = [None] * len(made)
    if any(value is not None and value.size > MOST for value in [*made, *values]):
        return nothing
    whole = [
        None if v is None else e if e is not None else _exact(v)
        for v, e in zip(values, entries, strict=True)
    ]
    if source.op in _MOVING:
        found = _moved(_moved_inputs(source.op, len(whole)), whole, evaluate)
    elif source.op == "Cast":
        found = _cast(source, whole[0])
    elif source.op in _COMPUTED:
        found = _computed(source.op, whole, made[0])
    else:
        return nothing
    return [_checked(one, value) for one, value in zip(found, made, strict=True)]


def sizes(values: Array, entries: Array | None) -> tuple[int, ...]:
    """Return integers as sizes, where they follow from open ones."""
    if entries is None:
        return tuple(int(v) for v in values.ravel())
    pairs = zip(values.ravel().tolist(), entries.ravel().tolist(), strict=True)
    return tuple(e.top if e.under == 1 else int(v) for v, e in pairs)


def _objects(entries: Sequence[Exact | None]) -> Array:
    array = np.empty(len(entries), object)
    array[:] = entries
    return array


def _exact(values: Array) -> Array:
    """Return numbers as entries; None among them where that would take more than `FINEST`."""
    return _objects([_entry(value) for value in values.ravel().tolist()]).reshape(values.shape)


def _entry(value: object) -> Exact | None:
    if not isinstance(value, int | float) or not isfinite(value):
        return None
    exact = Fraction(value)
    if exact.denominator > FINEST or abs(exact.numerator) > 2**53:
        return None
    return Exact(exact.numerator, exact.denominator)


def _checked(entries: Array, values: Array) -> Array | None:
    """Return entries that are what the node made; those that are not are numbers of the example."""
    kept = [
        entry if entry is not None and np.isclose(entry.value, value, rtol=1e-6) else _entry(value)
        for entry, value in zip(entries.ravel().tolist(), values.ravel().tolist(), strict=True)
    ]
    if not any(entry is not None and isinstance(entry.top, Size) for entry in kept):
        return None
    return _objects(kept).reshape(values.shape)


def _moved_inputs(op: str, inputs: int) -> Sequence[int]:
    """Return which inputs hold the numbers that an operator moves."""
    return range(inputs) if op == "Concat" else (1, 2) if op == "Where" else (0,)


def _moved(places: Sequence[int], whole: Sequence[Array | None], evaluate: Evaluate) -> list[Array]:
    """Run an operator that moves numbers on the places of its entries."""
    table: list[Exact | None] = []
    feeds: dict[int, Array] = {}
    for at in places:
        entries = whole[at]
        if entries is not None:
            feeds[at] = np.arange(len(table), len(table) + entries.size).reshape(entries.shape)
            table += entries.ravel().tolist()
    return [
        _objects([table[place] for place in np.ravel(found).tolist()]).reshape(np.shape(found))
        for found in evaluate(feeds)
    ]


def _cast(source: Source, entries: Array | None) -> list[Array]:
    assert entries is not None
    kind = source.attributes.get("to")
    if kind in (1, 10, 11):  # TensorProto.FLOAT, FLOAT16, DOUBLE
        return [entries]
    whole = np.frompyfunc(lambda e: Exact(e.whole) if e and e.value >= 0 else None, 1, 1)
    nothing = np.frompyfunc(lambda e: None, 1, 1)
    integral = kind in (5, 6, 7, 12, 13)  # INT16, INT32, INT64, UINT32, UINT64
    return [np.asarray((whole if integral else nothing)(entries), object)]


def _computed(op: str, whole: Sequence[Array | None], made: Array) -> list[Array]:
    arrays = [entries for entries in whole if entries is not None]
    rule = _COMPUTED["//" if op == "Div" and made.dtype.kind in "iu" else op]
    if op == "ReduceProd":
        if made.size > 1:
            return [_exact(made)]
        arrays = [np.asarray(e, object) for e in arrays[0].ravel()]
    result: Any = arrays[0] if len(arrays) > 1 else np.frompyfunc(_single(rule), 1, 1)(arrays[0])
    for other in arrays[1:]:
        result = np.frompyfunc(_pair(rule), 2, 1)(result, other)
    return [np.asarray(result, object).reshape(made.shape)]


def _single(rule: Callable[..., Exact | None]) -> Callable[[Exact | None], Exact | None]:
    return lambda a: None if a is None else rule(a)


def _pair(
    rule: Callable[..., Exact | None],
) -> Callable[[Exact | None, Exact | None], Exact | None]:
    return lambda a, b: None if a is None or b is None else rule(a, b)


def _add(a: Exact, b: Exact) -> Exact:
    return Exact(a.top * b.under + b.top * a.under, a.under * b.under)


def _multiply(a: Exact, b: Exact = Exact(1)) -> Exact:
    return Exact(a.top * b.top, a.under * b.under)


def _divide(a: Exact, b: Exact) -> Exact | None:
    if isinstance(b.top, Size) or b.top <= 0:
        return None
    return Exact(a.top * b.under, a.under * b.top)


def _divide_integers(a: Exact, b: Exact) -> Exact | None:
    # Of negative numbers ONNX rounds towards 0.
    if a.under != 1 or b.under != 1 or a.top < 0 or b.top <= 0:
        return None
    return Exact(a.top // b.top)


def _remainder(a: Exact, b: Exact) -> Exact | None:
    quotient = _divide_integers(a, b)
    return None if quotient is None else Exact(a.top - quotient.top * b.top)


def _negate(a: Exact) -> Exact:
    return Exact(-a.top, a.under)


def _extreme(pick: Callable[[int, int], int]) -> Callable[[Exact, Exact], Exact]:
    return lambda a, b: Exact(pick(a.top * b.under, b.top * a.under), a.under * b.under)


_COMPUTED: Mapping[str, Callable[..., Exact | None]] = {
    "Add": _add,
    "Sub": lambda a, b: _add(a, _negate(b)),
    "Mul": _multiply,
    "Div": _divide,
    "//": _divide_integers,
    "Mod": _remainder,
    "Neg": _negate,
    "Floor": lambda a: Exact(a.whole),
    "Ceil": lambda a: Exact(-(-a.top // a.under)),
    "Max": _extreme(largest),
    "Min": _extreme(least),
    "ReduceProd": _multiply,
}
