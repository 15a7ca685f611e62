"""CUDA kernels on the processor: their own source, compiled by a C++ compiler and run by fibers.

`build` takes what `runtime.cuda.kernel_source` returns, with `REPLACED` in place of the one file
that has inline assembly, and gives an object whose `launch` is CuPy's but for the schedule.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from runtime.cuda import kernel_source
from runtime.cuda.configuration import Configuration

HERE = Path(__file__).parent
REPLACED = {"device.cuh": (HERE / "device.cuh").read_text(encoding="utf-8")}
SCHEDULES = range(4)
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
FLAGS = ["-std=c++17", "-O1", "-g0", "-fPIC", "-shared", "-march=native", "-fno-strict-aliasing"]
FLAGS += ["-ffp-contract=off", "-Wno-unknown-pragmas", "-Wno-psabi", "-w"]
# Such as -fsanitize=address, for a job of its own.
FLAGS += os.environ.get("MASKTOOLS_EMULATION_FLAGS", "").split()
# A sanitizer's library is loaded for what is compiled, not for the compiler.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}

_KERNEL = re.compile(r'extern "C" __global__ void(?: __launch_bounds__\([^)]*\))?\s+(\w+)\s*\(')


class DeviceFault(RuntimeError):  # noqa: N818 - what devices report are faults
    """What a device would hang at, corrupt, or refuse."""


class _Range(ctypes.Structure):
    _fields_ = (("begin", ctypes.c_void_p), ("bytes", ctypes.c_uint64))


class _Launch(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("schedule", ctypes.c_uint),
        ("shared_bytes", ctypes.c_uint64),
        ("ranges", ctypes.c_uint64),
        ("memory", ctypes.POINTER(_Range)),
        ("fault", ctypes.c_char_p),
    )


def render(configurations: Iterable[Configuration]) -> str:
    """Return the emulated source of kernels for layers with weights."""
    return kernel_source.render(configurations, REPLACED)


def expand(name: str) -> str:
    """Return the emulated source of a file of `cuda/`."""
    return kernel_source.expand(name, REPLACED)


def build(source: str, capability: int = 90) -> Emulated:
    """Compile emulated source, once for each text and architecture.

    Raises
    ------
    RuntimeError
        With what the compiler says.
    """
    return _build(source, capability)


class Emulated:
    """A compiled module."""

    def __init__(self, library: ctypes.CDLL, kernels: Sequence[str]) -> None:
        self._library = library
        self.kernels = tuple(kernels)

    def launch(
        self,
        name: str,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: Sequence[object],
        shared_mem: int = 0,
        schedule: int = 0,
        readable: Iterable[np.ndarray] | None = None,
    ) -> None:
        """Run a kernel to its end.

        Parameters
        ----------
        name : str
        grid, block : sequence of int, at most three
        arguments : sequence
            Contiguous arrays and integers of `numpy.uintp` are pointers, None is a null pointer;
            other integers are int, floats are float; structured scalars go by value.
        shared_mem : int
            Bytes of dynamic shared memory.
        schedule : int
            0 to 3: in which order threads run and when asynchronous copies land.
        readable : iterable of ndarray, default None
            Memory that may be read and written; the arrays among the arguments unless given.

        Raises
        ------
        DeviceFault
        """
        arrays = [a for a in arguments if isinstance(a, np.ndarray) and a.dtype.names is None]
        given = arrays if readable is None else list(readable)
        ranges = (_Range * max(len(given), 1))(*[(a.ctypes.data, a.nbytes) for a in given])
        values = [_bytes_of(argument) for argument in arguments]
        buffers = [ctypes.create_string_buffer(value, len(value)) for value in values]
        pointers = (ctypes.c_void_p * len(buffers))(*map(ctypes.addressof, buffers))
        fault = ctypes.create_string_buffer(256)
        launch = _Launch(
            (ctypes.c_uint * 3)(*grid, *(1,) * (3 - len(grid))),
            (ctypes.c_uint * 3)(*block, *(1,) * (3 - len(block))),
            schedule,
            shared_mem,
            len(given),
            ranges,
            ctypes.cast(fault, ctypes.c_char_p),
        )
        getattr(self._library, f"launch_{name}")(ctypes.byref(launch), pointers)
        if fault.value:
            raise DeviceFault(f"{name}: {fault.value.decode()}")


def _bytes_of(argument: object) -> bytes:
    """Return an argument as a kernel's parameter lies in memory."""
    if argument is None:
        return bytes(8)
    if isinstance(argument, np.ndarray) and argument.dtype.names is None:
        assert argument.flags.c_contiguous, "kernels know nothing of NumPy's strides"
        return np.uintp(argument.ctypes.data).tobytes()
    if isinstance(argument, np.ndarray | np.generic):
        return argument.tobytes()
    if isinstance(argument, int):
        return np.int32(argument).tobytes()
    return np.float32(argument).tobytes()


@functools.cache
def _build(source: str, capability: int) -> Emulated:
    kernels = _KERNEL.findall(source)
    entries = "".join(
        f'extern "C" void launch_{name}(const emulator::Launch* launch, void** arguments) {{\n'
        f"  emulator::run({name}, *launch, arguments);\n}}\n"
        for name in kernels
    )
    architecture = f"#define EMULATED_ARCHITECTURE {capability * 10}\n"
    place = _folder() / kernel_source.digest(source, (str(capability), *FLAGS), str(COMPILER))
    text = f'#include "emulator.h"\n{architecture}{source}\n{entries}'
    place.with_suffix(".cpp").write_text(text, encoding="utf-8")
    library = place.with_suffix(".so")
    done = subprocess.run(
        [str(COMPILER), *FLAGS, "-o", str(library), str(place.with_suffix(".cpp"))],
        env=_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return Emulated(ctypes.CDLL(str(library)), kernels)


@functools.cache
def _folder() -> Path:
    """Return where modules are built, with the emulator's header compiled ahead of them."""
    made = Path(tempfile.mkdtemp(prefix="masktools-emulation-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    header = shutil.copy(HERE / "emulator.h", made)
    ahead = [str(COMPILER), *FLAGS, "-x", "c++-header", header, "-o", f"{header}.gch"]
    subprocess.run(ahead, env=_ENVIRONMENT, check=True)
    return made
