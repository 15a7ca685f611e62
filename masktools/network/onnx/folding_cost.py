"""Say how much computing a node of constants costs, before it is computed.

Any operator that onnx can evaluate is allowed here, if its cost follows from its inputs: pooling,
loops, recurrent layers, sequences and random numbers are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools import limits
from masktools.network.onnx.node import Source

Array = NDArray[Any]
_Rule = Callable[[Source, Sequence[Array]], int]

_TEXT = 32  # elements that a text of a number counts for
_UNKNOWN = 2**62  # more than any file may have
_PRODUCTS = 64  # multiplications of a matrix product that take as long as one element of a sum


class FoldingCost:
    """Counts the elements of the constants that are computed while a network is read.

    Parameters
    ----------
    held : mapping of str to ndarray
        What the file holds itself.
    """

    def __init__(self, held: Mapping[str, Array]) -> None:
        elements = sum(array.size for array in held.values())
        self._allowed = limits.FOLDED + limits.FOLDED_FOR_EACH * elements
        self._made = 0

    def check(self, source: Source, values: Sequence[Array | None]) -> None:
        """Raise `GraphError` if a node would compute too much, or nobody knows how much.

        Parameters
        ----------
        source : Source
        values : sequence of ndarray or None
            Its inputs; None where one is left out.
        """
        rule = _RULES.get(source.op)
        if rule is None:
            raise source.refuse(f"operator {source.op!r} on constants is not supported")
        given = [value for value in values if value is not None]
        if source.op == "Dropout" and any(v is not None and v.any() for v in values[2:]):
            raise source.refuse("input training_mode must be false")
        size = rule(source, given) if given else 0  # Constant: its value lies in the file.
        self._made += size
        if self._made > self._allowed:
            raise source.refuse(
                f"it makes a constant of {size} elements, with those before it {self._made}; "
                f"{self._allowed} are allowed for this file"
            )


# --- how much, by kind ----------------------------------------------------------------------------


def _product(shape: Iterable[int]) -> int:
    """Return the elements of a shape, where axes of none have one: a sum over these is made too."""
    return prod(max(int(n), 1) for n in shape)


def _no_larger(source: Source, values: Sequence[Array]) -> int:
    """No output is larger than the largest input."""
    last = values[-1]
    text = source.attributes.get("to") == 8 or last.dtype.kind in "OSU"  # TensorProto.STRING
    return max(_product(value.shape) for value in values) * (_TEXT if text else 1)


def _of_its_shape(_: Source, values: Sequence[Array]) -> int:
    """Only the shape is looked at."""
    return values[0].ndim


def _broadcast(_: Source, values: Sequence[Array]) -> int:
    """Element by element, the shapes of all inputs broadcast."""
    rank = max(value.ndim for value in values)
    shapes = [(1,) * (rank - value.ndim) + value.shape for value in values]
    return prod(max(sizes) for sizes in zip(*shapes, strict=True))


def _along_an_axis(source: Source, values: Sequence[Array]) -> int:
    """Vectors of scales lie along an axis; where they do not fit, everything may be repeated."""
    first, *others = values
    fits = all(v.size == 1 or v.size in first.shape for v in others)
    block = int(source.attributes.get("block_size", 0))
    if block:
        return max(_product(first.shape), *(_product(v.shape) * block for v in others))
    return _product(first.shape) * (1 if fits else prod(_product(v.shape) for v in others))


def _concat(_: Source, values: Sequence[Array]) -> int:
    return sum(value.size for value in values)


def _of_shape(_: Source, values: Sequence[Array]) -> int:
    return _product(values[0].ravel())


def _repeated(_: Source, values: Sequence[Array]) -> int:
    return _product(values[0].shape) * _product(values[-1].ravel())


def _gather(source: Source, values: Sequence[Array]) -> int:
    first, last = values[0], values[-1]
    axis = int(source.attributes.get("axis", 0))
    along = first.shape[axis] if -first.ndim <= axis < first.ndim else 1
    return last.size * (_product(first.shape) // max(along, 1))


def _gather_nd(source: Source, values: Sequence[Array]) -> int:
    first, indices = values[0], values[-1]
    index = indices.shape[-1] if indices.ndim else 1
    start = max(int(source.attributes.get("batch_dims", 0)), 0)
    slices = _product(indices.shape[:-1])
    return slices * (_product(first.shape) // _product(first.shape[start : start + index]))


def _range(_: Source, values: Sequence[Array]) -> int:
    if len(values) != 3 or not all(value.size for value in values):
        return 0
    start, limit, delta = (float(value.ravel()[0]) for value in values)
    steps = abs((limit - start) / delta) if delta else 0.0
    return int(steps) if steps < _UNKNOWN else _UNKNOWN


def _pad(source: Source, values: Sequence[Array]) -> int:
    pads = values[1] if len(values) > 1 else np.array(source.attributes.get("pads", ()))
    reach = sum(abs(int(n)) for n in pads.ravel())
    return prod(n + reach for n in values[0].shape)


def _one_hot(_: Source, values: Sequence[Array]) -> int:
    depth = values[1].ravel() if len(values) > 1 else np.zeros(0)
    return _product(values[0].shape) * (max(int(depth[0]), 1) if depth.size else 1)


def _matmul(source: Source, values: Sequence[Array]) -> int:
    """Return the elements of (..., m, k) times (..., k, n), and what summing them takes."""
    if len(values) < 2 or not all(value.ndim for value in values[:2]):
        return 0  # It is none, and refused when it is evaluated.
    a, b, *others = (v if v.ndim > 1 or i > 1 else v[None] for i, v in enumerate(values))
    batch = _broadcast(source, [np.broadcast_to(0, v.shape[:-2]) for v in (a, b)])
    # Gemm may read either matrix turned; that a vector is one row or one column is no matter.
    a, b = (
        v.T if v.ndim == 2 and source.attributes.get(turn) else v
        for v, turn in ((a, "transA"), (b, "transB"))
    )
    rows, columns, summed = a.shape[-2], b.shape[-1], a.shape[-1]
    made = _product((batch, rows, columns))
    return made + made * int(summed) // _PRODUCTS + sum(_product(v.shape) for v in others)


def _conv(source: Source, values: Sequence[Array]) -> int:
    """Return the elements of the padded input, unfolded for each tap, and of the output."""
    x, weight = values[:2]
    if x.ndim != weight.ndim or x.ndim < 3:
        return _UNKNOWN
    taps = source.attributes.get("kernel_shape", weight.shape[2:])
    dilations = source.attributes.get("dilations", [1] * len(taps))
    spans = [max(abs(int(k * d)), 1) for k, d in zip(taps, dilations, strict=False)]
    reach = sum(abs(int(n)) for n in source.attributes.get("pads", ()))
    pixels = _product(n + reach + span for n, span in zip(x.shape[2:], spans, strict=False))
    unfolded = max(x.shape[1], weight.shape[1]) * prod(spans)
    each = unfolded * (1 + x.ndim) + len(weight) + len(weight) * unfolded // _PRODUCTS
    return int(_product(x.shape[:1]) * pixels * each)


def _einsum(source: Source, values: Sequence[Array]) -> int:
    equation = str(source.attributes.get("equation", "")).replace(" ", "")
    terms = equation.split("->")[0].split(",")
    fits = "." not in equation and [len(t) for t in terms] == [v.ndim for v in values]
    if not fits:
        return prod(_product(value.shape) for value in values)
    sizes: dict[str, int] = {}
    for term, value in zip(terms, values, strict=True):
        for letter, size in zip(term, value.shape, strict=True):
            sizes[letter] = max(sizes.get(letter, 1), size)
    return prod(sizes.values())


_FAMILIES: tuple[tuple[_Rule, str], ...] = (
    (
        _no_larger,
        """
        Abs Acos Acosh ArgMax ArgMin Asin Asinh Atan Atanh BitwiseNot Cast Ceil Celu Constant Cos
        Cosh CumSum DepthToSpace Dropout Elu Erf Exp EyeLike Flatten Floor GatherElements Gelu
        HardSigmoid HardSwish Hardmax Identity IsInf IsNaN LeakyRelu Log LogSoftmax
        LpNormalization MeanVarianceNormalization Mish Neg Not Reciprocal ReduceL1 ReduceL2
        ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
        ReduceSumSquare Relu Reshape ReverseSequence Round ScatterElements ScatterND Selu
        Shrink Sigmoid Sign Sin Sinh Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt
        Squeeze Swish Tan Tanh ThresholdedRelu Transpose Trilu Unsqueeze
        """,
    ),
    (
        _broadcast,
        """
        Add And BitShift BitwiseAnd BitwiseOr BitwiseXor CastLike Clip Div Equal Greater
        GreaterOrEqual LayerNormalization Less LessOrEqual Max Mean Min Mod Mul Or PRelu Pow
        RMSNormalization Sub Sum Where Xor
        """,
    ),
    (
        _along_an_axis,
        """
        BatchNormalization DequantizeLinear GroupNormalization InstanceNormalization
        QuantizeLinear
        """,
    ),
    (_of_its_shape, "Shape Size"),
    (_concat, "Concat"),
    (_of_shape, "ConstantOfShape"),
    (_repeated, "Expand Tile"),
    (_gather, "Gather"),
    (_gather_nd, "GatherND"),
    (_range, "Range"),
    (_pad, "Pad"),
    (_one_hot, "OneHot"),
    (_matmul, "Gemm MatMul"),
    (_conv, "Conv"),
    (_einsum, "Einsum"),
)
_RULES: dict[str, _Rule] = {op: rule for rule, ops in _FAMILIES for op in ops.split()}

# What a network may compute of its constants and shapes while it is read.
FOLDED = frozenset(_RULES)
