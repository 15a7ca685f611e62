"""Masks and weights out of the files of pruning tools.

One front door: the container of a file is told by its content, the tool that wrote it by its keys.
docs/mask_formats.md lists what is read, and what is assumed.
"""

from masktools.importers.load import (
    LayerSummary,
    MaskFile,
    Masks,
    inspect_masks,
    load_masks,
    load_weights,
)
from masktools.importers.save import save_masks

__all__ = [
    "LayerSummary",
    "MaskFile",
    "Masks",
    "inspect_masks",
    "load_masks",
    "load_weights",
    "save_masks",
]
