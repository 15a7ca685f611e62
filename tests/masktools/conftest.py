"""A small network that is exported, converted and calibrated."""

from __future__ import annotations

import pytest
import small_network


@pytest.fixture
def module():
    return small_network.make()


@pytest.fixture
def net(module, tmp_path):
    """The network as a file."""
    return small_network.saved(module, tmp_path)
