"""The preset "released": the rule of the code that was released with the paper, step by step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masktools import regroup
from masktools.errors import MaskError
from masktools.transform import released
from masktools.transform.released import released_blocks, width


def step_by_step(part):
    """The rule as the released code has it: one counter a row, one column after the other."""
    left = part.sum(axis=1).tolist()
    for i in range(1, part.shape[1]):
        failed = False
        for row in range(len(part)):
            left[row] -= int(part[row, i])
            if i <= 1.5 * left[row]:
                failed = True
                break
        if not failed:
            return i
    return None


def layer(rows=256, columns=300, density=0.2, seed=0):
    random = np.random.default_rng(seed)
    share = density * random.uniform(0.5, 1.5, (rows, 1)) * random.uniform(0.5, 1.5, (1, columns))
    return random.random((rows, columns)) < share


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(0, 30), st.floats(0, 1))
def test_the_width_is_that_of_counters(seed, rows, columns, density):
    part = np.random.default_rng(seed).random((rows, columns)) < density
    assert width(part) == step_by_step(part)


def test_counters_of_later_rows_stand_still():
    part = np.zeros((2, 40), bool)
    part[:, 1:11] = True
    # 10 nonzeros each. The first row's counter is 0 after ten columns, and it passes at 7; the
    # second begins to count there, with columns 1 to 6 behind it, which it never takes off.
    assert width(part[:1]) == 7
    assert width(part) == 10
    # With many equal rows it ends where 1.5 times all nonzeros of a row are passed.
    assert width(np.repeat(part[:1], 50, axis=0)) == 16


def test_the_largest_row_first_or_last_makes_a_difference():
    part = np.zeros((2, 40), bool)
    part[0, 1:5], part[1, 1:17] = True, True
    assert (width(part), width(part[::-1])) == (11, 10)


def test_eight_parts_with_the_best_columns_of_each():
    keep = layer()
    layout = regroup(keep, preset="released")
    layout.check(full=True)
    assert len(layout.blocks) == 8
    assert sorted(np.concatenate([b.rows for b in layout.blocks])) == list(range(256))
    for block in layout.blocks:
        part = keep[block.rows]
        count = part.sum(axis=0)
        assert len(block.columns) == step_by_step(part)
        first = sorted(range(300), key=lambda column: -count[column])[: len(block.columns)]
        assert block.columns.tolist() == sorted(first)
    assert layout.stored > 1.3 * keep.sum()


@pytest.mark.parametrize("partitioner", ["kahypar", "mtkahypar", "spectral"])
def test_no_half_has_more_than_six_tenths_of_the_rows(partitioner):
    random = np.random.default_rng(1)
    share = 0.05 * np.exp(0.8 * random.standard_normal((512, 1)))
    keep = random.random((512, 1200)) < share * random.uniform(0.5, 1.5, 1200)
    keep = keep[keep.any(axis=1)]
    saliency = keep.astype(np.float32)
    parts = list(released._parts(saliency, np.arange(len(keep)), 3, partitioner, 0))
    assert sorted(np.concatenate(parts)) == list(range(len(keep)))
    sizes = [len(part) for part in parts]
    assert len(sizes) == 8
    assert max(sizes) - min(sizes) > 1, "the room is not used"
    halves = [sum(sizes[n : n + 4]) for n in (0, 4)]
    for whole, pair in ((len(keep), halves), (halves[0], [sum(sizes[:2]), sum(sizes[2:4])])):
        assert max(pair) <= 0.6 * whole


def test_parts_of_16_rows_and_fewer_are_dropped(monkeypatch):
    keep = layer(40, 300)
    for small, heights in ((16, [24]), (17, [17, 23])):
        parts = [np.arange(small), np.arange(small, 40)]
        monkeypatch.setattr(released, "_parts", lambda *_, parts=parts: parts)
        blocks = released_blocks(keep, keep.astype(np.float32), "spectral", 0)
        assert [len(block.rows) for block in blocks] == heights


def test_layers_of_128_rows_have_no_block():
    assert not regroup(layer(128), preset="released").blocks
    assert len(regroup(layer(137), preset="released").blocks) >= 1


def test_a_part_that_keeps_most_columns_has_no_block_and_loses_its_rows(monkeypatch):
    keep = layer(64)
    keep[:32] = np.random.default_rng(3).random((32, 300)) < 0.9
    parts = [np.arange(32), np.arange(32, 64)]
    monkeypatch.setattr(released, "_parts", lambda *_: parts)
    (block,) = released_blocks(keep, keep.astype(np.float32), "spectral", 0)
    assert block.rows.tolist() == list(range(32, 64))


def test_empty_rows_are_left_out():
    keep = layer(300)
    keep[::7] = False
    layout = regroup(keep, preset="released")
    assert len(layout.blocks) == 8
    assert not layout.to_mask()[::7].any()


def test_kept_weights_of_value_zero_are_nonzeros_of_the_mask():
    keep = layer()
    for weight in (np.zeros(keep.shape), keep * 1.0):
        layout = regroup(keep, weight, preset="released")
        assert layout.blocks == regroup(keep, preset="released").blocks


def test_each_convolution_group_has_its_own_parts():
    keep = layer(512)
    layout = regroup(keep, groups=2, preset="released")
    assert len(layout.blocks) == 16
    alone = regroup(keep[256:], preset="released")
    assert {block.columns.tobytes() for block in alone.blocks} == {
        block.columns.tobytes() for block in layout.blocks[8:]
    }


def test_the_seed_counts_and_the_same_one_gives_the_same():
    keep = layer()
    first, again, other = (regroup(keep, preset="released", seed=s).to_mask() for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 7), (7, 1), (1, 1), (9, 2)])
@pytest.mark.parametrize("kept", [False, True])
def test_smallest_layers_have_no_block(shape, kept):
    assert not regroup(np.full(shape, kept), preset="released").blocks


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"preset": "paper"}, MaskError, "preset must be one of released, got 'paper'"),
        ({"density": 0.5}, TypeError, "'released' settles how to regroup: leave out density"),
        ({"group_rows": 32}, TypeError, "leave out group_rows"),
        ({"min_rows": 17}, TypeError, "leave out min_rows"),
        ({"passes": 1}, TypeError, "leave out passes"),
    ],
)
def test_refusals(arguments, error, message):
    with pytest.raises(error, match=message):
        regroup(layer(), **{"preset": "released", **arguments})
