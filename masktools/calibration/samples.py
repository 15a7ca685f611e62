"""The inputs that a network is calibrated on: checked, split, and handed out piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from masktools.checks import as_array
from masktools.errors import CalibrationError, GraphError
from masktools.network.fixing import fixed, open_sizes, sizes_of
from masktools.network.graph import Graph, Value
from masktools.network.sizes import Size

Array = NDArray[Any]

# Samples that run at once, where the network leaves that open; fewer in all are refused.
BATCH = 32
# One sample in so many is held back from the fit, to choose by and to measure on.
HELD = 8


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs in pieces that run at once.

    Parameters
    ----------
    inputs : mapping of str to array
        Of every input of the network, the samples along the first axis; read piece by piece, so
        that they may be mapped from a file.
    fitted : tuple of ndarray of int
        The samples of each piece that values are fitted on.
    held : tuple of ndarray of int
        The samples of each piece that is held back: to choose by, and to measure on.
    open_batch : bool, default True
        Whether the network takes any number of samples at once.
    """

    inputs: Mapping[str, Array]
    fitted: tuple[NDArray[np.intp], ...]
    held: tuple[NDArray[np.intp], ...]
    open_batch: bool = True

    def held_at_once(self, most: int) -> Iterator[NDArray[np.intp]]:
        """Yield the samples that are held back, at most `most` at once if the batch is open."""
        for piece in self.held:
            parts = -(-len(piece) // most) if self.open_batch else 1
            yield from np.array_split(piece, parts)

    @property
    def pieces(self) -> tuple[NDArray[np.intp], ...]:
        """All pieces, those that are held back last."""
        return self.fitted + self.held

    def read(self, piece: NDArray[np.intp]) -> dict[str, Array]:
        """Return the inputs of some samples, in memory."""
        return {name: np.ascontiguousarray(array[piece]) for name, array in self.inputs.items()}

    @property
    def counts(self) -> tuple[int, int]:
        """How many samples are fitted on, and held back."""
        fitted, held = (sum(map(len, pieces)) for pieces in (self.fitted, self.held))
        return fitted, held


def sized(graph: Graph, inputs: Mapping[str, ArrayLike] | ArrayLike) -> Graph:
    """Return a network at the sizes of its inputs' samples, where it leaves sizes open.

    Raises
    ------
    TypeError, CalibrationError
        As `samples`, of the inputs' kinds, names and shapes.
    """
    if not open_sizes(graph.inputs):
        return graph
    given = _named(graph, inputs)
    try:
        return fixed(graph, sizes_of(graph.inputs, {n: array.shape for n, array in given.items()}))
    except GraphError as error:
        raise CalibrationError(str(error)) from error


def samples(graph: Graph, inputs: Mapping[str, ArrayLike] | ArrayLike) -> Samples:
    """Check the inputs of a network, and split them.

    Parameters
    ----------
    graph : Graph
    inputs : array_like of float32, shape (samples, ...); or a mapping of input names to such
        Where the network fixes a batch, samples in excess of whole batches are left out.

    Returns
    -------
    Samples
        One in `HELD` is held back, evenly spread: files are often sorted by class.

    Raises
    ------
    TypeError
        If an input is not of float32.
    CalibrationError
        If a name, a shape or the number of samples is wrong, a number is not finite, or all
        samples are the same.
    """
    given = _named(graph, inputs)
    counts = {name: len(array) for name, array in given.items()}
    if len(set(counts.values())) > 1:
        raise CalibrationError(f"inputs must have as many samples each, got {counts}")
    total, fixed = next(iter(counts.values())), _fixed_batch(graph)
    batch = fixed or BATCH
    least = max(BATCH, 2 * fixed) if fixed else BATCH
    if total < least:
        raise CalibrationError(
            f"{total} samples are too few to calibrate on: at least {least} are needed, and a few "
            "hundred are better"
        )
    varied = [_check_numbers(name, array) for name, array in given.items()]
    if not any(varied):
        raise CalibrationError(f"all {total} samples are the same: nothing can be fitted to them")
    units = np.arange(total // batch * batch).reshape(-1, batch) if fixed else np.arange(total)
    # Of few batches one is held back all the same.
    held = np.arange(len(units)) % HELD == min(HELD, len(units)) - 1
    if fixed:
        return Samples(given, tuple(units[~held]), tuple(units[held]), open_batch=False)
    return Samples(given, _pieces(units[~held], batch), _pieces(units[held], batch))


def _fixed_batch(graph: Graph) -> int | None:
    """Return how many samples the network takes at once; None where that is open."""
    first = {value.shape[0] for value in graph.inputs}
    if len(first) > 1:
        raise CalibrationError(
            "a network cannot be calibrated whose inputs differ in their first size: "
            + ", ".join(f"{value.name} {value.shape_text}" for value in graph.inputs)
        )
    return first.pop()


def _pieces(numbers: NDArray[np.intp], batch: int) -> tuple[NDArray[np.intp], ...]:
    """Return samples in pieces of at most a batch, all about as long: each length is compiled."""
    return tuple(np.array_split(numbers, -(-len(numbers) // batch)))


def _named(graph: Graph, inputs: Mapping[str, ArrayLike] | ArrayLike) -> dict[str, Array]:
    """Return the inputs by name, each of the kind and shape that the network takes."""
    names = [value.name for value in graph.inputs]
    if not isinstance(inputs, Mapping):
        if len(names) > 1:
            raise CalibrationError(f"the network has inputs named {names}: give a mapping of them")
        inputs = {names[0]: inputs}
    if set(inputs) != set(names):
        raise CalibrationError(f"expected inputs named {names}, got {sorted(inputs)}")
    return {value.name: _fitting(value, inputs[value.name]) for value in graph.inputs}


def _fitting(value: Value, given: Any) -> Array:  # noqa: ANN401 - anything like an array
    # What is mapped from files stays there: it has a dtype and a shape, and is read in pieces.
    array = given if hasattr(given, "dtype") else as_array(given, f"input {value.name!r}")
    if array.dtype != np.float32:  # Models take it whatever type their input has.
        raise TypeError(
            f"input {value.name!r}: expected float32, got {array.dtype}; bring images into "
            "the form that the network was trained on"
        )
    if array.ndim != len(value.shape) or any(
        not isinstance(want, Size) and have != want
        for have, want in zip(array.shape[1:], value.shape[1:], strict=True)
    ):
        raise CalibrationError(
            f"input {value.name!r}: expected shape {value.shape_text}, got {array.shape}"
        )
    return array


def _check_numbers(name: str, array: Array) -> bool:
    """Raise unless all numbers are finite; return whether any sample differs from the first."""
    varied = False
    for first in range(0, len(array), BATCH):
        part = array[first : first + BATCH]
        finite = np.isfinite(part).reshape(len(part), -1).all(axis=1)
        if not finite.all():
            at = first + int(np.argmin(finite))
            raise CalibrationError(f"input {name!r}: sample {at} holds a number that is not finite")
        varied = varied or not bool((part == array[:1]).all())
    return varied
