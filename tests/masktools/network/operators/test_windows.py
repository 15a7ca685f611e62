"""Operators with windows of the normal form, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_operators import assert_one, network, normal

from masktools.errors import GraphError
from masktools.network.graph import Node
from masktools.network.operators import OPERATORS
from masktools.network.operators.rules import Known
from runtime.model import Model
from runtime.plan import plan
from runtime.reference.backend import ReferenceBackend


@given(data=st.data(), spatial=st.integers(1, 2), batch=st.integers(1, 5))
def test_conv(data, spatial, batch):
    draw = data.draw
    group = draw(st.sampled_from([1, 2, 3]))
    rows = group * draw(st.integers(1, 3))
    channels = group * draw(st.integers(1, 2))
    kernel = [draw(st.integers(1, 3)) for _ in range(spatial)]
    attributes = {
        "strides": tuple(draw(st.integers(1, 3)) for _ in range(spatial)),
        "dilations": tuple(draw(st.integers(1, 2)) for _ in range(spatial)),
        "pads": tuple(draw(st.integers(0, 3)) for _ in range(2 * spatial)),
        "group": group,
    }
    sizes = [draw(st.integers(5, 9)) for _ in range(spatial)]
    constants = {"w": normal(rows, channels // group, *kernel)}
    if draw(st.booleans()):
        constants["b"] = normal(rows)
    assert_one("Conv", normal(batch, channels, *sizes), attributes, **constants)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@given(data=st.data(), spatial=st.integers(1, 2), batch=st.integers(1, 3))
def test_pool(op, data, spatial, batch):
    draw = data.draw
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(spatial))
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": tuple(draw(st.integers(1, 3)) for _ in range(spatial)),
        "dilations": tuple(draw(st.integers(1, 2)) for _ in range(spatial)),
        "pads": tuple(draw(st.integers(0, k - 1)) for k in kernel * 2),
        "ceil_mode": draw(st.integers(0, 1)),
    }
    if op == "AveragePool":
        attributes["count_include_pad"] = draw(st.integers(0, 1))
    sizes = [draw(st.integers(7, 10)) for _ in range(spatial)]
    assert_one(op, normal(batch, 3, *sizes), attributes)


def test_padding_never_wins_a_maximum():
    attributes = {"kernel_shape": (3, 3), "strides": (2, 2), "dilations": (1, 1)}
    x = -1 - np.abs(normal(2, 3, 5, 5))
    assert_one("MaxPool", x, {**attributes, "pads": (1, 1, 1, 1), "ceil_mode": 0})


@pytest.mark.parametrize("shape", [(1, 3, 5), (2, 3, 5, 4)])
def test_means(shape):
    axes = tuple(range(2, len(shape)))
    assert_one("GlobalAveragePool", normal(*shape))
    for keepdims in (0, 1):
        assert_one("ReduceMean", normal(*shape), {"axes": axes, "keepdims": keepdims})


REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2")


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("axes", [(1,), (3,), (1, 3), (3, 1), (2, 3), (1, 2, 3)])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reductions(op, axes, keepdims):
    assert_one(op, normal(2, 3, 5, 4), {"axes": axes, "keepdims": keepdims})


def test_an_extreme_is_nan_where_a_number_is():
    x = normal(2, 3, 5)
    x[0, 1, 2] = np.nan
    for op in ("ReduceMax", "ReduceMin"):
        node = Node("node", op, ("x",), ("y",), {"axes": (2,), "keepdims": 0})
        y = Model(plan.build(network(node, {"x": x}, {})), ReferenceBackend())(x)
        assert np.argwhere(np.isnan(y)).tolist() == [[0, 1]]


@pytest.mark.parametrize(("axes", "shape"), [((2,), (2, 3, 4, 5)), ((2, 3), (2, 3, 4, 5, 6))])
def test_a_mean_over_a_part_of_the_image_is_no_operator_of_version_1(axes, shape):
    node = Node("node", "ReduceMean", ("x",), ("y",), {"axes": axes, "keepdims": 1})
    with pytest.raises(GraphError, match="must be the whole image"):
        network(node, {"x": normal(*shape)}, {})


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("value", [0.0, 2.0, -2.0])
def test_constants_pass_through_reductions(op, value):
    """What is said to be known is what the network computes."""
    x = np.full((1, 2, 3, 4), value, np.float32)
    for axes in [(2, 3), (3,), (1,), (1, 2)]:
        node = Node("node", op, ("x",), ("y",), {"axes": axes, "keepdims": 1})
        known = Known({}, {}, {"x": x.shape}, {"x": np.array([value, np.nan])})
        made = OPERATORS[op].constant(known, node)
        if 1 in axes:
            assert made is None
            continue
        y = Model(plan.build(network(node, {"x": x}, {})), ReferenceBackend())(x)
        assert np.isnan(made[0][1])
        assert made[0][0] == y.flat[0] or (op in ("ReduceSum", "ReduceL2") and value)
