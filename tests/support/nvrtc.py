"""NVIDIA's run-time compilers, which need no GPU: found where pip puts them, called by ctypes."""

from __future__ import annotations

import ctypes
import functools
import re
import sys
from pathlib import Path
from typing import NamedTuple

from runtime.cuda import kernel_source

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


def options(capability: int) -> tuple[str, ...]:
    """Return what a compiler is given for a device: our options, and those that CuPy 14 adds."""
    return (
        *kernel_source.OPTIONS,
        "-ftz=true",
        f"-arch=sm_{capability}",
        "--device-as-default-execution-space",
    )


@functools.cache
def compilers() -> dict[int, Compiler]:
    """Return the compilers that are installed, by their major version, the newest last."""
    found = {
        int(path.name.rpartition(".")[2]): path
        for folder in sys.path
        for pattern in PATTERNS
        for path in Path(folder).glob(pattern)
        if "alt" not in path.name
    }
    return {version: Compiler(found[version]) for version in sorted(found)}


class Compiler:
    """A compiler: one library.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))

    def architectures(self) -> set[int]:
        """Return the architectures that it knows, 90 for sm_90."""
        count = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        known = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", known)
        return set(known)

    def compiled(self, source: str, options: tuple[str, ...]) -> Compiled:
        """Compile and assemble a source.

        Raises
        ------
        CompileError
            With the compiler's log.
        """
        program = ctypes.c_void_p()
        text = (source.encode(), b"kernels.cu", 0, None, None)
        self._call("nvrtcCreateProgram", ctypes.byref(program), *text)
        given = [option.encode() for option in (*options, "--ptxas-options=-v")]
        try:
            try:
                pointers = (ctypes.c_char_p * len(given))(*given)
                self._call("nvrtcCompileProgram", program, len(given), pointers)
            except CompileError as error:
                raise CompileError(self._text(program, "ProgramLog")) from error
            log = self._text(program, "ProgramLog")
            kernels = {
                name: Kernel(int(registers), int(stack), int(stored) + int(loaded))
                for name, stack, stored, loaded, registers in REPORT.findall(log)
            }
            return Compiled(kernels, self._text(program, "PTX"))
        finally:
            self._call("nvrtcDestroyProgram", ctypes.byref(program))

    def _call(self, name, *arguments):
        """Call a function that returns a status."""
        status = getattr(self._library, name)(*arguments)
        if status:
            raise CompileError(f"{name} returned {status}")

    def _text(self, program, what):
        """Return the log or the PTX of a program."""
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{what}", program, buffer)
        return buffer.value.decode()
