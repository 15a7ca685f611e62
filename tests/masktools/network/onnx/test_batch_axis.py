"""Tensors whose batch is not their first axis, against onnxruntime; the batch stays open."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx_models import ints, model, node, run, weight

from masktools.errors import GraphError
from masktools.network.onnx.reader import read_onnx, with_masks

TURN = node("Transpose", ["x"], ["t"], "turn", perm=[1, 0, 2])
BACK = node("Transpose", ["u"], ["y"], "back", perm=[1, 0, 2])


def check(nodes, constants=None, shape=(3, 4), opset=17):
    """Read a network of any batch and of one, and compare; return the operators."""
    for batch in (5, "N"):
        net = model(nodes, constants, [("x", [batch, *shape])], opset=opset)
        graph = read_onnx(net)
        assert graph.inputs[0].shape == (None, *shape)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # Its own moving of transpositions loses the axes of a Pad.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(net.SerializeToString(), options)
        for samples in (5,) if batch == 5 else (1, 2, 7):
            x = weight(samples, *shape, seed=1)
            (wanted,) = session.run(None, {"x": x})
            np.testing.assert_allclose(run(graph, x), wanted, rtol=1e-5, atol=1e-5)
    return [n.op for n in graph.nodes]


def read_alone(nodes, constants, shape, opset=18):
    """Read a network of one sample; compare what it gives each sample with what the file does."""
    net = model(nodes, constants, [("x", [1, *shape])], opset=opset)
    session = onnxruntime.InferenceSession(net.SerializeToString())
    graph = read_onnx(net)
    x = weight(3, *shape, seed=1)
    wanted = np.concatenate([session.run(None, {"x": one[None]})[0] for one in x])
    batches = [x] if graph.inputs[0].shape[0] is None else [one[None] for one in x]
    found = np.concatenate([run(graph, batch) for batch in batches])
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    return graph


@pytest.mark.parametrize(
    ("between", "constants"),
    [
        ([node("Relu", ["t"], ["u"])], {}),
        ([node("Softmax", ["t"], ["u"], axis=0)], {}),
        ([node("Softmax", ["t"], ["u"], axis=-1)], {}),
        ([node("MatMul", ["t", "w"], ["u"])], {"w": weight(4, 6)}),
        ([node("Add", ["t", "c"], ["u"])], {"c": weight(3, 1, 4)}),
        ([node("Sub", ["c", "t"], ["u"])], {"c": weight(4)}),
        ([node("Mul", ["t", "t"], ["u"])], {}),
        ([node("Slice", ["t", "a", "b", "z"], ["u"])], {"a": ints(1), "b": ints(9), "z": ints(0)}),
        ([node("Gather", ["t", "i"], ["u"], axis=0)], {"i": ints(2, 0)}),
        ([node("Split", ["t", "s"], ["u", "v"], axis=2)], {"s": ints(1, 3)}),
        ([node("LayerNormalization", ["t", "g"], ["u"])], {"g": weight(4)}),
        ([node("Pad", ["t", "p"], ["u"])], {"p": ints(2, 0, 1, 0, 0, 3)}),
        ([node("Pad", ["t", "p", "", "a"], ["u"])], {"p": ints(2, 1), "a": ints(-1)}),
        ([node("Tile", ["t", "n"], ["u"])], {"n": ints(2, 1, 3)}),
        ([node("Identity", ["t"], ["i"]), node("Clip", ["i", "lo"], ["u"])], {"lo": np.float32(0)}),
    ],
)
def test_operators_work_where_the_batch_is_the_second_axis(between, constants):
    assert "Transpose" not in check([TURN, *between, BACK], constants, opset=18)


@pytest.mark.parametrize("whole", [(20, 3, 3), (1, 3, 1)])
def test_windows_are_expanded(whole):
    """As rows of relative positions are; the size of the joined axis may stand in the file."""
    nodes = [
        node("Reshape", ["x", "windows"], ["w"]), node("Expand", ["w", "whole"], ["e"]),
        node("Reshape", ["e", "back"], ["y"], "b"),
    ]  # fmt: skip
    constants = {"windows": ints(-1, 1, 3), "whole": ints(*whole), "back": ints(5, 4, -1)}
    net = model(nodes, constants, [("x", [5, 4, 3])])
    graph = read_onnx(net)
    assert graph.inputs[0].shape == (None, 4, 3)
    x = weight(5, 4, 3)
    (wanted,) = onnxruntime.InferenceSession(net.SerializeToString()).run(None, {"x": x})
    np.testing.assert_array_equal(run(graph, x), wanted)
    np.testing.assert_array_equal(run(graph, x[:2]), wanted[:2])


@pytest.mark.parametrize(
    ("node_", "constants"),
    [
        (node("Tile", ["w", "c"], ["u"]), {"c": ints(4, 1, 1)}),
        (node("Pad", ["w", "c"], ["u"]), {"c": ints(12, 0, 0, 0, 0, 0)}),
        (node("Concat", ["w", "w", "w", "w"], ["u"], axis=0), {}),
    ],
)
@pytest.mark.parametrize("said", [1, "N"])
def test_what_adds_entries_beside_the_batch_keeps_it(node_, constants, said):
    """Global queries, repeated for all windows: at other batches samples would meet others'."""
    nodes = [
        node("Reshape", ["x", "windows"], ["w"]), node_,
        node("Reshape", ["u", "back"], ["y"], "b"),
    ]  # fmt: skip
    constants = {**constants, "windows": ints(-1, 1, 3), "back": ints(-1, 16, 3)}
    if said == 1:
        assert read_alone(nodes, constants, (4, 3)).inputs[0].shape == (1, 4, 3)
    else:
        with pytest.raises(GraphError, match=r"batch|do not fit"):
            read_onnx(model(nodes, constants, [("x", ["N", 4, 3])]))


def test_queries_keys_and_values_before_the_batch():
    nodes = [
        node("Reshape", ["x", "apart"], ["p"]),
        node("Transpose", ["p"], ["q"], perm=[2, 0, 3, 1, 4]),
        node("Gather", ["q", "one"], ["y"], axis=0),
    ]
    constants = {"apart": ints(0, 5, 3, 2, 2), "one": np.int64(1)}
    assert check(nodes, constants, (5, 12)).count("Transpose") == 1


def test_masks_reach_a_layer_whose_batch_is_not_in_front():
    net = model([TURN, node("MatMul", ["t", "w"], ["u"]), BACK], {"w": weight(4, 6)},
                [("x", [5, 3, 4])], opset=17)  # fmt: skip
    (layer,) = (node.inputs[1].removesuffix(".weight") for node in read_onnx(net).nodes)
    keep = np.random.default_rng(0).random((6, 4)) < 0.5
    masked = with_masks(net, {layer: keep})
    x = weight(5, 3, 4, seed=1)
    (found,) = onnxruntime.InferenceSession(masked.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(found, x @ (weight(4, 6) * keep.T), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("inner", [(-1, 3, 2), (10, 3, 2)])
def test_batch_and_heads_as_one_axis(inner):
    """The size of the axis stands in the file, or follows."""
    nodes = [
        node("Reshape", ["x", "heads"], ["h"], "a"),
        node("Transpose", ["h"], ["t"], perm=[0, 2, 1]),
        node("MatMul", ["h", "t"], ["p"]), node("Reshape", ["p", "back"], ["y"], "b"),
    ]  # fmt: skip
    constants = {"heads": ints(*inner), "back": ints(-1, 2, 3, 3)}
    net = model(nodes, constants, [("x", [5, 2, 3, 2])])
    graph = read_onnx(net)
    assert graph.inputs[0].shape == (None, 2, 3, 2)
    x = weight(5, 2, 3, 2)
    np.testing.assert_allclose(run(graph, x), x @ x.swapaxes(2, 3), rtol=1e-5, atol=1e-5)


def test_tokens_and_batch_as_one_axis():
    nodes = [
        TURN, node("Reshape", ["t", "rows"], ["r"], "a"), node("Gemm", ["r", "w", "b"], ["g"]),
        node("Reshape", ["g", "back"], ["u"], "b"), BACK,
    ]  # fmt: skip
    constants = {"rows": ints(-1, 4), "back": ints(3, -1, 6), "w": weight(4, 6), "b": weight(6)}
    assert check(nodes, constants) == ["Gemm"]


@pytest.mark.parametrize("axis", [2, -1])
def test_tokens_flattened_into_the_batch_are_normalised(axis):
    """As LeViT does: a linear layer, and batch normalisation of all its tokens."""
    nodes = [
        node("MatMul", ["x", "w"], ["m"]), node("Flatten", ["m"], ["f"], axis=axis),
        node("BatchNormalization", ["f", "g", "b", "mean", "var"], ["n"], epsilon=1e-3),
        node("Shape", ["m"], ["s"]), node("Reshape", ["n", "s"], ["y"]),
    ]  # fmt: skip
    constants = {name: weight(6, seed=seed) for seed, name in enumerate(("g", "b", "mean"))}
    assert "Gemm" in check(nodes, {**constants, "var": weight(6) ** 2, "w": weight(4, 6)})


def test_an_axis_is_put_before_the_batch_and_taken_away():
    nodes = [
        node("Unsqueeze", ["x", "first"], ["w"]),
        node("Transpose", ["w"], ["t"], perm=[3, 1, 2, 0]),
        node("Squeeze", ["t", "last"], ["s"]),
        node("Transpose", ["s"], ["y"], "b", perm=[1, 0, 2]),
    ]  # fmt: skip
    check(nodes, {"first": ints(0), "last": ints(3)})


def test_a_batch_of_one_that_the_file_fixes_is_opened():
    nodes = [
        TURN, node("Reshape", ["t", "heads"], ["h"], "a"),
        node("Transpose", ["h"], ["g"], "c", perm=[1, 0, 2]),
        node("Reshape", ["g", "apart"], ["y"], "b"),
    ]  # fmt: skip
    constants = {"heads": ints(3, 2, 2), "apart": ints(1, 2, 3, 2)}
    graph = read_onnx(model(nodes, constants, [("x", [1, 3, 4])]))
    assert graph.inputs[0].shape == (None, 3, 4)
    x = weight(5, 3, 4)
    wanted = x.reshape(5, 3, 2, 2).transpose(0, 2, 1, 3)
    np.testing.assert_array_equal(run(graph, x), wanted)


@pytest.mark.parametrize(("places", "batch"), [(range(12), None), (range(11, -1, -1), 1)])
def test_a_tensor_as_one_axis_with_places_in_it(places, batch):
    """As torch.export writes ``as_strided``; in another order it is left as it is."""
    nodes = [
        node("Reshape", ["x", "flat"], ["f"], "a"), node("Gather", ["f", "places"], ["g"], axis=0),
        node("Reshape", ["g", "back"], ["y"], "b"),
    ]  # fmt: skip
    index = np.array(places, np.int64).reshape(1, 12, 1)
    constants = {"flat": ints(-1), "places": index, "back": ints(1, 12)}
    assert read_alone(nodes, constants, (4, 3)).inputs[0].shape == (batch, 4, 3)


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceMax"])
@pytest.mark.parametrize("keep", [0, 1])
def test_values_stacked_before_the_batch_are_reduced(op, keep):
    """``torch.stack(parts).sum(0)``, as feature pyramids join their levels."""
    nodes = [
        node("Relu", ["x"], ["r"]), node("Unsqueeze", ["x", "first"], ["a"], "u"),
        node("Unsqueeze", ["r", "first"], ["b"], "v"), node("Concat", ["a", "b"], ["c"], axis=0),
        node(op, ["c", "first"], ["z"], keepdims=keep) if op == "ReduceSum"
        else node(op, ["c"], ["z"], axes=[0], keepdims=keep),
        node("Squeeze", ["z", "first"], ["y"], "s") if keep else node("Neg", ["z"], ["y"]),
    ]  # fmt: skip
    check(nodes, {"first": ints(0)})


def test_parts_joined_and_reduced_beside_the_batch():
    nodes = [
        TURN, node("Concat", ["t", "t"], ["c"], axis=2),
        node("ReduceSum", ["c", "last"], ["u"], keepdims=1), BACK,
    ]  # fmt: skip
    assert "Transpose" not in check(nodes, {"last": ints(-1)})


def test_a_sum_over_the_batch_keeps_it():
    nodes = [TURN, node("ReduceMax", ["t"], ["y"], axes=[1], keepdims=1)]
    graph = read_onnx(model(nodes, {}, [("x", [5, 3, 4])], opset=17))
    assert graph.inputs[0].shape == (5, 3, 4)
    x = weight(5, 3, 4)
    np.testing.assert_allclose(run(graph, x), x.max(0)[:, None], rtol=1e-6)


def test_a_batch_of_one_in_front_of_one_channel_is_opened():
    """Scores of one class, as detectors flatten them: the rest is of a sample, not of a batch."""
    nodes = [
        node("Split", ["x"], ["s", "t"], axis=1, num_outputs=2),
        node("Reshape", ["s", "flat"], ["u"], "a"), node("Reshape", ["t", "wide"], ["v"], "b"),
        node("Concat", ["u", "v"], ["y"], axis=2),
    ]  # fmt: skip
    constants = {"flat": ints(1, 1, -1), "wide": ints(1, 1, 12)}
    graph = read_onnx(model(nodes, constants, [("x", [1, 2, 3, 4])], opset=18))
    assert graph.inputs[0].shape == (None, 2, 3, 4)
    x = weight(5, 2, 3, 4)
    np.testing.assert_array_equal(run(graph, x), x.reshape(5, 1, 24))


@pytest.mark.parametrize(
    "between", [node("Softmax", ["t"], ["u"], axis=1), node("Concat", ["t", "t"], ["u"], axis=1)]
)
def test_what_mixes_samples_is_refused_or_keeps_its_batch(between):
    net = model([TURN, between, BACK], {}, [("x", ["N", 3, 4])])
    with pytest.raises(GraphError, match=r"mixes|batch"):
        read_onnx(net)
    net = model([TURN, between, BACK], {}, [("x", [5, 3, 4])])
    graph = read_onnx(net)
    assert graph.inputs[0].shape == (5, 3, 4)
    x = weight(5, 3, 4)
    (wanted,) = onnxruntime.InferenceSession(net.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(run(graph, x), wanted, rtol=1e-5, atol=1e-5)


def test_an_output_whose_batch_is_not_in_front_is_written_out():
    net = model([node("Transpose", ["x"], ["y"], perm=[1, 0, 2])], {}, [("x", [5, 3, 4])])
    graph = read_onnx(net)
    x = weight(5, 3, 4)
    np.testing.assert_array_equal(run(graph, x), x.transpose(1, 0, 2))
