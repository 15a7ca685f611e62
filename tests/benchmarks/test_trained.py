"""The comparison of shipped networks with onnxruntime: what is pruned, and what counts as equal."""

import sys

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from paths import ROOT

sys.path.append(str(ROOT))

from benchmarks import trained
from benchmarks.trained import Trained, measure, pruned, source

NETWORK = Trained("shipped", "net.onnx", ("n", 3, "h", "w"), ((1, 3, 8, 8), (2, 3, 9, 13)))


@pytest.fixture(autouse=True)
def shipped(tmp_path, monkeypatch):
    """A package with a network of two convolutions and a Sigmoid, at one size."""
    rng = np.random.default_rng(0)
    shapes = {"w0": (16, 3, 3, 3), "w1": (16, 16, 3, 3)}
    tensors = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    pads = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="first", **pads),
        helper.make_node("Conv", ["a", "w1"], ["b"], name="second", **pads),
        helper.make_node("Sigmoid", ["b"], ["y"]),
    ]
    image = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1, 3, 8, 8))
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (1, 16, 8, 8))
    graph = helper.make_graph(nodes, "net", [image], [output], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "__init__.py").write_text("raise SystemExit('it was run')")
    onnx.save(model, tmp_path / "shipped" / "net.onnx")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(trained, "NETWORKS", {"net": NETWORK})


def test_the_smallest_weights_of_all_layers_but_the_first_go():
    dense = source(NETWORK)
    sparse, masks = pruned(dense)
    before, after = (
        [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
        for model in (dense, sparse)
    )
    np.testing.assert_array_equal(before[0], after[0])
    assert list(masks) == ["second"]
    assert np.count_nonzero(after[1]) == masks["second"].sum() == round(0.2 * after[1].size)
    assert abs(after[1])[masks["second"]].min() > abs(before[1])[~masks["second"]].max()


def test_a_network_is_compared_at_every_size_before_its_sigmoid(tmp_path):
    assert [value.name for value in source(NETWORK).graph.output] == ["b"]
    rows = list(measure("net", tmp_path))
    assert [row["structure"] for row in rows] == ["dense", "unstructured", "groups of 8 rows"]
    for row in rows:
        for errors in row["errors"].values():
            assert list(errors) == ["1x3x8x8", "2x3x9x13"]
            assert 0 < max(errors.values()) < 1e-5


def test_other_numbers_are_seen(tmp_path, monkeypatch):
    load = trained.runtime.load
    monkeypatch.setattr(trained.runtime, "load", lambda *a, **k: lambda x: load(*a, **k)(x) * 1.01)
    (dense, *_) = measure("net", tmp_path)
    assert dense["errors"]["cpu"]["1x3x8x8"] == pytest.approx(0.01, rel=1e-3)


def test_a_package_that_is_missing_is_named():
    with pytest.raises(SystemExit, match="nowhere is not installed"):
        source(NETWORK._replace(package="nowhere"))
