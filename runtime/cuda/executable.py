"""A program on a device, and its runs."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from functools import cache
from itertools import chain, islice
from typing import Any

import numpy as np

from runtime.cuda import kernel_source
from runtime.cuda.device import Device, bind, capture
from runtime.cuda.launches import CONVOLUTIONS, Launch
from runtime.cuda.program import Program
from runtime.errors import InputError

DeviceArray = Any  # cupy.ndarray


class CudaExecutable:
    """A plan for one shape of its inputs and one device, built when it first runs.

    All calls use the same memory on the device, so they run one after another, also from several
    threads or streams.

    Parameters
    ----------
    device : Device
    make : function returning Program
        Called once, before the first run.
    """

    def __init__(self, device: Device, make: Callable[[], Program]) -> None:
        self._device = device
        self._make = make
        self._lock = threading.Lock()
        self.built: Built | None = None

    def run(
        self, inputs: Mapping[str, DeviceArray], seconds: list[float] | None = None
    ) -> dict[str, DeviceArray]:
        """Run every step on the current stream; see `runtime.backend.Executable`."""
        # The device first: a forked process hears that it has none, whoever held the lock.
        with self._device.current(), self._lock, self._device.errors("running the network"):
            if self.built is None:
                self.built = Built(self._device, self._make())
            return self.built.run(inputs, seconds)


class Built:
    """A program on a device: memory taken, kernels compiled, launches recorded.

    Parameters
    ----------
    device : Device
    program : Program
    """

    def __init__(self, device: Device, program: Program) -> None:
        self._device = device
        self.program = program
        cupy = device.cupy
        number = np.float16 if program.dtype == "float16" else np.float32
        self._memory = cupy.empty(max(program.elements, 1), number)
        for start, end in program.zeroed:
            part = self._memory[start:end]
            part.data.memset_async(0, part.nbytes)
        parts = [program.enter.values(), program.leave.values(), *program.steps]
        calls = iter(
            bind(device, [*chain(*parts)], self._memory, self._texts(), kernel_source.OPTIONS)
        )
        enter, leave, *self._steps = (list(islice(calls, len(p))) for p in parts)
        self._enter = dict(zip(program.enter, enter, strict=True))
        self._leave = dict(zip(program.leave, leave, strict=True))
        # What was set to zero must be there before another stream reads it.
        cupy.cuda.get_current_stream().synchronize()
        steps = [*chain(*self._steps)]
        self._graph = capture(device, steps) if steps else None
        self._ended = cupy.cuda.Event(disable_timing=True)

    def __del__(self) -> None:
        # Memory goes back to CuPy's pool, which may hand it to another stream at once. When the
        # interpreter ends, the driver may be gone already; in a forked process it is no use.
        if hasattr(self, "_ended") and not (sys.is_finalizing() or self._device.inherited):
            self._ended.synchronize()

    def _texts(self) -> Callable[[Launch], str]:
        """Return a function from a launch to its source: a file of `cuda/`, or a rendered one.

        Networks that use the same kernel share it, compiled once.
        """
        made = {c.name: kernel_source.render([c]) for c in set(self.program.configurations)}
        files = cache(kernel_source.expand)
        return lambda launch: (
            made[launch.kernel] if launch.source == CONVOLUTIONS else files(launch.source)
        )

    def run(
        self, inputs: Mapping[str, DeviceArray], seconds: list[float] | None
    ) -> dict[str, DeviceArray]:
        """Run every step on the current stream; see `runtime.backend.Executable`."""
        cupy = self._device.cupy
        stream = cupy.cuda.get_current_stream()
        stream.wait_event(self._ended)
        for name, call in self._enter.items():
            array = inputs[name]
            if array.device.id != self._device.number:
                raise InputError(
                    f"input {name!r} is on device {array.device.id}, the network on device "
                    f"{self._device.number}"
                )
            # Kernels see a pointer, not strides.
            call(cupy.ascontiguousarray(array))
        if seconds is None:
            if self._graph is not None:
                self._graph.launch(stream)
        else:
            seconds += self._timed_steps()
        outputs = {}
        for name, call in self._leave.items():
            outputs[name] = cupy.empty(self.program.shapes[name], np.float32)
            call(outputs[name])
        self._ended.record(stream)
        return outputs

    def _timed_steps(self) -> list[float]:
        cuda = self._device.cupy.cuda
        seconds = []
        for calls in self._steps:
            begin, end = cuda.Event(), cuda.Event()
            begin.record()
            for call in calls:
                call()
            end.record()
            end.synchronize()
            seconds.append(cuda.get_elapsed_time(begin, end) / 1e3)
        return seconds

    def seconds(self, copies: int) -> float:
        """Return how long the steps take, run `copies` times as one graph."""
        cuda = self._device.cupy.cuda
        graph = capture(self._device, [*chain(*self._steps)] * copies)
        begin, end = cuda.Event(), cuda.Event()
        graph.launch()
        begin.record()
        graph.launch()
        end.record()
        end.synchronize()
        return float(cuda.get_elapsed_time(begin, end)) / 1e3 / copies
