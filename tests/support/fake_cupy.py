"""What the CUDA backend uses of CuPy, on the host: memory is NumPy's, kernels are emulated.

It is stricter than a device. Memory comes filled with NaN, between guards that tell a write beyond
it; while a stream records, nothing may be allocated or waited for; a kernel takes just the types
that its C++ has, and no more shared memory than it asked for.
"""

from __future__ import annotations

import itertools
import sys
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace

import cuda_emulation
import numpy as np
import pytest

from runtime.cuda import driver, kernel_source
from runtime.cuda.backend import CudaBackend

GUARD = 256
GUARD_BYTE = 0xA5


class CompileException(Exception):  # noqa: N818 - CuPy's name
    pass


class CUDADriverError(RuntimeError):
    pass


class CUDARuntimeError(RuntimeError):
    pass


class OutOfMemoryError(MemoryError):
    pass


class Array:
    """A device array: no NumPy array, so that one cannot stand where the other must."""

    def __init__(self, host, device, whole=None):
        self._host, self.device, self._whole = host, device, whole

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    data = property(lambda self: SimpleNamespace(memset_async=self._set))

    def __getitem__(self, at):
        return Array(self._host[at], self.device, self._whole)

    def _set(self, byte, count):
        self._host.view(np.uint8)[:count] = byte

    def astype(self, dtype, copy=True):
        if np.dtype(dtype) == self.dtype and not copy:
            return self
        return Array(self._host.astype(dtype), self.device)

    def transpose(self, *axes):
        return Array(self._host.transpose(*axes), self.device, self._whole)


class Kernel:
    def __init__(self, fake, emulated, name):
        self._fake, self._emulated, self._name = fake, emulated, name
        self.max_dynamic_shared_size_bytes = 48 * 1024

    def __call__(self, grid, block, args, *, shared_mem=0):
        for arg in args:
            by_value = isinstance(arg, np.ndarray) and arg.dtype.names and arg.shape == (1,)
            if not (by_value or isinstance(arg, Array | np.int32 | np.float32 | None)):
                raise TypeError(f"kernel {self._name}: an argument of {type(arg)}")
            if isinstance(arg, Array) and not arg._host.flags.c_contiguous:
                raise AssertionError(f"kernel {self._name}: strides would be lost")
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise CUDADriverError(f"{shared_mem} bytes of shared memory without asking")
        if min(grid) < 1 or min(block) < 1 or np.prod(block) > 1024:
            raise CUDADriverError(f"grid {grid}, block {block}")
        self._fake.launched.append(self._name)
        self._fake.stream.do(lambda: self._run(grid, block, args, shared_mem))

    def _run(self, grid, block, args, shared_mem):
        host = [arg._host if isinstance(arg, Array) else arg for arg in args]
        self._emulated.launch(self._name, grid, block, host, shared_mem, self._fake.schedule)
        self._fake.ran += 1


class Graph:
    def __init__(self, fake, work):
        self._fake, self._work = fake, work

    def launch(self, stream=None):
        with stream or self._fake.stream:
            for work in self._work:
                self._fake.stream.do(work)


class Stream:
    def __init__(self, fake, non_blocking=False):
        self._fake, self._recorded = fake, None

    def __enter__(self):
        self._fake.streams.append(self)
        return self

    def __exit__(self, *error):
        self._fake.streams.pop()

    def do(self, work):
        if self._recorded is None:
            work()
        else:
            self._recorded.append(work)

    def idle(self, what):
        if self._recorded is not None:
            raise CUDARuntimeError(f"{what} while a stream records")

    def begin_capture(self):
        self.idle("recording")
        self._recorded = []

    def end_capture(self):
        work, self._recorded = self._recorded, None
        return Graph(self._fake, work)

    def synchronize(self):
        self.idle("waiting")

    def wait_event(self, event):
        self._fake.order.append(("wait", id(self), event.number))


class Event:
    numbers = itertools.count()

    def __init__(self, fake, disable_timing=False):
        self._fake, self.timed, self.number = fake, not disable_timing, next(Event.numbers)
        self.at = None

    def record(self, stream=None):
        stream = stream or self._fake.stream
        self.at = self._fake.ran
        self._fake.order.append(("record", id(stream), self.number))

    def synchronize(self):
        self._fake.stream.idle("waiting")


class FakeCupy:
    """One module `cupy` with one device.

    Parameters
    ----------
    build : function of (source, capability) to what has ``launch``
    """

    ndarray = Array

    def __init__(self, build, capability=90, processors=132, shared=232448):
        self._build, self._capability = build, capability
        self.schedule = self.ran = self.compiled = 0
        self.launched, self.order, self.wholes = [], [], []
        self.device = SimpleNamespace(id=0)
        self.default = Stream(self)
        self.streams = [self.default]
        self.properties = {
            "name": b"Emulated", "major": capability // 10, "minor": capability % 10,
            "multiProcessorCount": processors, "sharedMemPerBlockOptin": shared,
            "sharedMemPerMultiprocessor": shared + 1024, "regsPerMultiprocessor": 65536,
            "maxThreadsPerMultiProcessor": 2048,
        }  # fmt: skip
        self.cuda = SimpleNamespace(
            Device=self._device,
            Stream=lambda non_blocking=False: Stream(self, non_blocking),
            Event=lambda disable_timing=False: Event(self, disable_timing),
            get_current_stream=lambda: self.stream,
            get_elapsed_time=self._elapsed,
            nvrtc=SimpleNamespace(getVersion=lambda: (13, 0)),
            runtime=SimpleNamespace(
                getDeviceCount=lambda: 1,
                getDeviceProperties=lambda number: self.properties,
                driverGetVersion=lambda: 13000,
                CUDARuntimeError=CUDARuntimeError,
            ),
            driver=SimpleNamespace(CUDADriverError=CUDADriverError),
            compiler=SimpleNamespace(CompileException=CompileException),
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        )

    @property
    def stream(self):
        return self.streams[-1]

    @contextmanager
    def _current(self):
        yield self.device

    def _device(self, number=0):
        manager = self._current()
        manager.id = number
        return manager

    @staticmethod
    def _elapsed(begin, end):
        assert begin.timed
        assert end.timed
        return float(end.at - begin.at)

    # --- arrays ----------------------------------------------------------------------------------

    def _allocate(self, shape, dtype):
        self.stream.idle("an allocation")
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        raw = np.full(size + 2 * GUARD + 64, GUARD_BYTE, np.uint8)
        first = GUARD + -(raw.ctypes.data + GUARD) % 64
        self.wholes.append((raw, first, size))
        return raw[first : first + size].view(dtype).reshape(shape), raw

    def empty(self, shape, dtype):
        shape = shape if isinstance(shape, tuple) else (shape,)
        host, raw = self._allocate(shape, dtype)
        host[...] = np.nan if host.dtype.kind == "f" else -1
        return Array(host, self.device, raw)

    def asarray(self, array):
        if isinstance(array, Array):
            return array
        host, raw = self._allocate(array.shape, array.dtype)
        host[...] = array
        return Array(host, self.device, raw)

    def ascontiguousarray(self, array):
        if array._host.flags.c_contiguous:
            return array
        return self.asarray(np.ascontiguousarray(array._host))

    def asnumpy(self, array):
        assert isinstance(array, Array)
        self.stream.idle("a copy to the host")
        return array._host.copy()

    def RawModule(self, code, options):  # noqa: N802 - CuPy's name
        self.compiled += 1
        assert isinstance(options, tuple)
        emulated = cache(lambda: self._build(code, self._capability))
        return SimpleNamespace(
            compile=emulated, get_function=lambda name: Kernel(self, emulated(), name)
        )

    def assert_guards_hold(self):
        """Raise if any kernel wrote before or behind what was allocated."""
        for raw, first, size in self.wholes:
            assert (raw[:first] == GUARD_BYTE).all(), "written before an array"
            assert (raw[first + size :] == GUARD_BYTE).all(), "written behind an array"


def install(monkeypatch, folder, **properties):
    """Put a fake in CuPy's place, its kernels emulated, and choices kept in `folder`.

    Parameters
    ----------
    monkeypatch : pytest.MonkeyPatch
    folder : Path
    **properties
        As for `FakeCupy`.
    """
    if cuda_emulation.COMPILER is None:
        pytest.skip("emulating kernels needs a C++ compiler: g++ or clang++")
    fake, expand = FakeCupy(cuda_emulation.build, **properties), kernel_source.expand
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setenv("MASKTOOLS_CACHE", str(folder))
    monkeypatch.delenv("MASKTOOLS_CUDA_TUNE", raising=False)
    monkeypatch.setattr(driver, "_DEVICES", {})
    # The one file with inline assembly is the emulation's own.
    replaced = cuda_emulation.REPLACED
    monkeypatch.setattr(kernel_source, "expand", lambda name, given=None: expand(name, replaced))
    return fake


def places():
    """Return where tests run: under emulation, and on the device of this machine if it has one."""
    device = pytest.param("device", marks=pytest.mark.gpu)
    return ["emulated", *([device] if CudaBackend().available().ok else [])]


def installed(place, monkeypatch, folder):
    """Yield CuPy, or what stands in for it at a place of `places`."""
    if place == "device":
        monkeypatch.setenv("MASKTOOLS_CACHE", str(folder))
        cupy = pytest.importorskip("cupy")
        # Each array by itself, so that compute-sanitizer sees what lies beyond one.
        cupy.cuda.set_allocator(None)
        yield cupy
        cupy.cuda.set_allocator(cupy.get_default_memory_pool().malloc)
        return
    fake = install(monkeypatch, folder)
    yield fake
    fake.assert_guards_hold()
