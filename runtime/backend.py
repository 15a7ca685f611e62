"""The interface of a backend, and the registry of backends, which do not know each other."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from runtime.errors import BackendUnavailable
from runtime.plan.plan import Plan

Shape = tuple[int, ...]
DeviceArray = Any  # numpy.ndarray, cupy.ndarray ...: the backend's own kind


class Availability(NamedTuple):
    """Whether a backend can run on this machine, and what it runs on or lacks."""

    ok: bool
    detail: str


class Executable(Protocol):
    """A plan made ready for one input shape, dtype and device."""

    def run(
        self, inputs: Mapping[str, DeviceArray], seconds: list[float] | None = None
    ) -> dict[str, DeviceArray]:
        """Run every step.

        Parameters
        ----------
        inputs : mapping of str to device array
            Of the shapes that it was compiled for. Not changed.
        seconds : list of float, default None
            Where given, each step is waited for and the seconds it took are appended, a number
            for each step of the plan.

        Returns
        -------
        dict of str to device array
            The network's outputs by name, of the type of the computation; none shares memory
            with an input or with what a later call returns.

        Notes
        -----
        May be called from several threads at once.
        """


class Backend(Protocol):
    """A way to run plans on one kind of machine.

    Attributes
    ----------
    name : str
    tuned : bool
        Time what there is to choose among, once for each machine and shape, and remember it.
    """

    name: str
    tuned: bool

    def available(self) -> Availability:
        """Return whether it can run here; never raises."""

    def compile(
        self, plan: Plan, input_shapes: Mapping[str, Shape], dtype: str, threads: int | None
    ) -> Executable:
        """Choose layouts across layers, pack weights, and allocate.

        Raises
        ------
        PlanError
            If it does not offer the dtype, cannot use that many threads, lacks a step, or has
            nothing to tune but should.
        """

    def upload(self, array: Any) -> DeviceArray:  # noqa: ANN401
        """Return an array of the host or the device as one of the device."""

    def download(self, array: DeviceArray) -> Any:  # noqa: ANN401
        """Return an array of the device as a NumPy array."""

    def synchronize(self) -> None:
        """Wait until everything that was started has ended."""


# Best first: what `auto` tries. A name stands for the class that is loaded when it is asked for.
BACKENDS: dict[str, str] = {
    "cuda": "runtime.cuda.backend:CudaBackend",
    "cpu": "runtime.cpu.backend:CpuBackend",
    "reference": "runtime.reference.backend:ReferenceBackend",
}


def choose(name: str) -> Backend:
    """Return a backend by name, or the best that is available.

    Parameters
    ----------
    name : str
        ``"auto"`` or a name in `BACKENDS`.

    Raises
    ------
    BackendUnavailable
        If there is none of that name, or it cannot run here: with what it would need.

    Warns
    -----
    RuntimeWarning
        If nothing faster than the reference can run here: with what each backend would need.

    Examples
    --------
    >>> choose("reference").name
    'reference'
    """
    if name == "auto":
        tried: list[str] = []
        for candidate in BACKENDS:
            backend = _load(candidate)
            availability = backend.available()
            if availability.ok:
                _report(candidate, tried)
                return backend
            tried.append(f"{candidate}: {availability.detail}")
        raise BackendUnavailable("no backend can run here: " + "; ".join(tried))
    if name not in BACKENDS:
        raise BackendUnavailable(
            f"backend {name!r} does not exist; there are: {', '.join(BACKENDS)}"
        )
    backend = _load(name)
    availability = backend.available()
    if not availability.ok:
        raise BackendUnavailable(f"backend {name!r} cannot run here: {availability.detail}")
    return backend


def _report(taken: str, passed_over: list[str]) -> None:
    """Say why a backend was taken, where better ones cannot run."""
    reasons = f"backend {taken!r} is taken; better ones cannot run here: {'; '.join(passed_over)}"
    if passed_over and taken == "reference":
        warnings.warn(reasons, RuntimeWarning, stacklevel=4)
    elif passed_over:
        logging.getLogger(__name__).info(reasons)


def _load(name: str) -> Backend:
    module, _, attribute = BACKENDS[name].partition(":")
    backend: Backend = getattr(import_module(module), attribute)()
    return backend
