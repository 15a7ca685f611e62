"""Runs: every lane of the output once, with exactly the taps that lie inside the image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.cpu import native
from runtime.cpu.kernels.pixel_runs import pixel_runs
from runtime.cpu.kernels.runs import plane_runs, split
from runtime.cpu.memory.layout import Form, View, as_image
from runtime.cpu.memory.window import Pooling, Window


def image(height, width, lanes, halo=0, channels=1):
    form = Form(lanes, channels, height, width, lanes, halo)
    return as_image(View.of_form(0, form, (lanes, channels, height, width)))


WINDOWS = st.builds(
    Window,
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
)


def output_size(window, size, axis, pad_after):
    reach = window.dilations[axis] * (window.kernel[axis] - 1)
    return (size + window.pads[axis] + pad_after - reach - 1) // window.strides[axis] + 1


def taps_of(runs, number):
    first, last = runs.tap_set_starts[number : number + 2]
    ranges = runs.tap_sets.reshape(-1, 2)[first:last]
    return [tap for a, b in ranges.tolist() for tap in range(a, b)]


def check(runs, x, y, window, exact):
    """Every lane is written once; each tap of it reads its pixel, and those outside none."""
    written = {}
    offsets = window.tap_offsets(x)
    for run in runs.table:
        source, target, lanes, tap_set, mask = (
            int(run[name]) for name in ("input", "output", "lanes", "tap_set", "mask")
        )
        steps = int(run["input_step"]), int(run["output_step"])
        assert lanes >= 1
        for lane in range(lanes):
            kept = mask < 0 or runs.masks[mask + lane]
            number, part = divmod(lane, runs.vector)
            place = target + number * steps[1] + part
            assert place not in written
            written[place] = kept
            if not kept:
                continue
            row, rest = divmod(place, y.row)
            pixel, sample = divmod(rest, y.pixel)
            assert row < y.height
            assert pixel < y.width
            taps = taps_of(runs, tap_set)
            for tap in range(window.taps):
                i = row * window.strides[0] + tap // window.kernel[1] * window.dilations[0]
                j = pixel * window.strides[1] + tap % window.kernel[1] * window.dilations[1]
                i, j = i - window.pads[0], j - window.pads[1]
                inside_y, inside_x = 0 <= i < x.height, 0 <= j < x.width
                if exact or not inside_y:
                    assert (tap in taps) == (inside_y and inside_x)
                if tap in taps:
                    assert (
                        source + number * steps[0] + part + offsets[tap]
                        == i * x.row + j * x.pixel + sample
                    )
    wanted = {
        i * y.row + j * y.pixel + n
        for i in range(y.height)
        for j in range(y.width)
        for n in range(y.lanes)
    }
    assert {place for place, kept in written.items() if kept} == wanted
    if y.halo:
        zeros = {p for p, kept in written.items() if not kept}
        assert zeros >= set(range(-y.halo * y.lanes, 0))
        assert zeros >= {
            i * y.row + j * y.pixel
            for i in range(y.height)
            for j in range(y.width, y.width + y.halo)
        }


@given(
    window=WINDOWS, height=st.integers(1, 8), width=st.integers(1, 8),
    lanes=st.sampled_from([1, 8]), vector=st.sampled_from([4, 8]), apart=st.booleans(),
)  # fmt: skip
def test_pixel_runs_take_exactly_the_taps_inside(window, height, width, lanes, vector, apart):
    sizes = [output_size(window, n, axis, 1) for axis, n in enumerate((height, width))]
    if min(sizes) < 1:
        return
    x, y = image(height, width, lanes), image(*sizes, lanes)
    runs = pixel_runs(x, y, window, vector, apart=apart)
    check(runs, x, y, window, exact=True)
    check(split(runs, 8), x, y, window, exact=True)


@given(
    window=WINDOWS, height=st.integers(1, 8), width=st.integers(1, 8),
    lanes=st.sampled_from([1, 3]), vector=st.sampled_from([4, 16]), halo=st.integers(0, 2),
)  # fmt: skip
def test_plane_runs_read_zeros_from_the_halo(window, height, width, lanes, vector, halo):
    window = Window(window.kernel, (window.strides[0], 1), window.dilations, window.pads)
    sizes = [output_size(window, n, axis, 1) for axis, n in enumerate((height, width))]
    if min(sizes) < 1:
        return
    x = image(height, width, lanes, window.reach(width, sizes[1]))
    y = image(*sizes, lanes, halo)
    runs = plane_runs(x, y, window, vector)
    check(runs, x, y, window, exact=False)
    check(split(runs, 16), x, y, window, exact=False)


def test_rows_flow_together_where_their_pitch_is_one():
    window = Window((3, 3), pads=(1, 1))
    x = y = image(7, 7, 1, 1)
    runs = plane_runs(x, y, window, 16)
    assert runs.lanes.tolist() == [1, 8, 40, 8]
    by_rows = plane_runs(image(14, 14, 8), image(14, 14, 8), Window((1, 1)), 16)
    assert by_rows.lanes.tolist() == [14 * 14 * 8]


def test_pixels_of_a_row_are_one_run_where_their_taps_are():
    window = Window((3, 3), pads=(1, 1))
    x = y = image(4, 6, 16)
    assert sorted(pixel_runs(x, y, window, 16, apart=False).lanes.tolist()) == [16] * 8 + [64] * 4
    assert pixel_runs(x, y, Window((1, 1)), 16).lanes.tolist() == [4 * 6 * 16]


@pytest.mark.parametrize("largest", [True, False])
def test_pooled_pixels_meet_in_one_unit(largest):
    window, pooling = Window((3, 3), pads=(1, 1)), Pooling((2, 3), largest)
    x, y = image(5, 7, 4), image(2, 2, 4)
    runs = pixel_runs(x, y, window, 4, pooling, apart=False)
    assert len(runs.table) == 2 * 2 * 6
    assert np.diff(runs.units).tolist() == [6] * 4
    for first, last in zip(runs.units[:-1], runs.units[1:], strict=True):
        unit = runs.table[first:last]
        assert len(set(unit["output"].tolist())) == 1
        combine = native.numbers("combine")
        then = combine["max" if largest else "add"]
        assert unit["combine"].tolist() == [combine["store"]] + [then] * 5
    assert len(split(runs, 4).table) == len(runs.table)


def test_tap_sets_count_their_taps():
    x = y = image(4, 4, 4)
    runs = pixel_runs(x, y, Window((3, 3), pads=(1, 1)), 4)
    taken = (runs.taps[runs.table["tap_set"]] * runs.lanes).sum() // 4
    assert taken == (3 * 4 - 2) ** 2
