"""Export networks with masks or layouts to checkpoints."""

from masktools.export.exporting import from_onnx, from_torch

__all__ = ["from_onnx", "from_torch"]
