"""Build the native extensions; everything else about the package stands in pyproject.toml.

MASKTOOLS_SANITIZE=1 builds them with the address and undefined-behaviour sanitizers, for tests.
Compilers are run through ccache where it is installed; CCACHE_DISABLE=1 leaves it out.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension
from setuptools import find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

WINDOWS = sys.platform == "win32"
SANITIZE = bool(os.environ.get("MASKTOOLS_SANITIZE"))
# Left out: what the address sanitizer sees as well, and doubles the time to compile.
CHECKS = ["-fsanitize=address,undefined", "-fno-sanitize=null,object-size,vptr"]
SANITIZERS = [*CHECKS, "-fno-sanitize-recover=all"] if SANITIZE else []

CPU = Path("cpu")
# Hidden symbols, so that no variant takes code of another: they have the same names. Vectors wider
# than the variant's own never leave the file that uses them, hence no warning of how they would.
CPU_FLAGS = ["-fvisibility=hidden", "-fvisibility-inlines-hidden", "-Wall", "-Wextra", "-Wno-psabi"]

# What is compiled as one, which saves reading what all include. Every other kernel is large.
TOGETHER = {
    "layers": (
        *("kernels/layers", "kernels/unfold", "kernels/grouped/layer"),
        *("kernels/grouped/convolution", "simd/activate", "simd/machine"),
    ),
    "depthwise": ("kernels/depthwise", "kernels/depthwise_kernel"),
    "nonzeros": ("kernels/nonzeros/rows", "kernels/nonzeros/window"),
    "steps": (
        "steps/elementwise",
        "steps/gather",
        "steps/interpolation",
        "steps/movement",
        "steps/pool",
    ),
    "sums": ("steps/matmul", "steps/reduce", "steps/reduction"),
}

# The CPU backend is one source; its kernels are compiled once for each of these.
VARIANTS: dict[str, list[str]] = {"portable": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    VARIANTS["avx2"] = ["-mavx2", "-mfma", "-mf16c", "-mprfchw"]
    VARIANTS["avx512"] = [
        *VARIANTS["avx2"],
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"),
    ]


def optimized(*flags: str) -> list[str]:
    """Return the flags of code that is as fast as `flags` make it, or sanitized."""
    # GCC tidies its memory from a gigabyte on: a tenth of the time, and the same code.
    memory = "--param=ggc-min-heapsize=1000000"
    if SANITIZE:
        return ["-O1", "-g1", "-fno-omit-frame-pointer", *SANITIZERS, memory]
    # Python asks for debug information, which takes 6 % of the time and which no user reads.
    debug = "-g0"
    # Nothing that is compiled here depends on errno or on floating-point exceptions.
    return [*flags, debug, "-fno-math-errno", "-fno-trapping-math", memory]


@dataclass(frozen=True)
class Unit:
    """Sources that are compiled as one, with what: the objects of extensions are made of these.

    Attributes
    ----------
    name : str
        Where the object lies in the folder of objects; no two units have one name.
    sources : tuple of str
        Several share the time to read what all include.
    flags : tuple of str
        Besides those that Python was compiled with.
    """

    name: str
    sources: tuple[str, ...]
    flags: tuple[str, ...]

    def source(self, folder: Path) -> str:
        """Return the file to compile: the only source, or one in `folder` that includes all."""
        if len(self.sources) == 1:
            return self.sources[0]
        text = "".join(
            f'#include "{Path(path).relative_to(CPU).as_posix()}"\n' for path in self.sources
        )
        path = folder / f"{self.name}.cpp"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
        return str(path)


class Native(Pybind11Extension):
    """An extension that may be missing: the rest of the toolkit works without it, and says so."""

    def __init__(self, name: str, units: list[Unit], depends: list[str], purpose: str) -> None:
        super().__init__(
            name,
            [path for unit in units for path in unit.sources],
            depends=[*depends, "setup.py"],
            include_dirs=[str(CPU)],
            cxx_std=17,
            extra_link_args=SANITIZERS,
            optional=True,
        )
        self.units = units
        self.purpose = purpose


class BuildNative(build_ext):
    """Compiles all units side by side, and says what the toolkit lacks without an extension."""

    def finalize_options(self) -> None:
        """Use all processors, unless the caller says how many."""
        super().finalize_options()
        self.jobs = self.parallel or os.cpu_count()
        self.parallel = None  # extensions are linked one after the other

    def build_extensions(self) -> None:
        """Compile the units of what is older than its sources, then link."""
        self.compile_through_ccache()
        self.objects: dict[Unit, Future[list[str]]] = {}
        with ThreadPoolExecutor(self.jobs) as pool:
            for ext in filter(self.is_stale, self.extensions):
                for unit in set(ext.units) - set(self.objects):
                    self.objects[unit] = pool.submit(self.compile, unit, ext)
            super().build_extensions()

    def compile_through_ccache(self) -> None:
        """Use ccache where there is one, and the compiler is not it already."""
        ccache = shutil.which("ccache")
        if WINDOWS or ccache is None or os.environ.get("CCACHE_DISABLE"):
            return
        for name in ("compiler_so", "compiler_so_cxx"):
            command = getattr(self.compiler, name, None)
            if command and "ccache" not in os.path.realpath(shutil.which(command[0]) or command[0]):
                setattr(self.compiler, name, [ccache, *command])

    def is_stale(self, ext: Native) -> bool:
        """Tell whether an extension must be built.

        An editable installation builds in a folder of its own: what lies in the source tree and is
        up to date is copied there, so that a second environment finds everything built.
        """
        made = self.get_ext_fullpath(ext.name)
        inplace = self.get_ext_filename(ext.name)
        inputs = [*ext.sources, *ext.depends]
        if self.editable_mode and not (self.force or SANITIZE or newer_group(inputs, inplace)):
            self.mkpath(str(Path(made).parent))
            self.copy_file(inplace, made)
        return bool(self.force or newer_group(inputs, made))

    def compile(self, unit: Unit, ext: Native) -> list[str]:
        """Compile a unit; return its objects."""
        folder = Path(self.get_finalized_command("build").build_base, "units")
        return self.compiler.compile(
            [unit.source(folder)],
            output_dir=str(Path(self.build_temp, unit.name)),
            include_dirs=ext.include_dirs,
            extra_postargs=[*ext.extra_compile_args, *unit.flags],
        )

    def build_extension(self, ext: Native) -> None:
        """Link an extension of its objects; where that fails, tell what it is for."""
        if not self.is_stale(ext):
            return
        try:
            objects = [path for unit in ext.units for path in self.objects[unit].result()]
            linked = copy(ext)
            linked.sources, linked.extra_objects = [], objects
            linked.depends = [*ext.sources, *ext.depends]
            super().build_extension(linked)
        except Exception:
            sys.stderr.write(
                f"\n*** {ext.name} was not built: it needs a C++17 compiler "
                f"(GCC 10 or newer, or Clang 12 or newer).\n*** {ext.purpose}\n\n"
            )
            raise


def cpp(folder: Path) -> list[Path]:
    """Return the sources in a folder, without those in folders inside it."""
    return sorted(folder.glob("*.cpp"))


def search() -> Native:
    """Return the search over row groups."""
    # Products must not be contracted into sums: the search gives the same groups on every machine.
    flags = ["/O2", "/fp:precise"] if WINDOWS else optimized("-O3", "-ffp-contract=off")
    unit = Unit("search", ("masktools/partition/_search.cpp",), tuple(flags))
    purpose = "Without it row groups are refined by assignment alone."
    return Native(
        "masktools.partition._search", [unit], ["masktools/partition/_row_groups.h"], purpose
    )


def common() -> list[Unit]:
    """Return what does not depend on a variant's instructions, nor on how fast it is."""
    flags = (*optimized("-O1"), *CPU_FLAGS)
    # What binds is one unit: to read pybind11 takes longer than to compile any of it.
    return [Unit(name, tuple(map(str, cpp(CPU / name))), flags) for name in ("binding", "program")]


def kernels(variant: str, instructions: list[str]) -> list[Unit]:
    """Return what is compiled for each variant."""
    # -O2 does not see through strides: steps of bfloat16 would take up to 13 times as long.
    flags = (*optimized("-O3"), *CPU_FLAGS, *instructions, "-ffp-contract=fast")
    together = {name for names in TOGETHER.values() for name in names}
    found = {
        path.relative_to(CPU).with_suffix("").as_posix()
        for folder in ("kernels", "steps", "simd")
        for path in (CPU / folder).rglob("*.cpp")
    }
    units = TOGETHER | {name: (name,) for name in sorted(found - together)}
    return [
        Unit(f"{variant}/{name}", tuple(f"{CPU}/{source}.cpp" for source in sources), flags)
        for name, sources in units.items()
    ]


def cpu(variant: str, instructions: list[str]) -> Native:
    """Return one variant of the CPU backend."""
    purpose = f"Without it networks do not run on the {variant} variant of the CPU backend."
    headers = sorted(map(str, CPU.rglob("*.h")))
    units = [*common(), *kernels(variant, instructions)]
    return Native(f"runtime.cpu._{variant}", units, headers, purpose)


# The kernels are written in the vector extensions of GCC and Clang, which MSVC lacks.
VARIANTS_HERE = {} if WINDOWS else VARIANTS

# `cuda/` holds no Python: its kernels are the package data of a package that has nothing else.
PACKAGES = [*find_packages(include=["masktools*", "runtime*"]), "runtime.cuda.kernels"]

setup(
    packages=PACKAGES,
    ext_modules=[*(cpu(*variant) for variant in VARIANTS_HERE.items()), search()],
    cmdclass={"build_ext": BuildNative},
)
