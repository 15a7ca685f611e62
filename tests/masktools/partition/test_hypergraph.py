"""The hypergraph of a mask: pins, connectivity, row similarity."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from masktools.errors import MaskError
from masktools.partition.hypergraph import Hypergraph, row_similarity, to_networkx

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 12)))


@given(MASKS)
def test_pins_are_the_nonzeros_of_columns_with_two_or_more(mask):
    graph = Hypergraph.from_mask(mask)
    expected = [
        (j, np.flatnonzero(mask[:, j]).tolist())
        for j in range(mask.shape[1])
        if mask[:, j].sum() >= 2
    ]
    pins = np.split(graph.pins, graph.offsets[1:-1]) if len(graph.columns) else []
    assert list(zip(graph.columns.tolist(), [p.tolist() for p in pins], strict=True)) == expected
    assert graph.offsets[-1] == len(graph.pins)


@given(MASKS, st.data())
def test_connectivity_counts_groups_of_each_net(mask, data):
    labels = np.array(
        data.draw(st.lists(st.integers(0, 3), min_size=len(mask), max_size=len(mask)))
    )
    expected = sum(
        len(set(labels[mask[:, j]])) - 1 for j in range(mask.shape[1]) if mask[:, j].any()
    )
    assert Hypergraph.from_mask(mask).connectivity(labels) == expected


def test_connectivity_refuses_labels_of_another_length():
    with pytest.raises(MaskError, match="expected 2 labels"):
        Hypergraph.from_mask(np.ones((2, 2), bool)).connectivity([0, 1, 1])


def test_similarity_of_the_papers_figure_2():
    mask = np.zeros((3, 12), bool)
    for row, columns in enumerate([[1, 2, 3, 5, 6], [1, 3, 6, 8, 10, 11], [3, 6, 11]]):
        mask[row, columns] = True
    assert row_similarity(mask)[0, 1] == np.float32(3 / 8)


@given(MASKS)
def test_similarity_is_jaccard(mask):
    found = row_similarity(mask)
    for i, a in enumerate(mask):
        for j, b in enumerate(mask):
            either = (a | b).sum()
            expected = (a & b).sum() / either if either else 0
            assert found[i, j] == pytest.approx(expected)


def test_bipartite_view_of_a_convolution():
    mask = np.zeros((2, 1, 2, 2), bool)
    mask[0, 0, 1, 0] = mask[1, 0, 0, 1] = True
    graph = to_networkx(mask)
    assert set(graph.edges) == {(("row", 0), ("column", 2)), (("row", 1), ("column", 1))}
    assert len(graph) == 2 + 4
    assert graph.nodes["row", 0]["bipartite"] == 0
    assert graph.nodes["column", 0]["bipartite"] == 1


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (3, 2, 3, 3)])
def test_empty_masks_have_no_nets(shape):
    graph = Hypergraph.from_mask(np.zeros(shape, bool))
    assert (graph.vertices, len(graph.columns), graph.offsets.tolist()) == (shape[0], 0, [0])
    assert row_similarity(np.zeros(shape, bool)).shape == (shape[0], shape[0])
