"""Give a network another head: tickets that go from one task to another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from masktools.checks import listed
from masktools.errors import MaskError
from masktools.tickets.states import State, check_state


def with_head(state: Mapping[str, NDArray[Any]], head: Mapping[str, NDArray[Any]]) -> State:
    """Return a state whose head is another one, for a task with other classes.

    Parameters
    ----------
    state : mapping of str to ndarray
        Of the task that the ticket was found on, at the rewinding step. Not changed.
    head : mapping of str to ndarray
        The new head's parameters, by the names of the old ones; only the number of outputs, their
        first dimension, may differ. Not changed.

    Returns
    -------
    dict of str to ndarray
        A copy. Train it by `retrain` with ``schedule="full"``, under the ticket's masks.

    Raises
    ------
    TypeError
        If an argument is no mapping of names to NumPy arrays of numbers.
    MaskError
        If a name is not in the state, or a shape differs in more than the number of outputs, or a
        dtype differs, or the parts of the head have different numbers of outputs: those that are
        given, or one of the same layer that is left out.

    Examples
    --------
    >>> import numpy as np
    >>> state = {"conv.weight": np.ones((8, 4, 3, 3)), "head.weight": np.ones((10, 8))}
    >>> moved = with_head(state, {"head.weight": np.zeros((62, 8))})
    >>> {name: array.shape for name, array in moved.items()}
    {'conv.weight': (8, 4, 3, 3), 'head.weight': (62, 8)}
    """
    moved, parts = check_state(state, "state"), check_state(head, "head")
    for name, array in parts.items():
        if name not in moved:
            raise MaskError(f"head: the state has no {name!r}; {listed(moved)}")
        old = moved[name]
        if not array.ndim or array.ndim != old.ndim or array.shape[1:] != old.shape[1:]:
            raise MaskError(
                f"head: {name!r} has shape {array.shape}, and the old one {old.shape}: only the "
                "number of outputs may differ"
            )
        if array.dtype != old.dtype:
            raise MaskError(f"head: {name!r} has dtype {array.dtype}, and the old one {old.dtype}")
    outputs = {name: array.shape[0] for name, array in parts.items()}
    if len(set(outputs.values())) > 1:
        raise MaskError(f"head: its parts have different numbers of outputs: {outputs}")
    _check_left_out(moved, parts)
    return {name: parts.get(name, array) for name, array in moved.items()}


def _check_left_out(state: State, parts: State) -> None:
    """Raise where a layer has other outputs, and a parameter of it is left as it was."""
    changed = {
        name.rpartition(".")[0]: (name, array.shape[0])
        for name, array in parts.items()
        if array.shape[0] != state[name].shape[0]
    }
    for name, array in state.items():
        part, outputs = changed.get(name.rpartition(".")[0], ("", 0))
        if part and name not in parts and array.ndim:
            raise MaskError(
                f"head: {part!r} has {outputs} outputs, and {name!r} of the same layer, which has "
                f"{array.shape[0]}, is not given"
            )
