"""Checks of arguments: the wrong kind is a TypeError, the wrong content a MaskError."""

from __future__ import annotations

import numpy as np
import pytest

from masktools.checks import check_count, check_layers, check_share
from masktools.errors import MaskError


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.25), np.int64(1)])
def test_a_share_is_a_number_between_0_and_1(value):
    check_share("density", value)


@pytest.mark.parametrize("value", [True, np.True_, "0.5", None, [0.5], 0.5j])
def test_a_share_of_another_kind(value):
    with pytest.raises(TypeError, match="density must be a number, got"):
        check_share("density", value)


@pytest.mark.parametrize("value", [-0.1, 2, float("nan"), np.float64("inf")])
def test_a_share_outside(value):
    with pytest.raises(MaskError, match="density must be between 0 and 1, got"):
        check_share("density", value)


@pytest.mark.parametrize("value", [3, 2**70, np.int8(4)])
def test_a_count_is_a_whole_number(value):
    check_count("passes", value, 3)


@pytest.mark.parametrize("value", [True, 3.0, np.float64(3), "3", None])
def test_a_count_of_another_kind(value):
    with pytest.raises(TypeError, match="passes must be a whole number, got"):
        check_count("passes", value, 3)


def test_a_count_below_the_least():
    with pytest.raises(MaskError, match="passes must be at least 3, got 2"):
        check_count("passes", 2, 3)


def test_layers_are_a_mapping():
    check_layers("masks", {})
    with pytest.raises(TypeError, match="masks must be a mapping by layer, got list"):
        check_layers("masks", [])
