"""How good a trained state is, by the user's own callables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from masktools.errors import TicketError
from masktools.tickets.states import State, copied

Evaluate = Callable[[State], float]


def accuracies(evaluate: Mapping[str, Evaluate], state: State) -> dict[str, float]:
    """Return a number of each callable for a state; raise `TicketError` where it is not finite."""
    found = {}
    for name, called in evaluate.items():
        given = called(copied(state))
        try:
            found[name] = float(given)
        except (TypeError, ValueError) as error:
            kind = type(given).__name__
            raise TypeError(f"evaluate {name!r} must return a number, got {kind}") from error
        if not math.isfinite(found[name]):
            raise TicketError(f"evaluate {name!r} returned {found[name]}")
    return found
