"""The ticket that commands are run on."""

from __future__ import annotations

import numpy as np
import pytest
from ticket_commands import SHAPES


@pytest.fixture
def weights():
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


@pytest.fixture
def ticket(tmp_path, weights):
    """A file of masked weights, and the masks it holds."""
    path = tmp_path / "ticket.npz"
    np.savez(path, **{name: np.where(np.abs(w) > 1, w, 0) for name, w in weights.items()})
    return path
