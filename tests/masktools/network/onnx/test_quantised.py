"""Quantised networks in the QDQ form: weights dequantised, values with their range alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx_models import ints, model, node, run, weight

import masktools
import runtime
from masktools.cli.export import export
from masktools.errors import GraphError
from masktools.network.onnx.reader import load_onnx, read_onnx

X = weight(2, 3, 6, 6, seed=3)
STEP = {"s": np.float32(0.02), "z": np.uint8(0)}


def quantised(tmp_path, per_channel):
    """Return a small network, and the file that onnxruntime's own tool makes of it."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    nodes = [
        node("Conv", ["x", "conv.weight", "b"], ["a"]), node("Relu", ["a"], ["r"]),
        node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2]), node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "fc.weight"], ["y"], transB=1),
    ]  # fmt: skip
    constants = {"conv.weight": weight(4, 3, 3, 3), "b": weight(4), "fc.weight": weight(5, 36)}
    net = model(nodes, constants, [("x", ["N", 3, 6, 6])])
    onnx.save(net, tmp_path / "float.onnx")

    class Samples(CalibrationDataReader):
        left = iter([{"x": weight(8, 3, 6, 6, seed=seed)} for seed in range(4)])

        def get_next(self):
            return next(self.left, None)

    quantize_static(
        tmp_path / "float.onnx", tmp_path / "net.onnx", Samples(), QuantFormat.QDQ,
        per_channel=per_channel,
    )  # fmt: skip
    return net


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_quantised_network_is_read_as_the_one_that_it_was(tmp_path, per_channel):
    net = quantised(tmp_path, per_channel)
    report, _ = export(tmp_path / "net.onnx", tmp_path / "net.safetensors")
    assert "are quantised" in report["notes"][0]
    assert "not rounded" in report["notes"][0]
    found = runtime.load(tmp_path / "net.safetensors", backend="reference")(X)
    y = run(read_onnx(net), X)
    assert 0 < abs(found - y).max() < 0.05 * abs(y).max()
    layers = masktools.load_weights(tmp_path / "net.onnx")
    graph = read_onnx(tmp_path / "net.onnx")
    assert {f"{name}.weight" for name in layers} == {n for n in graph.constants if "bias" not in n}


def test_the_range_stays_for_a_relu_may_be_in_it():
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("Reshape", ["q", "to"], ["r"]),
        node("DequantizeLinear", ["r", "s", "z"], ["y"]),
    ]  # fmt: skip
    for opset in (10, 13, 19):
        graph = read_onnx(model(nodes, STEP | {"to": ints(-1, 108)}, opset=opset))
        assert [n.op for n in graph.nodes] == ["Clip", "Reshape"]
        x = 4 * X[:1]
        y = np.clip(x, 0, np.float32(255 * 0.02)).reshape(1, 108)
        np.testing.assert_allclose(run(graph, x), y, rtol=1e-6)


def test_rounded_weights_are_kept_as_they_are():
    nodes = [
        node("QuantizeLinear", ["w", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["v"]), node("Conv", ["x", "v"], ["y"]),
    ]  # fmt: skip
    w = np.float32(abs(weight(4, 3, 3, 3)))
    graph = read_onnx(model(nodes, STEP | {"w": w}))
    found = next(iter(graph.constants.values()))
    np.testing.assert_allclose(found, np.minimum((w / 0.02).round(), 255) * 0.02, rtol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("QuantizeLinear", ["x", "s", "z"], ["y"])], r"output 'y' is of integers"),
        (
            [
                node("QuantizeLinear", ["x", "s", "z"], ["q"]),
                node("QLinearConv", ["q", "s", "z", "w", "s", "z", "s", "z"], ["y"]),
            ],
            r"'my_QLinearConv' .*computes with integers.*QDQ form",
        ),
        (
            [
                node("QuantizeLinear", ["x", "s", "z"], ["q"]),
                node("DequantizeLinear", ["q", "t", "z"], ["y"]),
            ],
            r"'my_DequantizeLinear' .*scale and zero point differ",
        ),
        (
            [
                node("QuantizeLinear", ["x", "c", "cz"], ["q"]),
                node("DequantizeLinear", ["q", "c", "cz"], ["y"]),
            ],
            r"'my_QuantizeLinear' .*input 'c' must be one constant number",
        ),
        (
            [node("DynamicQuantizeLinear", ["x"], ["q", "s1", "z1"]), node("Relu", ["q"], ["y"])],
            r"'DynamicQuantizeLinear' is not supported: it computes with integers",
        ),
    ],
)
def test_what_computes_with_integers_is_refused(nodes, message):
    constants = STEP | {
        "t": np.float32(0.03), "c": np.ones(3, np.float32), "cz": np.zeros(3, np.uint8),
        "w": np.ones((2, 3, 3, 3), np.uint8),
    }  # fmt: skip
    with pytest.raises(GraphError, match=message):
        read_onnx(model(nodes, constants))


def test_a_network_without_quantised_values_is_returned_as_it_is():
    net = model([node("Relu", ["x"], ["y"])])
    assert load_onnx(net) is net
