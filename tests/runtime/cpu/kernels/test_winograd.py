"""The minimal filtering algorithm: its weights, its cut, and layers of every size and batch."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_native import image
from cpu_variants import VARIANTS
from hypothesis import given
from hypothesis import strategies as st
from minimal_filtering import TOLERANCE, close, direct, drawn, run

from runtime.cpu import native
from runtime.cpu.kernels.winograd import POSITIONS, ROWS, _filter_transform, configured, transformed
from runtime.cpu.machine import Machine
from runtime.cpu.memory.window import Window

# How far from exact sums, as a share of the largest output: what tests of whole networks allow.


@pytest.fixture(params=VARIANTS)
def module(request, monkeypatch):
    monkeypatch.setenv(native.VARIABLE, request.param)
    return native.load()


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 8, 9, 16, 17, 33, 64, 65])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (4, 4), (7, 7), (9, 6)])
def test_a_layer_is_close_to_its_definition(module, batch, size):
    rng = np.random.default_rng(batch)
    x, w = drawn(rng, 5, *size, batch), drawn(rng, 18, 5, 3, 3) / 7
    assert close(run(module, x, w, (1, 1), size), direct(x, w, (1, 1), size))


@pytest.mark.parametrize("vectors", [1, 2, 4])
@pytest.mark.parametrize("row_blocks", [1, 2])
@pytest.mark.parametrize("parts", [1, 3])
def test_every_cut_of_the_work_gives_the_same(module, vectors, row_blocks, parts):
    rng = np.random.default_rng(0)
    x, w = drawn(rng, 4, 10, 13, 3), drawn(rng, 50, 4, 3, 3) / 6
    bias, skip = drawn(rng, 50), drawn(rng, 50, 10, 12, 3)
    pads, out = (1, 0), (10, 12)
    cut = {"vectors": vectors, "row_blocks": row_blocks, "parts": parts}
    got = run(module, x, w, pads, out, 2, bias, skip, "Relu", **cut)
    wanted = direct(x, w, pads, out) + bias[:, None, None, None] + skip
    assert close(got, np.maximum(wanted, 0))


@pytest.mark.parametrize("width", [3, 16, 31, 64, 65, 66, 67, 130, 150])
@pytest.mark.parametrize("vectors", [1, 2, 4])
@pytest.mark.parametrize("left", [0, 1, 5])
def test_single_pixels_are_taken_apart_in_whole_vectors(module, width, vectors, left):
    rng = np.random.default_rng(width)
    x, w = drawn(rng, 3, 9, width, 1), drawn(rng, 18, 3, 3, 3) / 5
    pads, out = (1, left), (9, width + left - 1)
    got = run(module, x, w, pads, out, 3, vectors=vectors)
    assert close(got, direct(x, w, pads, out))


@pytest.mark.parametrize("batch", [1, 3, 16, 20])
@pytest.mark.parametrize("added", [False, True])
def test_sums_are_activated_once_with_bias_and_skip(module, batch, added):
    rng = np.random.default_rng(batch)
    x, w, bias = drawn(rng, 4, 10, 13, batch), drawn(rng, 18, 4, 3, 3) / 6, drawn(rng, 18)
    skip = drawn(rng, 18, 10, 13, batch) if added else None
    got = run(module, x, w, (1, 1), (10, 13), 2, bias, skip, "Sigmoid")
    wanted = direct(x, w, (1, 1), (10, 13)) + bias[:, None, None, None]
    wanted = wanted + skip if added else wanted
    assert close(got, 1 / (1 + np.exp(-wanted)))


@pytest.mark.parametrize("pads", [(0, 0), (2, 2), (0, 3), (5, 1)])
def test_any_padding(module, pads):
    rng = np.random.default_rng(0)
    x, w = drawn(rng, 3, 6, 5, 4), drawn(rng, 16, 3, 3, 3) / 5
    out = (6, 6)
    assert close(run(module, x, w, pads, out, 1), direct(x, w, pads, out))


def test_errors_stay_small_with_many_channels(module):
    rng = np.random.default_rng(0)
    x = np.maximum(drawn(rng, 512, 4, 4, 16), 0)
    w = drawn(rng, 16, 512, 3, 3) / 70
    got, wanted = run(module, x, w, (1, 1), (4, 4)), direct(x, w, (1, 1), (4, 4))
    assert np.abs(got - wanted).max() < TOLERANCE / 2 * np.abs(wanted).max()


def test_a_wrong_weight_is_seen(module):
    rng = np.random.default_rng(0)
    x, w = drawn(rng, 5, 8, 8, 2), drawn(rng, 16, 5, 3, 3) / 7
    wanted = direct(x, w, (1, 1), (8, 8))
    w[3, 2, 1, 1] += 0.01
    assert not close(run(module, x, w, (1, 1), (8, 8)), wanted)


@pytest.mark.parametrize(
    "change", ["weights", "plane", "parts", "vectors", "halo", "window", "skip"]
)
def test_what_does_not_fit_is_refused(module, change):
    w = np.zeros((16, 2, 3, 3), np.float32)
    program = module.Program(2 * 16 + 16 * 16, 1)
    fields = {
        "x": image(0, 2, 16, (4, 4), 1, 4, 0),
        "y": image(32, 16, 17 if change == "plane" else 16, (4, 4), 1, 4, change == "halo"),
        "skip": image(0, 16, 16, (4, 4), 1, 5, 0) if change == "skip" else None,
        "window": Window((3, 5 if change == "window" else 3), pads=(1, 1)).fields,
        "weights": transformed(w[:, :1] if change == "weights" else w),
        "bias": np.empty(0, np.float32),
        "activation": None,
        **{"vectors": 2, "row_blocks": 4, "parts": 1},
    }
    fields.update({change: 5} if change in ("parts", "vectors") else {})
    with pytest.raises(ValueError, match="winograd"):
        program.winograd(0, **fields)


@given(rows=st.integers(1, 40), channels=st.integers(1, 5), seed=st.integers(0, 9))
def test_transformed_weights_hold_the_filters(rows, channels, seed):
    w = drawn(np.random.default_rng(seed), rows, channels, 3, 3)
    made = transformed(w)
    assert made.shape == (-(-rows // ROWS), POSITIONS, channels, ROWS)
    g = _filter_transform()
    flat = made.transpose(0, 3, 2, 1).reshape(-1, channels, 6, 6)
    np.testing.assert_allclose(flat[:rows], g @ w.astype(np.float64) @ g.T, rtol=1e-6, atol=1e-6)
    assert not flat[rows:].any()


@given(
    sizes=st.tuples(*[st.integers(1, 600)] * 2, *[st.integers(1, 60)] * 2, st.integers(1, 70)),
    vector=st.sampled_from([4, 8, 16]),
    threads=st.integers(1, 9),
)
def test_the_work_is_cut_as_the_kernels_allow(sizes, vector, threads):
    made = configured(*sizes, Machine(vector, threads))
    assert made["vectors"] in (1, 2)
    assert 1 <= made["parts"] <= -(-sizes[1] // ROWS)
