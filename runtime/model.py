"""Load a checkpoint and run it."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from masktools import checkpoint
from masktools.forks import lock_of
from masktools.network.graph import Value
from masktools.network.sizes import Size
from runtime.backend import Backend, Executable, choose
from runtime.errors import InputError, PlanError
from runtime.plan import cost, plan

Array = Any  # numpy.ndarray, or the backend's own kind
Shape = tuple[int, ...]

# Executables kept, one for each shape of the inputs; the one unused for longest goes first.
KEPT_SHAPES = 8


@dataclass(frozen=True)
class StepProfile:
    """A row of a profile.

    Parameters
    ----------
    name : str
        The node that the step comes from.
    operator : str
        What it does, in ONNX's names; fused ones joined by +.
    inputs : tuple of tuple of int
        Shapes of what it reads.
    output : tuple of int
        Shape of what it makes.
    density : float or None
        Stored weights / all weights; None where it has none.
    multiplications : int
        By stored weights, of inputs inside the image, for the whole batch.
    seconds : float
    """

    name: str
    operator: str
    inputs: tuple[Shape, ...]
    output: Shape
    density: float | None
    multiplications: int
    seconds: float


def load(
    path: str | os.PathLike[str],
    backend: str = "auto",
    dtype: str = "float32",
    threads: int | None = None,
    tune: bool = False,
) -> Model:
    """Load a checkpoint, ready to run.

    Parameters
    ----------
    path : path-like
        What `masktools export` wrote; untrusted, and checked in full.
    backend : str, default "auto"
        "cpu", "reference", or the best that is available.
    dtype : str, default "float32"
        The type to compute in, of those the backend offers.
    threads : int, default None
        Processor threads to use; None leaves it to the backend.
    tune : bool, default False
        Time what there is to choose among when a shape first runs, and remember the choice in the
        user's cache; remembered choices are used in any case.

    Returns
    -------
    Model

    Raises
    ------
    FormatError
        If the file breaks a rule of docs/format.md.
    PlanError
        If its shapes do not fit each other, or the backend does not offer the dtype or threads.
    BackendUnavailable
        If the backend does not exist or cannot run here.
    """
    return prepare(checkpoint.read(path), backend, dtype, threads, tune)


def prepare(
    network: checkpoint.Checkpoint,
    backend: str = "auto",
    dtype: str = "float32",
    threads: int | None = None,
    tune: bool = False,
) -> Model:
    """Make a network that is in memory ready to run, as `load` does with a file.

    Parameters
    ----------
    network : Checkpoint
        Not changed; the model shares its arrays. Trusted: `load` checks what it reads, and this
        checks no more than shapes.
    backend, dtype, threads, tune
        As `load`.

    Returns
    -------
    Model

    Raises
    ------
    PlanError, BackendUnavailable
        As `load`.
    """
    if threads is not None and (type(threads) is not int or threads < 1):
        raise PlanError(f"threads must be a positive integer or None, got {threads!r}")
    chosen = choose(backend)
    chosen.tuned = chosen.tuned or tune
    return Model(plan.build(network), chosen, dtype, threads)


class Model:
    """A network that can be called; threads may share it, and so may forked processes.

    On a GPU it cannot be called in a process forked after it was loaded: CUDA does not survive a
    fork, and the call raises `BackendUnavailable`.

    Parameters
    ----------
    network : Plan
    backend : Backend
    dtype : str
    threads : int or None
    """

    def __init__(
        self,
        network: plan.Plan,
        backend: Backend,
        dtype: str = "float32",
        threads: int | None = None,
    ) -> None:
        self.plan = network
        self.backend = backend
        self.dtype = dtype
        self.threads = threads
        self._compiled: OrderedDict[tuple[Shape, ...], Executable] = OrderedDict()
        self._lock = lock_of(self)
        # A dtype or a number of threads that the backend lacks is found now, not at the first call.
        sizes = {v.name: tuple(1 if n is None else int(n) for n in v.shape) for v in self.inputs}
        self._executable(sizes)

    def __repr__(self) -> str:
        ends = [
            ", ".join(f"{value.name} {value.shape_text}" for value in values)
            for values in (self.inputs, self.outputs)
        ]
        how = f"steps: {len(self.plan.steps)}, backend: {self.backend.name}"
        return f"Model({ends[0]} -> {ends[1]}, {how})"

    @property
    def inputs(self) -> tuple[Value, ...]:
        """Names, shapes and dtypes of what it takes.

        None in a shape is any batch, a `masktools.network.sizes.Size` any size: its text is its
        name, its number an example.
        """
        return self.plan.inputs

    @property
    def outputs(self) -> tuple[Value, ...]:
        """Names, shapes and dtypes of what it returns."""
        return self.plan.outputs

    def __call__(self, x: Array | Mapping[str, Array]) -> Any:  # noqa: ANN401 - see Returns
        """Return the network's output.

        Parameters
        ----------
        x : ndarray of float32, shape (N, C, H, W); or a mapping of input names to such
            Any batch N where the network leaves it open, and any other size that it leaves open.
            An input of another type (see `inputs`) is taken in that type too. Not changed.

        Returns
        -------
        ndarray of float32; or dict of str to ndarray where the network has several outputs
            Of the kind that was given: a NumPy array for a NumPy array. Of float16 or float64
            where the network gives that (see `outputs`).

        Raises
        ------
        TypeError
            If `x` is no array, or neither of float32 nor of the input's type.
        InputError
            If a name, the rank or a size differs from what the network takes, or it does not
            work at an open size: naming the node and the shapes.

        Notes
        -----
        Each new shape is compiled when it first comes; the last `KEPT_SHAPES` are kept.
        """
        outputs = self._run(self._checked(x), None)
        return next(iter(outputs.values())) if len(self.outputs) == 1 else outputs

    def profile(self, x: Array | Mapping[str, Array]) -> list[StepProfile]:
        """Return what each step did and how long it took, for one run.

        Parameters
        ----------
        x : as for a call
            A first run is made and not timed.

        Returns
        -------
        list of StepProfile
            In the order of execution.
        """
        inputs = self._checked(x)
        self._run(inputs, None)
        seconds: list[float] = []
        self._run(inputs, seconds)
        shapes = {name: tuple(a.shape) for name, a in inputs.items()}
        made, batch = self._planned(shapes), self.plan.batch(shapes)
        return [
            StepProfile(
                step.name,
                step.operator,
                tuple(made.shape(value, batch) for value in step.inputs),
                made.shape(step.output, batch),
                cost.density(step),
                cost.multiplications(made, step, batch),
                elapsed,
            )
            for step, elapsed in zip(made.steps, seconds, strict=True)
        ]

    def _run(self, inputs: Mapping[str, Array], seconds: list[float] | None) -> dict[str, Array]:
        executable = self._executable({name: tuple(a.shape) for name, a in inputs.items()})
        on_host = all(isinstance(a, np.ndarray) for a in inputs.values())
        with np.errstate(over="ignore"):  # What is too large for a type becomes infinite in it.
            uploaded = {
                name: self.backend.upload(a.astype(np.float32, copy=False))
                for name, a in inputs.items()
            }
        outputs = executable.run(uploaded, seconds)
        with np.errstate(over="ignore"):
            return {
                value.name: (
                    self.backend.download(outputs[value.name]) if on_host else outputs[value.name]
                ).astype(value.dtype, copy=False)
                for value in self.outputs
            }

    def _executable(self, shapes: Mapping[str, Shape]) -> Executable:
        key = tuple(shapes[value.name] for value in self.inputs)
        with self._lock:
            if key not in self._compiled:
                self._compiled[key] = self.backend.compile(
                    self._planned(shapes), shapes, self.dtype, self.threads
                )
                while len(self._compiled) > KEPT_SHAPES:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(key)
            return self._compiled[key]

    def _planned(self, shapes: Mapping[str, Shape]) -> plan.Plan:
        try:
            return self.plan.at(shapes)
        except PlanError as error:
            raise InputError(str(error)) from error

    def _checked(self, x: Array | Mapping[str, Array]) -> dict[str, Array]:
        given = x if isinstance(x, Mapping) else {self.inputs[0].name: x}
        names = [value.name for value in self.inputs]
        if set(given) != set(names):
            raise InputError(f"expected inputs named {names}, got {list(given)}")
        for value in self.inputs:
            _check_input(value, given[value.name])
        batches = {given[v.name].shape[0] for v in self.inputs if v.shape[0] is None}
        if len(batches) > 1:
            raise InputError(f"inputs must have one batch, got {sorted(batches)}")
        return {name: given[name] for name in names}


def _check_input(value: Value, array: Array) -> None:
    # CuPy's dtypes are NumPy's; those of other array kinds are not, and mean something else.
    if not isinstance(getattr(array, "dtype", None), np.dtype):
        torch = type(array).__module__.partition(".")[0] == "torch"
        hint = "; call .detach().cpu().numpy() on it" if torch else ""
        kind = type(array).__name__
        raise TypeError(f"input {value.name!r}: expected an array, got {kind}{hint}")
    if array.dtype not in (np.dtype(value.dtype), np.float32):
        also = "" if value.dtype == "float32" else " or float32"
        raise TypeError(f"input {value.name!r}: expected {value.dtype}{also}, got {array.dtype}")
    fits = len(array.shape) == len(value.shape) and all(
        n is None or isinstance(n, Size) or n == m
        for n, m in zip(value.shape, array.shape, strict=True)
    )
    if not fits or 0 in array.shape:
        raise InputError(
            f"input {value.name!r}: expected shape {value.shape_text}, got {tuple(array.shape)}"
        )
