"""Weights as groups: every stored weight once, in the order that the kernels read it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masktools.checkpoint import SparseWeight
from masktools.layout import BlockLayout, DenseBlock
from runtime.cpu import native
from runtime.cpu.weights.pack import pack
from runtime.cpu.weights.row_groups import Scheme, balanced, shape_of


def applied(packed, shape, x):
    """Return the product of groups and (channels, taps, lanes), as cpu/layer.h defines it."""
    out = np.full((shape.rows, x.shape[-1]), np.nan)
    ended = np.zeros(shape.rows, bool)
    for group in range(packed.groups):
        rows = packed.rows[packed.row_starts[group] : packed.row_starts[group + 1]]
        assert 1 <= len(rows) <= 8
        width = packed.tap_starts[group, -1]
        columns = packed.columns[packed.column_starts[group] :][:width].astype(int)
        taps = np.repeat(np.arange(shape.taps), np.diff(packed.tap_starts[group]))
        np.testing.assert_array_equal(columns // shape.channels, taps)
        weights = packed.weights[packed.weight_starts[group] :][: width * len(rows)]
        if packed.flags[group] & native.numbers("flags")["first"]:
            assert np.isnan(out[rows]).all()
            out[rows] = 0
        assert not ended[rows].any()
        ended[rows] = bool(packed.flags[group] & native.numbers("flags")["last"])
        out[rows] += (
            weights.reshape(width, len(rows)).T.astype(float) @ x[columns % shape.channels, taps]
        )
    assert ended.all()
    return out


def wanted(dense, shape, x):
    weight = dense.reshape(shape.groups, shape.group_rows, shape.group_channels, shape.taps)
    images = x.reshape(shape.groups, shape.group_channels, shape.taps, -1)
    return np.einsum("grct,gctl->grl", weight.astype(float), images).reshape(shape.rows, -1)


def check(weight, dense, scheme, groups=1):
    shape = shape_of(weight, groups)
    x = np.random.default_rng(1).standard_normal((shape.channels, shape.taps, 3))
    packed = pack(weight, scheme, shape)
    np.testing.assert_allclose(applied(packed, shape, x), wanted(dense, shape, x), atol=1e-5)
    check_parts(packed)
    return packed


def check_parts(packed):
    """All groups of a row lie between two neighbouring ends of parts."""
    part = np.searchsorted(packed.part_ends, np.arange(packed.groups), side="right")
    of_row = np.repeat(part, packed.heights)
    for row in np.unique(packed.rows):
        assert len(np.unique(of_row[packed.rows == row])) == 1
    assert packed.part_ends[-1] == packed.panel_ends[-1] == packed.groups


def weights_in_groups(packed):
    return int((packed.heights * packed.widths).sum())


SCHEMES = (
    Scheme("blocks"), Scheme("blocks", 3), Scheme("rows", 1), Scheme("rows", 1, 2), Scheme("dense"),
    Scheme("dense", 5), Scheme("dense", 8, unit=4), Scheme("blocks", 8, unit=4),
)  # fmt: skip


@given(
    shape=st.sampled_from([(16, 6, 3, 3), (12, 4, 3, 3), (20, 30), (9, 5, 1, 1), (8, 3, 7)]),
    groups=st.sampled_from([1, 1, 2, 4]),
    density=st.sampled_from([0.0, 0.2, 0.6, 1.0]),
    min_rows=st.integers(1, 4),
    scheme=st.sampled_from(SCHEMES),
    half=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_groups_apply_the_weight(shape, groups, density, min_rows, scheme, half, seed):
    random = np.random.default_rng(seed)
    groups = groups if shape[0] % groups == 0 and len(shape) > 2 else 1
    mask = random.random(shape) < density
    for first in range(0, shape[0] // 2, 3):
        mask[first : first + 3] = mask[first]
    dtype = np.float16 if half else np.float32
    dense = (random.standard_normal(shape) * mask).astype(dtype)
    layout = BlockLayout.from_mask(mask, min_rows, groups)
    sparse = SparseWeight.from_dense(dense, layout, layout.residual(mask))
    packed = check(sparse, dense, scheme, groups)
    assert packed.weights.dtype == np.float32
    if scheme.form != "dense":
        assert weights_in_groups(packed) == mask.sum()
    if scheme.form != "blocks":
        check(dense, dense, scheme, groups)


def test_rows_of_several_blocks_begin_once_and_end_once():
    """Blocks of several passes, with a residual for some rows: flags differ within a block."""
    blocks = [DenseBlock([0, 1, 2, 3], [0, 5, 9]), DenseBlock([1, 3, 5], [1, 2, 17])]
    layout = BlockLayout((8, 2, 3, 3), blocks)
    random = np.random.default_rng(0)
    dense = random.standard_normal(layout.shape).astype(np.float32)
    residual = np.zeros(layout.shape, bool).reshape(8, 18)
    residual[[2, 3, 7], [11, 3, 0]] = True
    residual = residual.reshape(layout.shape)
    sparse = SparseWeight.from_dense(dense, layout, residual)
    stored = dense * (layout.to_mask() | residual)
    packed = check(sparse, stored, Scheme("blocks"))
    assert weights_in_groups(packed) == sparse.stored


def test_blocks_of_rows_that_share_no_row_may_be_parted():
    mask = np.zeros((16, 10), bool)
    mask[:8, :4] = mask[8:, 4:] = True
    layout = BlockLayout.from_mask(mask)
    sparse = SparseWeight.from_dense(mask.astype(np.float32), layout)
    assert check(sparse, mask, Scheme("blocks")).part_ends.tolist() == [1, 2]


def test_subgroups_of_a_block_share_their_columns():
    mask = np.zeros((32, 64), bool)
    mask[:16, ::2] = mask[16:, ::3] = True
    layout = BlockLayout.from_mask(mask)
    sparse = SparseWeight.from_dense(mask.astype(np.float32), layout)
    packed = check(sparse, mask, Scheme("blocks"))
    assert packed.groups == 4
    assert len(packed.columns) == 32 + 22


def test_a_product_reads_the_pixels_of_an_image_in_place():
    dense = np.arange(5 * 12, dtype=np.float32).reshape(5, 12)
    shape = shape_of(dense, taps=4)
    assert (shape.channels, shape.taps) == (3, 4)
    x = np.random.default_rng(0).standard_normal((3, 4, 2))
    packed = pack(dense, Scheme("dense"), shape)
    np.testing.assert_allclose(applied(packed, shape, x), dense @ x.reshape(12, 2), rtol=1e-6)


def test_a_weight_in_the_wrong_place_is_seen():
    """The comparison above can fail."""
    random = np.random.default_rng(0)
    dense = random.standard_normal((8, 4, 3, 3)).astype(np.float32)
    shape = shape_of(dense)
    packed = pack(dense, Scheme("dense"), shape)
    x = random.standard_normal((4, 9, 3))
    packed.weights[:] = np.roll(packed.weights, 1)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(applied(packed, shape, x), wanted(dense, shape, x), atol=1e-5)


def test_many_rows_are_sorted_by_larger_keys():
    """More (row, tap) than 16 bits count."""
    random = np.random.default_rng(0)
    mask = random.random((8000, 2, 3, 3)) < 0.2
    dense = (random.standard_normal(mask.shape) * mask).astype(np.float32)
    layout = BlockLayout(mask.shape, [])
    sparse = SparseWeight.from_dense(dense, layout, mask)
    packed = pack(sparse, Scheme("rows", 1), shape_of(sparse))
    for row in (0, 4321, 7999):
        width = packed.tap_starts[row, -1]
        columns = packed.columns[packed.column_starts[row] :][:width].astype(int)
        got = packed.weights[packed.weight_starts[row] :][:width]
        np.testing.assert_array_equal(got, dense[row].reshape(2, 9)[columns % 2, columns // 2])
        assert (np.diff(columns) > 0).all()


@pytest.mark.parametrize("rows", range(1, 40))
def test_heights_differ_by_one_at_most(rows):
    heights = balanced(rows, 8)
    assert sum(heights) == rows
    assert len(heights) == -(-rows // 8)
    assert max(heights) - min(heights) <= 1
