"""The reference backend: the steps of a plan one after the other."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.backend import Availability
from runtime.errors import PlanError
from runtime.plan.plan import Plan
from runtime.reference.steps import KERNELS

Array = NDArray[Any]
Shape = tuple[int, ...]

DTYPES = ("float32", "float64")


class ReferenceBackend:
    """NumPy on the processor, with the threads of NumPy's own BLAS."""

    name = "reference"
    tuned = False

    def available(self) -> Availability:
        """Return that it runs wherever NumPy does."""
        return Availability(True, f"NumPy {np.__version__}")

    def compile(
        self, plan: Plan, input_shapes: Mapping[str, Shape], dtype: str, threads: int | None
    ) -> ReferenceExecutable:
        """Return the plan, ready to run.

        Raises
        ------
        PlanError
            If `dtype` is not float32 or float64, `threads` is given, or it should be tuned.
        """
        if self.tuned:
            raise PlanError("backend 'reference' has nothing to tune")
        if dtype not in DTYPES:
            raise PlanError(f"backend 'reference' computes in {' or '.join(DTYPES)}, not {dtype}")
        if threads is not None:
            raise PlanError(
                "backend 'reference' has the threads of NumPy's BLAS: set OMP_NUM_THREADS, "
                "not threads"
            )
        batch = plan.batch(input_shapes)
        return ReferenceExecutable(plan, batch, np.dtype(dtype))

    def upload(self, array: Any) -> Array:  # noqa: ANN401
        """Return the array itself."""
        return np.asarray(array)

    def download(self, array: Array) -> Array:
        """Return the array itself."""
        return array

    def synchronize(self) -> None:
        """Do nothing: NumPy waits by itself."""


class ReferenceExecutable:
    """A plan and the dtype to run it in; holds no state, so threads may share it."""

    def __init__(self, plan: Plan, batch: int, dtype: np.dtype[Any]) -> None:
        self._plan = plan
        self._dtype = dtype
        self._steps = [(step, plan.shape(step.output, batch)) for step in plan.steps]

    def run(
        self, inputs: Mapping[str, Array], seconds: list[float] | None = None
    ) -> dict[str, Array]:
        """Run every step; see `runtime.backend.Executable`."""
        plan = self._plan
        live = {name: x.astype(self._dtype, copy=False) for name, x in inputs.items()}
        # A network may divide by zero or overflow; ONNX gives inf or NaN and so does this.
        with np.errstate(all="ignore"):
            for (step, shape), dead in zip(self._steps, plan.dead_after, strict=True):
                start = time.perf_counter()
                live[step.output] = KERNELS[type(step)](step, shape, [live[v] for v in step.inputs])
                for value in dead:
                    del live[value]
                if seconds is not None:
                    seconds.append(time.perf_counter() - start)
        return {name: np.array(live[value], order="C") for name, value in plan.results.items()}
