"""Convolutions and pools of images beside the batch, against onnxruntime; the batch stays open."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import ints, model, node, run, weight

from masktools.network.onnx.reader import read_onnx, with_masks

INTO = node("Reshape", ["x", "into"], ["i"], "into")
BACK = node("Reshape", ["o", "back"], ["y"], "back")


def network(between, constants, shape, after, batch="N", opset=18):
    """Return what works on the images of samples of shape (images, channels, ...)."""
    constants = {"into": ints(-1, *shape[1:]), "back": ints(-1, *after), **constants}
    return model([INTO, *between, BACK], constants, [("x", [batch, *shape])], opset=opset)


def check(between, constants, shape, out):
    """Compare at several batches, where the file has it open and where it fixes one sample."""
    for said in ("N", 1):
        net = network(between, constants, shape, (shape[0], *out), said)
        graph = read_onnx(net)
        assert graph.inputs[0].shape == (None, *shape)
        session = onnxruntime.InferenceSession(net.SerializeToString())
        x = weight(3, *shape, seed=1)
        wanted = np.concatenate([session.run(None, {"x": one[None]})[0] for one in x])
        for samples in (3, 1):
            found = run(graph, x[:samples])
            np.testing.assert_allclose(found, wanted[:samples], rtol=1e-4, atol=1e-4)
    return graph


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 3),
    st.tuples(*[st.integers(5, 8)] * 2),
    st.tuples(*[st.integers(1, 3)] * 2),
    st.tuples(*[st.integers(1, 3)] * 2),
    st.tuples(*[st.integers(1, 2)] * 2),
    st.tuples(*[st.integers(0, 3)] * 4),
    st.booleans(),
)
def test_images_are_convolved_each_alone(images, size, kernel, strides, dilations, pads, depthwise):
    extents = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = (min(pads[0], extents[0] - 1), *pads[1:])
    out = [
        (n + pads[axis] + pads[axis + 2] - extents[axis]) // strides[axis] + 1
        for axis, n in enumerate(size)
    ]
    between = [
        node("Conv", ["i", "w", "b"], ["o"], strides=strides, dilations=dilations, pads=pads,
             group=4 if depthwise else 1),
    ]  # fmt: skip
    constants = {"w": weight(4, 1 if depthwise else 4, *kernel), "b": weight(4, seed=2)}
    check(between, constants, (images, 4, *size), (4, *out))


@pytest.mark.parametrize("inner", [(4, 2, 6), (4, 2, 6, 6)])
def test_layers_follow_each_other(inner):
    """Tokens and images, sums and activations; a layer for signals, one for images."""
    spatial = inner[2:]
    between = [
        node("Conv", ["i", "w", "b"], ["c"], pads=[1] * 2 * len(spatial)),
        node("Relu", ["c"], ["r"]), node("Add", ["r", "i"], ["s"]),
        node("Conv", ["s", "v"], ["o"], "last", strides=[2] * len(spatial)),
    ]  # fmt: skip
    ones = (1,) * len(spatial)
    constants = {"w": weight(2, 2, *(3,) * len(spatial)), "b": weight(2), "v": weight(5, 2, *ones)}
    check(between, constants, inner, (5, *(3,) * len(spatial)))


@pytest.mark.parametrize(
    ("op", "out", "attributes"),
    [
        ("MaxPool", (2, 3, 3), {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
        ("MaxPool", (2, 5, 6), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("AveragePool", (2, 5, 6), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("LpPool", (2, 4, 5), {"kernel_shape": [2, 2], "p": 2}),
        ("GlobalAveragePool", (2, 1, 1), {}),
        ("GlobalMaxPool", (2, 1, 1), {}),
        ("GlobalLpPool", (2, 1, 1), {"p": 1}),
    ],
)
def test_images_are_pooled_each_alone(op, out, attributes):
    check([node(op, ["i"], ["o"], **attributes)], {}, (3, 2, 5, 6), out)


def test_images_around_the_batch():
    """Frames before the batch in the joined axis, windows behind it."""
    nodes = [
        node("Transpose", ["x"], ["t"], "turn", perm=[1, 0, 2, 3, 4, 5]),
        node("Reshape", ["t", "into"], ["i"], "into"),
        node("Conv", ["i", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Reshape", ["c", "back"], ["o"], "back"),
        node("Transpose", ["o"], ["y"], "b", perm=[1, 0, 2, 3, 4, 5]),
    ]
    constants = {"into": ints(-1, 2, 5, 5), "back": ints(3, -1, 2, 4, 5, 5)}
    net = model(nodes, {**constants, "w": weight(4, 2, 3, 3)}, [("x", ["N", 3, 2, 2, 5, 5])])
    graph = read_onnx(net)
    x = weight(3, 3, 2, 2, 5, 5)
    (wanted,) = onnxruntime.InferenceSession(net.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(run(graph, x), wanted, rtol=1e-4, atol=1e-4)


def test_masks_reach_the_layer():
    w = weight(4, 2, 3, 3)
    net = network([node("Conv", ["i", "layer.weight"], ["o"])], {"layer.weight": w}, (3, 2, 5, 5),
                  (3, 4, 3, 3), batch=1)  # fmt: skip
    graph = read_onnx(net)
    np.testing.assert_array_equal(graph.constants["layer.weight"], w)
    keep = np.random.default_rng(0).random(w.shape) < 0.5
    expected = network([node("Conv", ["i", "w"], ["o"])], {"w": w * keep}, (3, 2, 5, 5),
                       (3, 4, 3, 3), batch=1)  # fmt: skip
    x = weight(1, 3, 2, 5, 5)
    found, wanted = (
        onnxruntime.InferenceSession(one.SerializeToString()).run(None, {"x": x})[0]
        for one in (with_masks(net, {"layer": keep}), expected)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("attributes", "size"),
    [({"pads": [1, 0, 1, 0]}, (7, 5)), ({"auto_pad": "SAME_UPPER"}, (5, 5))],
)
def test_windows_that_could_read_the_image_before_keep_the_batch(attributes, size):
    """A window of one row that begins above its image would be a row of the image before."""
    between = [node("Conv", ["i", "w"], ["o"], **attributes)]
    net = network(between, {"w": weight(4, 2, 1, 1)}, (3, 2, 5, 5), (3, 4, *size), batch=1)
    graph = read_onnx(net)
    assert graph.inputs[0].shape == (1, 3, 2, 5, 5)
    x = weight(1, 3, 2, 5, 5)
    (wanted,) = onnxruntime.InferenceSession(net.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(run(graph, x), wanted, rtol=1e-4, atol=1e-4)


def test_images_whose_channels_are_joined_with_the_batch_keep_it():
    between = [
        node("Transpose", ["i"], ["t"], perm=[1, 0, 2, 3]),  # Samples and images as channels.
        node("Conv", ["t", "w"], ["c"]), node("Transpose", ["c"], ["o"], "t2", perm=[1, 0, 2, 3]),
    ]  # fmt: skip
    net = network(between, {"w": weight(3, 3, 1, 1)}, (3, 2, 5, 5), (3, 2, 5, 5), batch=1)
    graph = read_onnx(net)
    assert graph.inputs[0].shape == (1, 3, 2, 5, 5)
    x = weight(1, 3, 2, 5, 5)
    (wanted,) = onnxruntime.InferenceSession(net.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(run(graph, x), wanted, rtol=1e-4, atol=1e-4)
