"""The CUDA backend: a whole plan on the GPU, through CuPy, replayed as one CUDA graph."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.backend import Availability
from runtime.cuda.candidates import candidates
from runtime.cuda.configuration import Problem
from runtime.cuda.driver import cupy_module, current_device
from runtime.cuda.executable import CudaExecutable
from runtime.cuda.layers import check_range
from runtime.cuda.program import build
from runtime.cuda.tuning import chooser, limits
from runtime.errors import BackendUnavailable, PlanError
from runtime.plan.plan import Plan

Shape = tuple[int, ...]
DeviceArray = Any  # cupy.ndarray

# Set to 1, kernels are timed where no choice is remembered, and the choice is kept.
TUNE = "MASKTOOLS_CUDA_TUNE"


class CudaBackend:
    """NVIDIA GPUs from compute capability 7.0 on, by kernels compiled for the very network.

    Parameters
    ----------
    tuned : bool, default None
        Time the kernels that fit each layer, once for each device and shape, and remember the
        fastest. None asks the environment: `MASKTOOLS_CUDA_TUNE=1`.
    """

    name = "cuda"

    def __init__(self, tuned: bool | None = None) -> None:
        self.tuned = os.environ.get(TUNE) == "1" if tuned is None else tuned

    def available(self) -> Availability:
        """Return whether CuPy, a driver, a compiler and a device are there; never raises."""
        try:
            device = current_device(cupy_module())
            return Availability(True, f"{device.hardware.name}, {device.compiler}")
        except BackendUnavailable as error:
            return Availability(False, str(error))
        except Exception as error:  # Drivers fail in ways of their own.
            return Availability(False, f"CuPy fails: {error}")

    def compile(
        self, plan: Plan, input_shapes: Mapping[str, Shape], dtype: str, threads: int | None
    ) -> CudaExecutable:
        """Return the plan; kernels are compiled and memory taken when it first runs.

        Raises
        ------
        PlanError
            If the device does not compute in `dtype`, a weight is beyond it, or `threads` is given.
        BackendUnavailable
            If there is no device.
        """
        if threads is not None:
            raise PlanError("backend 'cuda' runs on the GPU, not on processor threads")
        device = current_device(cupy_module())
        # Raises for a type that the device lacks, also where no layer would ask for it.
        candidates(Problem(dtype, 8, 8, ()), limits(device))  # type: ignore[arg-type]
        if dtype == "float16":
            check_range(plan)
        batch = plan.batch(input_shapes)
        configure = chooser(device, plan, batch, self.tuned)
        return CudaExecutable(device, lambda: build(plan, batch, dtype, configure))

    def upload(self, array: Any) -> DeviceArray:  # noqa: ANN401
        """Return a NumPy or CuPy array as a CuPy array."""
        return cupy_module().asarray(array)

    def download(self, array: DeviceArray) -> NDArray[Any]:
        """Return a CuPy array as a NumPy array, once it is there."""
        cupy = cupy_module()
        with current_device(cupy).errors("copying from the device"):
            return np.asarray(cupy.asnumpy(array))

    def synchronize(self) -> None:
        """Wait until the current stream has ended all that was started."""
        cupy = cupy_module()
        with current_device(cupy).errors("waiting for the device"):
            cupy.cuda.get_current_stream().synchronize()
