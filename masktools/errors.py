"""What masktools raises. Each error names the file, the layer and the value that are wrong."""

from __future__ import annotations


class MasktoolsError(Exception):
    """Base of every error that masktools raises on purpose."""


class MaskError(MasktoolsError, ValueError):
    """A mask, a weight or a layout that does not fit: shape, dtype, range, names."""


class FormatError(MasktoolsError, ValueError):
    """A file that cannot be read: unknown, ambiguous, damaged or hostile."""


class GraphError(MasktoolsError, ValueError):
    """A network that cannot be represented: an operator, an attribute or a shape."""


class PartitionError(MasktoolsError, RuntimeError):
    """A partitioner that failed, or is not installed."""
