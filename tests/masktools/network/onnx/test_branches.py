"""If nodes whose condition follows from shapes, against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import ints, model, node, run, weight

from masktools.errors import GraphError
from masktools.network.onnx.reader import read_onnx


def graph_of(nodes, output):
    value = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    return helper.make_graph(nodes, output, [], [value])


def constant(name, array):
    return node("Constant", [], [name], f"make_{name}", value=numpy_helper.from_array(array))


def asks(axis, then, otherwise, size=1):
    """Return the nodes that read one branch where an axis of x has a size, else the other."""
    return [
        node("Shape", ["x"], ["shape"]), node("Gather", ["shape", "axis"], ["n"]),
        node("Equal", ["n", "size"], ["same"]),
        node("If", ["same"], ["y"], then_branch=then, else_branch=otherwise),
    ], {"axis": np.array(axis), "size": np.array(size)}  # fmt: skip


RELU = graph_of([node("Relu", ["x"], ["r"])], "r")
SQUARE = graph_of([node("Mul", ["x", "x"], ["s"], "square")], "s")


@pytest.mark.parametrize(("size", "op"), [(3, "Relu"), (4, "Mul")])
def test_the_branch_that_the_shape_chooses_is_read(size, op):
    nodes, constants = asks(1, RELU, SQUARE, size)
    net = model(nodes, constants, [("x", ["N", 3, 4])])
    graph = read_onnx(net)
    assert [n.op for n in graph.nodes] == [op]
    x = weight(2, 3, 4)
    (wanted,) = onnxruntime.InferenceSession(net.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(run(graph, x), wanted, rtol=1e-6)


def test_branches_within_branches_and_constants_of_them():
    inner = graph_of([constant("k", np.float32([1, 2, 3, 4])), node("Add", ["x", "k"], ["a"])], "a")
    outer = graph_of(
        [node("If", ["same"], ["i"], "inner", then_branch=inner, else_branch=SQUARE)], "i"
    )
    nodes, constants = asks(1, outer, RELU, 3)
    number = graph_of([constant("c", np.float32([[[2]]]))], "c")
    nodes += [
        node("If", ["same"], ["f"], "factor", then_branch=number, else_branch=number),
        node("Mul", ["y", "f"], ["z"], "last"),
    ]
    net = model(nodes, constants, [("x", ["N", 3, 4])], ("z",))
    x = weight(2, 3, 4)
    np.testing.assert_allclose(
        run(read_onnx(net), x), 2 * (x + np.float32([1, 2, 3, 4])), rtol=1e-6
    )


@pytest.mark.parametrize(("batch", "open_"), [("N", None), (1, 1), (5, None)])
def test_a_branch_for_a_batch_of_one_is_not_read_for_others(batch, open_):
    """At one sample the file does something else."""
    net = model(*asks(0, RELU, SQUARE), [("x", [batch, 3, 4])])
    if batch == "N":
        with pytest.raises(GraphError, match="depends on the batch"):
            read_onnx(net)
        return
    graph = read_onnx(net)
    assert graph.inputs[0].shape[0] == open_
    x = weight(batch, 3, 4)
    (wanted,) = onnxruntime.InferenceSession(net.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(run(graph, x), wanted, rtol=1e-6)


def test_what_cannot_be_chosen_is_refused():
    nodes = [
        node("ReduceMax", ["x"], ["m"], keepdims=0), node("Greater", ["m", "k"], ["c"]),
        node("If", ["c"], ["y"], "choice", then_branch=RELU, else_branch=SQUARE),
    ]  # fmt: skip
    net = model(nodes, {"k": np.float32(0)}, [("x", [1, 3, 4])])
    with pytest.raises(GraphError, match=r"'choice' \(If\): its condition depends on the network"):
        read_onnx(net)
    nodes, constants = asks(1, graph_of([node("MatMul", ["x", "w"], ["p"])], "p"), RELU, 3)
    net = model(nodes, {**constants, "w": weight(4, 5)}, [("x", ["N", 3, 4])])
    with pytest.raises(GraphError, match=r"\(If\): its branch has a layer with weights"):
        read_onnx(net)
    nodes, constants = asks(1, RELU, SQUARE, 3)
    constants["size"] = ints(3, 3)
    with pytest.raises(GraphError, match=r"\(If\): its condition has the shape \(2,\)"):
        read_onnx(model(nodes, constants, [("x", ["N", 3, 4])]))
