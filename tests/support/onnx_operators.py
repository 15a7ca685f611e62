"""Networks of one node of the normal form, as ONNX, and compared with onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from draws import RANDOM

from masktools.checkpoint import Checkpoint
from masktools.network.graph import Graph, Node, Value
from masktools.network.shapes import infer_shapes
from runtime.model import Model
from runtime.plan import plan
from runtime.reference.backend import ReferenceBackend

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnx.reference")
onnxruntime = pytest.importorskip("onnxruntime")


def normal(*shape: int) -> Any:
    return RANDOM.standard_normal(shape).astype(np.float32)


def network(node: Node, inputs: dict[str, Any], constants: dict[str, Any]) -> Checkpoint:
    """Return a network of one node, open to any batch."""
    values = tuple(Value(name, (None, *x.shape[1:])) for name, x in inputs.items())
    graph = Graph(values, (), (node,), constants)
    shapes = infer_shapes(graph, {name: x.shape for name, x in inputs.items()})
    outputs = tuple(Value(name, (None, *shapes[name][1:])) for name in node.outputs)
    return Checkpoint(Graph(values, outputs, (node,), constants))


# Attributes of the normal form that ONNX has as inputs, in their order.
AS_INPUTS = {
    "Clip": ("min", "max"),
    "ReduceMean": ("axes",),
    "ReduceSum": ("axes",),
    "ReduceMax": ("axes",),
    "ReduceMin": ("axes",),
    "ReduceL2": ("axes",),
    "Gather": ("indices",),
    "Split": ("split",),
    "Slice": ("starts", "ends", "axes", "steps"),
    "Pad": ("pads", "value"),
    "Reshape": ("shape",),
    "Squeeze": ("axes",),
    "Unsqueeze": ("axes",),
    "Resize": ("roi", "scales", "sizes"),
}


COMPARISONS = ("Greater", "GreaterOrEqual", "Equal")


def to_onnx(checkpoint: Checkpoint) -> Any:
    """Return the ONNX model of a checkpoint without sparse weights: names mean what they mean."""
    helper, graph = onnx.helper, checkpoint.graph
    initializers = {name: np.asarray(array) for name, array in graph.constants.items()}
    nodes = []
    for node in graph.nodes:
        attributes = dict(node.attributes)
        inputs = list(node.inputs)
        for name in AS_INPUTS.get(node.op, ()):
            value = attributes.pop(name, None)
            inputs.append("" if value is None else f"{node.name}.{name}")
            if value is not None:
                floats = name in ("min", "max", "value", "roi", "scales")
                initializers[inputs[-1]] = np.array(value, np.float32 if floats else np.int64)
        if node.op == "Where":  # Conditions are booleans there, and ones and zeros here.
            nodes.append(helper.make_node("Cast", [inputs[0]], [f"{node.name}.condition"], to=9))
            inputs[0] = f"{node.name}.condition"
        outputs = [f"{name}.boolean" if node.op in COMPARISONS else name for name in node.outputs]
        nodes.append(helper.make_node(node.op, inputs, outputs, node.name, **attributes))
        if node.op in COMPARISONS:
            nodes.append(helper.make_node("Cast", outputs, node.outputs, to=1))
    values = [
        [
            helper.make_tensor_value_info(v.name, 1, ["N" if n is None else n for n in v.shape])
            for v in side
        ]
        for side in (graph.inputs, graph.outputs)
    ]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in initializers.items()]
    proto = helper.make_graph(nodes, "graph", *values, tensors)
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)


def expected(checkpoint: Checkpoint, inputs: dict[str, Any]) -> dict[str, Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(to_onnx(checkpoint).SerializeToString(), options)
    names = [value.name for value in checkpoint.graph.outputs]
    return dict(zip(names, session.run(names, inputs), strict=True))


def assert_equal(node: Node, inputs: dict[str, Any], constants: dict[str, Any]) -> None:
    checkpoint = network(node, inputs, constants)
    checkpoint.check()
    got = Model(plan.build(checkpoint), ReferenceBackend())(inputs)
    got = got if isinstance(got, dict) else {node.outputs[0]: got}
    for name, want in expected(checkpoint, inputs).items():
        assert got[name].shape == want.shape
        assert got[name].dtype == np.float32
        np.testing.assert_allclose(got[name], want, rtol=1e-5, atol=1e-5)


def assert_one(op: str, x: Any, attributes: dict[str, Any] | None = None, **constants: Any) -> None:
    outputs = tuple(f"y{i}" for i in range(len((attributes or {}).get("split", (1,)))))
    node = Node("node", op, ("x", *constants), outputs, attributes or {})
    assert_equal(node, {"x": x}, constants)
