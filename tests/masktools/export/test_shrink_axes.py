"""Values of one axis have no channels to be shrunk."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx_models import ints, model, node, weight

import runtime
from masktools.export import from_onnx


@pytest.mark.parametrize(
    ("op", "constants", "attributes"),
    [
        ("Slice", [ints(2), ints(9)], {}),
        ("Gather", [ints(7, 0, 3)], {"axis": 0}),
        ("Pad", [ints(1, 2)], {}),
        ("Tile", [ints(2)], {}),
        ("Softmax", [], {"axis": 0}),
        ("Transpose", [], {"perm": [0]}),
        ("ReduceMax", [], {"axes": [0], "keepdims": 1}),
    ],
)
def test_values_of_one_axis_have_no_channels(op, constants, attributes, tmp_path):
    """As torch.export writes a strided view: all of a value in one axis."""
    names = [f"k{i}" for i in range(len(constants))]
    nodes = [
        node("Conv", ["x", "w"], ["c"]), node("Reshape", ["c", "all"], ["f"], "flat"),
        node(op, ["f", *names], ["o"], **attributes), node("Relu", ["o"], ["p"]),
        node("Concat", ["p", "f"], ["y"], axis=0),
    ]  # fmt: skip
    keep = weight(4, 3, 3, 3)
    keep[1] = 0
    net = model(nodes, {"w": keep, "all": ints(-1), **dict(zip(names, constants, strict=True))},
                [("x", [1, 3, 6, 6])])  # fmt: skip
    from_onnx(net, tmp_path / "out.safetensors")
    x = weight(1, 3, 6, 6)
    (wanted,) = onnxruntime.InferenceSession(net.SerializeToString()).run(None, {"x": x})
    for backend in ("reference", "cpu"):
        y = runtime.load(tmp_path / "out.safetensors", backend=backend)(x)
        np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)
