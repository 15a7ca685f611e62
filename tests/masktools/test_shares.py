"""Sharing in proportion: whole sums, full layers, fair rounding."""

from __future__ import annotations

from fractions import Fraction
from math import prod

from hypothesis import given
from hypothesis import strategies as st

from masktools.shares import erk, in_proportion, rounded

LAYERS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 60)), min_size=1, max_size=6)


def test_erk_is_the_sum_of_the_dimensions_over_their_product():
    assert erk((8, 4, 3, 2)) == Fraction(17, 192)
    assert erk((10, 20)) == Fraction(30, 200)
    assert erk((0, 3)) == 0


@given(LAYERS, st.integers(0, 200))
def test_layers_that_are_not_full_have_one_scale_and_full_ones_no_larger(layers, budget):
    parts, most = zip(*layers, strict=True)
    shares = in_proportion(parts, most, budget)
    can = sum(m for p, m in layers if p)
    assert sum(shares) == min(budget, can)
    assert all(0 <= share <= m for share, m in zip(shares, most, strict=True))
    assert all(not share for share, part in zip(shares, parts, strict=True) if not part)
    scales = {s / p for s, p, m in zip(shares, parts, most, strict=True) if p and s < m}
    assert len(scales) <= 1
    for scale in scales:
        assert all(m <= scale * p for s, p, m in zip(shares, parts, most, strict=True) if s == m)


@given(LAYERS, st.integers(0, 200))
def test_rounding_keeps_the_sum_and_moves_no_share_by_one(layers, budget):
    parts, most = zip(*layers, strict=True)
    shares = in_proportion(parts, most, budget)
    whole = rounded(shares)
    assert sum(whole) == sum(shares)
    assert all(abs(w - s) < 1 for w, s in zip(whole, shares, strict=True))
    assert all(w <= m for w, m in zip(whole, most, strict=True))
    up = [s % 1 for s, w in zip(shares, whole, strict=True) if w > s]
    down = [s % 1 for s, w in zip(shares, whole, strict=True) if w < s]
    assert not up or not down or min(up) >= max(down)


def test_equal_fractions_are_rounded_up_in_their_order():
    assert rounded([Fraction(1, 2)] * 4) == [1, 1, 0, 0]
    assert rounded([Fraction(1, 3), Fraction(2, 3)]) == [0, 1]


def test_nothing_is_lost_in_large_numbers():
    """In float64 the parts of these would not add up to the whole."""
    sizes = [prod(s) for s in ((4096, 25088), (4096, 4096), (3, 1))]
    budget = sum(sizes) // 3
    assert sum(rounded(in_proportion(sizes, sizes, budget))) == budget
