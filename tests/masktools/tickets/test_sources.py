"""Sources of masks: exact counts, ties, what is pruned stays pruned, layers alike, seeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masktools import MaskError, prune
from masktools.tickets import sources

SHAPES = {"a": (6, 5, 3, 3), "b": (10, 6, 1, 1), "c": (4, 10)}
SIZE = 270 + 60 + 40


def drawn(seed, values=None):
    """Return a state and masks that keep about half; few different values make ties."""
    rng = np.random.default_rng(seed)
    draw = rng.standard_normal if values is None else lambda shape: rng.integers(0, values, shape)
    state = {f"{name}.weight": draw(shape).astype(np.float32) for name, shape in SHAPES.items()}
    masks = {name: rng.random(shape) < 0.6 for name, shape in SHAPES.items()}
    return {name: array * masks[name[0]] for name, array in state.items()}, masks


def kept(masks):
    return sum(int(mask.sum()) for mask in masks.values())


@given(st.integers(0, 999), st.sampled_from([None, 1, 3]), st.floats(0, 1), st.booleans())
def test_counts_are_exact_and_pruned_weights_stay_pruned(seed, values, share, shuffled):
    state, masks = drawn(seed, values)
    count = max(int(share * kept(masks)), 1)
    for across in sources.ACROSS:
        source = sources.random(across) if shuffled else sources.magnitude(across)
        found = source(state, masks, count / SIZE, seed)
        assert kept(found) == count
        assert list(found) == list(masks)
        for name, mask in found.items():
            assert mask.shape == SHAPES[name]
            assert mask.dtype == bool
            assert not (mask & ~masks[name]).any()


@pytest.mark.parametrize("values", [None, 4])
def test_magnitude_is_a_slow_sort_of_what_is_left(values):
    state, masks = drawn(3, values)
    ranked = sorted(
        (-abs(float(state[f"{name}.weight"].flat[at])), layer, at)
        for layer, (name, mask) in enumerate(masks.items())
        for at in np.flatnonzero(mask)
    )
    best = {one[1:] for one in ranked[:100]}
    found = sources.magnitude()(state, masks, 100 / SIZE, 0)
    for layer, mask in enumerate(found.values()):
        assert {(layer, int(at)) for at in np.flatnonzero(mask)} == {
            one for one in best if one[0] == layer
        }


def test_magnitude_of_full_masks_is_one_shot_pruning():
    state, _ = drawn(1)
    full = {name: np.ones(shape, bool) for name, shape in SHAPES.items()}
    weights = {name: state[f"{name}.weight"] for name in SHAPES}
    for across in sources.ACROSS:
        for density in (0.013, 0.2, 0.5, 1.0):
            wanted = prune.magnitude(weights, density, across=across, include=SHAPES)
            found = sources.magnitude(across)(state, full, density, 0)
            assert all((found[name] == wanted[name]).all() for name in SHAPES)


def test_uniform_takes_the_same_share_of_what_each_layer_has():
    state, masks = drawn(5)
    masks["a"][...] = False
    masks["a"].flat[:20] = True
    left = {name: int(mask.sum()) for name, mask in masks.items()}
    count = sum(left.values()) // 2
    for source in (sources.magnitude("uniform"), sources.random("uniform")):
        found = source(state, masks, count / SIZE, 0)
        for name, mask in found.items():
            assert abs(int(mask.sum()) - left[name] * count / sum(left.values())) < 1


def test_random_masks_depend_on_the_seed_and_not_on_the_weights():
    state, masks = drawn(2)
    one, again, other = (
        sources.random()(s, masks, 0.3, n) for s, n in ((state, 0), ({}, 0), ({}, 1))
    )
    assert all((one[name] == again[name]).all() for name in SHAPES)
    assert any((one[name] != other[name]).any() for name in SHAPES)


def test_random_draws_all_weights_alike():
    masks = {"a": np.ones((10, 10), bool), "b": np.ones((5, 20), bool)}
    counts = sum(sources.random()({}, masks, 0.25, n)["a"].astype(int) for n in range(400))
    assert counts.mean() == pytest.approx(100, abs=4)
    assert counts.std() == pytest.approx(75**0.5, abs=2)


def test_what_is_asked_wrongly_is_refused():
    for kind in (sources.magnitude, sources.random):
        with pytest.raises(MaskError, match="across must be one of global, uniform, got 'erk'"):
            kind("erk")
    state, masks = drawn(0)
    state["b.weight"][1, 2] = np.nan
    with pytest.raises(
        MaskError, match=r"layer 'b': weights must be finite .* nan at \(1, 2, 0, 0\)"
    ):
        sources.magnitude()(state, masks, 0.1, 0)
