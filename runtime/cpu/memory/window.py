"""Windows: the taps of a convolution, and windows that a convolution pools as it writes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.cpu.memory.layout import Image
from runtime.plan.steps import Convolution, Pool

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """The taps of a convolution, along y and x.

    Parameters
    ----------
    kernel, strides, dilations : (int, int)
    pads : (int, int)
        Before the first row and the first pixel.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)

    @property
    def taps(self) -> int:
        """How many there are."""
        return self.kernel[0] * self.kernel[1]

    @property
    def fields(self) -> dict[str, tuple[int, int]]:
        """It as the kernels take it."""
        return {
            "kernel": self.kernel,
            "strides": self.strides,
            "dilations": self.dilations,
            "pads": self.pads,
        }

    def reach(self, before: int, after: int) -> int:
        """Return how many pixels beyond a side taps reach, from widths of image and output."""
        last = (after - 1) * self.strides[1] + (self.kernel[1] - 1) * self.dilations[1]
        return max(self.pads[1], last - self.pads[1] - (before - 1), 0)

    def inside(self, axis: int, size: int, pixels: int) -> NDArray[np.bool_]:
        """Return which taps of which output pixels lie inside the image, (pixels, kernel)."""
        at = (
            np.arange(pixels)[:, None] * self.strides[axis]
            + np.arange(self.kernel[axis]) * self.dilations[axis]
            - self.pads[axis]
        )
        found: NDArray[np.bool_] = (at >= 0) & (at < size)
        return found

    def tap_offsets(self, x: Image) -> Int64:
        """Return the element offset of each tap from the first, shape (taps,)."""
        y, z = (np.arange(self.kernel[a], dtype=np.int64) * self.dilations[a] for a in (0, 1))
        return (y[:, None] * x.row + z * x.pixel).ravel()

    def column_offsets(self, x: Image) -> Int64:
        """Return the element offset of each (tap, channel), tap by tap."""
        planes = np.arange(x.channels, dtype=np.int64) * x.plane
        return (self.tap_offsets(x)[:, None] + planes).ravel()


def window_of(step: Convolution | Pool) -> Window:
    """Return the window of a convolution or a pool."""
    return Window(step.kernel, step.strides, step.dilations, (step.pads[0], step.pads[1]))


@dataclass(frozen=True)
class Pooling:
    """A pooling window, as large as its strides, that the convolution writes into.

    Parameters
    ----------
    window : (int, int)
    largest : bool
        The maximum; else the mean.
    """

    window: tuple[int, int]
    largest: bool
