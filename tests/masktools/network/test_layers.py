"""The layers of a network: names, roles, and multiplications against counting them one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masktools import MaskError
from masktools.errors import GraphError
from masktools.network.graph import Graph, Node, Value
from masktools.network.layers import layer_name, layers


def network(nodes, weights, inputs=(("x", (None, 4, 9, 7)),), outputs=(("y", (None, 1)),)):
    return Graph(
        tuple(Value(*v) for v in inputs), tuple(Value(*v) for v in outputs), tuple(nodes),
        {f"{name}.weight": np.ones(shape, np.float32) for name, shape in weights.items()},
    )  # fmt: skip


def conv(name, x, y, layer, strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1), group=1):
    attributes = {"strides": strides, "pads": pads, "dilations": dilations, "group": group}
    return Node(name, "Conv", (x, f"{layer}.weight"), (y,), attributes)


def gemm(name, x, y, layer):
    return Node(name, "Gemm", (x, f"{layer}.weight"), (y,), {"transB": 1})


small = st.integers(1, 3)


@given(
    st.tuples(st.integers(6, 9), st.integers(6, 9)),
    st.tuples(small, small),
    st.tuples(small, small),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.tuples(*[st.integers(0, 3)] * 4),
    st.sampled_from([1, 2, 4]),
)
def test_multiplications_are_those_on_the_image(size, kernel, strides, dilations, pads, group):
    node = conv("n", "x", "y", "a", strides, pads, dilations, group)
    shape = (8, 4 // group, *kernel)
    graph = network([node], {"a": shape}, [("x", (None, 4, *size))])
    layer = layers(graph)["a"]
    mask = np.random.default_rng(0).random(shape) < 0.5

    count = 0
    spans = [
        range(
            -pads[axis],
            size[axis] + pads[axis + 2] - dilations[axis] * (kernel[axis] - 1),
            strides[axis],
        )
        for axis in (0, 1)
    ]
    for top, left in itertools.product(*spans):
        for _, _, y, x in np.argwhere(mask):
            inside = 0 <= top + y * dilations[0] < size[0]
            count += inside and 0 <= left + x * dilations[1] < size[1]
    assert layer.multiplications(mask) == count
    columns = mask.reshape(8, -1).sum(axis=0) @ layer.column_cost
    assert columns == count
    assert layer.multiplications() == layer.multiplications(np.ones(shape, bool))
    pixels = len(list(itertools.product(*spans)))
    assert layer.multiplications(mask, padding=True) == mask.sum() * pixels
    assert layer.multiplications(padding=True) == mask.size * pixels


def test_one_dimension_and_matrices():
    window = {"strides": (2,), "pads": (1, 0), "dilations": (1,), "group": 1}
    nodes = [
        Node("c", "Conv", ("x", "a.weight"), ("t",), window),
        gemm("g", "t", "y", "b"),
    ]
    graph = network(nodes, {"a": (5, 3, 3), "b": (6, 4)}, [("x", (None, 3, 8))])
    found = layers(graph)
    assert found["a"].taps.tolist() == [3, 4, 4]  # The first of four windows starts on padding.
    assert found["b"].multiplications() == 6 * 4 * 5  # A matrix of five rows for each sample.
    assert [found[n].multiplications(padding=True) for n in "ab"] == [5 * 3 * 3 * 4, 6 * 4 * 5]


def test_layers_that_share_weights_are_one():
    nodes = [
        conv("n1", "x", "t", "a", pads=(1, 1, 1, 1)),
        conv("n2", "t", "u", "a"),
    ]
    layer = layers(network(nodes, {"a": (4, 4, 3, 3)}))["a"]
    assert layer.nodes == ("n1", "n2")
    assert layer.taps[0, 0] == 8 * 6 + 7 * 5
    assert layer.taps[1, 1] == 9 * 7 + 7 * 5


def test_roles():
    nodes = [
        conv("n1", "x", "t1", "stem"),
        conv("n2", "t1", "t2", "dw", group=8),
        conv("n3", "t2", "t3", "body"),
        Node("r", "Relu", ("t3",), ("t4",)),
        Node("f", "Flatten", ("t4",), ("t5",), {"axis": 1}),
        gemm("g1", "t5", "t6", "hidden"),
        gemm("g2", "t6", "t7", "head"),
        Node("s", "Softmax", ("t7",), ("y",), {"axis": 1}),
    ]
    shapes = {
        "stem": (8, 4, 3, 3), "dw": (8, 1, 3, 3), "body": (8, 8, 1, 1),
        "hidden": (5, 8 * 5 * 3), "head": (3, 5),
    }  # fmt: skip
    roles = {name: layer.role for name, layer in layers(network(nodes, shapes)).items()}
    assert roles == {
        "stem": "first", "dw": "depthwise", "body": "", "hidden": "", "head": "classifier",
    }  # fmt: skip


def test_every_branch_that_reads_the_input_is_first():
    nodes = [
        conv("n1", "x", "t1", "a"),
        conv("n2", "x", "t2", "b"),
        Node("c", "Concat", ("t1", "t2"), ("t3",), {"axis": 1}),
        conv("n3", "t3", "y", "c"),
    ]
    shapes = {"a": (8, 4, 3, 3), "b": (2, 4, 3, 3), "c": (2, 10, 1, 1)}
    assert [layer.role for layer in layers(network(nodes, shapes)).values()] == [
        "first", "first", "",
    ]  # fmt: skip


def test_what_does_not_fit_is_refused():
    graph = network([conv("n", "x", "y", "a")], {"a": (8, 4, 3, 3)})
    with pytest.raises(MaskError, match=r"layer 'a': expected a mask of shape \(8, 4, 3, 3\)"):
        layers(graph)["a"].multiplications(np.ones((8, 4, 3, 2), bool))
    with pytest.raises(GraphError, match=r"node 'n'.*expected 5 channels"):
        layers(network([conv("n", "x", "y", "a")], {"a": (8, 5, 3, 3)}))
    both = [conv("n1", "x", "t", "a"), conv("n2", "x", "u", "a", group=4)]
    with pytest.raises(GraphError):
        layers(network(both, {"a": (4, 4, 3, 3)}))


@pytest.mark.parametrize(
    ("parameter", "node", "layer"),
    [
        ("features.0.weight", "/features/0/Conv", "features.0"),
        ("features.0.weight_orig", "", "features.0"),
        ("fc.parametrizations.weight.original", "n", "fc"),
        ("fc.parametrizations.weight.original0", "n", "fc"),
        ("onnx::Conv_20", "Conv_3", "Conv_3"),
        ("conv1/kernel", "", "conv1/kernel"),
    ],
)
def test_names(parameter, node, layer):
    assert layer_name(parameter, node) == layer
