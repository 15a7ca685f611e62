"""Rows of nonzeros over windows: their tiles, their packing, and layers of every size and batch."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_native import activation as named
from cpu_native import image
from cpu_variants import VARIANTS
from hypothesis import given, settings
from hypothesis import strategies as st

from masktools.checkpoint import Residual
from runtime.cpu import native
from runtime.cpu.kernels.windows import (
    COLUMNS,
    SHARED,
    TAPS,
    Outputs,
    Tiling,
    choose_tiling,
    fields_of,
)
from runtime.cpu.machine import Machine
from runtime.cpu.memory.window import Window
from runtime.cpu.weights.nonzeros import compressed, pack_panels
from runtime.cpu.weights.row_groups import Shape
from runtime.plan.steps import Activation
from runtime.reference import activations

COMBINE = {"": "store", "max": "max", "mean": "add"}
ACTIVATIONS = [
    ("", 0.0, 0.0), ("Relu", 0.0, 0.0), ("Clip", -0.5, 0.5), ("LeakyRelu", 0.1, 0.0),
    ("Sigmoid", 0.0, 0.0), ("HardSigmoid", 0.2, 0.5), ("HardSwish", 0.0, 0.0),
]  # fmt: skip


def drawn(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def sparse(rng, density, *shape):
    return drawn(rng, *shape) * (rng.random(shape) < density)


def direct(x, w, window, size):
    """Convolve (C, H, W, N) in float64, by definition."""
    (kh, kw), (sy, sx), (dy, dx) = window.kernel, window.strides, window.dilations
    wide = np.pad(
        x.astype(np.float64), ((0, 0), (window.pads[0], 99), (window.pads[1], 99), (0, 0))
    )
    made = np.zeros((len(w), *size, x.shape[3]))
    for i, j in np.ndindex(kh, kw):
        taken = wide[:, i * dy :: sy, j * dx :: sx][:, : size[0], : size[1]]
        made += np.einsum("rc,cyxn->ryxn", w[:, :, i, j].astype(np.float64), taken)
    return made


def pooled(made, pool, how):
    rows, height, width, batch = made.shape
    cut = made.reshape(rows, height // pool[0], pool[0], width // pool[1], pool[1], batch)
    return cut.max((2, 4)) if how == "max" else cut.mean((2, 4)) if how == "mean" else made


def run(
    module, x, w, window, size, tiling, halo=0, bias=None, skip=None, activation=("", 0.0, 0.0),
    pool=(1, 1), how="", threads=2,
):  # fmt: skip
    """Run one layer in an arena of NaN; return its output, after a look at what lies around it."""
    channels, height, width, batch = x.shape
    size = (size[0] // pool[0], size[1] // pool[1])
    pitch, in_pitch = size[1] + halo, width + 1
    area = size[0] * pitch * batch
    x_plane, y_plane = height * in_pitch * batch + 3, area + halo * batch + 5
    y_at = channels * x_plane + halo * batch
    skip_at = y_at + len(w) * y_plane
    program = module.Program(skip_at + len(w) * y_plane, threads)
    y_strides = (y_plane, pitch * batch, batch, 1)
    whole = np.full((len(w), y_plane), np.nan, np.float32)
    every = (y_at - halo * batch, whole.shape, (y_plane, 1))
    nothing = np.full(skip_at + len(w) * y_plane, np.nan, np.float32)
    program.copy_in(-1, index=0, y=(0, nothing.shape, (1,)))
    program.copy_in(-1, index=1, y=(0, x.shape, (x_plane, in_pitch * batch, batch, 1)))
    if skip is not None:
        program.copy_in(-1, index=2, y=(skip_at, skip.shape, y_strides))
    shape = Shape(len(w), channels, window.taps)
    packed = pack_panels(compressed(w), shape, tiling.channels)
    program.rows(
        0,
        x=image(0, channels, x_plane, (height, width), batch, in_pitch, 0),
        y=image(y_at, len(w), y_plane, size, batch, pitch, halo),
        skip=None if skip is None else image(skip_at, len(w), y_plane, size, batch, pitch, 0),
        window=window.fields,
        weights=packed.weights,
        columns=packed.columns,
        starts=packed.starts,
        bias=np.empty(0, np.float32) if bias is None else bias,
        activation=named(*activation),
        combine=COMBINE[how],
        pool=pool,
        scale=1 / (pool[0] * pool[1]) if how == "mean" else 1.0,
        **fields_of(tiling),
    )
    program.copy_out(-1, x=every, index=0)
    found = np.empty_like(whole)
    program.run([nothing, x] + ([] if skip is None else [skip]), [found], None)
    before, body, after = np.split(found, [halo * batch, halo * batch + area], axis=1)
    body = body.reshape(len(w), size[0], pitch, batch)
    assert not before.any()
    assert not body[:, :, size[1] :].any()
    assert np.isnan(after).all()
    return body[:, :, : size[1]]


def chosen(module, w, window, size, lanes, pool=(1, 1), threads=2):
    shape = Shape(len(w), w.shape[1], window.taps)
    outputs = Outputs(*size, lanes, pool)
    nonzeros = max(np.count_nonzero(w), 1)
    tiling, cost = choose_tiling(shape, window, outputs, nonzeros, Machine(module.lanes, threads))
    assert cost > 0
    return tiling


def close(got, wanted):
    return np.abs(got - wanted).max() <= 1e-5 * max(np.abs(wanted).max(), 1)


@pytest.fixture(params=VARIANTS)
def module(request, monkeypatch):
    monkeypatch.setenv(native.VARIABLE, request.param)
    return native.load()


def output_size(x, window):
    """Return rows and pixels of an output of which no tap lies wholly beyond the image."""
    return tuple(
        max(
            (x.shape[1 + a] + 2 * window.pads[a] - (window.kernel[a] - 1) * window.dilations[a] - 1)
            // window.strides[a]
            + 1,
            1,
        )
        for a in (0, 1)
    )


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 8, 9, 15, 16, 17, 32, 33, 64, 65])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (4, 4), (7, 7), (9, 6), (8, 17)])
def test_a_layer_is_close_to_its_definition(module, batch, size):
    rng = np.random.default_rng(batch)
    window = Window((3, 3), pads=(1, 1))
    x, w = drawn(rng, 5, *size, batch), sparse(rng, 0.3, 18, 5, 3, 3)
    tiling = chosen(module, w, window, size, batch)
    assert close(run(module, x, w, window, size, tiling), direct(x, w, window, size))


WINDOWS = [
    Window((1, 1)), Window((1, 1), (2, 2)), Window((3, 3), (2, 2), pads=(1, 1)),
    Window((3, 3), (1, 1), (2, 2), (2, 2)), Window((5, 2), (1, 3), (1, 2), (3, 0)),
    Window((2, 5), (3, 2), (2, 1), (0, 4)), Window((1, 3), (1, 1), (1, 3), (0, 5)),
]  # fmt: skip


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("batch", [1, 3, 8, 16, 18])
def test_any_window(module, window, batch):
    rng = np.random.default_rng(0)
    x, w = drawn(rng, 6, 9, 11, batch), sparse(rng, 0.4, 9, 6, *window.kernel)
    size = output_size(x, window)
    wanted = direct(x, w, window, size)
    seen = set()
    for copies in (SHARED, COLUMNS, TAPS):
        if copies == COLUMNS and window.strides[0] > 1:
            continue
        for rows, pixels in [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1)]:
            for samples in {batch, min(batch, module.lanes)}:
                if rows * -(-pixels * samples // module.lanes) > 8:
                    continue
                for channels in (2, 6):
                    tiling = Tiling(rows, pixels, samples, copies, channels, parts=2)
                    assert close(run(module, x, w, window, size, tiling), wanted), tiling
                    seen.add(tiling)
    assert len(seen) > 5


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("batch", [1, 5, 16, 32])
def test_the_epilogue(module, activation, batch):
    rng = np.random.default_rng(0)
    size, window = (5, 7), Window((3, 3), pads=(1, 1))
    x, w = drawn(rng, 4, *size, batch), sparse(rng, 0.3, 11, 4, 3, 3)
    bias, skip = drawn(rng, 11), drawn(rng, 11, *size, batch)
    wanted = direct(x, w, window, size) + bias[:, None, None, None] + skip
    op, alpha, beta = activation
    wanted = activations.activated(Activation(op, alpha, beta) if op else None, wanted)
    for tiling in (
        chosen(module, w, window, size, batch),
        Tiling(1, 3, min(batch, module.lanes), TAPS, 3),
    ):
        got = run(module, x, w, window, size, tiling, 2, bias, skip, activation)
        assert close(got, wanted)


@pytest.mark.parametrize("how", ["max", "mean"])
@pytest.mark.parametrize("pool", [(2, 2), (1, 2), (3, 1)])
@pytest.mark.parametrize("batch", [1, 3, 16, 64])
def test_pooling_windows_are_combined(module, how, pool, batch):
    rng = np.random.default_rng(0)
    size, window = (7 // pool[0] * pool[0], 9 // pool[1] * pool[1]), Window((3, 3), pads=(1, 1))
    x, w, bias = drawn(rng, 4, 7, 9, batch), sparse(rng, 0.3, 5, 4, 3, 3), drawn(rng, 5)
    tiling = chosen(module, w, window, size, batch, pool)
    made = direct(x, w, window, size) + bias[:, None, None, None]
    got = run(module, x, w, window, size, tiling, 0, bias, None, ("Relu", 0.0, 0.0), pool, how)
    assert close(got, pooled(np.maximum(made, 0), pool, how))


def test_what_is_not_a_number_stays_so(module):
    x, w = np.ones((1, 4, 4, 16), np.float32), np.ones((2, 1, 1, 1), np.float32)
    x[0, 1, 1, 3] = np.nan
    tiling, window = Tiling(2, 2, module.lanes, SHARED, 1), Window((1, 1))
    got = run(module, x, w, window, (4, 4), tiling, activation=("Relu", 0.0, 0.0))
    assert np.isnan(got).sum() == 2
    got = run(module, x, w, window, (4, 4), tiling, pool=(2, 2), how="max")
    assert np.isnan(got).sum() == 2


def test_rows_without_nonzeros_are_their_bias(module):
    x, w = np.ones((3, 4, 4, 2), np.float32), np.zeros((2, 3, 3, 3), np.float32)
    tiling = Tiling(4, 2, 2, SHARED, 2)
    bias = np.array([1, -2], np.float32)
    got = run(module, x, w, Window((3, 3), pads=(1, 1)), (4, 4), tiling, bias=bias)
    np.testing.assert_array_equal(got, np.broadcast_to(bias[:, None, None, None], got.shape))


def test_a_wrong_weight_is_seen(module):
    rng = np.random.default_rng(0)
    window = Window((3, 3), pads=(1, 1))
    x, w = drawn(rng, 5, 8, 8, 2), sparse(rng, 0.5, 16, 5, 3, 3)
    wanted = direct(x, w, window, (8, 8))
    w[3, 2, 1, 1] += 0.01
    tiling = chosen(module, w, window, (8, 8), 2)
    assert not close(run(module, x, w, window, (8, 8), tiling), wanted)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"panel_channels": 3}, "panels"), ({"tile": (0, 4, 1)}, "tile"),
        ({"tile": (4, 4000, 1)}, "tile"), ({"tile": (4, 4, 0)}, "tile"),
        ({"tile": (64, 8, 1)}, "tile"), ({"parts": 17}, "parts"),
        ({"copies": "all"}, "copies: there is no 'all'"), ({"pool": (2, 1)}, "pooling"),
        ({"combine": "min"}, "combine: there is no 'min'"),
        ({"combine": "max", "pool": (2, 1), "tile": (3, 4, 1)}, "pooling"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(module, change, reason):
    with pytest.raises(ValueError, match=f"rows: .*{reason}"):
        added(module, **change)


def test_a_last_row_ends_with_its_pixels(module):
    """The samples that follow in its pitch may be those of others, or lie beyond the arena."""
    x, size = image(0, 2, 16, (4, 1), 1, 4, 0), ((4, 1), 1, 4, 0)
    added(module, x=x, y=image(35, 16, 16, *size))
    with pytest.raises(ValueError, match="rows: y leaves the arena"):
        added(module, x=x, y=image(36, 16, 16, *size))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("weights", np.ones(3, np.float32)),
        ("columns", np.array([0, 18], np.uint16)),
        ("starts", np.zeros(17, np.int32)),
        ("starts", np.array([0, 2, 1] + [2] * 14, np.int32)),
        ("bias", np.ones(3, np.float32)),
        ("x", image(0, 2, 15, (4, 4), 1, 4, 0)), ("x", image(0, 3, 16, (4, 4), 1, 4, 0)),
        ("x", image(300, 2, 16, (4, 4), 1, 4, 0)), ("x", image(0, 2, 16, (4, 4), 1, 3, 0)),
        ("x", image(0, 2, 16, (0, 4), 1, 4, 0)), ("x", image(0, 2, 16, (4, 4), 2, 4, 0)),
        ("x", {**image(0, 2, 16, (4, 4), 1, 4, 0), "pixel": 2}),
        ("y", image(32, 16, 15, (4, 4), 1, 4, 0)), ("y", image(40, 16, 16, (4, 4), 1, 4, 0)),
        ("y", image(32, 16, 16, (4, 4), 1, 4, 1)), ("y", image(32, 16, 16, (4, 4), 1, 5, 0)),
        ("y", image(32, 16, 16, (4, 4), 0, 4, 0)),
        ("skip", image(0, 2, 16, (4, 4), 1, 4, 0)), ("skip", image(32, 16, 16, (4, 4), 1, 5, 0)),
        ("window", Window((3, 0)).fields), ("window", Window((3, 3), (2, 1)).fields),
    ],
)  # fmt: skip
def test_what_lies_elsewhere_is_refused(module, name, wrong):
    added(module)
    with pytest.raises(ValueError, match="rows: "):
        added(module, **{name: wrong})


def added(module, **changed):
    """Add a layer of 2 channels, 16 rows and 4 x 4 pixels to a program that just holds it."""
    fields = {
        "x": image(0, 2, 16, (4, 4), 1, 4, 0),
        "y": image(32, 16, 16, (4, 4), 1, 4, 0),
        "skip": None,
        "window": Window((3, 3)).fields,
        "weights": np.ones(2, np.float32),
        "columns": np.array([0, 17], np.uint16),
        "starts": np.array([0] + [2] * 16, np.int32),
        "bias": np.empty(0, np.float32),
        "activation": None,
        "combine": "store",
        "pool": (1, 1),
        "scale": 1.0,
        **fields_of(Tiling(4, 4, 1, COLUMNS, 2)),
    }
    module.Program(32 + 16 * 16, 1).rows(0, **{**fields, **changed})


# --- the choice of tiles, and the packing --------------------------------------------------------

SIDES = st.integers(1, 3)


@settings(max_examples=60)
@given(
    kernel=st.tuples(SIDES, SIDES), strides=st.tuples(SIDES, SIDES), height=st.integers(1, 40),
    width=st.integers(1, 40), lanes=st.integers(1, 70), channels=st.integers(1, 300),
    rows=st.integers(1, 300), density=st.sampled_from([0.05, 0.2]),
    vector=st.sampled_from([4, 8, 16]), threads=st.integers(1, 5),
)  # fmt: skip
def test_tiles_fit_the_registers_and_the_cache(
    kernel, strides, height, width, lanes, channels, rows, density, vector, threads
):
    shape = Shape(rows, channels, kernel[0] * kernel[1])
    nonzeros = max(int(density * rows * channels * shape.taps), 1)
    window, outputs = Window(kernel, strides), Outputs(height, width, lanes)
    tiling, cost = choose_tiling(shape, window, outputs, nonzeros, Machine(vector, threads))
    assert tiling is not None
    # No layer takes less than its multiplications do at peak.
    assert cost > nonzeros * height * width
    assert 1 <= tiling.channels <= channels
    assert 1 <= tiling.parts <= rows
    vectors = 16 if vector == 16 else 8
    assert tiling.rows * tiling.pixels * tiling.samples <= vectors * vector
    window_elements = tiling.rows * tiling.pixels * tiling.samples * tiling.channels
    assert window_elements * 4 <= 32 << 10


def test_more_nonzeros_cost_more():
    shape, window, outputs = Shape(64, 64, 9), Window((3, 3), pads=(1, 1)), Outputs(16, 16, 8)
    costs = [
        choose_tiling(shape, window, outputs, n, Machine(16, 2))[1] for n in (1000, 4000, 8000)
    ]
    assert costs == sorted(costs)


@pytest.mark.parametrize("shape", [Shape(8, 8, 9, groups=2), Shape(8, 8, 9)])
def test_layers_that_have_no_tiles(shape):
    """Convolution groups; windows of one channel that the cache does not hold."""
    kernel = (3, 3) if shape.groups > 1 else (3000, 3)
    tiling, cost = choose_tiling(shape, Window(kernel), Outputs(4, 4, 16), 99, Machine(16, 2))
    assert tiling is None
    assert cost == float("inf")


def test_pooling_windows_lie_in_one_tile():
    shape, window = Shape(64, 64, 9), Window((3, 3), pads=(1, 1))
    tiling, _ = choose_tiling(shape, window, Outputs(6, 6, 64, (2, 2)), 5000, Machine(16, 2))
    assert tiling is not None
    assert tiling.rows % 2 == tiling.pixels % 2 == 0


@given(
    rows=st.integers(1, 9), channels=st.integers(1, 9), taps=st.sampled_from([1, 9]),
    panel=st.integers(1, 9), seed=st.integers(0, 99),
)  # fmt: skip
def test_panels_hold_every_nonzero_once(rows, channels, taps, panel, seed):
    matrix = sparse(np.random.default_rng(seed), 0.4, rows, channels * taps)
    stored = compressed(matrix)
    panel = min(panel, channels)
    packed = pack_panels(stored, Shape(rows, channels, taps), panel)
    panels = -(-channels // panel)
    made = np.zeros((rows, panels * panel * taps), np.float32)
    for i in range(panels * rows):
        span = slice(*packed.starts[i : i + 2])
        columns = i // rows * panel * taps + packed.columns[span]
        assert (np.diff(columns.astype(int)) > 0).all()
        made[i % rows, columns] = packed.weights[span]
    np.testing.assert_array_equal(made[:, : channels * taps], matrix)
    assert isinstance(stored, Residual)
    assert len(packed.weights) == np.count_nonzero(matrix)
