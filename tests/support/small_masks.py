"""A mask of two rows, and weights for it."""

from __future__ import annotations

import numpy as np

MASK = np.array([[True, False, True], [False, True, False]])


DENSE = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
