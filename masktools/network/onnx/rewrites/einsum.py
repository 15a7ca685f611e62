"""How products of tensors along any axes are written: as Gemm, grouped Conv or MatMul.

Axes are told by letters, as in an Einsum: those of both factors and the result count matrices,
those of both factors alone are summed over, those of one factor and the result are kept.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from math import prod

from masktools.network.onnx.forms import Rearranged
from masktools.network.onnx.node import Source
from masktools.network.onnx.reading import Pass


def einsum(ctx: Pass, source: Source) -> None:
    """Write an Einsum of two factors as a product; refuse all others."""
    equation = str(source.take("equation", "")).replace(" ", "")
    given, arrow, result = equation.partition("->")
    terms = given.split(",")
    if "." in equation or len(terms) != 2 or len(source.inputs) != 2:
        raise source.refuse(f"equation {equation!r}: only products of two factors are supported")
    if not arrow:
        result = "".join(sorted(c for c in set(given) - {","} if given.count(c) == 1))
    for letters, name in zip(terms, source.inputs, strict=True):
        if len(set(letters)) < len(letters) or len(letters) != len(ctx.shape(name)):
            raise source.refuse(
                f"equation {equation!r}: {letters!r} must name each axis of {name!r} once"
            )
    product(ctx, source, terms, result)


def product(ctx: Pass, source: Source, terms: Sequence[str], result: str) -> None:
    """Write the product of a node's two inputs, of which one may be a constant.

    Parameters
    ----------
    ctx : Pass
    source : Source
    terms : (str, str)
        The letters of each input's axes.
    result : str
        Those of the output.
    """
    constant = next((i for i in (0, 1) if ctx.constant(source.inputs[i]) is not None), None)
    summed = _Product(ctx, source, result)
    if constant is None:
        made, axes = summed.of_values(*zip(source.inputs, terms, strict=True))
    else:
        value = (source.inputs[1 - constant], terms[1 - constant])
        made, axes = summed.with_constant(*value, constant, terms[constant])
    ctx.remove(source, summed.ordered(made, axes, result))


class _Product:
    """Emits the nodes of one product."""

    def __init__(self, ctx: Pass, source: Source, result: str) -> None:
        self._ctx, self._source, self._result = ctx, source, result

    def of_values(self, first: tuple[str, str], second: tuple[str, str]) -> tuple[str, str]:
        """Multiply two values; return the product and its letters."""
        a, x = self._without_sums(*first, second[1])
        b, y = self._without_sums(*second, first[1])
        self._check_batch(x)
        self._check_batch(y)
        sizes = self._sizes((a, x), (b, y))
        stack = [c for c in x if c in y and c in self._result]
        inner = [c for c in x if c in y and c not in self._result]
        rows, columns = ([c for c in t if c not in stack + inner] for t in (x, y))
        each = [[c] for c in stack]
        left = self.ordered(a, x, [*stack, *rows, *inner])
        left = self.shaped(left, sizes, *each, rows, inner)
        right = self.ordered(b, y, [*stack, *inner, *columns])
        right = self.shaped(right, sizes, *each, inner, columns)
        made = self._emit("MatMul", [left, right])
        axes = [*stack, *rows, *columns]
        return self.shaped(made, sizes, *([c] for c in axes)), "".join(axes)

    def with_constant(self, x: str, letters: str, index: int, known: str) -> tuple[str, str]:
        """Multiply a value by the constant that is input `index`: it becomes a layer's weight."""
        weight = self._ctx.constant(self._source.inputs[index])
        assert weight is not None
        x, letters = self._without_sums(x, letters, known)
        self._check_batch(letters)
        sizes = self._sizes((x, letters), (self._source.inputs[index], known))
        ones = [c for c in known if c not in letters and c not in self._result]
        alone = [c for c in ones if sizes[c] > 1]
        if alone or letters[0] in known:
            which = alone[0] if alone else letters[0]
            raise self._source.refuse(
                f"axis {known.index(which)} of the constant factor of shape {weight.shape} "
                "is summed alone or lies along the batch, which is not supported"
            )
        stack = [c for c in known if c in letters and c in self._result]
        inner = [c for c in known if c in letters and c not in self._result]
        made = [c for c in known if c not in letters and c in self._result]
        rest = [c for c in letters[1:] if c not in known]
        count, width, rows = (prod(sizes[c] for c in part) for part in (stack, inner, made))
        order = tuple(known.index(c) for c in (*ones, *stack, *made, *inner))
        if not stack:
            layer = self._layer(index, order, (rows, width))
            x = self.ordered(x, letters, [letters[0], *rest, *inner])
            x = self.shaped(x, sizes, *([c] for c in (letters[0], *rest)), inner)
            y = self._emit("Gemm", [x], [layer], transB=1)
            axes = [letters[0], *rest, *made]
            return self.shaped(y, sizes, *([c] for c in axes)), "".join(axes)
        layer = self._layer(index, order, (count * rows, width, 1))
        x = self.ordered(x, letters, [letters[0], *stack, *inner, *rest])
        x = self.shaped(x, sizes, letters[:1], [*stack, *inner], rest)
        y = self._emit("Conv", [x], [layer], strides=(1,), dilations=(1,), pads=(0, 0), group=count)
        axes = [letters[0], *stack, *made, *rest]
        return self.shaped(y, sizes, *([c] for c in axes)), "".join(axes)

    def _layer(self, index: int, order: tuple[int, ...], shape: tuple[int, ...]) -> str:
        """Keep the constant as the weight of a layer; return its name."""
        weight = self._ctx.constant(self._source.inputs[index])
        assert weight is not None
        form = Rearranged(weight.shape, order, shape)
        array = form.to_layer(weight)
        return f"{self._ctx.keep_weight(self._source, array, form, index)}.weight"

    def _without_sums(self, x: str, letters: str, other: str) -> tuple[str, str]:
        """Sum over the axes that a value has alone and the result has not."""
        axes = tuple(i for i, c in enumerate(letters) if c not in other and c not in self._result)
        if not axes:
            return x, letters
        made = self._emit("ReduceSum", [x], axes=axes, keepdims=0)
        return made, "".join(c for i, c in enumerate(letters) if i not in axes)

    def _check_batch(self, letters: str) -> None:
        if not letters or letters[:1] != self._result[:1]:
            raise self._source.refuse(
                "the first axis of a value must be the first of the result: samples are not mixed"
            )

    def _sizes(self, *factors: tuple[str, str]) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for name, letters in factors:
            for letter, size in zip(letters, self._ctx.shape(name), strict=True):
                if int(sizes.setdefault(letter, size)) != int(size):
                    raise self._source.refuse(f"axes of {sizes[letter]} and {size} entries differ")
        return sizes

    def ordered(self, x: str, letters: Sequence[str], wanted: Sequence[str]) -> str:
        """Bring the axes of a value into another order."""
        perm = tuple(list(letters).index(c) for c in wanted)
        return x if perm == tuple(range(len(perm))) else self._emit("Transpose", [x], perm=perm)

    def shaped(self, x: str, sizes: dict[str, int], *parts: Sequence[str]) -> str:
        """Make one axis of each part: all of their axes lie in this order in the value."""
        shape = [prod(sizes[c] for c in part) for part in parts]
        if tuple(shape) == tuple(self._ctx.shape(x)):
            return x
        first = 0 if shape[0] == self._ctx.shape(x)[0] else shape[0]
        return self._emit("Reshape", [x], shape=(first, *shape[1:]))

    def _emit(
        self, op: str, inputs: Sequence[str], kept: Sequence[str] = (), **attributes: object
    ) -> str:
        made = self._ctx.fresh(f"{self._source.outputs[0]}_{op.lower()}")
        self._ctx.emit(op, inputs, made, self._source.name, kept, **attributes)
        return made


def matmul_terms(rank: int, shape: Sequence[int], left: bool) -> tuple[tuple[str, str], str]:
    """Return the letters of a MatMul of a value of `rank` axes and a constant.

    Parameters
    ----------
    rank : int
    shape : sequence of int
        Of the constant: at least two axes, at most `rank`. Leading ones are repeated.
    left : bool
        The constant is the left factor.
    """
    ones = next((i for i, n in enumerate(shape[:-2]) if n > 1), len(shape) - 2)
    outer = string.ascii_lowercase[: rank - 2]
    stack = string.digits[:ones] + outer[rank - len(shape) + ones :]
    if left:
        return (f"{stack}RS", f"{outer}ST"), f"{outer}RT"
    return (f"{outer}RS", f"{stack}ST"), f"{outer}RT"
