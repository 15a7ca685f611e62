"""Build the native extensions; everything else about the package stands in pyproject.toml.

MASKTOOLS_SANITIZE=1 builds them with the address and undefined-behaviour sanitizers, for tests.
"""

from __future__ import annotations

import os
import platform
import sys
from copy import copy
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension
from setuptools import find_packages, setup
from setuptools.command.build_ext import build_ext

WINDOWS = sys.platform == "win32"
SANITIZE = bool(os.environ.get("MASKTOOLS_SANITIZE"))
OPTIMIZE = ["-O1", "-g1", "-fno-omit-frame-pointer"] if SANITIZE else ["-O3"]
# Left out: what the address sanitizer sees as well, and doubles the time to compile.
CHECKS = ["-fsanitize=address,undefined", "-fno-sanitize=null,object-size,vptr"]
SANITIZERS = [*CHECKS, "-fno-sanitize-recover=all"] if SANITIZE else []
# Nothing that the kernels do depends on errno or on floating-point exceptions.
FLOAT = ["-fno-math-errno", "-fno-trapping-math"]

# The CPU backend is one source, compiled once for each of these.
VARIANTS = {"portable": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    VARIANTS["avx2"] = ["-mavx2", "-mfma", "-mf16c", "-mprfchw"]
    VARIANTS["avx512"] = [
        *VARIANTS["avx2"],
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"),
    ]


class BuildNative(build_ext):
    """Builds extensions side by side, and says what the toolkit lacks without one."""

    def finalize_options(self) -> None:
        """Use all processors, unless the caller says how many."""
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extension(self, ext: Native) -> None:
        """Build an extension; where that fails, tell what it is for."""
        # A folder of its own for its objects: variants have sources in common.
        own = copy(self)
        own.build_temp = str(Path(self.build_temp, ext.name))
        try:
            super(BuildNative, own).build_extension(ext)
        except Exception:
            sys.stderr.write(
                f"\n*** {ext.name} was not built: it needs a C++17 compiler "
                f"(GCC 10 or newer, or Clang 12 or newer).\n*** {ext.purpose}\n\n"
            )
            raise


class Native(Pybind11Extension):
    """An extension that may be missing: the rest of the toolkit works without it, and says so."""

    def __init__(
        self,
        name: str,
        sources: list[str],
        depends: list[str],
        flags: list[str],
        macros: list[tuple[str, str | None]],
        purpose: str,
    ) -> None:
        super().__init__(
            name,
            sources,
            depends=depends,
            include_dirs=["cpu"],
            cxx_std=17,
            extra_compile_args=flags + (SANITIZERS if not WINDOWS else []),
            extra_link_args=SANITIZERS,
            define_macros=macros,
            optional=True,
        )
        self.purpose = purpose


def search() -> Native:
    """Return the search over row groups."""
    # Products must not be contracted into sums: the search gives the same groups on every machine.
    flags = ["/O2", "/fp:precise"] if WINDOWS else [*OPTIMIZE, "-ffp-contract=off", *FLOAT]
    purpose = "Without it row groups are refined by assignment alone."
    sources, depends = ["masktools/partition/_search.cpp"], ["masktools/partition/_row_groups.h"]
    return Native("masktools.partition._search", sources, depends, flags, [], purpose)


def cpu(variant: str, instructions: list[str]) -> Native:
    """Return one variant of the CPU backend."""
    name = f"_{variant}"
    # Hidden symbols, so that no variant takes code of another: they have the same names.
    flags = [*OPTIMIZE, *FLOAT, *instructions, "-ffp-contract=fast", "-fvisibility=hidden"]
    flags += ["-fvisibility-inlines-hidden", "-Wall", "-Wextra"]
    # Vectors wider than the variant's own never leave the file that uses them.
    flags += ["-Wno-psabi"]
    macros = [("MASKTOOLS_MODULE", name), ("MASKTOOLS_ISA", variant)]
    purpose = f"Without it networks do not run on the {variant} variant of the CPU backend."
    sources, depends = (
        sorted(map(str, Path("cpu").rglob("*.cpp"))),
        sorted(map(str, Path("cpu").rglob("*.h"))),
    )
    return Native(f"runtime.cpu.{name}", sources, depends, flags, macros, purpose)


# The kernels are written in the vector extensions of GCC and Clang, which MSVC lacks.
CPU = [] if WINDOWS else [cpu(variant, flags) for variant, flags in VARIANTS.items()]

# `cuda/` holds no Python: its kernels are the package data of a package that has nothing else.
PACKAGES = [*find_packages(include=["masktools*", "runtime*"]), "runtime.cuda.kernels"]

setup(packages=PACKAGES, ext_modules=[*CPU, search()], cmdclass={"build_ext": BuildNative})
