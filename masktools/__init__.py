"""masktools: unstructured pruning masks in, structure that hardware likes out.

The names below are loaded when first used, so that ``import masktools`` stays cheap.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from masktools import export as export
    from masktools.convert import Conversion as Conversion
    from masktools.convert import convert as convert
    from masktools.errors import FormatError as FormatError
    from masktools.errors import GraphError as GraphError
    from masktools.errors import MaskError as MaskError
    from masktools.errors import PartitionError as PartitionError
    from masktools.graph import Graph as Graph
    from masktools.importers import load_masks as load_masks
    from masktools.importers import load_weights as load_weights
    from masktools.importers import save_masks as save_masks
    from masktools.layout import BlockLayout as BlockLayout
    from masktools.layout import DenseBlock as DenseBlock
    from masktools.refill import refill as refill
    from masktools.regroup import regroup as regroup

__version__ = "0.1.0"

_HOME = {
    "BlockLayout": "layout",
    "Conversion": "convert",
    "DenseBlock": "layout",
    "FormatError": "errors",
    "Graph": "graph",
    "GraphError": "errors",
    "MaskError": "errors",
    "PartitionError": "errors",
    "convert": "convert",
    "load_masks": "importers",
    "load_weights": "importers",
    "refill": "refill",
    "regroup": "regroup",
    "save_masks": "importers",
}

__all__ = ["__version__", "export", *sorted(_HOME)]


class _Package(ModuleType):
    """`refill`, `regroup` and `convert` are a function and the module it stands in.

    Importing a submodule binds it on its package; here the function keeps the name.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    if name == "export":
        return import_module("masktools.export")
    if name not in _HOME:
        raise AttributeError(f"module 'masktools' has no attribute {name!r}")
    value = getattr(import_module(f"masktools.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
