"""Windows and norms of ONNX that become averages and sums, against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from onnx_models import ints, model, node, run, torch_onnx, weight
from torch import nn

from masktools.checkpoint import Checkpoint
from masktools.errors import GraphError
from masktools.network.onnx.reader import read_onnx


def check(nodes, x, constants=None, opset=18):
    net = model(nodes, constants, [("x", ["N", *x.shape[1:]])], opset=opset)
    wanted = onnxruntime.InferenceSession(net.SerializeToString()).run(None, {"x": x})[0]
    graph = read_onnx(net)
    Checkpoint(graph).check()
    got = run(graph, x)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    return [n.op for n in graph.nodes]


@pytest.mark.parametrize("size", [1, 3, 5, 9])
@pytest.mark.parametrize("shape", [(7, 4, 5), (1, 4, 4)])
def test_lrn(size, shape):
    """Windows that are odd, as onnxruntime takes them; wider than there are channels, too."""
    how = {"size": size, "alpha": 0.3, "beta": 0.6, "bias": 1.5}
    check([node("LRN", ["x"], ["y"], **how)], 3 * weight(2, *shape))
    check([node("LRN", ["x"], ["y"], size=size)], 30 * weight(2, *shape))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("shape", [(5,), (5, 6), (5, 3, 3), (2, 3, 4, 5)])
def test_lrn_of_any_window_and_rank(size, shape):
    x = weight(2, *shape)
    net = model([node("LRN", ["x"], ["y"], size=size, alpha=0.5)], {}, [("x", ["N", *shape])])
    before, behind = (size - 1) // 2, size // 2
    square = np.pad(x * x, ((0, 0), (before, behind), *((0, 0),) * (x.ndim - 2)))
    sums = sum(square[:, i : i + shape[0]] for i in range(size))
    wanted = x / (1 + 0.5 / size * sums) ** 0.75
    graph = read_onnx(net)
    assert graph.inputs[0].shape[0] is None
    np.testing.assert_allclose(run(graph, x), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [0, -1])
def test_windows_of_no_channel_are_refused(size):
    with pytest.raises(GraphError, match=f"attribute size={size}"):
        read_onnx(model([node("LRN", ["x"], ["y"], size=size)]))


@pytest.mark.parametrize("p", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "window",
    [
        {"kernel_shape": [2, 3]},
        {"kernel_shape": [3, 3], "strides": [2, 1], "pads": [1, 0, 2, 1]},
        {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [3, 2], "strides": [3, 3], "pads": [1, 1, 1, 0], "ceil_mode": 1},
        {"kernel_shape": [2, 2], "strides": [3, 4], "ceil_mode": 1},
        {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    ],
)
def test_lp_pool(p, window):
    assert "AveragePool" in check([node("LpPool", ["x"], ["y"], p=p, **window)], weight(2, 3, 7, 6))


def test_lp_pool_of_signals():
    check([node("LpPool", ["x"], ["y"], kernel_shape=[3], strides=[2])], weight(2, 3, 9))


def test_what_lp_pool_lacks_is_refused_by_name():
    with pytest.raises(GraphError, match=r"\(LpPool\): attribute p=0"):
        read_onnx(model([node("LpPool", ["x"], ["y"], kernel_shape=[2, 2], p=0)], opset=18))


@pytest.mark.parametrize("op", ["AveragePool", "MaxPool"])
@pytest.mark.parametrize(
    "window",
    [
        {"kernel_shape": [5, 1, 1]},
        {"kernel_shape": [3, 1, 1], "strides": [2, 1, 1], "pads": [1, 0, 0, 2, 0, 0]},
        {"kernel_shape": [2, 1, 1], "strides": [2, 1, 1], "auto_pad": "SAME_UPPER"},
        {"kernel_shape": [2, 1, 1], "strides": [2, 1, 1], "ceil_mode": 1},
    ],
)
def test_pools_of_the_first_of_three_axes(op, window):
    assert op in check([node(op, ["x"], ["y"], **window)], weight(2, 3, 7, 4, 5))


@pytest.mark.parametrize(
    "window",
    [
        {"kernel_shape": [2, 2, 1]},
        {"kernel_shape": [2, 1, 1], "strides": [1, 2, 1]},
        {"kernel_shape": [2, 1, 1], "pads": [0, 0, 0, 0, 1, 0]},
    ],
)
def test_other_pools_of_three_axes_are_refused(window):
    net = model([node("MaxPool", ["x"], ["y"], **window)], {}, [("x", ["N", 3, 7, 4, 5])])
    with pytest.raises(GraphError, match=r"\(MaxPool\): .*three|3 spatial axes"):
        read_onnx(net)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_local_response_of_pytorch(exporter):
    """It is written as an average over three axes; TorchScript has an If behind it."""
    module, x = nn.LocalResponseNorm(4, 0.1, 0.7, 1.3).eval(), torch.from_numpy(weight(1, 6, 4, 5))
    if exporter == "torchscript":
        net = torch_onnx(module, (x,))
    else:
        net = torch.onnx.export(module, (x,), dynamo=True, verbose=False).model_proto
    graph = read_onnx(net)
    assert graph.inputs[0].shape == (None, 6, 4, 5)
    x = torch.from_numpy(weight(3, 6, 4, 5, seed=1))
    np.testing.assert_allclose(run(graph, x.numpy()), module(x).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("shape", [(3, 7), (3, 7, 6), (2, 3, 4, 5)])
def test_global_lp_pool(p, shape):
    check([node("GlobalLpPool", ["x"], ["y"], p=p)], weight(2, *shape))


@pytest.mark.parametrize("op", ["ReduceL1", "ReduceSumSquare"])
@pytest.mark.parametrize("axes", [(1,), (2, 3), (-1,), None])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_sums_of_sizes_and_squares(op, axes, keepdims):
    x = weight(1, 3, 5, 4)
    if axes is None:
        net = model([node(op, ["x"], ["y"], keepdims=1)], {}, [("x", [1, 3, 5, 4])], opset=18)
        wanted = onnxruntime.InferenceSession(net.SerializeToString()).run(None, {"x": x})[0]
        np.testing.assert_allclose(run(read_onnx(net), x), wanted, rtol=1e-5)
        return
    check([node(op, ["x", "a"], ["y"], keepdims=keepdims)], x, {"a": ints(*axes)})
    check([node(op, ["x"], ["y"], axes=axes, keepdims=keepdims)], x, opset=13)


def test_places_of_maxima_that_nobody_reads():
    """PyTorch's exporter names them wherever a module can return them."""
    pool = node("MaxPool", ["x"], ["y", "places"], kernel_shape=[2, 2], strides=[2, 2])
    assert check([pool], weight(2, 3, 6, 6)) == ["MaxPool"]
    used = [pool, node("Cast", ["places"], ["z"], to=1)]
    with pytest.raises(GraphError, match=r"MaxPool.*'places', the places of the maxima, is read"):
        read_onnx(model(used, {}, [("x", ["N", 3, 6, 6])], ("y", "z")))
