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
