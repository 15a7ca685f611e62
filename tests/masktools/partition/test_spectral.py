"""Spectral row groups and the balanced assignment."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masktools.partition.spectral import assign, spectral_groups


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(0, 99))
def test_assignment_fills_each_group_to_its_height(heights, seed):
    gain = np.random.default_rng(seed).standard_normal((sum(heights), len(heights)))
    labels = assign(gain, np.array(heights))
    assert np.bincount(labels, minlength=len(heights)).tolist() == heights


def test_assignment_is_near_the_optimum():
    random = np.random.default_rng(0)
    heights = np.array([2, 2, 2])
    found, optimum = 0.0, 0.0
    for _ in range(20):
        gain = random.random((6, 3))
        found += gain[np.arange(6), assign(gain, heights)].sum()
        optimum += max(gain[np.arange(6), p].sum() for p in set(permutations([0, 0, 1, 1, 2, 2])))
    assert found >= 0.95 * optimum


def test_assignment_without_conflict_gives_everyone_the_best():
    gain = np.eye(3)[[2, 0, 1, 0, 2, 1]]
    assert assign(gain, np.array([2, 2, 2])).tolist() == [2, 0, 1, 0, 2, 1]


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_planted_groups_are_found(scale):
    random = np.random.default_rng(1)
    truth = random.permutation(np.repeat(np.arange(4), 16))
    pattern = random.random((4, 200)) < 0.2
    saliency = np.where(pattern[truth], random.random((64, 200)) + 0.5, 0).astype(np.float32)
    labels = spectral_groups(saliency * np.float32(scale), np.full(4, 16), seed=0)
    assert len(set(zip(truth.tolist(), labels.tolist(), strict=True))) == 4


def test_rows_without_weights_are_no_obstacle():
    saliency = np.zeros((6, 5), np.float32)
    saliency[0, 0] = 1
    assert np.bincount(spectral_groups(saliency, np.array([4, 2]))).tolist() == [4, 2]
