"""Spending a budget on columns."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masktools.partition.budget import choose, price

CANDIDATES = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 6)), min_size=1, max_size=8)


def split(candidates):
    gain, cost = np.array(candidates).T
    return gain.astype(np.float32), cost


@given(CANDIDATES, st.integers(0, 30))
def test_within_the_budget_and_near_the_optimum(candidates, budget):
    gain, cost = split(candidates)
    chosen = choose(gain, cost, budget)
    assert cost[chosen].sum() <= budget
    assert not chosen[gain == 0].any()
    best = max(
        sum(g for g, take in zip(gain, taken, strict=True) if take)
        for taken in product([False, True], repeat=len(gain))
        if cost[list(taken)].sum() <= budget
    )
    assert gain[chosen].sum() >= best - gain.max()
    left_out = ~chosen & (gain > 0)
    assert (cost[left_out] > budget - cost[chosen].sum()).all(), "something more would have fitted"


@given(CANDIDATES, st.integers(0, 30))
def test_equal_costs_are_spent_optimally(candidates, budget):
    gain, _ = split(candidates)
    chosen = choose(gain, np.full(len(gain), 3), budget)
    assert gain[chosen].sum() == np.sort(gain)[::-1][: budget // 3].sum()


@given(CANDIDATES, st.integers(0, 30))
def test_price_separates_what_is_bought(candidates, budget):
    gain, cost = split(candidates)
    at = price(gain, cost, budget)
    assert cost[gain / cost > at].sum() <= budget
    if at > 0:
        assert cost[gain / cost >= at].sum() > budget


def test_equals_are_chosen_in_their_order():
    chosen = choose(np.ones(4, np.float32), np.full(4, 2), 5)
    assert chosen.tolist() == [True, True, False, False]


def test_what_costs_nothing_is_always_chosen():
    chosen = choose(np.array([1.0, 2.0, 0.0]), np.array([0, 5, 0]), 0)
    assert chosen.tolist() == [True, False, False]


@pytest.mark.parametrize("budget", [0, 10])
def test_no_candidates(budget):
    empty = np.zeros(0, np.float32), np.zeros(0, np.int64)
    assert choose(*empty, budget).shape == (0,)
    assert price(*empty, budget) == 0
