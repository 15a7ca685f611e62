"""A kernel launch described without a device: kernel, symbolic arguments, grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
from numpy.typing import NDArray

from runtime.cuda.layout import Layout
from runtime.cuda.structs import Struct

# The source of a kernel for layers with weights: rendered from its configuration.
CONVOLUTIONS = "convolutions"
THREADS = 256


@dataclass(frozen=True)
class Memory:
    """A place in the arena.

    Parameters
    ----------
    at : int
        Elements of the computation's type from its start.
    """

    at: int


@dataclass(frozen=True)
class Given:
    """An input of the network, as the caller gives it: (N, ...), float32, C order."""

    name: str


@dataclass(frozen=True)
class Result:
    """An output of the network, as the caller gets it: (N, ...), float32, C order."""

    name: str


@dataclass(frozen=True, eq=False)
class Table:
    """An array that is uploaded once: weights, indices, constants."""

    array: NDArray[Any]


# A scalar is of the type of NumPy that the kernel takes it as; None is a null pointer.
Argument = Union[Memory, Given, Result, Table, Struct, np.int32, np.float32, None]  # noqa: UP007


@dataclass(frozen=True, eq=False)
class Launch:
    """One launch of one kernel: its source, arguments and grid.

    Parameters
    ----------
    source : str
        The file of `cuda/`, or `CONVOLUTIONS`.
    kernel : str
    arguments : tuple
        In the kernel's order.
    grid : tuple of int
    block : tuple of int
    shared_bytes : int
        Of dynamic shared memory.
    """

    source: str
    kernel: str
    arguments: tuple[Argument, ...]
    grid: tuple[int, ...]
    block: tuple[int, ...] = (THREADS,)
    shared_bytes: int = 0


def blocks(count: int, threads: int = THREADS) -> tuple[int]:
    """Return the grid, in blocks, that has at least `count` threads."""
    return (-(-count // threads),)


@dataclass(frozen=True)
class Place:
    """Where every value lies, and in which type.

    Parameters
    ----------
    values : mapping of str to Layout
    offsets : mapping of str to int
        Where each value's memory starts in the arena.
    dtype : str
        float32, tf32 or float16.
    scratch : int or None, default None
        Where the memory that one step needs beside its values starts in the arena.
    """

    values: Mapping[str, Layout]
    offsets: Mapping[str, int]
    dtype: str
    scratch: int | None = None

    @property
    def suffix(self) -> str:
        """The ending of kernel names for this type: float16 or float32."""
        return "float16" if self.dtype == "float16" else "float32"

    def first(self, value: str) -> Memory:
        """Return where the first real number of a value lies."""
        return Memory(self.offsets[value] + self.values[value].origin)


def axes_of(rank: int) -> list[int]:
    """Return the axes in the order in which kernels walk them, the batch last."""
    return [*range(1, rank), *range(min(rank, 1))]
