"""What the CUDA backend needs of a machine, and says where it is missing."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace

import fake_cupy
import pytest
from cuda_plans import failing, pointwise

from runtime.cuda import driver
from runtime.cuda.backend import CudaBackend
from runtime.errors import BackendUnavailable
from runtime.model import Model


@pytest.fixture
def cupy(monkeypatch, tmp_path):
    yield from fake_cupy.installed("emulated", monkeypatch, tmp_path)


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        (None, r"no NVIDIA driver.*cupy-cuda13x\[ctk\].*cupy-cuda12x\[ctk\]"),
        (13010, r"the driver is for CUDA 13\.1: pip install 'cupy-cuda13x\[ctk\]'"),
        (12040, r"the driver is for CUDA 12\.4: pip install 'cupy-cuda12x\[ctk\]'"),
    ],
)
def test_without_cupy_the_package_for_the_driver_is_named(monkeypatch, version, wanted):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(driver, "driver_version", lambda: version)
    ok, detail = CudaBackend().available()
    assert not ok
    with pytest.raises(BackendUnavailable, match=wanted):
        raise BackendUnavailable(detail)
    with pytest.raises(BackendUnavailable, match=wanted):
        Model(pointwise(), CudaBackend())


def test_the_version_of_the_driver_is_asked_of_the_driver(monkeypatch):
    def library(version, status=0):
        def get(pointer):
            pointer._obj.value = version
            return status

        return lambda name: SimpleNamespace(cuDriverGetVersion=get)

    monkeypatch.setattr(ctypes, "CDLL", library(13000))
    assert driver.driver_version() == 13000
    monkeypatch.setattr(ctypes, "CDLL", library(0, status=3))
    assert driver.driver_version() is None
    monkeypatch.setattr(ctypes, "CDLL", failing(OSError("not found")))
    assert driver.driver_version() is None


def test_what_is_there_is_named(cupy):
    assert CudaBackend().available() == (True, "Emulated, nvrtc 13.0")


def test_a_machine_without_a_device_or_a_driver_is_said(cupy, monkeypatch):
    cupy.cuda.runtime.getDeviceCount = lambda: 0
    assert CudaBackend().available() == (False, "CuPy finds no NVIDIA GPU on this machine")
    cupy.cuda.runtime.getDeviceCount = failing(fake_cupy.CUDARuntimeError("driver too old"))
    monkeypatch.setattr(driver, "driver_version", lambda: 12020)
    ok, detail = CudaBackend().available()
    assert not ok
    assert "driver too old; the driver is for CUDA 12.2: pip install 'cupy-cuda12x" in detail
    monkeypatch.setattr(driver, "driver_version", lambda: None)
    assert "there is no NVIDIA driver on this machine" in CudaBackend().available().detail


def test_a_missing_compiler_is_said_with_what_brings_it(cupy):
    cupy.cuda.nvrtc.getVersion = failing(ImportError("libnvrtc.so.13"))
    ok, detail = CudaBackend().available()
    assert not ok
    assert "pip install 'cupy-cuda13x[ctk]'" in detail
    assert "libnvrtc.so.13" in detail


def test_a_device_that_is_too_old_is_said(cupy):
    cupy.properties.update(major=6, minor=1)
    ok, detail = CudaBackend().available()
    assert not ok
    assert "compute capability 6.1; 7.0 is needed" in detail


def test_available_never_raises(cupy):
    cupy.cuda.runtime.getDeviceProperties = failing(ValueError("of all things"))
    assert CudaBackend().available() == (False, "CuPy fails: of all things")
