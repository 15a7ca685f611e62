"""The errors of the runtime; a bad file raises those of `masktools.errors`."""

from __future__ import annotations


class ExecutionError(Exception):
    """Base of every error that the runtime raises on purpose."""


class PlanError(ExecutionError, ValueError):
    """A network that cannot be planned or compiled: shapes that do not fit, a dtype not offered."""


class InputError(ExecutionError, ValueError):
    """An input that the network does not take: its name, rank, channels or size."""


class BackendUnavailable(ExecutionError, RuntimeError):  # noqa: N818 - the contract's name
    """A backend that cannot run here; the message says what it would need."""


class KernelError(ExecutionError, RuntimeError):
    """A backend's device function that failed to build or to run."""
