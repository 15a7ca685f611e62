"""masktools: unstructured pruning masks in, structure that hardware likes out.

The names below are loaded when first used, so that ``import masktools`` stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from masktools.version import __version__ as __version__

if TYPE_CHECKING:
    from masktools import export as export
    from masktools import prune as prune
    from masktools import tickets as tickets
    from masktools.calibration.report import Calibration as Calibration
    from masktools.conversion.calibrate import calibrate as calibrate
    from masktools.conversion.convert import Conversion as Conversion
    from masktools.conversion.convert import convert as convert
    from masktools.errors import CalibrationError as CalibrationError
    from masktools.errors import FormatError as FormatError
    from masktools.errors import GraphError as GraphError
    from masktools.errors import MaskError as MaskError
    from masktools.errors import PartitionError as PartitionError
    from masktools.errors import TicketError as TicketError
    from masktools.importers import load_masks as load_masks
    from masktools.importers import load_weights as load_weights
    from masktools.importers import save_masks as save_masks
    from masktools.layout import BlockLayout as BlockLayout
    from masktools.layout import DenseBlock as DenseBlock
    from masktools.network.graph import Graph as Graph
    from masktools.transform.refill import refill as refill
    from masktools.transform.regroup import regroup as regroup

_HOME = {
    "BlockLayout": "layout",
    "Calibration": "calibration.report",
    "CalibrationError": "errors",
    "Conversion": "conversion.convert",
    "DenseBlock": "layout",
    "FormatError": "errors",
    "Graph": "network.graph",
    "GraphError": "errors",
    "MaskError": "errors",
    "PartitionError": "errors",
    "TicketError": "errors",
    "calibrate": "conversion.calibrate",
    "convert": "conversion.convert",
    "load_masks": "importers",
    "load_weights": "importers",
    "refill": "transform.refill",
    "regroup": "transform.regroup",
    "save_masks": "importers",
}

_FOLDERS = ("export", "prune", "tickets")

__all__ = ["__version__", *_FOLDERS, *sorted(_HOME)]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    if name in _FOLDERS:
        return import_module(f"masktools.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'masktools' has no attribute {name!r}")
    value = getattr(import_module(f"masktools.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
