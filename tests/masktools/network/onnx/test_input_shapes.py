"""Sizes that a file leaves open, fixed by the user."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx_models import ints, model, node, run, weight
from ticket_commands import run as command

import masktools
import runtime
from masktools.errors import GraphError
from masktools.export import from_onnx
from masktools.network.onnx.reader import read_onnx


@pytest.fixture
def chain():
    """A convolution and a Reshape to a shape that is computed from the image's."""
    return model(
        [
            node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
            node("Shape", ["c"], ["shape"]),
            node("Gather", ["shape", "two"], ["height"]),
            node("Unsqueeze", ["height", "zero"], ["rows"]),
            node("Concat", ["head", "rows", "rest"], ["target"], axis=0),
            node("Reshape", ["c", "target"], ["y"]),
        ],
        {
            "w": weight(4, 3, 3, 3), "two": np.array(2), "zero": ints(0),
            "head": ints(0, 4), "rest": ints(-1),
        },
        [("x", ["N", 3, "height", "width"])],
    )  # fmt: skip


@pytest.mark.parametrize(
    "shapes", [(1, 3, 6, 8), ("?", -1, 6, 8), ("batch", None, 6, 8), {"x": [2, 3, 6, 8]}]
)
def test_arithmetic_on_shapes_folds_once_sizes_are_given(chain, shapes):
    before = chain.SerializeToString()
    graph = read_onnx(chain, shapes)
    assert [value.shape for value in graph.inputs] == [(None, 3, 6, 8)]
    assert graph.outputs[0].shape == (None, 4, 6, 8)
    assert chain.SerializeToString() == before
    x = weight(2, 3, 6, 8, seed=1)
    session = onnx.reference.ReferenceEvaluator(chain)
    np.testing.assert_allclose(run(graph, x), session.run(None, {"x": x})[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"z": (1, 3, 6, 8)}, r"'z': the network has no such input; it has x \(N, 3, height"),
        ((1, 3, 6), "3 axes, but the network's input has 4"),
        ((1, 4, 6, 8), "the network fixes axis 1 to 3"),
        ((1, 3, 0, 8), "axis 2 must have a size of at least 1, not 0"),
        ((1, 3, -2, 8), "not -2"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(chain, shapes, said):
    with pytest.raises(GraphError, match=said):
        read_onnx(chain, shapes)


def test_of_several_inputs_each_is_named():
    inputs = [("a", ["N", 2, "s"]), ("b", ["N", 2, "s"])]
    net = model([node("Add", ["a", "b"], ["y"])], {}, inputs)
    with pytest.raises(GraphError, match="say which input it is of"):
        read_onnx(net, (1, 2, 5))
    graph = read_onnx(net, {"a": (1, 2, 5), "b": (1, 2, 5)})
    assert [value.shape for value in graph.inputs] == [(None, 2, 5)] * 2


def test_commands_and_functions_take_shapes(chain, tmp_path):
    net, out, result = tmp_path / "net.onnx", tmp_path / "net.safetensors", tmp_path / "result"
    onnx.save(chain, net)
    masktools.save_masks(tmp_path / "masks.npz", {"conv": np.abs(weight(4, 3, 3, 3)) > 0.3})
    images = weight(40, 3, 6, 8)
    np.save(tmp_path / "images.npy", images)
    given = ("--input-shape", "1,3,6,8")
    command(
        "convert", tmp_path / "masks.npz", result, "--method", "regroup", "--include", "conv",
        "--partitioner", "spectral", "--group-rows", 2, "--graph", net,
        "--calibrate", tmp_path / "images.npy", *given,
    )  # fmt: skip
    more = ("--layouts", result, "--residual", "drop", "--json")
    report = json.loads(command("export", net, out, *more, "--input-shape", "x=?,3,6,8")[0])
    assert report["difference"] < 1e-5
    assert runtime.load(out, "reference").inputs[0].shape == (None, 3, 6, 8)
    found = masktools.calibrate(
        net, result, images, run=runtime.prepare, input_shapes=(1, 3, 6, 8),
        progress=False,
    )  # fmt: skip
    assert "conv.weight" in found.values
    from_onnx(net, tmp_path / "other.safetensors", input_shapes={"x": (1, 3, 6, 8)})
    assert runtime.load(tmp_path / "other.safetensors", "reference").inputs[0].shape[2] == 6


def test_conversions_count_multiplications_at_given_sizes(chain, tmp_path):
    """The function and the command read the network by the same code."""
    net, out, masks = (
        tmp_path / "net.onnx",
        tmp_path / "result",
        {"conv": np.abs(weight(4, 3, 3, 3)) > 0.3},
    )
    onnx.save(chain, net)
    masktools.save_masks(tmp_path / "masks.npz", masks)
    options = {
        "method": "regroup", "by": "multiplications", "include": ["conv"], "group_rows": 2,
        "partitioner": "spectral", "graph": net, "progress": False,
    }  # fmt: skip
    small = masktools.convert(masks, **options, input_shapes=(1, 3, 6, 8))
    inside = (3 * 6 - 2) * (3 * 8 - 2)  # Of a window of 3 x 3, padded by 1.
    assert small.report.total.multiplications == 4 * 3 * inside
    assert masktools.convert(masks, **options).report.total.multiplications > 100 * inside
    command(
        "convert", tmp_path / "masks.npz", out, "--method", "regroup", "--by", "multiplications",
        "--include", "conv", "--group-rows", 2, "--partitioner", "spectral", "--graph", net,
        "--input-shape", "x=1,3,6,8",
    )  # fmt: skip
    (saved,) = json.loads((out / "report.json").read_text())["layers"]
    assert saved["multiplications"] == small.report[0].multiplications
    with pytest.raises(TypeError, match="input_shapes needs a graph"):
        masktools.convert(masks, method="refill", input_shapes=(1, 3, 6, 8))
    with pytest.raises(TypeError, match="this network was read already"):
        masktools.convert(
            masks, **{**options, "graph": read_onnx(chain)}, input_shapes=(1, 3, 6, 8)
        )


@pytest.mark.parametrize(
    "given", [("x=1,3,6,8", "x=1,3,6,8"), ("1,3,6,8", "x=1,3,6,8"), ("1,3,,8",), ("x=",)]
)
def test_options_that_are_no_shapes_are_usage_errors(chain, tmp_path, given):
    net = tmp_path / "net.onnx"
    onnx.save(chain, net)
    options = [part for text in given for part in ("--input-shape", text)]
    _, stderr = command("export", net, tmp_path / "net.safetensors", *options, status=2)
    assert "--input-shape" in stderr
