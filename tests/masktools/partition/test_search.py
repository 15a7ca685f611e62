"""The search: its bookkeeping against NumPy, what it finds, what it refuses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masktools.partition import _search, search
from masktools.partition.budget import choose
from masktools.partition.search import by_assignment, group_sums, refine


def layer(rows=24, columns=70, density=0.3, seed=0):
    random = np.random.default_rng(seed)
    keep = random.random((rows, columns)) < density
    return np.where(keep, random.random((rows, columns)), 0).astype(np.float32)


def worth(saliency, labels, cost, price):
    """What the columns with a surplus are worth at a price: the obvious way, in double."""
    total = 0.0
    for group in range(labels.max() + 1):
        rows = saliency[labels == group].astype(np.float64)
        total += np.maximum(rows.sum(axis=0) - price * len(rows) * cost, 0).sum()
    return total


def retained(saliency, labels, cost, budget):
    sums = group_sums(saliency, labels)
    costs = np.bincount(labels)[:, None] * cost
    return sums.ravel()[choose(sums.ravel(), costs.ravel(), budget)].sum(dtype=np.float64)


def swapped(labels, i, j):
    other = labels.copy()
    other[[i, j]] = labels[[j, i]]
    return other


@pytest.mark.parametrize("bounded", [False, True])
@given(
    heights=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    columns=st.sampled_from([1, 31, 32, 33, 100]),
    density=st.sampled_from([0.05, 0.4, 1.0]),
    seed=st.integers(0, 99),
)
def test_bookkeeping_against_numpy(bounded, heights, columns, density, seed):
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(len(heights), dtype=np.int32), heights))
    saliency = layer(len(labels), columns, density, seed)
    cost = random.integers(0, 4, columns)
    groups = _search.Groups(saliency, labels, cost, float(random.integers(1, saliency.size + 1)))
    if bounded:
        groups.build_table()
    for _ in range(25):
        i, j = random.integers(len(labels), size=2).tolist()
        if labels[i] == labels[j]:
            continue
        before = worth(saliency, labels, cost, groups.price)
        after = worth(saliency, swapped(labels, i, j), cost, groups.price)
        tolerance = 1e-5 * (1 + columns)
        assert groups.gain(i, j) == pytest.approx(after - before, abs=tolerance)
        if bounded:
            assert groups.bound(i, j) >= after - before - tolerance
        groups.swap(i, j)
        labels = swapped(labels, i, j)
        assert np.array_equal(groups.labels, labels)


def test_bound_is_the_sum_of_the_four_steps():
    saliency, labels = layer(6, 40), np.array([0, 0, 0, 1, 1, 1], np.int32)
    groups = _search.Groups(saliency, labels, np.ones(40), 90.0)
    groups.build_table()
    groups.swap(1, 5)
    labels = swapped(labels, 1, 5)
    i, j = 0, 3

    def step(group, members):
        sums = saliency[members].astype(np.float64).sum(axis=0)
        return np.maximum(sums - groups.price * 3, 0).sum()

    p, q = (np.flatnonzero(labels == g).tolist() for g in (0, 1))
    alone = (
        step(0, [r for r in p if r != i]) + step(0, [*p, j]) - 2 * step(0, p)
        + step(1, [r for r in q if r != j]) + step(1, [*q, i]) - 2 * step(1, q)
    )  # fmt: skip
    assert groups.bound(i, j) == pytest.approx(alone, abs=1e-4)


def test_price_spends_the_budget():
    saliency, labels = layer(), np.repeat(np.arange(3, dtype=np.int32), 8)
    cost = np.random.default_rng(1).integers(1, 4, 70)
    groups = _search.Groups(saliency, labels, cost, 500.0)
    costs = 8 * np.tile(cost, (3, 1))
    bought = group_sums(saliency, labels) > np.float32(groups.price * 8) * np.tile(cost, (3, 1))
    assert 500 - costs.max() < costs[bought].sum() <= 500


@pytest.mark.parametrize("density", [0.05, 0.5])
@pytest.mark.parametrize("heights", [[8, 8, 8], [10, 10, 4]])
def test_search_retains_more_and_keeps_heights(density, heights):
    saliency = layer(density=density)
    labels = np.repeat(np.arange(3, dtype=np.int32), heights)
    cost = np.ones(70, np.int64)
    budget = int(density * saliency.size)
    found, how = refine(saliency, labels, np.array(heights), cost, budget)
    assert how == "swaps"
    assert np.bincount(found).tolist() == heights
    assert retained(saliency, found, cost, budget) > retained(saliency, labels, cost, budget)


def test_no_single_swap_is_left_that_gains():
    saliency, labels = layer(64, 500), np.repeat(np.arange(4, dtype=np.int32), 16)
    cost = np.ones(500, np.int64)
    found, _ = refine(saliency, labels, np.full(4, 16), cost, 8000)
    groups = _search.Groups(saliency, found, cost, 8000.0)
    gains = [groups.gain(i, j) for i in range(64) for j in range(64) if found[i] != found[j]]
    # The price moved a little with the last swaps.
    assert max(gains) < 1e-4 * worth(saliency, found, cost, groups.price)


@settings(max_examples=20)
@given(st.integers(0, 99), st.sampled_from([0.1, 0.5, 0.9]), st.integers(1, 300))
def test_refinement_never_retains_less(seed, density, budget):
    saliency, heights = layer(12, 25, density, seed), np.array([5, 4, 3])
    labels = np.repeat(np.arange(3, dtype=np.int32), heights)
    cost = np.random.default_rng(seed).integers(0, 5, 25)
    found, _ = refine(saliency, labels, heights, cost, budget)
    assert np.bincount(found).tolist() == [5, 4, 3]
    assert retained(saliency, found, cost, budget) >= retained(saliency, labels, cost, budget)


def test_planted_groups_are_found_from_a_wrong_start():
    random = np.random.default_rng(3)
    truth = random.permutation(np.repeat(np.arange(4), 8))
    pattern = random.random((4, 100)) < 0.3
    saliency = pattern[truth].astype(np.float32)
    start = np.repeat(np.arange(4, dtype=np.int32), 8)
    found, _ = refine(saliency, start, np.full(4, 8), np.ones(100, np.int64), int(saliency.sum()))
    assert len(set(zip(truth.tolist(), found.tolist(), strict=True))) == 4


def test_same_seed_same_groups_whatever_the_layout_in_memory():
    saliency, labels = layer(), np.repeat(np.arange(3, dtype=np.int32), 8)
    labels.flags.writeable = False
    arguments = (labels, np.full(3, 8), np.ones(70, np.int64), 400)
    first, _ = refine(saliency, *arguments, seed=1)
    again, _ = refine(np.asfortranarray(saliency), *arguments, seed=1)
    assert np.array_equal(first, again)
    assert np.array_equal(labels, np.repeat(np.arange(3), 8))


def test_assignment_never_retains_less():
    cost = np.ones(70, np.int64)
    for seed in range(10):
        saliency = layer(density=0.2, seed=seed)
        labels = np.repeat(np.arange(3, dtype=np.int32), 8)
        found = by_assignment(saliency, labels, np.full(3, 8), cost, 300)
        assert np.bincount(found).tolist() == [8, 8, 8]
        assert retained(saliency, found, cost, 300) >= retained(saliency, labels, cost, 300) - 0.5


@pytest.mark.parametrize(
    ("heights", "budget", "scale"),
    [([24], 100, 1), ([1] * 24, 100, 1), ([12, 12], 0, 1), ([12, 12], 100, 0)],
)
def test_nothing_to_exchange(heights, budget, scale):
    labels = np.repeat(np.arange(len(heights), dtype=np.int32), heights)
    cost = np.ones(70, np.int64)
    found, how = refine(layer() * np.float32(scale), labels, np.array(heights), cost, budget)
    assert how == "none"
    assert np.array_equal(found, labels)


def test_without_the_extension_it_warns_once_and_assigns(monkeypatch):
    def refuse(name):
        raise ImportError(name)

    monkeypatch.setattr(search, "import_module", refuse)
    search._native.cache_clear()
    labels = np.repeat(np.arange(3, dtype=np.int32), 8)
    arguments = (layer(), labels, np.full(3, 8), np.ones(70, np.int64), 400)
    try:
        with pytest.warns(RuntimeWarning, match="without its compiled search.*C\\+\\+17"):
            _, how = refine(*arguments)
        assert how == "assignment"
        assert refine(*arguments)[1] == "assignment"  # warnings are errors here: no second one
    finally:
        search._native.cache_clear()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"saliency": np.ones((3, 4, 5), np.float32)}, "saliency .rows, columns."),
        ({"labels": np.zeros(3, np.int32)}, "labels .rows,."),
        ({"cost": np.ones(3)}, "cost .columns,."),
        ({"labels": np.array([0, 0, 0, -1], np.int32)}, "labels from 0"),
        ({"labels": np.array([0, 0, 0, 4], np.int32)}, "labels from 0"),
        ({"saliency": np.full((4, 5), np.nan, np.float32)}, "finite"),
        ({"saliency": np.full((4, 5), -1, np.float32)}, "not negative"),
        ({"saliency": np.ones((0, 5), np.float32), "labels": np.zeros(0, np.int32)}, "at least"),
    ],
)
def test_native_search_refuses_what_would_break_it(change, message):
    arguments = {
        "saliency": np.ones((4, 5), np.float32),
        "labels": np.array([0, 0, 1, 1], np.int32),
        "cost": np.ones(5),
        "budget": 8.0,
    }
    with pytest.raises(ValueError, match=message):
        _search.Groups(*(arguments | change).values())
