"""Which rows of a mask share columns: partitioners, refinement and budgets."""
