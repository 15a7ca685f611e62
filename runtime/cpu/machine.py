"""What is known of a processor and of a layer, and what is chosen: the words of the cost model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from runtime.cpu.kernels.runs import Window
from runtime.cpu.weights.row_groups import Scheme, Shape
from runtime.plan.steps import Weighted


class Machine(NamedTuple):
    """What the cost model knows of a processor.

    Parameters
    ----------
    vector : int
        float32 elements of a vector.
    threads : int
    level2 : int
        Bytes of a core's second-level cache.
    rate : float
        Multiplications a second of one thread, from registers.
    product : str
        Kernel for products of bfloat16; empty where all is float32.
    """

    vector: int
    threads: int
    level2: int = 1 << 20
    rate: float = 100e9
    product: str = ""


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
        Share of the second-level cache that the weights of a panel may fill.
    """

    tile_vectors: int = 24
    prefetch: int = 16
    items: int = 4
    panel_share: float = 0.5


# Tells how the work of a layer is cut.
Configure = Callable[[Weighted], Configuration]


class Problem(NamedTuple):
    """A layer and the size of its maps.

    Parameters
    ----------
    shape : Shape
    kernel : (int, int)
    height, width : int
        Of the output.
    lanes : int
        Elements of a pixel.
    inside : float
        Share of (tap, pixel) that lies inside the image, of those that are multiplied.
    covered : float
        Share of (tap, pixel) that lies inside the image, of all.
    plain : bool
        Strides and dilations are 1.
    window : Window, default None
        None: of a product.
    """

    shape: Shape
    kernel: tuple[int, int]
    height: int
    width: int
    lanes: int
    inside: float = 1.0
    covered: float = 1.0
    plain: bool = True
    window: Window | None = None


@dataclass(frozen=True)
class Method:
    """How a layer is computed.

    Parameters
    ----------
    scheme : Scheme
        How its weight is cut into groups.
    winograd : bool
        By the minimal filtering algorithm instead, from the dense weight.
    narrow : bool
        Rows are the lanes of vectors, not pixels.
    windows : bool
        By rows of nonzeros over packed windows instead.
    """

    scheme: Scheme
    winograd: bool = False
    narrow: bool = False
    windows: bool = False
