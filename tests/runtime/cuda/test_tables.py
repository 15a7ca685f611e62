"""The tables of a layer, read back by the rules that the kernels follow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from draws import RANDOM
from hypothesis import given
from hypothesis import strategies as st

from masktools.checkpoint import SparseWeight
from masktools.layout import BlockLayout, DenseBlock
from runtime.cuda.pieces import pieces
from runtime.cuda.tables import FIRST_PARTIAL, NO_ROW, Tables, pack, rounded_to_tf32

HEIGHTS = (1, 2, 4)


@dataclass(frozen=True)
class Cutting:
    """The rules of a configuration, small enough for every edge to be met."""

    dtype: str = "float32"
    rows: int = 4
    depth: int = 3
    whole_from: int = 4
    split: int = 0

    def split_rows(self, rows):
        whole, left = divmod(rows, self.rows)
        heights = [self.rows] * whole
        if left >= self.whole_from:
            return [*heights, left], []
        return heights, [left] if left else []

    def split_depth(self, columns):
        step = self.split or columns
        return [(a, min(a + step, columns)) for a in range(0, columns, step)]

    @property
    def weight_order(self):
        return np.random.default_rng(1).permutation(self.rows * self.depth)


def multiplied(tables: Tables, cutting, x, rows):
    """Return what the kernels make of x (elements,): each row's sum, every output written once."""
    out = np.full(rows, np.nan)
    partial = np.full(tables.partials, np.nan)
    unpacked = np.argsort(cutting.weight_order)
    for number, (weights, columns, depth, slots, height) in enumerate(tables.tiles):
        read = x[tables.columns[columns : columns + depth]]
        if number < tables.block_tiles:
            assert height == cutting.rows
            assert depth % cutting.depth == 0
            chunks = tables.weights[weights:][: depth * height].reshape(-1, cutting.depth * height)
            matrix = chunks[:, unpacked].reshape(depth, height)
        else:
            assert height in HEIGHTS
            assert weights % 4 == 0
            matrix = tables.remainder_weights[weights:][: depth * height].reshape(depth, height)
        for target, total in zip(
            tables.targets[slots : slots + height], matrix.T.astype(np.float64) @ read, strict=True
        ):
            if target >= 0:
                assert np.isnan(out[target]), "a row is written twice"
                out[target] = total
            elif target <= FIRST_PARTIAL:
                assert np.isnan(partial[FIRST_PARTIAL - target]), "a partial sum is written twice"
                partial[FIRST_PARTIAL - target] = total
    for at, row in enumerate(tables.finish_rows):
        slots = tables.finish_slots[tables.finish_starts[at] : tables.finish_starts[at + 1]]
        assert np.isnan(out[row])
        out[row] = partial[slots].sum()
    return out


def spread(columns):
    """Places of columns that are neither dense nor in order."""
    return (columns * 7 + 3).astype(np.int32)


def assert_multiplies(weight, groups, cutting):
    dense = weight if isinstance(weight, np.ndarray) else weight.to_dense()
    rows = len(dense)
    matrix = dense.reshape(groups, rows // groups, -1)
    whole = np.zeros((rows, groups * matrix.shape[2]))
    for g in range(groups):
        whole[
            g * rows // groups : (g + 1) * rows // groups,
            g * matrix.shape[2] : (g + 1) * matrix.shape[2],
        ] = matrix[g]
    x = np.full(7 * whole.shape[1] + 4, np.inf)  # What no column reads must not be touched.
    x[spread(np.arange(whole.shape[1]))] = RANDOM.standard_normal(whole.shape[1])
    tables = pack(pieces(weight, groups), rows, cutting, HEIGHTS, spread)
    got = multiplied(tables, cutting, x, rows)
    np.testing.assert_allclose(got, whole @ x[spread(np.arange(whole.shape[1]))], atol=1e-5)
    return tables


def block(rows, columns):
    return DenseBlock(sorted(rows), sorted(columns))


def sparse(shape, blocks, groups=1, residual=()):
    layout = BlockLayout(shape, tuple(blocks), groups)
    mask = np.zeros((layout.rows, layout.columns), bool)
    for row, column in residual:
        mask[row, column] = True
    weight = RANDOM.standard_normal(shape).astype(np.float32)
    return SparseWeight.from_dense(weight, layout, mask.reshape(shape))


@st.composite
def weights(draw):
    """A layer of one to three groups: blocks that may share rows, and a residual, or neither."""
    groups, each, width = (draw(st.integers(1, n)) for n in (3, 11, 9))
    free = np.ones((groups * each, width), bool)
    blocks = []
    for _ in range(draw(st.integers(0, 4))):
        group = draw(st.integers(0, groups - 1))
        of_group = st.integers(group * each, (group + 1) * each - 1)
        rows = draw(st.sets(of_group, min_size=1))
        columns = draw(st.sets(st.integers(0, width - 1), min_size=1))
        at = np.ix_(sorted(rows), sorted(columns))
        if free[at].all():
            free[at] = False
            blocks.append(block(rows, columns))
    left = [tuple(at) for at in np.argwhere(free)]
    residual = draw(st.sets(st.sampled_from(left), max_size=12)) if left else ()
    return sparse((groups * each, width), blocks, groups, residual), groups


@given(
    layer=weights(),
    cutting=st.builds(
        Cutting,
        rows=st.sampled_from([2, 4]),
        depth=st.sampled_from([1, 3, 4]),
        whole_from=st.sampled_from([1, 3, 4]),
        split=st.sampled_from([0, 3, 4]),
    ),
)
def test_any_layer_is_multiplied(layer, cutting):
    assert_multiplies(*layer, cutting)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 8, 9])
@pytest.mark.parametrize("columns", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("split", [0, 3])
def test_rows_and_columns_around_the_tiles(rows, columns, split):
    weight = sparse((12, 8), [block(range(1, 1 + rows), range(columns))])
    tables = assert_multiplies(weight, 1, Cutting(split=split))
    parts = 1 if not split else -(-columns // split)
    assert tables.block_tiles == rows // 4 * parts
    assert tables.partials == (0 if parts == 1 else rows * parts)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_dense_layers_of_every_grouping(groups):
    weight = RANDOM.standard_normal((6, 4, 3, 3)).astype(np.float32)
    tables = assert_multiplies(weight, groups, Cutting())
    assert len(tables.finish_rows) == 0


def test_rows_in_no_block_are_written_without_columns():
    tables = assert_multiplies(sparse((9, 5), [block([1, 4], [0, 2])]), 1, Cutting())
    empty = tables.tiles[tables.tiles[:, 2] == 0]
    assert sorted(empty[:, 4]) == [4, 4]
    covered = [t for _, _, _, s, n in empty for t in tables.targets[s : s + n] if t != NO_ROW]
    assert covered == [0, 2, 3, 5, 6, 7, 8]


def test_an_empty_layer_is_all_rows_without_columns():
    tables = assert_multiplies(sparse((5, 3), []), 1, Cutting())
    assert tables.block_tiles == tables.partials == 0


def test_a_row_of_several_blocks_is_summed_in_the_order_of_the_tables():
    layer = sparse((6, 8), [block([0, 1], [0, 1]), block([1, 2], [2, 3])], residual=[(1, 7)])
    tables = assert_multiplies(layer, 1, Cutting())
    assert tables.finish_rows.tolist() == [1]
    assert tables.finish_slots.tolist() == [0, 1, 2]
    assert tables.partials == 3


def test_the_sums_that_wait_are_all_added_even_where_some_rows_do_not():
    layer = sparse((4, 6), [block([0, 1, 2, 3], [0, 1]), block([0, 1, 3], [2]), block([3], [4, 5])])
    tables = assert_multiplies(layer, 1, Cutting())
    assert tables.finish_rows.tolist() == [0, 1, 3]
    assert np.diff(tables.finish_starts).tolist() == [2, 2, 3]


# --- pieces --------------------------------------------------------------------------------------


def test_blocks_and_residual_rows_of_the_same_columns_become_one_piece():
    layer = sparse(
        (8, 4),
        [block([0, 1], [0, 2]), block([2, 3], [1]), block([4, 6], [0, 2])],
        residual=[(5, 3), (7, 3), (3, 3)],
    )
    got = [(p.rows.tolist(), p.columns.tolist()) for p in pieces(layer)]
    assert got == [([0, 1, 4, 6], [0, 2]), ([2, 3], [1]), ([3, 5, 7], [3])]
    assert_multiplies(layer, 1, Cutting())


def test_equal_columns_of_two_convolution_groups_stay_apart():
    layer = sparse((4, 3), [block([0, 1], [1]), block([2, 3], [1])], groups=2)
    got = [(p.rows.tolist(), p.columns.tolist()) for p in pieces(layer, 2)]
    assert got == [([0, 1], [1]), ([2, 3], [4])]


def test_a_depthwise_layer_is_a_row_for_each_channel():
    weight = RANDOM.standard_normal((5, 1, 3, 3)).astype(np.float32)
    tables = assert_multiplies(weight, 5, Cutting())
    assert tables.block_tiles == 0
    assert tables.tiles[:, 4].tolist() == [1] * 5


# --- what the kernels ask for --------------------------------------------------------------------


def test_tiles_of_a_piece_share_their_columns():
    tables = assert_multiplies(sparse((9, 8), [block(range(9), range(7))]), 1, Cutting())
    assert len(set(tables.tiles[:, 1])) == 1
    assert len(tables.columns) == 9


def test_padded_columns_repeat_the_last_and_have_no_weight():
    tables = assert_multiplies(sparse((4, 8), [block(range(4), [1, 5])]), 1, Cutting(depth=4))
    assert tables.columns.tolist() == spread(np.array([1, 5, 5, 5])).tolist()
    assert np.count_nonzero(tables.weights) == 8


def test_offsets_of_weights_are_aligned():
    layer = sparse((7, 5), [block([0], [1, 2, 3]), block([1], [0]), block([3], [4])])
    tables = assert_multiplies(layer, 1, Cutting())
    assert (tables.tiles[:, 0] % 4 == 0).all()


def test_types_of_the_tables():
    layer = sparse((7, 5), [block(range(4), [1, 2, 3])])
    half = pack(pieces(layer), 7, Cutting("float16"), HEIGHTS, spread)
    assert (half.weights.dtype, half.remainder_weights.dtype) == (np.float16, np.float32)
    single = pack(pieces(layer), 7, Cutting(), HEIGHTS, spread)
    assert single.weights.dtype == np.float32
    for table in (single.tiles, single.columns, single.targets, single.finish_starts):
        assert table.dtype == np.int32


def test_tf32_weights_are_rounded_where_they_are_multiplied_in_tf32():
    layer = sparse((5, 5), [block(range(5), [1, 2, 3])])
    tables = pack(pieces(layer), 5, Cutting("tf32"), HEIGHTS, spread)
    assert (tables.weights.view(np.uint32) & 0x1FFF == 0).all()
    assert (tables.remainder_weights.view(np.uint32) & 0x1FFF != 0).any()


def test_rounding_to_tf32_is_to_the_nearest():
    values = RANDOM.standard_normal(1000).astype(np.float32)
    rounded = rounded_to_tf32(values)
    assert (np.abs(rounded - values) <= np.abs(values) * 2.0**-11).all()
    assert rounded_to_tf32(np.float32([-(1 + 2**-11)])) == -(1 + 2**-10)
    exact = np.float32([0, -0.0, 1, -3.5, 2.0**100, np.inf, -np.inf])
    np.testing.assert_array_equal(rounded_to_tf32(exact), exact)


def test_the_reading_back_sees_a_wrong_table():
    weight = sparse((6, 8), [block([0, 1, 2, 3], [0, 1]), block([1, 2], [2, 3])])
    cutting = Cutting()
    x = RANDOM.standard_normal(100)
    tables = pack(pieces(weight), 6, cutting, HEIGHTS, spread)
    wanted = multiplied(tables, cutting, x, 6)
    tables.columns[1] += 1
    assert not np.allclose(multiplied(tables, cutting, x, 6), wanted)
    tables.targets[tables.targets == 0] = 3
    with pytest.raises(AssertionError, match="written twice"):
        multiplied(tables, cutting, x, 6)
