"""Refill: how many rows, which rows, and what is refused."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masktools.errors import MaskError
from masktools.transform.refill import CRITERIA, GIVEN_CRITERIA, refill

SHAPES = [(12, 5), (12, 4, 3), (12, 2, 3, 3), (12, 1, 3, 3), (1, 7), (9, 1), (0, 4), (3, 0)]


@st.composite
def layers(draw):
    """A mask, its weights and a number of convolution groups."""
    groups = draw(st.sampled_from([1, 2, 3]))
    rows = groups * draw(st.integers(1, 6))
    shape = (rows, *draw(st.sampled_from([(7,), (2, 3), (2, 2, 2)])))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = rng.random(shape) < draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    # Few distinct magnitudes, so that scores tie often.
    weight = rng.integers(-2, 3, shape).astype(np.float32)
    return mask, weight, groups


def kept_rows(mask):
    """Return which rows are kept, after checking that every row is whole or empty."""
    matrix = mask.reshape(len(mask), -1)
    assert (matrix.all(axis=1) == matrix.any(axis=1)).all()
    return matrix.any(axis=1)


@given(layers(), st.fractions(0, 1, max_denominator=1000), st.sampled_from([0.0, 0.25, 1.0]))
def test_keeps_exactly_k_whole_rows_of_each_group(layer, density, extra):
    mask, weight, groups = layer
    rows = len(mask) // groups
    k = math.ceil(density * rows)
    k += math.ceil(Fraction(extra) * (rows - k))
    kept = kept_rows(refill(mask, weight, float(density), extra, groups=groups))
    assert kept.reshape(groups, rows).sum(axis=1).tolist() == [k] * groups


@given(layers())
def test_own_density_is_the_default(layer):
    mask, weight, groups = layer
    rows = len(mask) // groups
    k = math.ceil(Fraction(int(mask.sum()), mask.size) * rows)
    kept = kept_rows(refill(mask, weight, groups=groups))
    assert kept.reshape(groups, rows).sum(axis=1).tolist() == [k] * groups


@given(layers(), st.sampled_from([0.1, 0.5, 0.9]))
def test_no_dropped_row_beats_a_kept_one_and_ties_go_to_the_first(layer, density):
    mask, weight, groups = layer
    score = np.abs(weight * mask).reshape(groups, len(mask) // groups, -1).sum(axis=2)
    kept = kept_rows(refill(mask, weight, density, groups=groups)).reshape(score.shape)
    for group in range(groups):
        ranked = sorted(range(score.shape[1]), key=lambda row: (-score[group, row], row))
        assert np.flatnonzero(kept[group]).tolist() == sorted(ranked[: kept[group].sum()])


@given(layers(), st.sampled_from([None, 0.1, 0.5, 0.9]))
def test_refilling_again_changes_nothing(layer, density):
    mask, weight, groups = layer
    once = refill(mask, weight, density, groups=groups)
    assert np.array_equal(refill(once, weight, density, groups=groups), once)


@given(layers(), st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([0.1, 0.5, 1.0]))
def test_refill_plus_adds_rows_and_takes_none(layer, density, extra):
    mask, weight, groups = layer
    base = refill(mask, weight, density, groups=groups)
    more = refill(mask, weight, density, extra, groups=groups)
    assert not (base & ~more).any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.0, 1.0])
def test_density_zero_and_one(shape, density):
    mask = np.random.default_rng(0).random(shape) < 0.5
    assert refill(mask, None, density).all() == (density == 1.0) or not mask.size
    assert refill(mask, None, density).shape == shape


@pytest.mark.parametrize(
    ("density", "rows", "k"),
    [(0.07, 100, 7), (0.3, 10, 3), (0.28, 25, 7), (5 / 6, 6, 5), (0.1 + 0.2, 10, 3), (1e-9, 4, 1)],
)
def test_the_noise_of_floats_adds_no_row(density, rows, k):
    assert kept_rows(refill(np.ones((rows, 2)), None, density)).sum() == k


def test_criteria_pick_different_rows():
    mask = np.array([[1, 1, 1], [1, 0, 0], [0, 1, 1], [0, 0, 1]], bool)
    weight = np.array([[1, 1, 1], [9, 9, 9], [1, 2, 3], [0, 0, 1]], np.float32)
    by = {c: refill(mask, weight, 0.25, criterion=c) for c in ("l1", "count")}
    by |= {
        c: refill(mask, weight, 0.25, criterion=c, scores=[0, 0, 1, 3 + i])
        for i, c in enumerate(GIVEN_CRITERIA)
    }
    picked = {key: np.flatnonzero(kept_rows(mask)).tolist() for key, mask in by.items()}
    assert picked == {"l1": [1], "count": [0], **{key: [3] for key in GIVEN_CRITERIA}}
    assert set(picked) == set(CRITERIA)


def test_pruned_weights_do_not_count():
    assert np.flatnonzero(kept_rows(refill([[0, 1], [1, 0]], [[99, 1], [2, 99]], 0.5))) == [1]


def test_without_weights_the_mask_counts():
    mask = np.random.default_rng(3).random((20, 9)) < 0.4
    assert np.array_equal(refill(mask, None, 0.3), refill(mask, None, 0.3, criterion="count"))


def test_depthwise_rows_are_picked_over_the_layer_unless_groups_are_given():
    mask = np.random.default_rng(0).random((8, 1, 3, 3)) < 0.5
    assert kept_rows(refill(mask, None, 0.25)).sum() == 2
    assert kept_rows(refill(mask, None, 0.25, groups=8)).sum() == 8


def test_arguments_are_left_alone():
    mask = np.random.default_rng(0).random((6, 10)) < 0.5
    weight = np.random.default_rng(1).standard_normal((6, 10))
    expected = refill(mask, weight)
    for array in (mask, weight):
        array.flags.writeable = False
    assert np.array_equal(refill(mask, weight), expected)
    assert np.array_equal(refill(mask[:, ::-1], weight[:, ::-1]), expected)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"density": 1.5}, MaskError, "density must be between 0 and 1, got 1.5"),
        ({"density": float("nan")}, MaskError, "density must be between"),
        ({"density": "0.5"}, TypeError, "density must be a number, got str"),
        ({"density": True}, TypeError, "density must be a number"),
        ({"extra": -0.1}, MaskError, "extra must be between 0 and 1"),
        ({"criterion": "l3"}, MaskError, "criterion must be one of l1, count"),
        ({"criterion": "feature-l1"}, TypeError, "pass scores="),
        ({"scores": [1, 2, 3, 4]}, TypeError, "does not use the scores"),
        ({"criterion": "first-order", "scores": [1, 2]}, MaskError, "each of 4 rows"),
        ({"criterion": "first-order", "scores": [1, 2, -1, 0]}, MaskError, "-1.0 for row 2"),
        ({"criterion": "first-order", "scores": [1, np.nan, 1, 0]}, MaskError, "nan for row 1"),
        ({"criterion": "first-order", "scores": list("abcd")}, TypeError, "real scores"),
        ({"groups": 2.0}, TypeError, "groups must be a whole number, got 2.0"),
        ({"groups": 3}, MaskError, "3 convolution groups do not divide 4 rows"),
        ({"weight": np.ones((4, 4))}, MaskError, "expected weights of shape"),
        ({"weight": np.full((4, 3), np.nan)}, MaskError, "must be finite in float32, got nan at"),
        ({"mask": np.full((4, 3), 2)}, MaskError, "a mask of 0 and 1, got 2"),
        ({"mask": np.ones((4, 1, 3, 3, 3))}, MaskError, "Conv3d"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, error, match):
    given_arguments = {"mask": np.ones((4, 3)), "weight": np.ones((4, 3)), **arguments}
    with pytest.raises(error, match=match):
        refill(**given_arguments)


@pytest.mark.parametrize("extra", [0.0, 0.2])
def test_the_rows_of_the_released_code_can_be_had(extra):
    random = np.random.default_rng(0)
    for rows in (8, 64, 100):
        mask = random.random((rows, 50)) < 0.3
        mask[:, :10] = False
        density = float(mask.mean())
        released = math.floor(density * rows + (1 - density) * rows * extra) + 1
        filled = refill(mask, None, density=released / rows)
        assert filled.any(axis=1).sum() == released
        assert abs(int(refill(mask, None, extra=extra).any(axis=1).sum()) - released) <= 1
    # Where density * rows is whole, the released code fills one more.
    assert refill(np.eye(8), None).any(axis=1).sum() == 1
