"""The reference backend against convolutions written out, over every kind of stored weight."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from drawn_layers import CASES, convolved, drawn, grouped_mask, layer
from hypothesis import given

from masktools.checkpoint import Checkpoint, SparseWeight
from masktools.layout import BlockLayout
from masktools.network.graph import Graph, Node, Value
from runtime.errors import PlanError
from runtime.model import Model
from runtime.plan import plan
from runtime.reference import layers
from runtime.reference.backend import ReferenceBackend


def run(checkpoint: Checkpoint, x: Any, dtype: str = "float64") -> Any:
    checkpoint.check()
    return Model(plan.build(checkpoint), ReferenceBackend(), dtype)(x)


@given(case=CASES)
def test_sparse_convolution_is_exact_in_float64(case):
    x, sparse, dense, attributes = drawn(case)
    got = run(layer(sparse, x, attributes)[0], x)
    np.testing.assert_allclose(got, convolved(x, dense, attributes), rtol=1e-6, atol=1e-6)


@given(case=CASES)
def test_sparse_and_dense_storage_agree_within_rounding(case):
    x, sparse, dense, attributes = drawn(case)
    bias = np.arange(len(dense), dtype=np.float32)
    wanted = convolved(x, dense, attributes) + bias.reshape(-1, *[1] * (x.ndim - 2))
    bound = rounding(x, dense, attributes) + 1e-6 * np.abs(wanted)
    for weight in (sparse, dense):
        got = run(layer(weight, x, attributes, bias)[0], x, "float32")
        assert (np.abs(got - wanted) <= bound).all()


def rounding(x: Any, dense: Any, attributes: dict[str, Any]) -> Any:
    """Return the bound that the module promises: k * eps * sum |w x|."""
    terms = int(np.prod(dense.shape[1:])) + 2
    sums = convolved(np.abs(x), np.abs(dense), attributes)
    return terms * np.finfo(np.float32).eps * sums


def test_a_corrupted_value_is_seen():
    """The comparison above can fail: one value off by 1 % is found, wherever it stands."""
    case = {"spatial": 2, "groups": 2, "rows": 4, "channels": 3, "batch": 2, "density": 0.5}
    x, sparse, dense, attributes = drawn({**case, "min_rows": 2, "seed": 7})
    assert sparse.residual is not None
    wanted = convolved(x, dense, attributes)
    bound = rounding(x, dense, attributes) + 1e-6 * np.abs(wanted)
    for values in (sparse.values, sparse.residual.values):
        for at in range(values.size):
            values[at] *= 1.01
            got = run(layer(sparse, x, attributes)[0], x, "float32")
            assert (np.abs(got - wanted) > bound).any()
            values[at] /= np.float32(1.01)
    got = run(layer(sparse, x, attributes)[0], x, "float32")
    assert (np.abs(got - wanted) <= bound).all()


def test_a_corrupted_index_is_seen():
    case = {"spatial": 2, "groups": 1, "rows": 6, "channels": 3, "batch": 2, "density": 0.5}
    x, sparse, dense, attributes = drawn({**case, "min_rows": 2, "seed": 3})
    assert sparse.residual is not None
    wanted = convolved(x, dense, attributes)
    columns = sparse.residual.column_indices
    free = np.setdiff1d(np.arange(sparse.layout.columns), columns)
    columns[-1] = free[free > columns[-2]][0] if (free > columns[-2]).any() else free[0]
    got = Model(plan.build(layer(sparse, x, attributes)[0]), ReferenceBackend())(x)
    assert np.abs(got - wanted).max() > 1e-3


@pytest.mark.parametrize("shape", [(3, 10), (2, 4, 10), (2, 3, 4, 10)])
def test_sparse_product(shape):
    random = np.random.default_rng(1)
    weight, x = random.standard_normal((6, 10)), random.standard_normal(shape)
    weight, x = weight.astype(np.float32), x.astype(np.float32)
    mask = grouped_mask(random, weight.shape, 1, 0.4)
    layout = BlockLayout.from_mask(mask, 2)
    sparse = SparseWeight.from_dense(weight, layout, layout.residual(mask))
    bias = np.arange(6, dtype=np.float32)
    got = run(layer(sparse, x, {"transB": 1}, bias)[0], x)
    np.testing.assert_allclose(got, x @ (weight * mask).T + bias, rtol=1e-5, atol=1e-5)


def test_values_of_half_precision_are_computed_in_the_asked_type():
    random = np.random.default_rng(2)
    mask = grouped_mask(random, (8, 4, 3, 3), 1, 0.5)
    layout = BlockLayout.from_mask(mask, 2)
    weight = random.standard_normal(mask.shape).astype(np.float16)
    sparse = SparseWeight.from_dense(weight, layout, layout.residual(mask))
    attributes = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "group": 1}
    x = random.standard_normal((2, 4, 5, 5)).astype(np.float32)
    wanted = convolved(x, weight * mask, attributes)
    for stored in (sparse, weight * mask):
        got = run(layer(stored, x, attributes)[0], x)
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


@given(case=CASES)
def test_images_and_rows_may_be_taken_one_at_a_time(case):
    """The size of a chunk changes nothing but memory."""
    x, sparse, _, attributes = drawn(case)
    checkpoint = layer(sparse, x, attributes)[0]
    whole = run(checkpoint, x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "CHUNK_BYTES", 1)
        np.testing.assert_allclose(run(checkpoint, x), whole, rtol=1e-6, atol=1e-6)


def test_one_image_never_reaches_another():
    """NaN in an image, and in the padding's neighbours, stays in that image."""
    case = {"spatial": 2, "groups": 2, "rows": 3, "channels": 2, "batch": 3, "density": 0.5}
    x, sparse, _, attributes = drawn({**case, "min_rows": 2, "seed": 5})
    checkpoint = layer(sparse, x, attributes)[0]
    clean = run(checkpoint, x, "float32")
    x[1] = np.nan
    got = run(checkpoint, x, "float32")
    np.testing.assert_array_equal(got[[0, 2]], clean[[0, 2]])
    assert np.isnan(got[1]).any()


def test_rows_of_no_block_are_their_bias():
    sparse = SparseWeight(BlockLayout((3, 2, 1, 1)), np.empty(0, np.float32))
    attributes = {"strides": (1, 1), "dilations": (1, 1), "pads": (0, 0, 0, 0), "group": 1}
    x = np.ones((2, 2, 4, 4), np.float32)
    got = run(layer(sparse, x, attributes, np.array([1, 2, 3], np.float32))[0], x)
    assert (got == np.array([1, 2, 3]).reshape(3, 1, 1)).all()


def test_the_input_is_neither_changed_nor_shared():
    """Also where the network is nothing but a change of shape."""
    node = Node("r", "Reshape", ("x",), ("y",), {"shape": (0, -1)})
    graph = Graph((Value("x", (None, 2, 3)),), (Value("y", (None, 6)),), (node,))
    model = Model(plan.build(Checkpoint(graph)), ReferenceBackend())
    x = np.arange(12, dtype=np.float32).reshape(2, 3, 2).swapaxes(1, 2)
    x.flags.writeable = False
    first = model(x)
    assert first.tolist() == x.reshape(2, 6).tolist()
    assert first.flags.c_contiguous
    assert not np.shares_memory(first, x)
    first[:] = -1
    assert model(x).tolist() == x.reshape(2, 6).tolist()


def test_memory_does_not_grow_with_depth():
    """Values are let go when nothing reads them any more, as the plan says."""
    shape = (None, 8, 64, 64)
    names = ["x", *(f"r{i}" for i in range(30))]
    nodes = tuple(Node(b, "Sigmoid", (a,), (b,), {}) for a, b in pairwise(names))
    graph = Graph((Value("x", shape),), (Value(names[-1], shape),), nodes)
    model = Model(plan.build(Checkpoint(graph)), ReferenceBackend())
    x = np.ones((4, *shape[1:]), np.float32)
    model(x)
    tracemalloc.start()
    try:
        model(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Beside the two activations of the plan: what a sigmoid needs while it is computed.
    assert peak < 7 * x.nbytes
    assert model.plan.peak_bytes(4) == 2 * x.nbytes


def test_division_by_zero_gives_infinity_without_a_warning():
    node = Node("d", "Div", ("c", "x"), ("y",), {})
    values = (Value("x", (None, 2)),), (Value("y", (None, 2)),)
    graph = Graph(*values, (node,), {"c": np.array([1, 0], np.float32)})
    got = Model(plan.build(Checkpoint(graph)), ReferenceBackend())(np.zeros((1, 2), np.float32))
    assert np.isposinf(got[0, 0])
    assert np.isnan(got[0, 1])


def test_what_the_backend_does_not_offer_is_refused():
    node = Node("r", "Relu", ("x",), ("y",), {})
    graph = Graph((Value("x", (None, 2)),), (Value("y", (None, 2)),), (node,))
    made = plan.build(Checkpoint(graph))
    with pytest.raises(PlanError, match="float32 or float64, not bfloat16"):
        Model(made, ReferenceBackend(), "bfloat16")
    with pytest.raises(PlanError, match="OMP_NUM_THREADS"):
        Model(made, ReferenceBackend(), threads=2)
    assert ReferenceBackend().available().ok
