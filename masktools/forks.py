"""Stay usable in a process that was forked while other threads were at work.

A fork copies the memory of a process but only the thread that forks: what another thread had locked
stays locked in the child, for ever. The child must therefore not wait for such a lock.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar
from weakref import WeakSet

T = TypeVar("T")

# Held while a product of matrices runs that BLAS may spread over its own threads. OpenBLAS, which
# NumPy brings, has a lock of its own around these, and a child forked inside one hangs in the next.
# A fork waits until none runs. Reentrant, for a signal handler may fork.
PRODUCTS = threading.RLock()

_owners: WeakSet[Any] = WeakSet()
_count = 0


def count() -> int:
    """Return how many forks lie between the process that started Python and this one."""
    return _count


def lock_of(owner: Any) -> threading.Lock:  # noqa: ANN401
    """Return a lock for an object to keep as ``_lock``, where every forked process gets a new one.

    Parameters
    ----------
    owner : object
        What its lock guards must be sound at every moment: the child may find a change half made.
    """
    _owners.add(owner)
    return threading.Lock()


class unlocked_property(functools.cached_property[T]):  # noqa: N801 - used as a decorator
    """A cached property without a lock, as `functools.cached_property` is from Python 3.12 on.

    Before, all objects of a class share one, and a child forked while any is computed hangs.
    """

    def __init__(self, func: Callable[[Any], T]) -> None:
        super().__init__(func)
        self.lock = nullcontext()


def _in_child() -> None:
    global _count
    _count += 1
    PRODUCTS.release()
    for owner in _owners:
        owner._lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # Windows does not fork.
    os.register_at_fork(
        before=PRODUCTS.acquire, after_in_parent=PRODUCTS.release, after_in_child=_in_child
    )
