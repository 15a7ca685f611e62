"""One budget over the layers of a network: what each law makes largest, and what none may do."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from masktools import convert, regroup
from masktools.conversion.across import ACROSS, Offer, spend
from masktools.errors import MaskError
from masktools.partition.budget import choose

FAST = {"partitioner": "spectral", "group_rows": 4, "progress": False}
# What LAMP's rule makes largest is, a layer, below the sum of 1/j that stands for the logarithm by
# at most the sum over j >= 2 of -log(1 - 1/j) - 1/j: one less Euler's constant.
OF_LAMP = 1 - np.euler_gamma

GAINS = st.lists(st.integers(0, 20), min_size=1, max_size=5)
EQUAL_COSTS = st.lists(GAINS, min_size=1, max_size=4)
CANDIDATES = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 6)), min_size=1, max_size=6)
ANY_COSTS = st.lists(CANDIDATES, min_size=1, max_size=4)
ROWS_COLUMNS_OWN = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 40))
SHAPES = st.lists(ROWS_COLUMNS_OWN, min_size=1, max_size=5)


def offer(gain, cost, shape=(), own=0):
    return Offer(np.array(gain, np.float32), np.array(cost, np.int64), shape, own)


def offers_of(layers):
    return [offer(*zip(*layer, strict=True)) for layer in layers]


def log_shares(offers, chosen):
    """Return the sum of the logarithms of retained shares, of layers that hold anything."""
    some = [(o, which) for o, which in zip(offers, chosen, strict=True) if o.gain.any()]
    with np.errstate(divide="ignore"):
        return sum(np.log(o.gain[which].sum() / o.gain.sum()) for o, which in some)


def spent(offers, chosen):
    return sum(int(o.cost[which].sum()) for o, which in zip(offers, chosen, strict=True))


# The logarithms of shares


@given(EQUAL_COSTS, st.integers(0, 20))
def test_logarithms_of_shares_are_near_their_largest(gains, budget):
    offers = [offer(sorted(gain, reverse=True), [1] * len(gain)) for gain in gains]
    chosen = spend(offers, budget, "log-share")
    assert spent(offers, chosen) <= budget
    layers = [o for o in offers if o.gain.any()]
    if budget < len(layers):
        return
    best = max(
        sum(np.log(o.gain[:n].sum() / o.gain.sum()) for o, n in zip(layers, taken, strict=True))
        for taken in product(*(range(1, len(o.gain) + 1) for o in layers))
        if sum(taken) <= budget
    )
    assert log_shares(offers, chosen) >= best - OF_LAMP * len(layers) - 1e-6


@given(ANY_COSTS, st.integers(0, 60))
def test_logarithms_of_shares_are_ranked_by_the_rule_of_lamp(layers, budget):
    offers = offers_of(layers)
    ranked = []
    for number, o in enumerate(offers):
        order = sorted(np.flatnonzero(o.gain), key=lambda at, o=o: -(o.gain[at] / o.cost[at]))
        sums = np.cumsum(o.gain[order])
        for j, at in enumerate(order):
            score = np.inf if j == 0 else o.gain[at] / o.cost[at] / sums[j]
            ranked.append((score, number, int(at), int(o.cost[at])))
    if sum(cost for score, *_, cost in ranked if score == np.inf) > budget:
        return
    ranked.sort(key=lambda candidate: -candidate[0])
    expected = [np.zeros(len(o.gain), bool) for o in offers]
    room = budget
    for _, number, at, cost in ranked:
        if cost <= room:
            expected[number][at] = True
            room -= cost
    chosen = spend(offers, budget, "log-share")
    # Scores that are equal but for rounding may change places: what they are worth decides.
    assert log_shares(offers, chosen) == pytest.approx(log_shares(offers, expected), abs=0.4)
    if len({round(score, 6) for score, *_ in ranked if score < np.inf}) == sum(
        score < np.inf for score, *_ in ranked
    ):
        assert all(map(np.array_equal, chosen, expected))


@given(ANY_COSTS, st.integers(0, 60))
@example([[(9, 6)], [(5, 1), (5, 1)]], 7)
@example([[(9, 6), (1, 3)], [(5, 1), (5, 1)]], 4)
def test_no_layer_ends_empty_where_one_candidate_of_each_fits(layers, budget):
    offers = offers_of(layers)
    chosen = spend(offers, budget, "log-share")
    assert spent(offers, chosen) <= budget
    some = [(o, which) for o, which in zip(offers, chosen, strict=True) if o.gain.any()]
    cheapest = sorted(int(o.cost[o.gain > 0].min()) for o, _ in some)
    fitting = int(np.searchsorted(np.cumsum(cheapest), budget, side="right"))
    assert sum(bool(which.any()) for _, which in some) >= fitting


@given(EQUAL_COSTS, st.integers(0, 19))
def test_a_larger_budget_takes_nothing_away(gains, budget):
    offers = [offer(gain, [1] * len(gain)) for gain in gains]
    less, more = (spend(offers, most, "log-share") for most in (budget, budget + 1))
    assert all((~few | many).all() for few, many in zip(less, more, strict=True))


def test_the_scale_of_a_layer_does_not_matter_to_shares():
    rng = np.random.default_rng(0)
    gains = [rng.random(20).astype(np.float32) for _ in range(3)]
    for across in ("log-share", "share"):
        chosen = []
        for scale in (2.0**-80, 1, 2.0**80):
            scaled = [gains[0] * scale, *gains[1:]]
            chosen.append(spend([offer(gain, [1] * 20) for gain in scaled], 25, across))
        assert all(map(np.array_equal, chosen[0], chosen[1]))
        assert all(map(np.array_equal, chosen[1], chosen[2]))


def test_a_layer_is_not_saved_by_what_costs_and_multiplies_nothing():
    offers = [offer([5, 1], [0, 2]), offer([9, 9, 9], [1, 1, 1])]
    chosen = spend(offers, 3, "log-share")
    assert [which.tolist() for which in chosen] == [[True, True], [True, False, False]]


def test_gains_too_large_for_float32_count_as_the_largest():
    for across in ("log-share", "share"):
        chosen = spend([offer([np.inf, np.inf, 1], [1, 1, 1]), offer([1], [1])], 3, across)
        assert [which.tolist() for which in chosen] == [[True, True, False], [True]]


# The other laws


@given(ANY_COSTS, st.integers(0, 60))
def test_absolute_gains_and_shares_are_near_their_largest(layers, budget):
    offers = offers_of(layers)
    for across in ("absolute", "share"):
        wholes = [o.gain.sum() or 1 if across == "share" else 1 for o in offers]
        values = [o.gain / whole for o, whole in zip(offers, wholes, strict=True)]
        chosen = spend(offers, budget, across)
        assert spent(offers, chosen) <= budget
        got = sum(v[which].sum() for v, which in zip(values, chosen, strict=True))
        # The continuous optimum, which no choice of whole candidates exceeds.
        gain = np.concatenate(values)
        cost = np.concatenate([o.cost for o in offers])
        order = np.argsort(-gain / cost)
        parts = np.clip((budget - (np.cumsum(cost[order]) - cost[order])) / cost[order], 0, 1)
        assert got >= (gain[order] * parts).sum() - gain.max() - 1e-6


@given(SHAPES, st.integers(0, 200))
def test_erk_and_own_settle_the_density_of_each_layer(layers, budget):
    offers = [
        offer(np.arange(r * c, 0, -1), [1] * (r * c), (r, c), min(own, r * c))
        for r, c, own in layers
    ]
    for across in ("erk", "own"):
        chosen = spend(offers, budget, across)
        took = [int(which.sum()) for which in chosen]
        assert sum(took) <= budget
        parts = [sum(o.shape) if across == "erk" else o.own for o in offers]
        open_ = [n for n, o in enumerate(offers) if took[n] < len(o.gain) and parts[n]]
        for n in open_:  # layers that are not full have the same scale, to a weight
            for m in open_:
                assert took[n] / parts[n] <= (took[m] + 1) / parts[m]
            for m in range(len(offers)):  # and a full one no more than its part
                if parts[m]:
                    assert took[m] / parts[m] <= (took[n] + 1) / parts[n]
        if open_:
            assert sum(took) > budget - len(offers)


def test_erk_densities_are_those_of_the_paper():
    shapes = [(64, 16, 3, 3), (128, 64, 3, 3), (256, 128, 1, 1)]
    offers = [offer(np.ones(size), np.ones(size), s) for s in shapes if (size := int(np.prod(s)))]
    budget = 20_000
    took = [which.sum() for which in spend(offers, budget, "erk")]
    scale = budget / sum(map(sum, shapes))
    assert took == [int(scale * sum(shape)) for shape in shapes]


def test_what_a_full_layer_cannot_use_goes_to_the_others():
    offers = [offer([3, 2, 0, 0], [1] * 4, (2, 2), 4), offer([1] * 8, [1] * 8, (2, 4), 4)]
    for across in ("erk", "own"):
        chosen = spend(offers, 9, across)
        assert [int(which.sum()) for which in chosen] == [2, 7]


@pytest.mark.parametrize("across", ACROSS)
def test_equals_are_chosen_in_the_order_of_layers(across):
    offers = [offer([2] * 4, [3] * 4, (4, 3), 6) for _ in range(3)]
    chosen = spend(offers, 3 * 7, across)
    taken = [which.tolist() for which in chosen]
    assert all(sorted(one, reverse=True) == one for one in taken)
    if across in ("log-share", "absolute", "share"):
        assert sum(map(sum, taken)) == 7
        assert [sum(one) for one in taken] == ([4, 3, 0] if across != "log-share" else [3, 2, 2])


@pytest.mark.parametrize("across", ACROSS)
@pytest.mark.parametrize("budget", [0, 5])
def test_layers_without_candidates_and_without_gains(across, budget):
    offers = [offer([], [], (0, 3)), offer([0, 0], [1, 1], (2, 1)), offer([1], [1], (1, 1), 1)]
    chosen = spend(offers, budget, across)
    assert [which.tolist() for which in chosen] == [[], [False, False], [budget > 0]]


# In a conversion


def network():
    """Return masks and weights of three layers, the last with small weights."""
    rng = np.random.default_rng(0)
    masks, weights = {}, {}
    for name, shape, scale in (
        ("a", (16, 8, 3, 3), 1.0),
        ("b", (12, 16, 3, 3), 0.5),
        ("c", (16, 12, 1, 1), 0.01),
    ):
        masks[name] = rng.random(shape) < 0.4
        weights[name] = (scale * rng.standard_normal(shape)).astype(np.float32)
    return masks, weights


@pytest.mark.parametrize("method", ["regroup", "refill", "refill-plus"])
def test_small_weights_keep_their_layer_unless_magnitudes_compete(method):
    masks, weights = network()
    options = FAST if method == "regroup" else {"extra": 0.0}
    # 288 weights are rows of `a` and `b`, with nothing over that would pay for one of `c`.
    for density in (0.05, 0.1) if method == "regroup" else (288 / 3072,):
        found = {
            across: convert(
                masks, weights, method=method, density=density, across=across, **options
            )
            for across in ("log-share", "absolute")
        }
        by_default = convert(masks, weights, method=method, density=density, **options)
        assert by_default.layouts == found["log-share"].layouts
        assert all(layout.stored for layout in found["log-share"].layouts.values())
        assert found["absolute"].layouts["c"].stored == 0
        logs = sum(np.log(row.retained) for row in found["log-share"].report)
        assert np.isfinite(logs)


def test_absolute_is_one_ranking_of_all_candidates_as_they_are():
    masks, weights = network()
    result = convert(masks, weights, method="refill", density=0.3, across="absolute")
    rows = [np.abs(w * masks[n]).reshape(len(w), -1).sum(1, np.float64) for n, w in weights.items()]
    cost = np.concatenate([np.full(len(m), m[0].size) for m in masks.values()])
    chosen = choose(np.concatenate(rows), cost, int(0.3 * sum(m.size for m in masks.values())))
    kept = [mask.reshape(len(mask), -1).any(axis=1) for mask in result.masks.values()]
    assert np.array_equal(np.concatenate(kept), chosen)


def test_own_at_the_density_of_the_masks_gives_each_layer_as_alone():
    masks, weights = network()
    whole = sum(mask.size for mask in masks.values())
    density = sum(int(mask.sum()) for mask in masks.values()) / whole
    result = convert(masks, weights, method="regroup", density=density, across="own", **FAST)
    for name, layout in result.layouts.items():
        alone = regroup(masks[name], weights[name], group_rows=4, partitioner="spectral")
        assert layout.blocks == alone.blocks
    without = convert(masks, weights, method="regroup", across="own", **FAST)
    assert without.layouts == result.layouts


def test_the_report_says_what_each_layer_takes_of_the_budget():
    masks, weights = network()
    result = convert(
        masks, weights, method="refill", density=0.3, across="share", skip=["b"], progress=False
    )
    assert result.report.options["across"] == "share"
    rows = result.report.as_dict()["layers"]
    stored = result.report.converted.stored
    assert [row["budget_share"] for row in rows] == [
        None if row["layer"] == "b" else row["stored"] / stored for row in rows
    ]
    nothing = convert(masks, weights, method="refill", density=0.0)
    assert nothing.report.budget_shares == (None, None, None)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (
            {"across": "layers", "density": 0.2},
            MaskError,
            "across must be one of log-share, share, absolute, erk, own, got 'layers'",
        ),
        ({"across": None, "density": 0.2}, MaskError, "across must be one of .* got None"),
        ({"across": "absolute"}, TypeError, "across='absolute' .* give a density"),
        ({"across": "erk"}, TypeError, "across='erk' .* give a density"),
    ],
)
def test_what_makes_no_sense_is_refused(change, error, match):
    masks, weights = network()
    with pytest.raises(error, match=match):
        convert(masks, weights, method="refill", **change)
