"""Minimal filtering of infinity and NaN: an output is spoiled by what it reads alone."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_variants import VARIANTS
from minimal_filtering import close, direct, drawn, run

from runtime.cpu import native

SIZE = (10, 9)
# Pixels of an image: a corner, an edge, the middle, one that several tiles read, the last.
PLACES = {
    "corner": [(0, 0)],
    "edge": [(0, 5)],
    "middle": [(2, 2)],
    "between tiles": [(4, 4)],
    "last": [(9, 8)],
    "several": [(0, 0), (2, 6), (9, 8)],
}
SPECIAL = {"inf": np.inf, "-inf": -np.inf, "nan": np.nan}


@pytest.fixture(params=VARIANTS)
def module(request, monkeypatch):
    monkeypatch.setenv(native.VARIABLE, request.param)
    return native.load()


def layer_of(batch, channels=5, rows=18):
    rng = np.random.default_rng(batch)
    return drawn(rng, channels, *SIZE, batch), drawn(rng, rows, channels, 3, 3) / 7


def spoiled(x, places, value, sample=0, channel=1):
    made = x.copy()
    for y, column in places:
        made[channel, y, column, sample] = value
    return made


def agrees(got, wanted):
    """Whether two arrays are infinite and NaN in the same places, and close elsewhere."""
    finite = np.isfinite(wanted)
    alike = np.array_equal(got[~finite], wanted[~finite].astype(np.float32), equal_nan=True)
    return alike and np.isfinite(got[finite]).all() and close(got[finite], wanted[finite])


def readers(places):
    """Return the outputs whose windows, padded by one pixel, hold a place."""
    found = np.zeros(SIZE, bool)
    for y, x in places:
        found[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = True
    return found


@pytest.mark.parametrize("batch", [1, 16, 33])
@pytest.mark.parametrize("value", SPECIAL.values(), ids=SPECIAL)
@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
def test_a_value_spoils_the_outputs_that_read_it_and_no_others(module, places, value, batch):
    x, w = layer_of(batch)
    sample = batch // 2
    bad = spoiled(x, places, value, sample)
    with np.errstate(invalid="ignore"):
        wanted = direct(bad, w, (1, 1), SIZE)
    got = run(module, bad, w, (1, 1), SIZE)
    assert agrees(got, wanted)
    assert np.array_equal(
        np.isfinite(got[:, :, :, sample]), np.broadcast_to(~readers(places), (len(w), *SIZE))
    )


@pytest.mark.parametrize("batch", [1, 16, 33])
def test_tiles_and_samples_beside_it_keep_their_bits(module, batch):
    x, w = layer_of(batch)
    clean = run(module, x, w, (1, 1), SIZE)
    got = run(module, spoiled(x, [(1, 1)], np.inf), w, (1, 1), SIZE)
    np.testing.assert_array_equal(got[..., 1:], clean[..., 1:])
    np.testing.assert_array_equal(got[:, 4:], clean[:, 4:])
    np.testing.assert_array_equal(got[:, :, 4:], clean[:, :, 4:])


@pytest.mark.parametrize("batch", [1, 16, 33])
def test_sums_that_are_finite_do_not_overflow_on_the_way(module, batch):
    """The transform of the input makes up to five times of a value: infinity, of the largest."""
    x, w = layer_of(batch)
    places = PLACES["several"]
    bad = spoiled(x, places, np.float32(3e38))
    wanted = direct(bad, w, (1, 1), SIZE)
    assert np.abs(wanted).max() < np.finfo(np.float32).max
    got = run(module, bad, w, (1, 1), SIZE)
    assert np.isfinite(got).all()
    assert close(got, wanted)
    # Neither do outputs that do not read the large values carry rounding errors of their size.
    away = ~readers(places)
    assert close(got[:, away, 0], wanted[:, away, 0])


def test_sums_that_overflow_are_infinite(module):
    x, w = layer_of(3)
    bad = spoiled(x, [(4, 4)], np.float32(3e38))
    w[:, 1] = np.copysign(2, w[:, 1])
    with np.errstate(over="ignore"):
        wanted = direct(bad, w, (1, 1), SIZE).astype(np.float32)
    assert np.isinf(wanted).any()
    assert agrees(run(module, bad, w, (1, 1), SIZE), wanted)


def test_a_tap_of_zero_makes_nan_of_infinity_as_by_definition(module):
    x, w = layer_of(2)
    w[:, :, 1, 1] = 0
    w[:, :, 0, 1] = 0
    bad = spoiled(x, [(4, 4)], np.inf)
    with np.errstate(invalid="ignore"):
        wanted = direct(bad, w, (1, 1), SIZE)
    assert np.isnan(wanted[:, 4, 4, 0]).all()
    assert agrees(run(module, bad, w, (1, 1), SIZE), wanted)


@pytest.mark.parametrize("vectors", [1, 2, 4])
@pytest.mark.parametrize("parts", [1, 3])
def test_every_cut_of_the_work_with_all_that_follows_the_sums(module, vectors, parts):
    x, w = layer_of(3, 4, 50)
    rng = np.random.default_rng(0)
    bias, skip = drawn(rng, 50), drawn(rng, 50, *SIZE, 3)
    bad = spoiled(spoiled(x, [(3, 3)], np.inf, 1), [(8, 8)], np.nan, 2)
    with np.errstate(invalid="ignore"):
        wanted = direct(bad, w, (1, 1), SIZE) + bias[:, None, None, None] + skip
    cut = {"vectors": vectors, "row_blocks": 1, "parts": parts}
    got = run(module, bad, w, (1, 1), SIZE, 2, bias, skip, **cut)
    assert agrees(got, wanted)
