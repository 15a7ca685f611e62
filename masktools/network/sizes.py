"""Sizes that follow from the open sizes of a network's inputs: numbers that know their formula.

A network whose images may have any size is worked on at example sizes. Each size that follows from
them is a `Size` there: an integer as any other, and how it was computed. Whatever computes with
integers so finds formulas too; what loses one (by a float, or by NumPy) is left with the number of
the example, which two examples tell apart.
"""

from __future__ import annotations

import ast
import keyword
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from math import gcd, prod
from typing import NamedTuple, TypeAlias

import numpy as np

from masktools.errors import GraphError

# Characters and terms of a formula; longer ones are given up, and no file may have them.
LONGEST = 1000
MOST_TERMS = 64
FUNCTIONS: Mapping[str, Callable[[int, int], int]] = {}


class Quotient(NamedTuple):
    """A part of a formula that is no sum or product: ``//``, ``max`` or ``min`` of two sums."""

    op: str
    left: Terms
    right: Terms


# A sum of products with integer factors, in one order: equal formulas are equal. A name stands for
# an open size, which is at least 1; the empty product for the number 1.
Factor: TypeAlias = "str | Quotient"
Product: TypeAlias = "tuple[Factor, ...]"
Terms: TypeAlias = "tuple[tuple[Product, int], ...]"


class Size(int):
    """A size at the example sizes, and its formula.

    Arithmetic with integers gives sizes; comparisons go by the number.

    Parameters
    ----------
    value : int
    terms : tuple, default ()
        The formula, as `Size.open` and arithmetic make it.

    Examples
    --------
    >>> height = Size.open("height", 224)
    >>> half = (height + 1) // 2
    >>> half == 112, half, (half - 1) // 2 * 2
    (True, (height + 1)//2, 2*((height + 3)//4) - 2)
    """

    terms: Terms

    def __new__(cls, value: int, terms: Terms = ()) -> Size:
        """Return a number with its formula."""
        made = super().__new__(cls, value)
        made.terms = terms
        return made

    @classmethod
    def open(cls, name: str, value: int) -> Size:
        """Return an open size that has a name, with an example of it."""
        return cls(value, (((name,), 1),))

    def __repr__(self) -> str:
        """Return the formula."""
        return _text(self.terms)

    __str__ = __repr__

    def __add__(self, other: int) -> int:
        """Add."""
        return _size(int(self) + int(other), _sum(self.terms, _terms(other)))

    __radd__ = __add__

    def __neg__(self) -> int:
        """Turn the sign."""
        return self * -1

    def __sub__(self, other: int) -> int:
        """Subtract."""
        return self + -other

    def __rsub__(self, other: int) -> int:
        """Subtract from another."""
        return -self + other

    def __mul__(self, other: int) -> int:
        """Multiply."""
        value, terms = int(self) * int(other), _terms(other)
        if len(self.terms) * len(terms) > MOST_TERMS:
            return value
        return _size(value, _product(self.terms, terms))

    __rmul__ = __mul__

    def __floordiv__(self, other: int) -> int:
        """Divide, rounding down."""
        return _size(int(self) // int(other), _quotient(self.terms, _terms(other)))

    def __rfloordiv__(self, other: int) -> int:
        """Divide another, rounding down."""
        return _size(int(other) // int(self), _quotient(_terms(other), self.terms))

    def __mod__(self, other: int) -> int:
        """Return what division leaves."""
        return self - self // other * other


def largest(a: int, b: int) -> int:
    """Return the larger of two sizes, as a formula where it is one.

    Examples
    --------
    >>> height = Size.open("height", 224)
    >>> largest(0, height - 1), largest(2, height), largest(2, 3)
    (height - 1, max(2, height), 3)
    """
    return _extreme("max", a, b)


def least(a: int, b: int) -> int:
    """Return the smaller of two sizes, as a formula where it is one."""
    return _extreme("min", a, b)


def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that shapes are broadcast to, as NumPy does it, with its formulas.

    Raises
    ------
    ValueError
        If the numbers do not fit each other.

    Examples
    --------
    >>> height = Size.open("height", 224)
    >>> broadcast((2, 3, height), (3, 1))
    (2, 3, height)
    """
    numbers = np.broadcast_shapes(*(tuple(map(int, shape)) for shape in shapes))
    rank = len(numbers)
    full = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(map(_common, zip(*full, strict=True)))


def _common(sizes: tuple[int, ...]) -> int:
    """Return what sizes are broadcast to: they are equal, or 1."""
    plain = max((size for size in sizes if not isinstance(size, Size)), default=1)
    return plain if plain > 1 else reduce(largest, sizes)


def evaluate(text: str, sizes: Mapping[str, int]) -> int:
    """Return the value of a formula.

    Parameters
    ----------
    text : str
        Integers and names, ``+``, ``-``, ``*``, ``//``, ``max(a, b)``, ``min(a, b)``.
    sizes : mapping of str to int
        What the names stand for.

    Raises
    ------
    GraphError
        If it is no such formula, longer than `LONGEST`, names another size, or divides by 0.

    Examples
    --------
    >>> evaluate("(height - 1)//4 + 1", {"height": 97})
    25
    """
    if len(text) > LONGEST:
        raise GraphError(f"a size of {len(text)} characters; {LONGEST} are supported")
    try:
        return _value(ast.parse(text, mode="eval").body, sizes)
    except ZeroDivisionError as error:
        raise GraphError(f"size {text!r} divides by 0 where {_where(sizes)}") from error
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise GraphError(f"size {text!r} is no formula of {', '.join(sizes) or 'names'}") from error


def same(a: int, b: int) -> bool:
    """Return whether two sizes are equal whatever the open sizes are."""
    return int(a) == int(b) and _terms(a) == _terms(b)


def is_signed(size: int) -> bool:
    """Return whether a size is known to have one sign, or be 0, whatever the open sizes are."""
    return not isinstance(size, Size) or _lowest(size.terms) >= 0


def spelled(values: Iterable[object]) -> list[object]:
    """Return values with each size written out as its formula."""
    return [repr(v) if isinstance(v, Size) else v for v in values]


def is_name(text: str) -> bool:
    """Return whether a text can name an open size."""
    taken = text in FUNCTIONS or text == "N" or keyword.iskeyword(text)
    return text.isidentifier() and text.isascii() and not taken


# --- formulas -----------------------------------------------------------------------------------


def _value(node: ast.expr, sizes: Mapping[str, int]) -> int:
    match node:
        case ast.Constant(value=int() as number) if type(number) is int:
            return number
        case ast.Name(id=name) if name in sizes:
            return sizes[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, sizes)
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _ARITHMETIC:
            return _ARITHMETIC[type(operator)](_value(left, sizes), _value(right, sizes))
        case ast.Call(func=ast.Name(id=name), args=[left, right], keywords=[]) if name in FUNCTIONS:
            return FUNCTIONS[name](_value(left, sizes), _value(right, sizes))
    raise ValueError(ast.dump(node)[:50])


_ARITHMETIC: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b,
}
FUNCTIONS = {"max": largest, "min": least}


def _where(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {int(size)}" for name, size in sizes.items())


def _terms(value: int) -> Terms:
    if isinstance(value, Size):
        return value.terms
    return (((), int(value)),) if value else ()


def _constant(terms: Terms) -> int | None:
    """Return the number that a formula is, None where it depends on a size."""
    if not terms:
        return 0
    return terms[0][1] if len(terms) == 1 and terms[0][0] == () else None


def _size(value: int, terms: Terms) -> int:
    if _constant(terms) is not None or len(terms) > MOST_TERMS or len(_text(terms)) > LONGEST:
        return value
    return Size(value, terms)


def _in_order(found: Mapping[Product, int]) -> Terms:
    terms = ((product, factor) for product, factor in found.items() if factor)
    return tuple(sorted(terms, key=lambda term: (not term[0], _words(term[0]))))


def _sum(a: Terms, b: Terms) -> Terms:
    found = dict(a)
    for product, factor in b:
        found[product] = found.get(product, 0) + factor
    return _in_order(found)


def _product(a: Terms, b: Terms) -> Terms:
    found: dict[Product, int] = {}
    for one, factor in a:
        for other, times in b:
            product = tuple(sorted((*one, *other), key=_word))
            found[product] = found.get(product, 0) + factor * times
    return _in_order(found)


def _quotient(a: Terms, b: Terms) -> Terms:
    divisor = _constant(b)
    if divisor is None or divisor < 1:
        cancelled = _cancelled(a, b)
        return (((Quotient("//", a, b),), 1),) if cancelled is None else cancelled
    # What the divisor divides comes out; the rest is divided.
    out = {p: f // divisor for p, f in a if not p or not f % divisor}
    rest = _in_order({p: f % divisor if not p else f for p, f in a if not p or f % divisor})
    if _constant(rest) is not None:
        return _in_order(out)  # A number below the divisor.
    common = gcd(divisor, *(f for p, f in rest if p))
    rest = _in_order({p: f // common for p, f in rest})
    divisor //= common
    (product, factor), *more = rest
    inner = product[0] if len(product) == 1 and factor == 1 else ""
    number = _constant(tuple(more))
    if isinstance(inner, Quotient) and inner.op == "//" and number is not None:
        by = _constant(inner.right)
        if by is not None and by > 0:  # (a // b + n) // d = (a + n b) // (b d)
            whole = _sum(inner.left, _terms(number * by))
            return _sum(_in_order(out), _quotient(whole, _terms(by * divisor)))
    return _sum(_in_order(out), (((Quotient("//", rest, _terms(divisor)),), 1),))


def _cancelled(a: Terms, b: Terms) -> Terms | None:
    """Return a / b where b is one product of open sizes that is in all of a, else None."""
    if len(b) != 1 or not all(isinstance(name, str) for name in b[0][0]) or b[0][1] < 1:
        return None
    found = {}
    for product, factor in a:
        left = list(product)
        for name in b[0][0]:
            if name not in left:
                return None
            left.remove(name)
        if factor % b[0][1]:
            return None
        found[tuple(left)] = factor // b[0][1]
    return _in_order(found)


def _extreme(op: str, a: int, b: int) -> int:
    if not isinstance(a, Size) and not isinstance(b, Size):
        return max(a, b) if op == "max" else min(a, b)
    if _lowest(_sum(_terms(a), _terms(b * -1))) >= 0:
        return a if op == "max" else b
    if _lowest(_sum(_terms(b), _terms(a * -1))) >= 0:
        return b if op == "max" else a
    value = max(int(a), int(b)) if op == "max" else min(int(a), int(b))
    return _size(value, (((Quotient(op, _terms(a), _terms(b)),), 1),))


def _lowest(terms: Terms) -> float:
    """Return a number that a formula is never below; minus infinity where none is easily told."""
    total: float = 0  # An integer as long as it may be: factors may be larger than any float.
    for product, factor in terms:
        parts = [1 if isinstance(part, str) else _lowest_quotient(part) for part in product]
        if product and (factor < 0 or min(parts) < 0):
            return float("-inf")
        total += factor * prod(parts)
    return total


def _lowest_quotient(part: Quotient) -> float:
    left, right = _lowest(part.left), _lowest(part.right)
    if part.op == "//":
        by = _constant(part.right)
        return left // by if by is not None and by > 0 and left >= 0 else float("-inf")
    return max(left, right) if part.op == "max" else min(left, right)


def _text(terms: Terms) -> str:
    text = ""
    for product, factor in terms:
        sign = (" - " if text else "-") if factor < 0 else (" + " if text else "")
        times = abs(factor)
        words = _words(product)
        # Alone a quotient needs no brackets, but behind the sign of a number.
        if times == len(product) == 1 and words[0] == "(" and (text or factor > 0):
            words = words[1:-1]
        number = f"{times}*" if times != 1 else ""
        text += sign + (number + words if words else str(times))
    return text or "0"


def _words(product: Product) -> str:
    return "*".join(map(_word, product))


def _word(factor: Factor) -> str:
    if isinstance(factor, str):
        return factor
    left, right = _text(factor.left), _text(factor.right)
    if factor.op != "//":
        return f"{factor.op}({left}, {right})"
    left, right = (t if t.isalnum() or t.isidentifier() else f"({t})" for t in (left, right))
    return f"({left}//{right})"
