"""Call the user's own training, and check the state that it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.checks import BoolArray
from masktools.errors import TicketError
from masktools.tickets.states import Masks, State, check_state, under

Train = Callable[[State, Masks, int, int, int], Mapping[str, NDArray[Any]]]


def train_under(
    train: Train, begin: State, masks: Masks, start: int, stop: int, seed: int
) -> State:
    """Train under masks, and return what came of it, checked.

    Parameters
    ----------
    train : callable
        The user's own; it gets copies.
    begin : mapping of str to ndarray
        Its pruned weights are set to zero first. Not changed.
    masks : mapping of str to ndarray of bool
    start, stop : int
        Steps of the user's schedule.
    seed : int

    Raises
    ------
    TypeError, TicketError
        If what `train` returns is no state of the same network under the masks; see
        `check_trained`.
    """
    masked = under(begin, masks)
    copies = {layer: mask.copy() for layer, mask in masks.items()}
    returned = train(under(begin, masks), copies, start, stop, seed)
    return check_trained(returned, masked, masks)


def check_trained(returned: Mapping[str, NDArray[Any]], begin: State, masks: Masks) -> State:
    """Return a copy of the state that a training returned.

    Raises
    ------
    TypeError
        If it is no mapping of names to NumPy arrays of numbers.
    TicketError
        If names, shapes or dtypes differ from those of `begin`, a number is not finite, or a
        pruned weight is not zero; naming the tensor or the layer.
    """
    state = check_state(returned, "what train returns")
    for name in begin:
        if name not in state:
            raise TicketError(f"train returned no {name!r}: return every parameter and buffer")
    for name, array in state.items():
        if name not in begin:
            raise TicketError(f"train returned {name!r}, which the state it was given has not")
        before = begin[name]
        if (array.shape, array.dtype) != (before.shape, before.dtype):
            raise TicketError(
                f"train returned {name!r} of shape {array.shape} and dtype {array.dtype}; "
                f"it was given {before.shape} and {before.dtype}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            place = _first(~np.isfinite(array))
            raise TicketError(f"train returned {name!r} with {array[place]} at {place}")
    for layer, mask in masks.items():
        weight = state[f"{layer}.weight"]
        wrong = (weight != 0) & ~mask
        if wrong.any():
            place = _first(wrong)
            raise TicketError(
                f"train returned layer {layer!r} with {np.count_nonzero(wrong)} pruned weights "
                f"that are not zero, the first {weight[place]!s} at {place}: set them to zero "
                "after every step of the optimiser"
            )
    return {name: state[name] for name in begin}


def _first(wrong: BoolArray) -> tuple[int, ...]:
    return tuple(map(int, np.unravel_index(int(np.argmax(wrong)), wrong.shape)))
