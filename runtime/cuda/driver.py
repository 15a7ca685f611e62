"""Find CuPy, a driver, a device and a compiler on this machine, or say which is missing."""

from __future__ import annotations

from types import ModuleType

from runtime.cuda.device import Device
from runtime.errors import BackendUnavailable

# The oldest architecture that there are kernels for.
OLDEST = 70

_DEVICES: dict[tuple[int, int], Device] = {}


def cupy_module() -> ModuleType:
    """Return CuPy, which is imported here and nowhere else.

    Raises
    ------
    BackendUnavailable
        With what to install; or in a process forked from one that had used a device.
    """
    for device in tuple(_DEVICES.values()):  # another thread may add one
        device.check_process()
    try:
        import cupy
    except ImportError as error:
        raise BackendUnavailable(f"{_missing()} ({error})") from error
    return cupy  # type: ignore[no-any-return]


def current_device(cupy: ModuleType) -> Device:
    """Return the current device; kernels and tables on it are kept while the process runs.

    Raises
    ------
    BackendUnavailable
        If there is none, it is too old, or there is no compiler for it.
    """
    try:
        if not cupy.cuda.runtime.getDeviceCount():
            raise BackendUnavailable("CuPy finds no NVIDIA GPU on this machine")
        number = cupy.cuda.Device().id
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise BackendUnavailable(f"CuPy finds no NVIDIA GPU: {error}; {_driver()}") from error
    key = (id(cupy), number)
    if key not in _DEVICES:
        device = Device(cupy, number)
        if device.hardware.capability < OLDEST:
            raise BackendUnavailable(
                f"{device.hardware.name} has compute capability "
                f"{device.hardware.capability / 10:.1f}; {OLDEST / 10:.1f} is needed"
            )
        try:
            _ = device.compiler
        except Exception as error:
            raise BackendUnavailable(
                "CuPy finds no compiler (NVRTC): pip install 'cupy-cuda13x[ctk]', or "
                f"'cupy-cuda12x[ctk]' where cupy-cuda12x is installed ({error})"
            ) from error
        _DEVICES[key] = device
    return _DEVICES[key]


def _missing() -> str:
    """Return which package of CuPy fits the driver of this machine."""
    if driver_version() is not None:
        return f"CuPy is not installed; {_driver()}"
    return (
        "no NVIDIA driver and no CuPy on this machine; where there is a GPU with its driver, "
        "pip install 'cupy-cuda13x[ctk]' (drivers from 580 on) or 'cupy-cuda12x[ctk]' (525 on)"
    )


def _driver() -> str:
    """Return in words the CUDA version of the driver, and the package of CuPy that fits it."""
    version = driver_version()
    if version is None:
        return "there is no NVIDIA driver on this machine"
    series = 13 if version >= 13000 else 12
    return (
        f"the driver is for CUDA {version // 1000}.{version % 1000 // 10}: "
        f"pip install 'cupy-cuda{series}x[ctk]'"
    )


def driver_version() -> int | None:
    """Return the CUDA version that the driver is for, 13000 for 13.0; None where there is none."""
    import ctypes

    for library in ("libcuda.so.1", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(library)
        except OSError:
            continue
        version = ctypes.c_int()
        if driver.cuDriverGetVersion(ctypes.byref(version)) == 0:
            return version.value
    return None
