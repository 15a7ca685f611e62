"""The functions that a user gives to a search: what they take, checked before any training."""

from __future__ import annotations

import inspect

TRAIN = ("state", "masks", "start", "stop", "seed")
SOURCE = ("state", "masks", "density", "seed")
POST, EVALUATE = ("masks", "state"), ("state",)


def check_callable(argument: str, called: object, takes: tuple[str, ...]) -> None:
    """Raise `TypeError` unless an argument can be called with some positional arguments.

    What makes a source or a post is easily given in place of what it makes, and would be found out
    only after the dense training.

    Examples
    --------
    >>> check_callable("evaluate: 'test'", lambda state, data: 0.5, ("state",))
    Traceback (most recent call last):
        ...
    TypeError: evaluate: 'test' must take (state), and <lambda>(state, data) does not
    """
    if not callable(called):
        raise TypeError(f"{argument} must be callable, got {type(called).__name__}")
    try:
        signature = inspect.signature(called)
    except (TypeError, ValueError):  # some that are not written in Python have none
        return
    try:
        signature.bind(*takes)
    except TypeError as error:
        name = getattr(called, "__name__", type(called).__name__)
        shown = signature.replace(
            parameters=[one.replace(annotation=one.empty) for one in signature.parameters.values()],
            return_annotation=signature.empty,
        )
        raise TypeError(
            f"{argument} must take ({', '.join(takes)}), and {name}{shown} does not"
        ) from error
