"""NVIDIA's run-time compiler, which needs no GPU: found where pip puts it, called by ctypes."""

from __future__ import annotations

import ctypes
import functools
import re
import sys
from pathlib import Path
from typing import NamedTuple

PATTERNS = ("nvidia/cu*/lib/libnvrtc.so.*", "nvidia/cuda_nvrtc/lib/libnvrtc.so.*")
REPORT = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
    r"(\d+) bytes spill loads"
    r".*?Used (\d+) registers",
    re.DOTALL,
)


class CompileError(RuntimeError):
    """What the compiler says of a source that it refuses."""


class Kernel(NamedTuple):
    """What the assembler made of a kernel."""

    registers: int
    stack: int  # bytes
    spilled: int  # bytes stored and loaded


class Compiled(NamedTuple):
    """A module: its kernels by name, and its text in PTX."""

    kernels: dict[str, Kernel]
    ptx: str


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the newest compiler that is installed, or None."""
    found = [
        path
        for folder in sys.path
        for pattern in PATTERNS
        for path in Path(folder).glob(pattern)
        if "alt" not in path.name
    ]
    newest = sorted(found, key=lambda path: int(path.name.rpartition(".")[2]))[-1:]
    return ctypes.CDLL(str(newest[0])) if newest else None


def architectures() -> set[int]:
    """Return the architectures that the compiler knows, 90 for sm_90."""
    count = ctypes.c_int()
    call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
    known = (ctypes.c_int * count.value)()
    call("nvrtcGetSupportedArchs", known)
    return set(known)


def call(name, *arguments):
    """Call a function that returns a status."""
    status = getattr(library(), name)(*arguments)
    if status:
        raise CompileError(f"{name} returned {status}")


def text(program, what):
    """Return the log or the PTX of a program."""
    size = ctypes.c_size_t()
    call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    call(f"nvrtcGet{what}", program, buffer)
    return buffer.value.decode()


def compiled(source: str, options: tuple[str, ...]) -> Compiled:
    """Compile and assemble a source.

    Raises
    ------
    CompileError
        With the compiler's log.
    """
    program = ctypes.c_void_p()
    call(
        "nvrtcCreateProgram",
        ctypes.byref(program),
        source.encode(),
        b"kernels.cu",
        0,
        None,
        None,
    )
    try:
        given = [*options, "--ptxas-options=-v"]
        try:
            call(
                "nvrtcCompileProgram",
                program,
                len(given),
                (ctypes.c_char_p * len(given))(*(option.encode() for option in given)),
            )
        except CompileError as error:
            raise CompileError(text(program, "ProgramLog")) from error
        log = text(program, "ProgramLog")
        kernels = {
            name: Kernel(int(registers), int(stack), int(stored) + int(loaded))
            for name, stack, stored, loaded, registers in REPORT.findall(log)
        }
        return Compiled(kernels, text(program, "PTX"))
    finally:
        call("nvrtcDestroyProgram", ctypes.byref(program))
