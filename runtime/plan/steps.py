"""The steps that a plan is made of: one immutable object for each call of a backend.

Steps are device-neutral. They name the values they read and make, and hold weights as the
checkpoint does. A value of rank 3, (N, C, L), is one of (N, C, 1, L) to every step that has a
kernel: strides, pads and dilations always tell two axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args

import numpy as np
from numpy.typing import NDArray

from masktools.checkpoint import SparseWeight

Array = NDArray[np.floating[Any]]
Weight = Union[Array, SparseWeight]  # noqa: UP007 - evaluated at run time on Python 3.10
Pair = tuple[int, int]

ArithmeticOp = Literal[
    "Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu", "Greater", "GreaterOrEqual", "Equal"
]
ActivationOp = Literal[
    "Relu",
    "Clip",
    "LeakyRelu",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Softplus",
    "Elu",
    "Tanh",
    "Erf",
    "Gelu",
    "Swish",
    "Mish",
    "Exp",
    "Log",
    "Sqrt",
    "ThresholdedRelu",
    "Sin",
    "Cos",
    "Floor",
    "Ceil",
    "Round",
    "Sign",
]
# Every function of one number that a step can end in, by its name in ONNX, and its number in the
# enums of cpu/simd/activation.h and cuda/activation.cuh; 0 there is none.
ACTIVATIONS: Mapping[str, int] = {op: number for number, op in enumerate(get_args(ActivationOp), 1)}


@dataclass(frozen=True)
class Activation:
    """A function of one number.

    Parameters
    ----------
    op : str
        One of `ACTIVATIONS`.
    alpha, beta : float
        Of LeakyRelu, Elu and ThresholdedRelu (alpha), HardSigmoid, and Swish, which is
        x * sigmoid(alpha x + beta x^3) here; the bounds of Clip.
    """

    op: ActivationOp
    alpha: float = -math.inf
    beta: float = math.inf


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One operation of a plan.

    Parameters
    ----------
    name : str
        Of the node that it comes from; of the first, where it comes from several.
    inputs : tuple of str
        Values that it reads.
    output : str
        The value that it makes.
    """

    name: str
    inputs: tuple[str, ...]
    output: str

    @property
    def operator(self) -> str:
        """The step's operators by their ONNX names, joined by +."""
        return type(self).__name__


@dataclass(frozen=True, kw_only=True, eq=False)
class Weighted(Step):
    """A step with weights; `inputs` is (x,) or, with a skip add, (x, skip).

    Parameters
    ----------
    weight : ndarray or SparseWeight
        Dense, in the layer's own shape; or as the checkpoint stores it.
    bias : ndarray or None, shape (out,)
    activation : Activation or None
        Applied last: activation(W x + bias + skip).
    """

    weight: Weight
    bias: Array | None = None
    activation: Activation | None = None

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The layer's own shape."""
        return (self.weight if isinstance(self.weight, np.ndarray) else self.weight.layout).shape

    @property
    def stored(self) -> int:
        """Number of stored weights."""
        return self.weight.size if isinstance(self.weight, np.ndarray) else self.weight.stored

    @property
    def operator(self) -> str:
        """The step's operators, joined by +."""
        word = "Conv" if isinstance(self, Convolution) else "Gemm"
        return _joined(word, "Add" if len(self.inputs) == 2 else None, self.activation)


@dataclass(frozen=True, kw_only=True, eq=False)
class Convolution(Weighted):
    """Conv, with the skip add and the activation that follow it.

    Parameters
    ----------
    strides, dilations : (int, int)
        Along y and x.
    pads : (int, int, int, int)
        Top, left, bottom, right.
    groups : int
        Convolution groups.
    """

    strides: Pair
    dilations: Pair
    pads: tuple[int, int, int, int]
    groups: int = 1

    @property
    def kernel(self) -> Pair:
        """Taps along y and x."""
        shape = self.weight_shape
        return (1 if len(shape) == 3 else shape[2], shape[-1])


@dataclass(frozen=True, kw_only=True, eq=False)
class Product(Weighted):
    """Gemm: the last axis of x times the weight (out, in), transposed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MatMul(Step):
    """The product of two values: matrices in the last two axes, the others broadcast."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScaleShift(Step):
    """x * scale + shift along axis 1: a BatchNormalization that no layer could take in.

    Parameters
    ----------
    scale, shift : ndarray or None, shape (C,)
    activation : Activation or None
    """

    scale: Array | None
    shift: Array | None
    activation: Activation | None = None

    @property
    def operator(self) -> str:
        """The step's operators, joined by +."""
        parts = (
            "Mul" if self.scale is not None else None,
            "Add" if self.shift is not None else None,
        )
        return _joined(*parts, self.activation)


@dataclass(frozen=True, kw_only=True, eq=False)
class Arithmetic(Step):
    """Arithmetic of two values, or of a value and a constant, broadcast as in NumPy.

    Parameters
    ----------
    op : str
        PRelu is x where x >= 0, else x times the slope, its second operand. Comparisons make 1
        where they hold, else 0.
    constant : ndarray or None
        The operand that `inputs` lacks.
    constant_first : bool
        It is the left one.
    activation : Activation or None
    """

    op: ArithmeticOp
    constant: Array | None = None
    constant_first: bool = False
    activation: Activation | None = None

    @property
    def operator(self) -> str:
        """The step's operators, joined by +."""
        return _joined(self.op, self.activation)


@dataclass(frozen=True, kw_only=True, eq=False)
class Where(Step):
    """a where the condition is not zero, else b, broadcast as in NumPy.

    Parameters
    ----------
    constants : (ndarray or None, ndarray or None, ndarray or None)
        The condition, a and b: None stands for the next of `inputs`.
    """

    constants: tuple[Array | None, Array | None, Array | None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Activate(Step):
    """An activation that no step before it could take in."""

    activation: Activation

    @property
    def operator(self) -> str:
        """The step's operators, joined by +."""
        return self.activation.op


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool(Step):
    """MaxPool or AveragePool.

    Parameters
    ----------
    op : str
    kernel, strides, dilations : (int, int)
        Along y and x.
    pads : (int, int, int, int)
        Top, left, bottom, right; never a maximum. They hold all that any window reaches.
    counted : (int, int, int, int)
        An average divides by the taps inside the image, widened by so much on each side.
    """

    op: Literal["MaxPool", "AveragePool"]
    kernel: Pair
    strides: Pair
    dilations: Pair
    pads: tuple[int, int, int, int]
    counted: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def operator(self) -> str:
        """The step's operators, joined by +."""
        return self.op


@dataclass(frozen=True, kw_only=True, eq=False)
class GlobalAveragePool(Step):
    """The mean over all axes from 2 on, kept as size 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reduce(Step):
    """The sum, mean, maximum, minimum or Euclidean norm over axes, kept as size 1.

    Parameters
    ----------
    op : str
    axes : tuple of int
        In order. A maximum or minimum is NaN where any of its numbers is.
    """

    op: Literal["Sum", "Mean", "Max", "Min", "L2"]
    axes: tuple[int, ...]

    @property
    def operator(self) -> str:
        """The step's operators, joined by +."""
        return f"Reduce{self.op}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Concat(Step):
    """Values side by side along `axis`."""

    axis: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice(Step):
    """x[start:end:step] along each of `axes`; 0 <= start < end <= size, step >= 1.

    Parameters
    ----------
    axes, starts, ends, steps : tuple of int
        Equally long; of several parts of one Split, each is a Slice.
    """

    axes: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    steps: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Gather(Step):
    """Chosen entries of x: nearest Resize, Pad by reflection, Slice backwards.

    Parameters
    ----------
    axes : tuple of int
    indices : tuple of ndarray of int32
        For each of `axes`, the entry of x that each entry of the output is; -1 where it is `fill`.
    fill : float
    """

    axes: tuple[int, ...]
    indices: tuple[NDArray[np.int32], ...]
    fill: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Interpolate(Step):
    """Weighted sums of entries of x along one axis: linear and cubic Resize, an axis each.

    Parameters
    ----------
    axis : int
    indices : ndarray of int32, shape (out, taps)
        The entries of x that each entry of the output is made of.
    weights : ndarray of float64, shape (out, taps)
        What they are multiplied by.
    """

    axis: int
    indices: NDArray[np.int32]
    weights: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reshape(Step):
    """The same numbers in another shape, which stands in the plan's shapes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Transpose(Step):
    """Axes in the order `perm`."""

    perm: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Softmax(Step):
    """exp(x) / sum(exp(x)) along `axis`, or its logarithm.

    Parameters
    ----------
    axis : int
    logarithm : bool
    """

    axis: int
    logarithm: bool = False

    @property
    def operator(self) -> str:
        """The step's operators, joined by +."""
        return "LogSoftmax" if self.logarithm else "Softmax"


@dataclass(frozen=True, kw_only=True, eq=False)
class Normalize(Step):
    """(x - mean) / sqrt(variance + epsilon) * scale + shift, over the axes from `axis` on.

    Parameters
    ----------
    axis : int
    epsilon : float
    scale, shift : ndarray or None
        In the shape of these axes.
    """

    axis: int
    epsilon: float
    scale: Array | None = None
    shift: Array | None = None

    @property
    def operator(self) -> str:
        """The step's operators, joined by +."""
        return "LayerNormalization"


@dataclass(frozen=True, kw_only=True, eq=False)
class Pad(Step):
    """`value` around x; `pads` holds all beginnings, then all ends; negative ones crop."""

    pads: tuple[int, ...]
    value: float


def _joined(*parts: str | Activation | None) -> str:
    words: Sequence[str] = [p if isinstance(p, str) else p.op for p in parts if p is not None]
    return "+".join(words)
