from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from masktools.checks import as_mask, as_saliency
from masktools.errors import MaskError
from masktools.layout import BlockLayout, DenseBlock
from masktools.row_patterns import few

SHAPES = hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=7)
MASKS = hnp.arrays(np.bool_, SHAPES)


@st.composite
def grouped_masks(draw):
    """Masks whose rows share a few column sets, as regrouping leaves them."""
    rows, columns = draw(st.integers(1, 12)), draw(st.integers(1, 9))
    patterns = draw(hnp.arrays(np.bool_, (3, columns)))
    pattern = draw(hnp.arrays(np.intp, rows, elements=st.integers(0, 2)))
    return patterns[pattern]


@given(MASKS)
def test_from_mask_covers_the_mask_exactly(mask):
    layout = BlockLayout.from_mask(mask)
    assert np.array_equal(layout.to_mask(), mask)
    assert layout.fill(mask) == 0
    assert not layout.residual(mask).any()


@given(MASKS)
def test_blocks_are_disjoint_and_sum_to_stored(mask):
    layout = BlockLayout.from_mask(mask)
    layout.check(full=True)
    assert layout.stored == np.count_nonzero(mask) == layout.to_mask().sum()
    assert layout.density == pytest.approx(mask.mean())


@given(MASKS)
def test_from_mask_is_idempotent(mask):
    layout = BlockLayout.from_mask(mask)
    assert BlockLayout.from_mask(layout.to_mask()) == layout


@given(grouped_masks(), st.randoms(use_true_random=False))
def test_from_mask_is_equivariant_under_row_permutation(mask, random):
    order = np.array(random.sample(range(len(mask)), len(mask)))
    found = {
        (frozenset(order[b.rows].tolist()), b.columns.tobytes())
        for b in BlockLayout.from_mask(mask[order]).blocks
    }
    expected = {
        (frozenset(b.rows.tolist()), b.columns.tobytes())
        for b in BlockLayout.from_mask(mask).blocks
    }
    assert found == expected


@given(grouped_masks(), st.integers(1, 5))
def test_rows_that_too_few_share_are_the_residual(mask, min_rows):
    layout = BlockLayout.from_mask(mask, min_rows=min_rows)
    assert all(len(b.rows) >= min_rows for b in layout.blocks)
    assert np.array_equal((layout.to_mask() & mask) | layout.residual(mask), mask)
    for block in layout.blocks:
        lacked = len(block.columns) - mask[np.ix_(block.rows, block.columns)].sum(axis=1)
        assert lacked.max() <= few(len(block.columns))
    for row in np.flatnonzero(layout.residual(mask).any(axis=1)):
        assert (mask == mask[row]).all(axis=1).sum() < min_rows


# --- accidental zeros -----------------------------------------------------------------------------


def regrouped(rows=64, columns=288, height=8, seed=0):
    """A mask of row groups whose rows lie anywhere."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((rows, columns), np.bool_)
    for group in rng.permutation(rows).reshape(-1, height):
        mask[np.ix_(group, rng.random(columns) < 0.3)] = True
    return mask


def losing(mask, share, seed=1):
    """The mask without a share of what it keeps."""
    return mask & (np.random.default_rng(seed).random(mask.shape) >= share)


@pytest.mark.parametrize("share", [0, 1e-3, 1e-2])
def test_accidental_zeros_do_not_break_blocks(share):
    mask = regrouped()
    found = losing(mask, share)
    layout = BlockLayout.from_mask(found, min_rows=4)
    layout.check(full=True)
    assert len(layout.blocks) == 8
    assert not layout.residual(found).any()
    assert np.array_equal(layout.to_mask(), mask)
    assert layout.fill(found) == mask.sum() - found.sum()
    assert np.array_equal(BlockLayout.from_mask(found).to_mask(), found)


def test_a_row_joins_the_smallest_block_that_holds_it():
    mask = np.zeros((9, 64), bool)
    mask[:4, :40] = mask[4:8, :38] = True
    mask[8, :37] = True
    layout = BlockLayout.from_mask(mask, min_rows=4)
    assert [b.rows.tolist() for b in layout.blocks] == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]
    assert layout.fill(mask) == 1


@pytest.mark.parametrize(("lacking", "joins"), [(2, True), (3, False)])
def test_a_row_that_lacks_more_than_a_few_is_the_residual(lacking, joins):
    mask = np.zeros((5, 64), bool)
    mask[:, :40] = True
    mask[4, :lacking] = False
    layout = BlockLayout.from_mask(mask, min_rows=4)
    assert (layout.fill(mask), bool(layout.residual(mask).any())) == (lacking * joins, not joins)


def test_a_row_that_keeps_another_column_is_the_residual():
    mask = np.zeros((5, 64), bool)
    mask[:, :40] = True
    mask[4, [0, 50]] = [False, True]
    assert len(BlockLayout.from_mask(mask, min_rows=4).blocks[0].rows) == 4


def test_whole_rows_survive_accidental_zeros():
    mask = np.zeros((6, 64), bool)
    mask[[1, 4]] = True
    mask[4, [3, 50]] = False
    layout = BlockLayout.from_mask(mask, min_rows=4, whole=True)
    assert [b.rows.tolist() for b in layout.blocks] == [[1, 4]]
    assert layout.stored == 128
    assert not BlockLayout.from_mask(mask, min_rows=4).blocks
    mask[1, 7] = False
    assert BlockLayout.from_mask(mask, min_rows=4, whole=True) == layout


def test_accidental_zeros_stay_in_their_convolution_group():
    mask = losing(regrouped(32), 1e-2)
    both = np.concatenate([mask, mask])
    layout = BlockLayout.from_mask(both, min_rows=4, groups=2)
    layout.check(full=True)
    one = BlockLayout.from_mask(mask, min_rows=4)
    assert len(layout.blocks) == 2 * len(one.blocks)
    assert np.array_equal(layout.to_mask(), np.concatenate([one.to_mask()] * 2))


def test_unstructured_rows_make_no_blocks():
    mask = np.random.default_rng(0).random((64, 288)) < 0.3
    assert not BlockLayout.from_mask(mask, min_rows=4, whole=True).blocks


@given(MASKS)
def test_arrays_round_trip(mask):
    layout = BlockLayout.from_mask(mask)
    arrays = layout.to_arrays()
    assert {name: a.dtype.name for name, a in arrays.items()} == {
        "shape": "int64",
        "row_indices": "int32",
        "row_offsets": "int64",
        "column_indices": "int32",
        "column_offsets": "int64",
    }
    assert BlockLayout.from_arrays(arrays) == layout


def test_rows_of_two_convolution_groups_never_share_a_block():
    mask = np.ones((4, 3), bool)
    assert [b.rows.tolist() for b in BlockLayout.from_mask(mask, groups=2).blocks] == [
        [0, 1],
        [2, 3],
    ]
    with pytest.raises(MaskError, match="different convolution groups"):
        BlockLayout((4, 3), [DenseBlock([1, 2], [0])], groups=2)


def test_retained_counts_magnitudes_inside_the_blocks():
    weight = np.array([[1.0, -2.0, 4.0], [-8.0, 16.0, 32.0]])
    layout = BlockLayout((2, 3), [DenseBlock([0, 1], [0, 1])])
    assert layout.retained(weight) == pytest.approx(27 / 63)
    assert layout.retained(np.zeros((2, 3))) == 1.0
    assert BlockLayout((2, 3)).retained(weight) == 0.0


def test_fill_and_residual_are_the_two_differences():
    mask = np.array([[1, 1, 0], [1, 0, 1]], bool)
    layout = BlockLayout((2, 3), [DenseBlock([0, 1], [0, 1])])
    assert layout.fill(mask) == 1
    assert layout.residual(mask).tolist() == [[False] * 3, [False, False, True]]
    with pytest.raises(MaskError, match=r"expected a mask of shape \(2, 3\), got \(3, 2\)"):
        layout.fill(mask.T)


def test_a_layer_of_another_view_is_read_by_value():
    mask = np.random.default_rng(0).random((6, 4, 3)) < 0.5
    swapped = np.asfortranarray(mask)
    read_only = mask.copy()
    read_only.flags.writeable = False
    layout = BlockLayout.from_mask(mask)
    assert BlockLayout.from_mask(swapped) == layout
    assert BlockLayout.from_mask(read_only) == layout
    assert BlockLayout.from_mask(np.repeat(mask, 2, axis=0)[::2]) == layout


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (0, 3), (3, 0), (2, 0, 3, 3)])
@pytest.mark.parametrize("value", [False, True])
def test_layers_at_the_edge(shape, value):
    mask = np.full(shape, value)
    layout = BlockLayout.from_mask(mask)
    assert np.array_equal(layout.to_mask(), mask)
    assert layout.density == float(value and mask.size > 0)
    assert len(layout.blocks) == int(value and mask.size > 0)


def test_layouts_and_blocks_cannot_be_changed():
    block = DenseBlock([0], [1])
    with pytest.raises(ValueError, match="read-only"):
        block.rows[0] = 5
    with pytest.raises(dataclasses.FrozenInstanceError):
        BlockLayout((1, 2), [block]).shape = (1, 3)  # type: ignore[misc]
    assert hash(block) == hash(DenseBlock([0], [1]))


@pytest.mark.parametrize(
    ("rows", "columns"), [([], [0]), ([0], []), ([1, 0], [0]), ([0, 0], [0]), ([-1], [0])]
)
def test_a_block_needs_ascending_indices(rows, columns):
    with pytest.raises(MaskError, match="strictly ascending"):
        DenseBlock(rows, columns)


def test_an_index_out_of_range_is_named():
    with pytest.raises(MaskError, match="block 1: row 2, but there are 2"):
        BlockLayout((2, 2), [DenseBlock([0], [0]), DenseBlock([2], [0])])
    with pytest.raises(MaskError, match="block 0: column 7, but there are 2"):
        BlockLayout((2, 2), [DenseBlock([0], [7])])


def test_a_position_stored_twice_is_found_by_the_full_check():
    layout = BlockLayout((3, 3), [DenseBlock([0, 1], [0, 1]), DenseBlock([1, 2], [1])])
    with pytest.raises(MaskError, match="block 1: row 1, column 1 is stored by an earlier block"):
        layout.check(full=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row_offsets": np.array([0, 3], np.int64)}, "row_offsets must rise from 0 to 2"),
        ({"row_offsets": np.array([0, 0, 2], np.int64)}, "row_offsets must rise from 0 to 2"),
        ({"row_offsets": np.array([], np.int64)}, "row_offsets must rise from 0 to 2"),
        ({"column_offsets": np.array([0, 1, 2], np.int64)}, "1 blocks by row_offsets, 2 by"),
        ({"row_indices": np.array([0, 1], np.int64)}, "row_indices: dtype must be int32 of one"),
        ({"row_indices": np.array([0, 9], np.int32)}, "block 0: row 9, but there are 2"),
        ({"shape": np.array([2, -2], np.int64)}, "is not the shape of a weight"),
        ({"shape": np.array([2, 2, 1, 1, 1], np.int64)}, "is not the shape of a weight"),
        ({"shape": np.array([2, 2**62, 2**62], np.int64)}, "larger than 32-bit indices reach"),
    ],
)
def test_damaged_arrays_are_refused(change, message):
    arrays = BlockLayout((2, 2), [DenseBlock([0, 1], [0, 1])]).to_arrays() | change
    with pytest.raises(MaskError, match=message):
        BlockLayout.from_arrays(arrays)


@given(
    st.lists(
        st.tuples(st.sets(st.integers(0, 4), min_size=1), st.sets(st.integers(0, 4), min_size=1)),
        max_size=5,
    )
)
def test_the_full_check_agrees_with_counting(pairs):
    count = np.zeros((5, 5), int)
    for rows, columns in pairs:
        count[np.ix_(sorted(rows), sorted(columns))] += 1
    blocks = [DenseBlock(sorted(r), sorted(c)) for r, c in pairs]
    if count.max() > 1:
        with pytest.raises(MaskError):
            BlockLayout((5, 5), blocks).check(full=True)
    else:
        BlockLayout((5, 5), blocks).check(full=True)


def test_a_layout_shows_itself_in_a_line():
    blocks = [DenseBlock([0], [0]), DenseBlock([2, 3], [0, 1])]
    assert repr(BlockLayout((4, 2), blocks, 2)) == (
        "BlockLayout((4, 2), 2 blocks, density 0.625, groups=2)"
    )


def test_a_missing_array_is_named():
    arrays = BlockLayout((2, 2)).to_arrays()
    del arrays["row_offsets"]
    with pytest.raises(MaskError, match="'row_offsets' is missing"):
        BlockLayout.from_arrays(arrays)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (np.array([["a"]]), TypeError, "bool or 0/1 numbers"),
        (np.array([[0.0, 0.5]]), MaskError, "expected a mask of 0 and 1, got 0.5"),
        (np.array([[np.nan]]), MaskError, "got nan"),
        ([[1], [1, 0]], MaskError, "lists of unequal length"),
        (np.ones(3, bool), MaskError, r"got \(3,\)"),
        (np.ones((1, 1, 1, 1, 1), bool), MaskError, "Conv3d"),
    ],
)
def test_what_is_no_mask_is_refused(mask, error, message):
    with pytest.raises(error, match=message):
        as_mask(mask)


def test_saliency_is_the_finite_magnitude():
    assert as_saliency(np.array([[-2, 1]]), (1, 2)).tolist() == [[2.0, 1.0]]
    with pytest.raises(MaskError, match=r"got nan at \(1, 0\)"):
        as_saliency(np.array([[1.0, 2.0], [np.nan, 0.0]]), (2, 2))
    with pytest.raises(MaskError, match=r"finite in float32, got 1e\+300 at \(0, 1\)"):
        as_saliency(np.array([[1.0, 1e300]]), (1, 2))
    with pytest.raises(MaskError, match="expected weights as an array, got lists of unequal"):
        as_saliency([[1.0], [1.0, 2.0]], (2, 2))
    with pytest.raises(MaskError, match=r"expected weights of shape \(1, 2\), got \(2, 1\)"):
        as_saliency(np.ones((2, 1)), (1, 2))
    with pytest.raises(TypeError, match="complex"):
        as_saliency(np.ones((1, 2), complex), (1, 2))


@pytest.mark.parametrize("rows", [[0.5], [True], ["a"], None, [None]])
def test_indices_are_whole_numbers(rows):
    with pytest.raises(TypeError, match="a block's rows must be whole numbers"):
        DenseBlock(rows, [0])


@pytest.mark.parametrize("rows", [[2**40], [-1], [1, 0], [0, 0], [[0]], [], 3])
def test_indices_ascend_within_what_32_bits_hold(rows):
    with pytest.raises(MaskError, match="a block's rows must be a non-empty, strictly ascending"):
        DenseBlock(rows, [0])


def test_convolution_groups_divide_the_rows():
    with pytest.raises(MaskError, match="3 convolution groups do not divide 4 rows"):
        BlockLayout.from_mask(np.ones((4, 2), bool), groups=3)
    with pytest.raises(TypeError, match="groups must be a whole number"):
        BlockLayout((4, 2), groups="a")
    with pytest.raises(MaskError, match="min_rows must be at least 1"):
        BlockLayout.from_mask(np.ones((4, 2), bool), min_rows=0)
