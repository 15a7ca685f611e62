"""A layer as kernels see it, and what every kernel answers: the words of the choice between them.

A kernel is one way to compute a layer. It says what a layer would cost by it, what memory its
weights take, what it wants of the layout of values, and adds its calls to a program. Nothing
below the kernels asks which of them it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from masktools.checkpoint import SparseWeight
from masktools.forks import unlocked_property
from runtime.cpu.calibration import ITEMS, PANEL_SHARE, PREFETCH, TILE_VECTORS, WIDEST_HALO
from runtime.cpu.machine import Machine
from runtime.cpu.memory.layout import Image, Shape, View, padded_batch
from runtime.cpu.memory.window import Pooling, Window, window_of
from runtime.cpu.program import Assembly
from runtime.cpu.weights.row_groups import Shape as LayerShape
from runtime.cpu.weights.row_groups import shape_of
from runtime.plan import steps as s
from runtime.plan.steps import Weight

Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class Problem:
    """A layer and the size of its maps.

    Parameters
    ----------
    weight : ndarray or SparseWeight
    shape : LayerShape
        Rows, channels, taps and convolution groups.
    height, width : int
        Of the output.
    lanes : int
        Elements of a pixel: the batch, padded or not.
    image : (int, int), default (1, 1)
        Rows and pixels of the input.
    window : Window, default None
        None: of a product.
    """

    weight: Weight
    shape: LayerShape
    height: int
    width: int
    lanes: int
    image: tuple[int, int] = (1, 1)
    window: Window | None = None
    _known: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def pixels(self) -> int:
        """Pixels of the output."""
        return self.height * self.width

    @property
    def stored(self) -> int:
        """How many numbers the weight stores."""
        return self.weight.size if isinstance(self.weight, np.ndarray) else self.weight.stored

    @property
    def dense_bytes(self) -> int:
        """Memory of the weight with all its zeros."""
        return 4 * self.shape.rows * self.shape.group_channels * self.shape.taps

    @property
    def is_rows(self) -> bool:
        """Whether all that the weight stores are rows of nonzeros, without any block."""
        return isinstance(self.weight, SparseWeight) and not self.weight.layout.blocks

    @property
    def is_plain(self) -> bool:
        """Whether strides and dilations are 1."""
        return self.window is None or self.window.strides == self.window.dilations == (1, 1)

    @property
    def reach(self) -> int:
        """Pixels beyond the sides of the input that taps reach."""
        return self.window.reach(self.image[1], self.width) if self.window else 0

    @unlocked_property
    def _rows_inside(self) -> float:
        if self.window is None:
            return 1.0
        return float(self.window.inside(0, self.image[0], self.height).mean())

    @unlocked_property
    def covered(self) -> float:
        """Share of all (tap, pixel) that lies inside the image."""
        if self.window is None:
            return 1.0
        columns = self.window.inside(1, self.image[1], self.width)
        return self._rows_inside * float(columns.mean())

    def inside(self, vector: int) -> float:
        """Return the share of (tap, pixel) inside the image, of those that groups multiply.

        Vectors within pixels leave out every tap beside the image; vectors along pixels only
        those above and below it.
        """
        return self.covered if self.lanes % vector == 0 else self._rows_inside

    def once(self, key: object, make: Callable[[], Made]) -> Made:
        """Return what `make` returned when this was first asked with the key."""
        if key not in self._known:
            self._known[key] = make()
        made: Made = self._known[key]
        return made


def problem_of(step: s.Weighted, shapes: Mapping[str, Shape], vector: int) -> Problem:
    """Return a step with weights as a problem.

    Parameters
    ----------
    step : Weighted
    shapes : mapping of str to tuple of int
        Of every value.
    vector : int
        Elements of a vector.
    """
    x, y = shapes[step.inputs[0]], shapes[step.output]
    if not isinstance(step, s.Convolution):
        lanes = padded_batch(prod(y[:-1]), vector)
        return Problem(step.weight, shape_of(step.weight), 1, 1, lanes)
    (rows, columns), (height, width) = ((1, *shape[2:])[-2:] for shape in (x, y))
    shape = shape_of(step.weight, step.groups)
    lanes = padded_batch(y[0], vector)
    return Problem(step.weight, shape, height, width, lanes, (rows, columns), window_of(step))


def row_halo(problem: Problem, machine: Machine, widest: float = WIDEST_HALO) -> int:
    """Return the halo by which vectors along pixels find every tap in place; 0: they do not.

    Parameters
    ----------
    problem : Problem
    machine : Machine
    widest : float, default WIDEST_HALO
        Share of a row that it may be.
    """
    if problem.lanes % machine.vector == 0:
        return 0
    reach = problem.reach
    return reach if reach <= widest * problem.image[1] else 0


def plain_halo(problem: Problem, machine: Machine) -> int:
    """Return the halo of a layer that reads pixels side by side: `row_halo`, if its stride is 1."""
    side_by_side = problem.window is not None and problem.window.strides[1] == 1
    return row_halo(problem, machine) if side_by_side else 0


class Configuration(NamedTuple):
    """How the work of a layer is cut, where there is a choice.

    Parameters
    ----------
    tile_vectors : int
        Vectors of lanes that all groups of a panel go over before the next lanes.
    prefetch : int
        Columns to prefetch ahead.
    items : int
        Pieces of work for each thread, so that all end at about the same time.
    panel_share : float
        Share of the near cache that the weights of a panel may fill.
    """

    tile_vectors: int = TILE_VECTORS
    prefetch: int = PREFETCH
    items: int = ITEMS
    panel_share: float = PANEL_SHARE


DEFAULT = Configuration()


@dataclass(frozen=True)
class LayerCall:
    """A layer to be computed: its step, and where its values lie.

    Parameters
    ----------
    at : int
        Index of the step.
    step : Weighted
    problem : Problem
        By which its kernel was chosen.
    configuration : Configuration
    x : View
        The input.
    y : Image
        What is written: the pooled value, where there is pooling.
    skip : View or None
        What is added before the activation.
    window : Window
        Of a product: the whole image that it reads.
    pooling : Pooling, default None
        What is pooled as it is written.
    """

    at: int
    step: s.Weighted
    problem: Problem
    configuration: Configuration
    x: View
    y: Image
    skip: View | None
    window: Window
    pooling: Pooling | None = None

    @property
    def shape(self) -> LayerShape:
        """The layer's shape, with a tap for each pixel that a product reads."""
        return shape_of(self.step.weight, self.problem.shape.groups, self.window.taps)

    @property
    def scale(self) -> float:
        """Factor of a sum before it is pooled: 1 / (pixels of a window) for a mean, else 1."""
        if self.pooling is None or self.pooling.largest:
            return 1.0
        return 1.0 / prod(self.pooling.window)


class Kernel(Protocol):
    """One way to compute a layer."""

    @property
    def name(self) -> str:
        """Name in profiles and in remembered choices of the tuner."""

    @property
    def configurations(self) -> Mapping[str, Configuration]:
        """Ways to cut its work that are worth timing, by name, besides the default."""

    def cost(self, problem: Problem, machine: Machine) -> float:
        """Return what a sample takes, in multiplications at peak; infinite: it cannot."""

    def weight_bytes(self, problem: Problem, machine: Machine) -> int:
        """Return the memory of the weights as it reads them."""

    def halo(self, problem: Problem, machine: Machine) -> int:
        """Return how many pixels of zeros it wants beside the rows of its input."""

    def takes(self, pooling: Pooling, problem: Problem, machine: Machine) -> bool:
        """Return whether it pools as it writes, whole vectors of samples at a time."""

    def emit(self, program: Assembly, layer: LayerCall) -> None:
        """Add the calls that compute a layer."""


class Way(NamedTuple):
    """How a layer is computed: by which kernel, and how its work is cut."""

    kernel: Kernel
    problem: Problem
    configuration: Configuration = DEFAULT
