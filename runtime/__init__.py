"""Run a checkpoint of masktools, with numpy alone or faster.

The names below are loaded when first used, so that ``import runtime`` stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.errors import BackendUnavailable as BackendUnavailable
    from runtime.errors import InputError as InputError
    from runtime.errors import KernelError as KernelError
    from runtime.errors import PlanError as PlanError
    from runtime.model import Model as Model
    from runtime.model import StepProfile as StepProfile
    from runtime.model import load as load
    from runtime.model import prepare as prepare

_HOME = {
    "BackendUnavailable": "errors",
    "InputError": "errors",
    "KernelError": "errors",
    "Model": "model",
    "PlanError": "errors",
    "StepProfile": "model",
    "load": "model",
    "prepare": "model",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    if name not in _HOME:
        raise AttributeError(f"module 'runtime' has no attribute {name!r}")
    value = getattr(import_module(f"runtime.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
