"""The choice of a kernel: legal, complete, and of the right order."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.cuda.candidates import candidates, choose, estimate
from runtime.cuda.configuration import REMAINDER_ROWS, Limits, Problem, lanes
from runtime.errors import PlanError

TURING = Limits(75, 68, 65536, 65536)
AMPERE = Limits(80, 108, 166912, 167936, threads_per_processor=2048)
ADA = Limits(89, 128, 101376, 102400, threads_per_processor=1536)
HOPPER = Limits(90, 132, 232448, 233472, threads_per_processor=2048)
DEVICES = (TURING, AMPERE, ADA, HOPPER)
DTYPES = ("float32", "tf32", "float16")

problems = st.builds(
    Problem,
    dtype=st.sampled_from(DTYPES),
    positions=st.integers(1, 2**20),
    lanes=st.sampled_from((1, 2, 3, 4, 5, 7, 8, 64)),
    blocks=st.lists(st.tuples(st.integers(1, 600), st.integers(1, 5000)), max_size=6).map(tuple),
)


def offered(problem, limits):
    """Return the configurations, none where the device lacks the type."""
    if problem.dtype == "tf32" and limits.capability < 80:
        return ()
    return candidates(problem, limits)


@given(problems, st.sampled_from(DEVICES))
def test_configurations_fit_the_device(problem, limits):
    for c in offered(problem, limits):
        assert c.shared_bytes <= limits.shared_per_block
        assert c.threads * c.blocks_per_processor * c.registers <= limits.registers_per_processor
        assert c.threads <= 256
        assert c.threads & (c.threads - 1) == 0
        assert c.asynchronous == (limits.capability >= 80 and c.copy_bytes >= 4)
        assert c.copy_bytes == 16 or c.copy_bytes == c.itemsize
        if c.aligned:
            assert problem.lanes * c.itemsize % 16 == 0


@given(problems, st.sampled_from(DEVICES))
def test_the_first_candidate_is_chosen(problem, limits):
    found = offered(problem, limits)
    if found:
        assert choose(problem, limits) == found[0]
        times = [estimate(c, problem, limits) for c in found]
        assert times == sorted(times)
        assert len(set(found)) == len(found)


@given(problems, st.integers(1, 700))
def test_tiles_hold_all_rows_of_a_block_in_order(problem, rows):
    for c in offered(problem, HOPPER):
        blocks, remainders = c.split_rows(rows)
        assert sum(blocks) + sum(remainders) == rows
        assert all(0 < n <= c.rows for n in blocks)
        assert all(n == c.rows for n in blocks[:-1])
        assert all(0 < n <= REMAINDER_ROWS[-1] for n in remainders)


@given(problems, st.integers(0, 9000))
def test_ranges_of_columns_follow_each_other(problem, columns):
    for c in offered(problem, HOPPER):
        parts = c.split_depth(columns)
        assert parts[0][0] == 0
        assert parts[-1][1] == columns
        assert all(a[1] == b[0] for a, b in pairwise(parts))
        assert all(first % c.depth == 0 and first < end for first, end in parts if columns)
        if c.split:
            assert all(end - first <= c.split for first, end in parts)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_ordered_one_to_one(dtype):
    for c in candidates(Problem(dtype, 4096, 64, ((96, 500),)), HOPPER):
        assert np.array_equal(np.sort(c.weight_order), np.arange(c.depth * c.rows))
        assert (dtype == "float32") == np.array_equal(c.weight_order, np.arange(c.depth * c.rows))


def test_a_block_of_32_rows_and_a_rest_is_split_as_the_paper_says():
    c = next(
        c
        for c in candidates(Problem("float32", 4096, 64, ((70, 400),)), HOPPER)
        if c.rows == 32 and not c.split
    )
    assert c.split_rows(70) == ((32, 32), (6,))
    assert c.split_rows(64) == ((32, 32), ())
    assert c.split_rows(31) == ((31,), ())  # nearly whole: padded
    assert c.split_rows(24) == ((), (24,))


def test_few_positions_take_no_block_tiles():
    c = choose(Problem("float32", 4, 4, ((512, 4096),)), HOPPER)
    assert c.remainder_positions == 0
    blocks, remainders = c.split_rows(100)
    assert blocks == ()
    assert sum(remainders) == 100


def test_layers_with_too_few_tiles_are_split():
    deep = Problem("float32", 2 * 2 * 64, 64, ((64, 900),) * 8)
    assert choose(deep, HOPPER).split > 0
    wide = Problem("float32", 56 * 56 * 64, 64, ((64, 300),) * 2)
    assert choose(wide, HOPPER).split == 0


def test_tensor_cores_take_tall_tiles_where_blocks_are_tall():
    tall = Problem("float16", 16 * 16 * 64, 64, ((96, 900),) * 4)
    assert choose(tall, HOPPER).rows == 96
    low = Problem("float16", 16 * 16 * 64, 64, ((32, 900),) * 12)
    assert choose(low, HOPPER).rows == 32


def test_stages_leave_room_for_the_blocks_that_registers_allow():
    for c in candidates(Problem("float32", 4096, 64, ((64, 400),)), HOPPER):
        if c.stages == 4:
            room = c.blocks_per_processor * (c.shared_bytes + 1024)
            assert room <= HOPPER.shared_per_processor


@pytest.mark.parametrize(
    ("dtype", "limits", "match"),
    [
        ("tf32", TURING, r"tf32 needs a device of compute capability 8\.0, this one has 7\.5"),
        ("float16", Limits(70, 80, 98304, 98304), r"float16 needs .* 7\.5, this one has 7\.0"),
        ("bfloat16", HOPPER, "computes in float32, tf32, float16, not bfloat16"),
    ],
)
def test_types_that_a_device_lacks_are_refused_by_name(dtype, limits, match):
    with pytest.raises(PlanError, match=match):
        choose(Problem(dtype, 4096, 64, ((64, 400),)), limits)


def test_lanes():
    assert [lanes(n) for n in range(1, 18)] == [1, 2, 3, 4, 5, 6, 7, 8] + [16] * 8 + [24]
