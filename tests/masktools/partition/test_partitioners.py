"""Every partitioner: exact heights, planted groups, determinism, failures."""

import sys

import kahypar
import numpy as np
import pytest

from masktools.errors import MaskError, PartitionError
from masktools.partition import partitioners as module
from masktools.partition.hypergraph import Hypergraph
from masktools.partition.partitioners import candidates, group_heights, partition

EACH = ["kahypar", "mtkahypar", "spectral"]


def planted(groups=4, height=8, columns=120, seed=0):
    """Rows that keep their group's columns and few others, in random order."""
    random = np.random.default_rng(seed)
    truth = random.permutation(np.repeat(np.arange(groups), height))
    pattern = random.random((groups, columns)) < 0.25
    noise = random.random((groups * height, columns)) < 0.02
    return truth, (pattern[truth] | noise).astype(np.float32)


@pytest.mark.parametrize("name", EACH)
def test_planted_groups_are_found(name):
    truth, saliency = planted()
    labels = partition(saliency, np.full(4, 8), name)
    assert labels.dtype == np.int32
    assert len(set(zip(truth.tolist(), labels.tolist(), strict=True))) == 4


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize(
    ("rows", "height"), [(100, 32), (64, 64), (33, 32), (7, 8), (40, 1), (90, 8), (2, 1)]
)
def test_heights_are_exact(name, rows, height):
    saliency = (np.random.default_rng(2).random((rows, 150)) < 0.2).astype(np.float32)
    heights = group_heights(rows, height)
    labels = partition(saliency, heights, name, seed=5)
    assert np.bincount(labels).tolist() == heights.tolist()


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("saliency", [planted(2, 60)[1], np.zeros((120, 4), np.float32)])
def test_groups_of_at_most_so_many_rows(name, saliency):
    for most in ([72, 72], [120, 30], [50, 50, 50]):
        got = np.bincount(partition(saliency, np.array(most), name), minlength=len(most))
        assert got.sum() == 120
        assert (got <= most).all()


@pytest.mark.parametrize("name", EACH)
def test_same_seed_same_groups(name):
    saliency = (np.random.default_rng(3).random((48, 200)) < 0.2).astype(np.float32)
    first, again, other = (partition(saliency, np.full(6, 8), name, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other), "the seed is not passed on"


@pytest.mark.parametrize("name", ["kahypar", "mtkahypar"])
def test_hypergraph_partitioners_cut_less_than_chance(name):
    _, saliency = planted(seed=4)
    graph = Hypergraph.from_mask(saliency > 0)
    in_order = np.repeat(np.arange(4), 8)
    assert graph.connectivity(partition(saliency, np.full(4, 8), name)) < graph.connectivity(
        in_order
    )


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("saliency", [np.zeros((6, 4)), np.eye(6), np.zeros((6, 0))])
def test_nothing_shared_is_divided_all_the_same(name, saliency):
    labels = partition(saliency.astype(np.float32), np.array([4, 2]), name)
    assert np.bincount(labels).tolist() == [4, 2]


@pytest.mark.parametrize("name", EACH)
def test_no_rows(name):
    assert partition(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), name).shape == (0,)


def test_heights():
    assert group_heights(0, 8).tolist() == []
    assert group_heights(64, 32).tolist() == [32, 32]
    assert group_heights(65, 32).tolist() == [32, 32, 1]


def test_unknown_partitioner():
    with pytest.raises(MaskError, match="'metis': expected one of kahypar"):
        candidates("metis")


@pytest.mark.parametrize("name", ["kahypar", "mtkahypar"])
def test_missing_partitioner_says_what_to_install(name, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(PartitionError, match=f"pip install '.*{name}.*'"):
        candidates(name)
    assert candidates("best") == ("spectral",)


def test_best_runs_all_that_are_installed():
    assert candidates("best") == ("kahypar", "mtkahypar", "spectral")


def test_windows_takes_mtkahypar_and_says_so(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.warns(RuntimeWarning, match="mtkahypar divides the rows instead"):
        assert candidates("kahypar") == ("mtkahypar",)


def test_failure_is_a_partition_error(monkeypatch):
    def fail(*_):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(kahypar, "partition", fail)
    with pytest.raises(
        PartitionError, match=r"kahypar failed on 32 rows, .*: out of luck"
    ) as error:
        partition(planted()[1], np.full(4, 8), "kahypar")
    assert isinstance(error.value.__cause__, RuntimeError)


def test_groups_of_other_heights_are_refused(monkeypatch):
    monkeypatch.setattr(module, "_kahypar", lambda graph, heights, seed: [0] * graph.vertices)
    with pytest.raises(PartitionError, match=r"groups of \[32, 0, 0, 0\] rows, not \[8, 8, 8, 8\]"):
        partition(planted()[1], np.full(4, 8), "kahypar")


@pytest.mark.parametrize("labels", [[0] * 31, [0, 1, 2, 3] * 7 + [4] * 4, [0] * 12 + [1] * 20])
def test_labels_that_are_none_are_refused(monkeypatch, labels):
    monkeypatch.setattr(module, "_kahypar", lambda graph, heights, seed: labels)
    with pytest.raises(PartitionError, match="kahypar returned groups of"):
        partition(planted()[1], np.full(4, 16), "kahypar")


@pytest.mark.parametrize("name", ["kahypar", "mtkahypar"])
def test_missing_configuration_is_a_partition_error(name, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "files", lambda _: tmp_path)
    with pytest.raises(PartitionError, match=f"{name}.ini is missing"):
        partition(planted()[1], np.full(4, 8), name)
