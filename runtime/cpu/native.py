"""Which variant of the CPU kernels runs here: the best that was built and the processor has."""

from __future__ import annotations

import os
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np

from runtime.errors import BackendUnavailable

VARIABLE = "MASKTOOLS_CPU_ISA"
# Best first, with what each needs of the processor.
VARIANTS: dict[str, tuple[str, ...]] = {
    "avx512": ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c"),
    "avx2": ("avx2", "fma", "f16c"),
    "portable": (),
}


def load() -> Any:  # noqa: ANN401 - a compiled module
    """Return the compiled module of the best variant, or of the one that is asked for.

    Returns
    -------
    module
        `runtime.cpu._avx512`, `runtime.cpu._avx2` or `runtime.cpu._portable`.

    Raises
    ------
    BackendUnavailable
        If nothing was built; or if the variable MASKTOOLS_CPU_ISA names a variant that does not
        exist, that was not built, or that the processor lacks.
    """
    wanted = os.environ.get(VARIABLE)
    if wanted is not None and wanted not in VARIANTS:
        raise BackendUnavailable(f"{VARIABLE}={wanted!r}: there are {', '.join(VARIANTS)}")
    features = processor_features()
    for variant, needs in VARIANTS.items():
        if wanted not in (None, variant):
            continue
        missing = [name for name in needs if not features.get(name, False)]
        if missing and wanted:
            raise BackendUnavailable(
                f"{VARIABLE}={wanted}: the processor lacks {', '.join(missing)}"
            )
        if missing:
            continue
        try:
            return _module(variant)
        except ImportError as error:
            if wanted:
                raise BackendUnavailable(
                    f"{VARIABLE}={wanted}: this variant was not built ({error})"
                ) from error
    raise BackendUnavailable(_NOT_BUILT)


def processor_features() -> dict[str, bool]:
    """Return what the processor has, by name.

    Raises
    ------
    BackendUnavailable
        If the kernels were not built.
    """
    features: dict[str, bool] = _built().features()
    return features


def _built() -> Any:  # noqa: ANN401 - a compiled module
    """Return the module of the variant that runs anywhere."""
    try:
        return _module("portable")
    except ImportError as error:
        raise BackendUnavailable(f"{_NOT_BUILT} ({error})") from error


@lru_cache(maxsize=1)
def run_type() -> np.dtype[np.void]:
    """Return the type of a run, with its fields by name, as the kernels lay it out."""
    made: np.dtype[np.void] = _built().run
    return made


@lru_cache(maxsize=8)
def numbers(enumeration: str) -> dict[str, int]:
    """Return the numbers that the kernels have for the values of an enumeration, by name.

    Parameters
    ----------
    enumeration : str
        "combine": how a lane meets what the output holds; "flags": of a group.
    """
    found: dict[str, int] = _built().enums[enumeration]
    return found


_NOT_BUILT = (
    "the kernels of the CPU backend were not built: install a C++17 compiler and run "
    "`pip install --force-reinstall --no-deps .` again"
)


def _module(variant: str) -> Any:  # noqa: ANN401
    return import_module(f"runtime.cpu._{variant}")
