"""The file that holds a network ready to run; docs/format.md specifies it."""

from masktools.checkpoint.file import Checkpoint, read, write
from masktools.checkpoint.weights import Residual, SparseWeight

__all__ = ["Checkpoint", "Residual", "SparseWeight", "read", "write"]
