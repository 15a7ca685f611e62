"""How a file has the weight of a layer, and how the network has it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from masktools.network.layers import PHASES

Array = NDArray[Any]


class Form(Protocol):
    """A way to have a weight, or its mask: turns that of a file into that of a layer, and back."""

    @property
    def mark(self) -> str:
        """The ending that tells the layer's name from the file's, which means another tensor."""

    def to_layer(self, array: Array) -> Array:
        """Return the layer's form of a file's array."""

    def to_file(self, array: Array) -> Array:
        """Return the file's form of a layer's array."""


class Use(NamedTuple):
    """A node of the file that reads the weight of a layer.

    Parameters
    ----------
    output : str
        Its first output.
    form : Form
        How it has the weight.
    place : int
        Which of its inputs the weight is.
    """

    output: str
    form: Form
    place: int


class Same:
    """A layer has its weight as the file does."""

    mark = ""

    def to_layer(self, array: Array) -> Array:
        """Return the array."""
        return array

    def to_file(self, array: Array) -> Array:
        """Return the array."""
        return array


class Transposed:
    """The file has a matrix as (in, out)."""

    mark = ""

    def to_layer(self, array: Array) -> Array:
        """Return the array transposed."""
        return array.T

    def to_file(self, array: Array) -> Array:
        """Return the array transposed."""
        return array.T


@dataclass(frozen=True)
class Rearranged:
    """The file has a constant factor, the layer its axes in another order, joined.

    Parameters
    ----------
    shape : tuple of int
        In the file.
    order : tuple of int
        The file's axes, in the layer's order.
    layer_shape : tuple of int
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    layer_shape: tuple[int, ...]

    mark = ""

    def to_layer(self, array: Array) -> Array:
        """Return the layer's form of a file's array."""
        return np.ascontiguousarray(array.transpose(self.order).reshape(self.layer_shape))

    def to_file(self, array: Array) -> Array:
        """Return the file's form of a layer's array."""
        apart = array.reshape([self.shape[axis] for axis in self.order])
        return np.ascontiguousarray(apart.transpose(np.argsort(self.order)))


@dataclass(frozen=True)
class Phases:
    """The file has a transposed convolution, the network a convolution for all of its phases.

    Output y of a transposed convolution with stride s and dilation d adds up w[k] x[q] wherever
    y = s q + d k. With y = s p + r, the phase r, that is d k = r + s j and q = p - j: a convolution
    at position p, of the taps that leave the rest r. Each row of the layer is an output channel and
    a phase; its window is the reversed order of j. Where a phase lacks taps, weights are zero.

    Parameters
    ----------
    shape : tuple of int
        Of the file's weight: (in, out / groups, k) or (in, out / groups, kh, kw).
    groups : int
    strides, dilations : tuple of int
        For each spatial axis.

    Examples
    --------
    >>> form = Phases((1, 1, 3), 1, (2,), (1,))
    >>> form.to_layer(np.array([[[1, 2, 3]]])).tolist()  # row 0: taps 2 and 0; row 1: tap 1
    [[[3, 1]], [[0, 2]]]
    """

    shape: tuple[int, ...]
    groups: int
    strides: tuple[int, ...]
    dilations: tuple[int, ...]

    @property
    def mark(self) -> str:
        """The ending of the layer's name."""
        return PHASES

    @property
    def steps(self) -> tuple[int, ...]:
        """The dilations of the layer."""
        pairs = zip(self.strides, self.dilations, strict=True)
        return tuple(d // s if d % s == 0 else 1 for s, d in pairs)

    @property
    def taps(self) -> tuple[int, ...]:
        """The kernel of the layer."""
        sizes = zip(self.shape[2:], self.strides, self.dilations, self.steps, strict=True)
        return tuple(d * (k - 1) // s // step + 1 for k, s, d, step in sizes)

    @property
    def rows(self) -> int:
        """How many rows an output channel of the file becomes: its phases."""
        return prod(self.strides)

    @property
    def layer_shape(self) -> tuple[int, ...]:
        """The shape of the layer's weight: (out * phases, in / groups, ...)."""
        inputs, outputs = self.shape[:2]
        return (outputs * self.groups * self.rows, inputs // self.groups, *self.taps)

    def to_layer(self, array: Array) -> Array:
        """Return the layer's form of a file's array, with zeros where a phase lacks taps."""
        (inputs, outputs), axes = self.shape[:2], len(self.strides)
        spread = array.reshape(self.groups, inputs // self.groups, outputs, *self.shape[2:])
        for axis, (places, size) in enumerate(self._places(), 3):
            wider = np.zeros((*spread.shape[:axis], size, *spread.shape[axis + 1 :]), array.dtype)
            wider[(slice(None),) * axis + (places,)] = spread
            spread = wider
        split = spread.reshape(*spread.shape[:3], *self._split())
        phases, taps = range(3, 3 + 2 * axes, 2), range(4, 3 + 2 * axes, 2)
        turned = split.transpose(0, 2, *phases, 1, *taps)
        return np.ascontiguousarray(turned.reshape(self.layer_shape))

    def to_file(self, array: Array) -> Array:
        """Return the file's form of a layer's array."""
        (inputs, outputs), axes = self.shape[:2], len(self.strides)
        inside = inputs // self.groups
        turned = array.reshape(self.groups, outputs, *self.strides, inside, *self.taps)
        at = 2 + axes
        pairs = [place for i in range(axes) for place in (2 + i, at + 1 + i)]
        split = turned.transpose(0, at, 1, *pairs)
        sizes = [size for _, size in self._places()]
        spread = split.reshape(self.groups, inside, outputs, *sizes)
        for axis, (places, _) in enumerate(self._places(), 3):
            spread = np.take(spread, places, axis)
        return np.ascontiguousarray(spread.reshape(self.shape))

    def _split(self) -> tuple[int, ...]:
        return tuple(n for pair in zip(self.strides, self.taps, strict=True) for n in pair)

    def _places(self) -> list[tuple[NDArray[np.int64], int]]:
        """Return, for each spatial axis, where its taps lie among (phase, tap), and how many."""
        found = []
        for k, s, d, step, taps in zip(
            self.shape[2:], self.strides, self.dilations, self.steps, self.taps, strict=True
        ):
            offset = d * np.arange(k)
            found.append((offset % s * taps + taps - 1 - offset // s // step, s * taps))
        return found


SAME, TRANSPOSED = Same(), Transposed()
