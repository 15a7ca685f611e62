"""Moves of ONNX that become operators of the normal form, against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx_models import ints, model, node, run, weight

from masktools.errors import GraphError
from masktools.network.onnx.reader import read_onnx


def check(net, *shape):
    """Compare a network that reads x with onnxruntime, and return its graph."""
    x = weight(*shape, seed=3)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(net.SerializeToString(), options)
    wanted = session.run(None, {"x": x})
    graph = read_onnx(net)
    got = run(graph, x)
    got = [got[v.name] for v in graph.outputs] if isinstance(got, dict) else [got]
    for y, want in zip(got, wanted, strict=True):
        assert y.shape == want.shape
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
    return graph


# --- sequences ----------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize(
    ("split", "keepdims"),
    [(np.int64(2), 1), (np.int64(4), 1), (ints(1, 3, 2), 1), (None, 1), (None, 0)],
)
def test_parts_of_a_sequence(split, keepdims, axis):
    given = {} if split is None else {"split": split}
    net = model(
        [
            node("SplitToSequence", ["x", *given], ["s"], axis=axis, keepdims=keepdims),
            node("SequenceAt", ["s", "first"], ["y"]),
            node("SequenceAt", ["s", "last"], ["z"], "second"),
        ],
        {**given, "first": np.int64(0), "last": np.int64(-1)},
        [("x", ["N", 6, 6])],
        ["y", "z"],
    )
    assert {n.op for n in check(net, 4, 6, 6).nodes} <= {"Split", "Squeeze"}


def test_a_sequence_that_was_put_together():
    net = model(
        [
            node("Relu", ["x"], ["r"]),
            node("SequenceConstruct", ["x", "r"], ["s"]),
            node("SequenceAt", ["s", "at"], ["a"]),
            node("Relu", ["a"], ["y"], "second"),
        ],
        {"at": np.int64(1)},
        [("x", ["N", 6])],
    )
    check(net, 4, 6)


def test_more_parts_than_a_node_may_have_are_refused():
    net = model([node("SplitToSequence", ["x"], ["s"], axis=1)], {}, [("x", ["N", 2**30])])
    with pytest.raises(GraphError, match="1073741824 parts"):
        read_onnx(net)


@pytest.mark.parametrize("count", [2**40, 3, 0, -1])
def test_a_split_into_more_or_fewer_parts_than_outputs_is_refused(count):
    net = model(
        [node("Split", ["x"], ["y", "z"], axis=1, num_outputs=count)], {}, [("x", ["N", 6])]
    )
    with pytest.raises(GraphError, match=f"attribute num_outputs={count} is not supported, only 2"):
        read_onnx(net)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("SequenceAt", ["s", "far"], ["y"])], "position 3 in a sequence of 3 tensors"),
        ([node("SequenceAt", ["x", "far"], ["y"])], "input 'x' is no sequence"),
        ([node("Relu", ["s"], ["y"])], "input 's' is made by nothing before it"),
        (
            [node("Relu", ["x"], ["m"]), node("SequenceAt", ["s", "m"], ["y"])],
            "position, input 1, must be a constant",
        ),
    ],
)
def test_sequences_that_cannot_be_read_are_refused(nodes, message):
    net = model(
        [node("SplitToSequence", ["x", "two"], ["s"], axis=1), *nodes],
        {"two": np.int64(2), "far": np.int64(3)},
        [("x", ["N", 6])],
    )
    with pytest.raises(GraphError, match=message):
        read_onnx(net)


# --- choosing, repeating, joining ---------------------------------------------------------------


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize(
    ("indices", "op"),
    [
        (np.int64(2), "Slice"), (np.int64(-1), "Slice"), (ints(1, 2, 3), "Slice"),
        (ints(0, 2, 4), "Slice"), (ints(3, 0, 3), "Gather"), (ints(4, 3, 2), "Gather"),
        (ints(1, 0, -1, 2).reshape(2, 2), "Gather"),
    ],
)  # fmt: skip
def test_gather_of_constant_indices(axis, indices, op):
    net = model(
        [node("Gather", ["x", "i"], ["y"], axis=axis)], {"i": indices}, [("x", ["N", 5, 6, 5])]
    )
    assert check(net, 2, 5, 6, 5).nodes[0].op == op


def test_gather_of_what_is_not_there_is_refused():
    for indices, shape in ((ints(5), 5), (ints(-6), 5), (np.zeros(2**20 + 1, np.int64), 5)):
        net = model(
            [node("Gather", ["x", "i"], ["y"], axis=1)], {"i": indices}, [("x", ["N", shape])]
        )
        with pytest.raises(GraphError, match=r"indices"):
            read_onnx(net)
    table = model(
        [node("Cast", ["x"], ["i"], to=1), node("Gather", ["w", "i"], ["y"])],
        {"w": weight(5, 3)},
        [("x", ["N", 5])],
    )
    with pytest.raises(GraphError, match="indices, input 1, must be a constant"):
        read_onnx(table)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 4, 1), (3, 1, 1), (1,), (4, 2, 3, 4, 1)])
def test_expand(shape):
    net = model(
        [node("Expand", ["x", "s"], ["y"])],
        {"s": ints(*shape)},
        [("x", ["N" if len(shape) < 4 else 2, 3, 1, 5] if len(shape) < 5 else [2, 3, 1, 5])],
    )
    check(net, 2, 3, 1, 5)


def test_tile():
    net = model([node("Tile", ["x", "r"], ["y"])], {"r": ints(1, 2, 3)}, [("x", ["N", 2, 5])])
    check(net, 3, 2, 5)
    with pytest.raises(GraphError, match="repeats"):
        read_onnx(model([node("Tile", ["x", "r"], ["y"])], {"r": ints(1)}, [("x", ["N", 2, 5])]))


@pytest.mark.parametrize("order", ["cx", "xc", "xcz", "cxzc", "ccx"])
@pytest.mark.parametrize("axis", [1, 2])
def test_constants_are_joined_to_values(order, axis):
    constants, names = {}, []
    for i, kind in enumerate(order):
        names.append({"x": "x", "z": "z"}.get(kind, f"c{i}"))
        if kind == "c":
            shape = (4, i + 1, 5) if axis == 1 else (4, 2, i + 1)
            constants[f"c{i}"] = np.broadcast_to(weight(*shape, seed=i)[:1], shape)
    net = model(
        [node("Relu", ["x"], ["z"]), node("Concat", names, ["y"], axis=axis)],
        constants,
        [("x", [4, 2, 5])],
    )
    graph = check(net, 4, 2, 5)
    assert graph.inputs[0].shape == (None, 2, 5)


def test_constants_that_differ_from_sample_to_sample_fix_the_batch():
    net = model(
        [node("Concat", ["x", "c"], ["y"], axis=1)], {"c": weight(4, 2, 5)}, [("x", [4, 2, 5])]
    )
    assert check(net, 4, 2, 5).inputs[0].shape == (4, 2, 5)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_pixels_from_channels(mode):
    net = model(
        [node("DepthToSpace", ["x"], ["y"], blocksize=2, mode=mode)], {}, [("x", ["N", 12, 2, 3])]
    )
    check(net, 2, 12, 2, 3)


def test_channels_from_pixels():
    net = model([node("SpaceToDepth", ["x"], ["y"], blocksize=2)], {}, [("x", ["N", 3, 4, 6])])
    check(net, 2, 3, 4, 6)
    for blocksize, size in ((0, 4), (2, 5)):
        net = model(
            [node("SpaceToDepth", ["x"], ["y"], blocksize=blocksize)],
            {},
            [("x", ["N", 3, size, 6])],
        )
        with pytest.raises(GraphError, match="SpaceToDepth"):
            read_onnx(net)


NESTED = {
    "one axis": ([[2], [0], [-1]], 1),
    "two axes": ([[2, 1], [0, -1]], 1),
    "all axes": ([[2, 1, 0], [0, 3, 4]], 1),
    "one entry": ([2, 1], 1),
    "more axes of indices": ([[[2], [0]], [[1], [1]], [[0], [2]]], 1),
    "rows by order": ([[0], [1], [2]], 1),
}


@pytest.mark.parametrize("name", NESTED)
def test_gather_nd_of_each_sample(name):
    """The same entries of each sample: how many there are follows from the batch."""
    indices, first = NESTED[name]
    x = weight(2, 3, 4, 5)
    repeated = np.broadcast_to(np.array(indices, np.int64), (2, *np.shape(indices)))
    net = model(
        [node("GatherND", ["x", "i"], ["y"], batch_dims=first)],
        {"i": np.ascontiguousarray(repeated)},
        [("x", [2, 3, 4, 5])],
    )
    wanted = onnxruntime.InferenceSession(net.SerializeToString()).run(None, {"x": x})[0]
    np.testing.assert_array_equal(run(read_onnx(net), x), wanted)


@pytest.mark.parametrize("name", NESTED)
def test_gather_nd_before_the_axis_of_the_batch(name):
    """As PyTorch writes x[:, i, j]: the axes are brought to the front, and back."""
    indices = np.array(NESTED[name][0], np.int64)
    x = weight(2, 3, 4, 5)
    rank = 4 - indices.shape[-1] + indices.ndim - 1
    batch = indices.ndim - 1 + (3 - indices.shape[-1])
    nodes = [
        node("Transpose", ["x"], ["t"], name="t", perm=[1, 2, 3, 0]),
        node("GatherND", ["t", "i"], ["g"]),
        node("Transpose", ["g"], ["y"], name="u",
             perm=[batch, *(i for i in range(rank) if i != batch)]),
    ]  # fmt: skip
    net = model(nodes, {"i": indices}, [("x", ["N", 3, 4, 5])])
    wanted = onnxruntime.InferenceSession(net.SerializeToString()).run(None, {"x": x})[0]
    graph = read_onnx(net)
    assert graph.inputs[0].shape[0] is None
    np.testing.assert_array_equal(run(graph, x), wanted)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([[[0]], [[1]]], "its indices differ along the first axes"),
        ([[[3]], [[3]]], r"indices \[3\] of an axis of 3 entries"),
        ([[[0]]], r"indices of shape \(1, 1, 1\) for a value of shape \(2, 3, 4\)"),
        ([[[0, 1, 0]]] * 2, r"indices of shape \(2, 1, 3\)"),
    ],
)
def test_entries_that_gather_nd_cannot_take_are_refused(indices, message):
    net = model(
        [node("GatherND", ["x", "i"], ["y"], batch_dims=1)],
        {"i": np.array(indices, np.int64)},
        [("x", [2, 3, 4])],
    )
    with pytest.raises(GraphError, match=rf"\(GatherND\): {message}"):
        read_onnx(net)
