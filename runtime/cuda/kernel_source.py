"""The source of the kernels: files of `cuda/` with their includes written in, as one text.

A compiler's cache does not see what an include path leads to; one text it does. Nothing here
compiles or launches.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from runtime.cuda.configuration import Configuration
from runtime.errors import BackendUnavailable
from runtime.plan.steps import ACTIVATIONS

# What the compiler is told. CuPy adds the architecture: the device's own, or the newest that the
# compiler knows where the device is newer.
OPTIONS = ("--std=c++17",)

_INCLUDE = re.compile(r'^#include "([^"]+)"\n', re.MULTILINE)
_KINDS = {"float32": "FLOAT32", "tf32": "TF32", "float16": "FLOAT16"}


def folder() -> Path:
    """Return where the kernels' files are: in the package, or beside it in a checkout.

    Raises
    ------
    BackendUnavailable
        If they are in neither place.
    """
    here = Path(__file__).parent
    for place in (here / "kernels", here.parents[1] / "cuda"):
        if (place / "convolution.cuh").is_file():
            return place
    raise BackendUnavailable(
        f"backend 'cuda': the kernels' source is missing, {here / 'kernels'} has none: "
        "install masktools anew"
    )


def expand(name: str, replaced: Mapping[str, str] | None = None) -> str:
    """Return a file of `cuda/` with what it includes written in, each file once.

    Parameters
    ----------
    name : str
        The file's name, such as ``"convolution.cuh"``.
    replaced : mapping of str to str, default None
        Text to take in place of some files.

    Examples
    --------
    >>> text = expand("finish.cu")
    >>> "struct Geometry" in text, "#include" in text
    (True, False)
    """
    place = folder()
    seen: set[str] = set()

    def text_of(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        if replaced is not None and name in replaced:
            return replaced[name]
        text = (place / name).read_text(encoding="utf-8").replace("#pragma once\n", "")
        return _INCLUDE.sub(lambda found: text_of(found[1]), text)

    return text_of(name)


def render(
    configurations: Iterable[Configuration], replaced: Mapping[str, str] | None = None
) -> str:
    """Return one text with a kernel for each configuration, under its `name`.

    The same configurations give the same text, in whatever order and however often they come.
    """
    kernels = {configuration.name: configuration for configuration in configurations}
    return expand("convolution.cuh", replaced) + "".join(
        _kernel(kernels[name]) for name in sorted(kernels)
    )


def _kernel(c: Configuration) -> str:
    number = "masktools::Half" if c.dtype == "float16" else "float"
    return f"""
struct Of_{c.name} {{
  using Number = {number};
  static constexpr int KIND = masktools::{_KINDS[c.dtype]};
  static constexpr int ACTIVATION = {ACTIVATIONS[c.activation] if c.activation else 0};
  static constexpr int ROWS = {c.rows}, POSITIONS = {c.positions}, DEPTH = {c.depth};
  static constexpr int WARP_ROWS = {c.warp_rows}, WARP_POSITIONS = {c.warp_positions};
  static constexpr int THREADS = {c.threads}, STAGES = {c.stages}, COPY_BYTES = {c.copy_bytes};
  static constexpr bool ASYNC = {str(c.asynchronous).lower()}, ALIGNED = {str(c.aligned).lower()};
  static constexpr int REMAINDER_POSITIONS = {c.remainder_positions};
  static constexpr int REMAINDER_SPAN = {c.remainder_span};
}};
extern "C" __global__ void __launch_bounds__({c.threads}, {c.blocks_per_processor})
    {c.name}(const {number}* x, const {number}* weights, const float* remainder_weights,
             const int* columns, const masktools::Tile* tiles, const int* targets,
             const float* bias, const {number}* skip, {number}* y, float* partial,
             masktools::Geometry geometry) {{
  masktools::convolution<Of_{c.name}>(x, weights, remainder_weights, columns, tiles, targets,
                                      {{bias, skip, y, partial}}, geometry);
}}
"""


def digest(source: str, options: Sequence[str], compiler: str) -> str:
    """Return a key for what these would compile to: 32 hexadecimal digits.

    Examples
    --------
    >>> digest("a", ("b",), "c") == digest("a", ("bc",), "")
    False
    """
    parts = (source, *options, compiler)
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
