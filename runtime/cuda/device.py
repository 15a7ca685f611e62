"""Compile, bind and launch through CuPy. Which kernels there are, and why, is not known here."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from types import ModuleType
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from masktools import forks
from runtime.cuda.launches import Given, Launch, Memory, Result, Table
from runtime.errors import BackendUnavailable, KernelError

DeviceArray = Any  # cupy.ndarray
Text = Callable[[Launch], str]

# Dynamic shared memory that a kernel gets without asking.
UNASKED_SHARED_BYTES = 48 * 1024


class Hardware(NamedTuple):
    """A device's name, architecture and sizes, as the driver reports them.

    Parameters
    ----------
    name : str
    capability : int
        75, 80, 90 ...
    processors, shared_per_block, shared_per_processor : int
    registers_per_processor, threads_per_processor : int
    """

    name: str
    capability: int
    processors: int
    shared_per_block: int
    shared_per_processor: int
    registers_per_processor: int
    threads_per_processor: int


class Device:
    """One GPU, with the kernels and tables that are on it already.

    Parameters
    ----------
    cupy : module
        CuPy, or what stands in for it.
    number : int
        As CuPy counts devices.
    """

    def __init__(self, cupy: ModuleType, number: int) -> None:
        self.cupy = cupy
        self.number = number
        self._forks = forks.count()
        self._kernels: dict[tuple[str, tuple[str, ...], str], Any] = {}
        self._modules: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._tables: WeakValueDictionary[bytes, Any] = WeakValueDictionary()
        self._lock = threading.Lock()

    @property
    def inherited(self) -> bool:
        """Whether this process was forked from the one that uses the device."""
        return self._forks != forks.count()

    def check_process(self) -> None:
        """Raise `BackendUnavailable` in a forked process: CUDA may fail or hang there."""
        if self.inherited:
            raise BackendUnavailable(
                "this process was forked from one that had used CUDA, which does not survive that: "
                "start processes by multiprocessing.get_context('spawn'), or fork before a model "
                "is loaded"
            )

    def current(self) -> Any:  # noqa: ANN401 - a context of CuPy's
        """Return a context in which this device is the current one; see `check_process`."""
        self.check_process()
        return self.cupy.cuda.Device(self.number)

    @forks.unlocked_property
    def hardware(self) -> Hardware:
        """The device's name, architecture and sizes."""
        told = self.cupy.cuda.runtime.getDeviceProperties(self.number)
        return Hardware(
            told["name"].decode(),
            10 * told["major"] + told["minor"],
            told["multiProcessorCount"],
            told["sharedMemPerBlockOptin"],
            told["sharedMemPerMultiprocessor"],
            told["regsPerMultiprocessor"],
            told["maxThreadsPerMultiProcessor"],
        )

    @forks.unlocked_property
    def compiler(self) -> str:
        """The compiler's version."""
        return "nvrtc {}.{}".format(*self.cupy.cuda.nvrtc.getVersion())

    def compile(self, sources: Iterable[str], options: Sequence[str]) -> None:
        """Compile the sources that are not compiled yet, several at once.

        What does not compile is told when a kernel of it is asked for.
        """
        keys = [(source, tuple(options)) for source in dict.fromkeys(sources)]
        with self._lock:
            new = {
                key: self.cupy.RawModule(code=key[0], options=key[1])
                for key in keys
                if key not in self._modules
            }
            self._modules.update(new)

        def compile_one(module: Any) -> None:  # noqa: ANN401
            with self.current(), suppress(self.cupy.cuda.compiler.CompileException):
                module.compile()

        with ThreadPoolExecutor(min(len(new), os.cpu_count() or 1) or 1) as threads:
            list(threads.map(compile_one, new.values()))

    def kernel(self, source: str, options: Sequence[str], name: str, shared_bytes: int) -> Any:  # noqa: ANN401
        """Return a kernel, compiled when first asked for.

        Raises
        ------
        KernelError
            With the compiler's own words, or if the device refuses so much shared memory.
        """
        key = (source, tuple(options), name)
        with self._lock, self.errors(f"kernel {name!r}"):
            if key not in self._kernels:
                module = self._modules.get(key[:2])
                if module is None:
                    module = self.cupy.RawModule(code=source, options=key[1])
                    self._modules[key[:2]] = module
                kernel = module.get_function(name)
                if shared_bytes > UNASKED_SHARED_BYTES:
                    kernel.max_dynamic_shared_size_bytes = shared_bytes
                self._kernels[key] = kernel
            return self._kernels[key]

    def table(self, array: NDArray[Any]) -> DeviceArray:
        """Return an array on the device; equal ones that are in use are one."""
        array = np.ascontiguousarray(array)
        head = f"{array.dtype.str}{array.size}".encode()
        key = hashlib.blake2b(head + array.tobytes(), digest_size=16).digest()
        with self._lock:
            found = self._tables.get(key)
            if found is None:
                found = self._tables[key] = self.cupy.asarray(array)
                # It is there before anyone else, on whatever stream, is given it.
                self.cupy.cuda.get_current_stream().synchronize()
        return found

    def errors(self, what: str) -> Errors:
        """Return a context that raises CuPy's own errors as `KernelError`, which says what."""
        return Errors(self, what)


class Errors(AbstractContextManager[None]):
    """See `Device.errors`; a class, since a generator takes microseconds, and each run has one."""

    def __init__(self, device: Device, what: str) -> None:
        self._device, self._what = device, what

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        cuda = self._device.cupy.cuda
        kinds = (
            cuda.compiler.CompileException,
            cuda.driver.CUDADriverError,
            cuda.runtime.CUDARuntimeError,
            cuda.memory.OutOfMemoryError,
        )
        if isinstance(error, kinds):
            text = f"{self._what} on device {self._device.number}: {error}"
            raise KernelError(text) from error


class Call(NamedTuple):
    """A launch bound to a device; the array of an input or output is given when it is called."""

    kernel: Any
    grid: tuple[int, ...]
    block: tuple[int, ...]
    before: tuple[Any, ...]
    after: tuple[Any, ...]
    shared_bytes: int

    def __call__(self, *array: DeviceArray) -> None:
        """Start the kernel on the current stream."""
        arguments = (*self.before, *array, *self.after)
        self.kernel(self.grid, self.block, arguments, shared_mem=self.shared_bytes)


def bind(
    device: Device,
    launches: Sequence[Launch],
    memory: DeviceArray,
    text: Text,
    options: Sequence[str],
) -> list[Call]:
    """Return launches as calls: kernels compiled, tables uploaded, places made pointers.

    Parameters
    ----------
    device : Device
    launches : sequence of Launch
    memory : device array, one-dimensional
        The arena.
    text : function of Launch to str
        The source of its kernel.
    options : sequence of str
        Of the compiler.
    """

    def bound(argument: Any) -> Any:  # noqa: ANN401
        if isinstance(argument, Memory):
            return memory[argument.at :]
        if isinstance(argument, Table):
            return device.table(argument.array)
        return argument

    def call(launch: Launch) -> Call:
        kernel = device.kernel(text(launch), options, launch.kernel, launch.shared_bytes)
        arguments = tuple(map(bound, launch.arguments))
        brought = [i for i, a in enumerate(launch.arguments) if isinstance(a, Given | Result)]
        first, last = (brought[0], brought[0] + 1) if brought else (len(arguments),) * 2
        ends = (arguments[:first], arguments[last:])
        return Call(kernel, launch.grid, launch.block, *ends, launch.shared_bytes)

    device.compile(map(text, launches), options)
    return list(map(call, launches))


def capture(device: Device, calls: Sequence[Call]) -> Any:  # noqa: ANN401
    """Return calls as one CUDA graph.

    They are made once before: the driver may load a kernel when it is first used, which it cannot
    while work is recorded.
    """
    stream = device.cupy.cuda.Stream(non_blocking=True)
    with stream, device.errors("recording the network"):
        for call in calls:
            call()
        stream.synchronize()
        stream.begin_capture()
        try:
            for call in calls:
                call()
        finally:
            # Also after an error: a stream that records stays unusable.
            graph = stream.end_capture()
    return graph
