"""The errors of masktools. Each names the file, the layer and the value that are wrong."""

from __future__ import annotations


class MasktoolsError(Exception):
    """Base of every error that masktools raises on purpose."""


class MaskError(MasktoolsError, ValueError):
    """A mask, a weight or a layout that does not fit: shape, dtype, range, names."""


class FormatError(MasktoolsError, ValueError):
    """A file that cannot be read: unknown, ambiguous, damaged or hostile."""


class GraphError(MasktoolsError, ValueError):
    """A network that cannot be represented: an operator, an attribute or a shape."""


class CalibrationError(MasktoolsError, ValueError):
    """Inputs or labels that a network cannot be calibrated on."""


class TicketError(MasktoolsError, ValueError):
    """A search for a ticket that cannot go on: what training gave, a density, an emptied layer."""


class PartitionError(MasktoolsError, RuntimeError):
    """A partitioner that failed, or is not installed."""


def printable(text: str) -> str:
    r"""Return a text as one line that is safe to show: invisible characters are escaped.

    Names come out of files; a terminal would obey the control sequences in them.

    Examples
    --------
    >>> print(printable("conv1 \x1b[2J"))
    conv1 \x1b[2J
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
