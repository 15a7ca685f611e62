"""Networks and layouts to checkpoints."""

from masktools.export.network import from_onnx, from_torch

__all__ = ["from_onnx", "from_torch"]
