"""What stands in for CuPy in the tests, held against CuPy itself; needs CuPy, and no GPU."""

from __future__ import annotations

import inspect
from operator import attrgetter
from types import SimpleNamespace

import cuda_emulation
import fake_cupy
import nvrtc
import pytest

from runtime.cuda import kernel_source

cupy = pytest.importorskip("cupy")
# What the tests look at, and CuPy need not have.
OURS = {"schedule", "ran", "compiled", "launched", "order", "wholes", "device", "default",
        "streams", "properties", "stream", "assert_guards_hold"}  # fmt: skip


def names(of, before=""):
    """Yield what a namespace offers, and those within it, by their dotted names."""
    for name in vars(of) if isinstance(of, SimpleNamespace) else dir(of):
        if name.startswith("_") or (not before and name in OURS):
            continue
        yield before + name
        value = getattr(of, name)
        if isinstance(value, SimpleNamespace):
            yield from names(value, f"{before}{name}.")


STOOD_IN_FOR = [
    *names(fake_cupy.FakeCupy(cuda_emulation.build)),
    *(f"cuda.Stream.{name}" for name in ("begin_capture", "end_capture", "wait_event")),
    *(f"cuda.Stream.{name}" for name in ("synchronize", "__enter__")),
    *(f"cuda.Event.{name}" for name in ("record", "synchronize")),
    *("cuda.Graph.launch", "cuda.MemoryPointer.memset_async"),
    *(f"ndarray.{name}" for name in ("shape", "dtype", "size", "nbytes", "data", "device")),
    *(f"ndarray.{name}" for name in ("astype", "transpose")),
    *(f"RawModule.{name}" for name in ("get_function", "compile")),
    *("RawKernel.max_dynamic_shared_size_bytes", "RawKernel.__call__"),
    # Beside the stand-in: what the tests on a device, and the benchmarks, use.
    *("zeros", "copyto", "get_default_memory_pool", "cuda.set_allocator"),
]


@pytest.mark.parametrize("name", STOOD_IN_FOR)
def test_cupy_has_it(name):
    attrgetter(name)(cupy)


def test_parameters_are_cupys():
    event = inspect.signature(cupy.cuda.Event.__init__).parameters
    assert "disable_timing" in event
    assert "non_blocking" in inspect.signature(cupy.cuda.Stream.__init__).parameters
    cupy.RawModule(code="", options=kernel_source.OPTIONS)  # Compiles nothing yet.


def test_tables_can_be_kept_weakly():
    assert cupy.ndarray.__weakrefoffset__


def test_errors_are_cupys():
    cuda = cupy.cuda
    kinds = (
        cuda.compiler.CompileException,
        cuda.driver.CUDADriverError,
        cuda.runtime.CUDARuntimeError,
        cuda.memory.OutOfMemoryError,
    )
    assert all(issubclass(kind, Exception) for kind in kinds)


@pytest.mark.parametrize("name", sorted(p.name for p in kernel_source.folder().glob("*.cu")))
def test_cupy_compiles_the_kernels_with_the_options_that_the_tests_use(monkeypatch, name):
    compiler, given = cupy.cuda.compiler, []
    try:
        cupy.cuda.nvrtc.getVersion()
    except Exception as error:
        pytest.skip(f"CuPy finds no compiler: {error}")
    # Which architecture there is, CuPy asks the device.
    monkeypatch.setattr(
        compiler, "_get_arch_for_options_for_nvrtc", lambda arch: (f"-arch=sm_{arch}", "cubin")
    )
    compile_ = compiler._NVRTCProgram.compile
    monkeypatch.setattr(
        compiler._NVRTCProgram,
        "compile",
        lambda program, options, log=None: given.append(options) or compile_(program, options, log),
    )
    # What RawModule adds on its way to here.
    options = (*kernel_source.OPTIONS, "-ftz=true")
    binary, _ = compiler.compile_using_nvrtc(kernel_source.expand(name), options, "90")
    assert binary
    assert set(given[0]) == set(nvrtc.options(90))
