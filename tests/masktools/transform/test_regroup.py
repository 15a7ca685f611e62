"""Regrouping: Algorithm 3 to the letter, the budgeted form, and every odd layer."""

import pickle
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masktools import BlockLayout, regroup
from masktools.errors import MaskError, PartitionError
from masktools.partition import row_groups as row_groups_module
from masktools.partition.budget import choose
from masktools.partition.row_groups import row_groups
from masktools.transform.algorithm3 import even_heights

EACH = ["kahypar", "mtkahypar", "spectral", "best"]
FIGURE_2 = np.zeros((3, 12), bool)
for _row, _columns in enumerate([[1, 2, 3, 5, 6], [1, 3, 6, 8, 10, 11], [3, 6, 11]]):
    FIGURE_2[_row, _columns] = True


def layer(shape=(24, 6, 3, 3), density=0.3, seed=0):
    random = np.random.default_rng(seed)
    keep = random.random(shape) < density
    return keep, (random.standard_normal(shape) * keep).astype(np.float32)


# Algorithm 3


def test_the_papers_figure_2_among_other_kernels():
    mask = np.zeros((6, 24), bool)
    mask[[4, 0, 2], :12] = FIGURE_2
    mask[[1, 3, 5], 12:] = FIGURE_2  # three more kernels, on channels of their own
    layout = regroup(mask, row_groups=2, min_column_nonzeros=2, passes=1)
    found = {(tuple(b.rows.tolist()), tuple(b.columns.tolist())) for b in layout.blocks}
    assert found == {((0, 2, 4), (1, 3, 6, 11)), ((1, 3, 5), (13, 15, 18, 23))}


def test_blocks_hold_what_the_thresholds_ask_for():
    keep, _ = layer((64, 200), 0.25)
    layout = regroup(
        keep, row_groups=4, min_rows=16, min_columns=5, min_column_nonzeros=6, passes=1
    )
    assert layout.blocks
    for block in layout.blocks:
        inside = keep[block.rows].sum(axis=0)
        assert len(block.rows) == 16
        assert len(block.columns) >= 5
        assert block.columns.tolist() == np.flatnonzero(inside >= 6).tolist()


def test_small_groups_and_thin_blocks_are_left_out():
    keep, _ = layer((64, 200), 0.25)
    arguments = {"row_groups": 4, "min_column_nonzeros": 6, "passes": 1}
    assert not regroup(keep, min_rows=17, **arguments).blocks
    assert not regroup(keep, min_columns=201, **arguments).blocks


def test_passes_go_on_with_what_is_left_until_nothing_is_found():
    keep, _ = layer((32, 100), 0.3)
    arguments = {"row_groups": 4, "min_column_nonzeros": 3, "min_columns": 2}
    counts = [len(regroup(keep, passes=n, **arguments).blocks) for n in (1, 2, 3)]
    assert counts[0] < counts[1] <= counts[2]
    everything = regroup(keep, **arguments)
    everything.check(full=True)
    assert len(everything.blocks) >= counts[2]
    assert np.array_equal(
        everything.to_mask(),
        regroup(keep, passes=len(everything.blocks) + 1, **arguments).to_mask(),
    )


def test_one_nonzero_a_column_stores_the_whole_mask():
    keep, _ = layer((20, 40), 0.2)
    layout = regroup(keep, row_groups=5, min_column_nonzeros=1)
    assert not layout.residual(keep).any()


def test_a_column_is_stored_once_even_where_rows_meet_again():
    keep, _ = layer((16, 60), 0.5)
    regroup(keep, row_groups=3, min_column_nonzeros=2).check(full=True)


def test_kept_weights_of_value_zero_are_nonzeros_of_the_mask():
    layout = regroup(FIGURE_2, np.zeros((3, 12)), row_groups=1, min_column_nonzeros=2)
    assert layout.blocks[0].columns.tolist() == [1, 3, 6, 11]


def test_heights_of_a_pass():
    assert even_heights(64, 32, 8).tolist() == [8] * 8
    assert even_heights(512, 32, 6).tolist() == [96, 96, 96, 96, 64, 64]
    assert even_heights(100, 32, 3).tolist() == [32, 32, 36]
    assert even_heights(2, 8, 5).tolist() == [1, 1]
    assert even_heights(20, 8, None).tolist() == [8, 12]
    assert even_heights(0, 8, 5).tolist() == []


# The budgeted form


@pytest.mark.parametrize("partitioner", EACH)
@pytest.mark.parametrize("density", [None, 0.1, 0.55])
def test_within_the_budget_and_more_than_by_order(partitioner, density):
    keep, weight = layer()
    layout = regroup(keep, weight, density=density, group_rows=8, partitioner=partitioner)
    layout.check(full=True)
    budget = keep.sum() if density is None else int(density * keep.size)
    assert budget - 8 < layout.stored <= budget
    assert all(len(block.rows) == 8 for block in layout.blocks)
    in_order = np.repeat(np.arange(3), 8)
    sums = np.stack([np.abs(weight[in_order == g]).sum(axis=0).ravel() for g in range(3)])
    blind = np.sort(sums.ravel())[::-1][: budget // 8].sum() / np.abs(weight).sum()
    assert layout.retained(weight) > blind


def test_refinement_retains_more():
    keep, weight = layer((64, 16, 3, 3))
    plain, refined = (regroup(keep, weight, refine=r, group_rows=16) for r in (False, True))
    assert refined.retained(weight) > 1.01 * plain.retained(weight)


def test_best_is_the_best_of_all():
    keep, weight = layer((64, 16, 3, 3), 0.15)
    retained = {
        name: regroup(keep, weight, group_rows=8, partitioner=name).retained(weight)
        for name in EACH
    }
    assert retained["best"] == max(retained.values())


def test_planted_blocks_come_back_exactly():
    random = np.random.default_rng(0)
    truth = random.permutation(np.repeat(np.arange(4), 8))
    mask = (random.random((4, 90)) < 0.3)[truth]
    layout = regroup(mask, group_rows=8)
    assert np.array_equal(layout.to_mask(), mask)
    assert set(layout.blocks) == set(BlockLayout.from_mask(mask).blocks)


def test_rows_that_do_not_divide_make_one_smaller_group():
    keep, weight = layer((100, 30), 0.4)
    layout = regroup(keep, weight, density=1, group_rows=32)
    assert sorted(len(block.rows) for block in layout.blocks) == [4, 32, 32, 32]


@pytest.mark.parametrize(("target", "rows"), [("cpu", 8), ("cuda", 32), ("cuda-tensor", 64)])
def test_height_by_target(target, rows):
    keep, weight = layer((128, 40), 0.4)
    layout = regroup(keep, weight, target=target, partitioner="spectral")
    assert {len(block.rows) for block in layout.blocks} == {rows}


def test_convolution_groups_are_divided_alone_and_paid_together():
    keep, weight = layer((32, 6, 3, 3), 0.3)
    weight[16:] *= 10
    layout = regroup(keep, weight, groups=2, group_rows=8)
    assert all(b.rows[0] // 16 == b.rows[-1] // 16 for b in layout.blocks)
    stored = [sum(b.size for b in layout.blocks if b.rows[0] // 16 == g) for g in (0, 1)]
    assert stored[1] > 2 * stored[0]
    assert sum(stored) <= keep.sum()


def test_depthwise_rows_stand_alone_so_nothing_is_lost():
    keep, weight = layer((12, 1, 3, 3), 0.4)
    layout = regroup(keep, weight, groups=12)
    assert np.array_equal(layout.to_mask(), keep)


@pytest.mark.parametrize("shape", [(24, 5, 3), (24, 40), (24, 40, 1, 1)])
def test_every_kind_of_layer(shape):
    keep, weight = layer(shape)
    layout = regroup(keep, weight)
    assert layout.to_mask().shape == shape
    assert layout.retained(weight) > 0


@pytest.mark.parametrize("partitioner", EACH)
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 7), (7, 1), (1, 1), (9, 2)])
@pytest.mark.parametrize("kept", [False, True])
def test_smallest_layers(partitioner, shape, kept):
    mask = np.full(shape, kept)
    for layout in (
        regroup(mask, partitioner=partitioner),
        regroup(mask, row_groups=2, partitioner=partitioner),
    ):
        assert np.array_equal(layout.to_mask(), mask)
    assert regroup(mask, density=0, partitioner=partitioner).stored == 0


@given(st.integers(0, 2**32 - 1))
def test_equivariant_where_no_partitioner_decides(seed):
    random = np.random.default_rng(seed)
    keep = random.random((12, 20)) < 0.4
    order = random.permutation(12)
    arguments = {"row_groups": 1, "min_column_nonzeros": 4}
    assert np.array_equal(
        regroup(keep[order], **arguments).to_mask(), regroup(keep, **arguments).to_mask()[order]
    )


def test_planted_groups_whatever_the_order_of_rows():
    random = np.random.default_rng(4)
    mask = np.repeat(random.random((4, 60)) < 0.3, 4, axis=0)
    order = random.permutation(16)
    layout = regroup(mask[order], group_rows=4)
    assert np.array_equal(layout.to_mask(), mask[order])


def test_input_of_any_layout_and_type_is_left_alone():
    keep, weight = layer((16, 40))
    expected = regroup(keep, weight)
    for other_keep, other_weight in (
        (np.asfortranarray(keep), np.asfortranarray(weight)),
        (keep.astype(np.uint8), weight.astype(np.float64)),
        (np.repeat(keep, 2, axis=1)[:, ::2], weight[::-1][::-1]),
    ):
        other_keep.flags.writeable = other_weight.flags.writeable = False
        found = regroup(other_keep, other_weight)
        assert np.array_equal(found.to_mask(), expected.to_mask())
    half = regroup(keep, weight.astype(np.float16))
    assert half.retained(weight) == pytest.approx(expected.retained(weight), abs=0.01)


def test_same_seed_same_layout_in_another_process():
    keep, weight = layer((48, 80))
    with ProcessPoolExecutor(1) as pool:
        found = pool.submit(row_groups, keep, weight, seed=3).result()
    here = row_groups(keep, weight, seed=3)
    assert np.array_equal(found.labels, here.labels)
    assert np.array_equal(found.sums, here.sums)


def test_weight_where_the_mask_prunes_does_not_count():
    keep, weight = layer((16, 40))
    noise = np.where(keep, weight, 1e6)
    assert np.array_equal(regroup(keep, noise).to_mask(), regroup(keep, weight).to_mask())


# Refusals


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"density": 0.5, "row_groups": 2}, TypeError, "exclude each other"),
        ({"passes": 2}, TypeError, "passes belongs to the form with thresholds"),
        ({"density": 1.5}, MaskError, "between 0 and 1, got 1.5"),
        ({"density": float("nan")}, MaskError, "between 0 and 1, got nan"),
        ({"density": True}, TypeError, "density must be a number, got bool"),
        ({"density": "x"}, TypeError, "density must be a number, got str"),
        ({"row_groups": 1.5}, TypeError, "row_groups must be a whole number, got 1.5"),
        ({"row_groups": "3"}, TypeError, "row_groups must be a whole number, got '3'"),
        ({"row_groups": 2, "passes": 1.5}, TypeError, "passes must be a whole number, got 1.5"),
        ({"row_groups": 2, "seed": -1}, MaskError, "seed must be at least 0, got -1"),
        ({"seed": -1}, MaskError, "seed must be at least 0, got -1"),
        ({"seed": 1.5}, TypeError, "seed must be a whole number, got 1.5"),
        ({"seed": "a"}, TypeError, "seed must be a whole number, got 'a'"),
        ({"group_rows": 1.5}, TypeError, "group_rows must be a whole number, got 1.5"),
        ({"groups": 2.0}, TypeError, "groups must be a whole number, got 2.0"),
        ({"groups": 0}, MaskError, "groups must be at least 1, got 0"),
        ({"row_groups": 0}, MaskError, "row_groups must be at least 1, got 0"),
        ({"row_groups": 2, "passes": 0}, MaskError, "passes must be at least 1, got 0"),
        ({"min_rows": -1}, MaskError, "min_rows must be at least 1"),
        ({"group_rows": 0}, MaskError, "group_rows must be at least 1, got 0"),
        ({"target": "tpu"}, MaskError, "target 'tpu': expected one of cpu, cuda, cuda-tensor"),
        ({"partitioner": "metis"}, MaskError, "expected one of kahypar"),
        ({"groups": 5}, MaskError, "5 convolution groups do not divide 8 rows"),
        ({"weight": np.ones((8, 5))}, MaskError, r"expected weights of shape \(8, 6\)"),
        ({"weight": np.full((8, 6), np.nan)}, MaskError, r"finite.*, got nan at \(0, 0\)"),
        ({"weight": [["a"] * 6] * 8}, TypeError, "real weights"),
    ],
)
def test_refusals(arguments, error, message):
    with pytest.raises(error, match=message):
        regroup(np.ones((8, 6), bool), **arguments)


@pytest.mark.parametrize("partitioner", ["kahypar", "best"])
def test_a_failing_partitioner_never_hands_the_mask_back(partitioner, monkeypatch):
    def fail(*_):
        raise RuntimeError("no")

    monkeypatch.setattr("masktools.partition.partitioners._kahypar", fail)
    keep, weight = layer()
    with pytest.raises(PartitionError, match="kahypar failed"):
        regroup(keep, weight, partitioner=partitioner)


# Row groups, as conversions of whole networks use them


def test_candidates_cost_what_the_layout_stores():
    keep, weight = layer((20, 30), 0.4)
    found = row_groups(keep, weight, group_rows=8)
    gain, cost = found.candidates()
    assert found.heights.tolist() == [8, 8, 4]
    assert gain.sum() == pytest.approx(np.abs(weight).sum(), rel=1e-5)
    chosen = choose(gain, cost, 200)
    layout = found.layout(chosen)
    assert layout.stored == cost[chosen].sum() <= 200
    expected = gain[chosen].sum() / gain.sum()
    assert layout.retained(weight) == pytest.approx(expected, abs=1e-5)
    assert found.retained(200) == pytest.approx(gain[chosen].sum())


def test_columns_that_cost_less_are_preferred():
    keep = np.ones((16, 40), bool)
    cost = np.repeat([1, 9], 20)
    found = row_groups(keep, group_rows=8, column_cost=cost, budget=320)
    layout = found.layout(choose(*found.candidates(), 320))
    assert all(block.columns.max() < 20 for block in layout.blocks)
    assert layout.stored == 320


def test_row_groups_travel_between_processes():
    keep, weight = layer()
    found = row_groups(keep, weight)
    again = pickle.loads(pickle.dumps(found))
    assert np.array_equal(again.labels, found.labels)
    assert (again.partitioner, again.refinement) == ("kahypar", "swaps")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"budget": -1}, MaskError, "budget must be at least 0, got -1"),
        ({"budget": 1.5}, TypeError, "budget must be a whole number, got 1.5"),
        ({"group_rows": 1.5}, TypeError, "group_rows must be a whole number, got 1.5"),
        ({"groups": 2.0}, TypeError, "groups must be a whole number, got 2.0"),
        ({"seed": "a"}, TypeError, "seed must be a whole number, got 'a'"),
        ({"column_cost": np.ones(5, int)}, MaskError, "expected 6 column costs"),
        ({"column_cost": -np.ones(6, int)}, MaskError, "not negative"),
        ({"column_cost": np.ones(6)}, TypeError, "column costs of int, got dtype float64"),
    ],
)
def test_row_groups_refuse(arguments, error, message):
    with pytest.raises(error, match=message):
        row_groups(np.ones((8, 6), bool), **arguments)


def test_before_the_search_a_partitioner_sees_the_strongest_columns(monkeypatch):
    keep, weight = layer((32, 40))
    saliency = np.abs(weight)
    seen = []

    def watch(part, heights, name, seed):
        seen.append(part)
        return np.repeat(np.arange(len(heights), dtype=np.int32), heights)

    monkeypatch.setattr(row_groups_module, "partition", watch)
    monkeypatch.setattr(row_groups_module, "START_NONZEROS", 100)
    monkeypatch.setattr(row_groups_module, "START_NONZEROS_PER_ROW", 2)
    found = row_groups(keep, weight, group_rows=8)
    assert 80 < np.count_nonzero(seen[0]) <= 100
    weakest_seen = seen[0].sum(axis=0).min()
    strong = saliency[:, saliency.sum(axis=0) >= weakest_seen]
    np.testing.assert_array_equal(seen[0], strong)
    assert found.sums.shape == (4, 40)
    row_groups(keep, weight, group_rows=8, refine=False)
    np.testing.assert_array_equal(seen[1], saliency)
