"""Lower nodes to steps: a file for each family of operators, a row for each operator."""

from runtime.plan.lowering.table import LOWERING, lower

__all__ = ["LOWERING", "lower"]
