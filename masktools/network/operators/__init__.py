"""The operators of the normal form: a file for each family, a row for each operator."""

from masktools.network.operators.arithmetic import ARITHMETIC
from masktools.network.operators.resizing import COORDINATES, ROUNDINGS
from masktools.network.operators.table import OPERATORS, check_node, operator_of, version_of

__all__ = [
    "ARITHMETIC",
    "COORDINATES",
    "OPERATORS",
    "ROUNDINGS",
    "check_node",
    "operator_of",
    "version_of",
]
