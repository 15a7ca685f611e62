"""ONNX models of a kilobyte that stand for a network, or constants, of any size."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import ints, model, node, weight

from masktools import limits
from masktools.errors import FormatError, GraphError
from masktools.network.onnx.reader import read_onnx


def function(name, calls, extra=()):
    """Return a function that calls another one twice."""
    domain = "" if calls == "Relu" else "local"
    body = [
        helper.make_node(calls, ["a"], ["t"], domain=domain),
        helper.make_node(calls, ["t"], ["b"], domain=domain),
        *extra,
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["a"], ["b"], body, opsets)


def calling(depth, functions=None):
    """Return a network of a function that stands for 2**depth nodes."""
    made = model([node("F0", ["x"], ["y"], domain="local")], opset=17)
    made.opset_import.append(helper.make_opsetid("local", 1))
    names = [*(f"F{i}" for i in range(depth)), "Relu"]
    made.functions.extend(functions or [function(name, calls) for name, calls in pairwise(names)])
    return made


def test_functions_that_call_functions_are_counted():
    assert len(read_onnx(calling(4)).nodes) == 16
    with pytest.raises(GraphError, match="more than 65536 nodes"):
        read_onnx(calling(17))


def test_functions_that_call_each_other_without_end():
    with pytest.raises(GraphError, match="more than 32 deep"):
        read_onnx(calling(2, [function("F0", "F1"), function("F1", "F0")]))


def test_functions_are_counted_where_they_stand_inside_a_branch():
    branch = helper.make_graph(
        [helper.make_node("F0", ["x"], ["z"], domain="local")],
        "branch", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )  # fmt: skip
    made = calling(17)
    del made.graph.node[:]
    made.graph.node.append(
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    )
    with pytest.raises(GraphError, match="more than 65536 nodes"):
        read_onnx(made)


def test_what_functions_hold_counts_for_each_call(monkeypatch):
    monkeypatch.setattr(limits, "FREE_BYTES", 0)
    held = helper.make_tensor("v", TensorProto.FLOAT, [1 << 12], bytes(1 << 14), raw=True)
    constant = helper.make_node("Constant", [], ["c"], value=held)
    functions = [function(f"F{i}", f"F{i + 1}") for i in range(5)]
    assert read_onnx(calling(0, [*functions, function("F5", "Relu", [constant])]))
    functions = [function(f"F{i}", f"F{i + 1}") for i in range(6)]
    with pytest.raises(GraphError, match=r"nodes or \d+ bytes"):
        read_onnx(calling(0, [*functions, function("F6", "Relu", [constant])]))


def folding(*nodes, **constants):
    """Return a network that multiplies x with the sum of what nodes make of constants, r."""
    tail = [
        node("ReduceSum", ["r"], ["sum"], keepdims=0),
        node("Mul", ["x", "sum"], ["y"]),
    ]
    return model([*nodes, *tail], constants)


def doubled(times):
    nodes = [node("Concat", [f"k{i}"] * 2, [f"k{i + 1}"], axis=0) for i in range(times)]
    nodes[-1].output[0] = "r"
    return nodes


def test_constants_that_are_joined_to_themselves():
    one = np.ones(1, np.float32)
    assert read_onnx(folding(*doubled(10), k0=one))
    with pytest.raises(GraphError, match="with those before it"):
        read_onnx(folding(*doubled(40), k0=one))


COLUMN, ROW = np.ones((1 << 14, 1), np.float32), np.ones((1, 1 << 14), np.float32)


@pytest.mark.parametrize(
    ("op", "constants", "attributes"),
    [
        ("Add", [COLUMN, ROW], {}),
        ("Pow", [COLUMN, ROW], {}),
        ("Max", [COLUMN, COLUMN, ROW], {}),
        ("Where", [np.ones((1, 1), bool), COLUMN, ROW], {}),
        ("Expand", [ROW, ints(1 << 14, 1)], {}),
        ("Tile", [ROW, ints(1 << 14, 1)], {}),
        ("ConstantOfShape", [ints(1 << 14, 1 << 14)], {}),
        ("ConstantOfShape", [ints(1 << 40, 1 << 40)], {}),
        ("Gather", [ROW, np.zeros(1 << 14, np.int64)], {"axis": 0}),
        ("Range", [np.float32(0), np.float32(1e9), np.float32(1)], {}),
        ("Range", [np.float64(0), np.float64(1e300), np.float64(1)], {}),
        ("Pad", [ROW, ints(1 << 20, 0, 0, 0)], {}),
        ("MatMul", [COLUMN, ROW], {}),
        (
            "MatMul",
            [np.ones((4096, 0), np.float32).repeat(8, 0), np.ones((0, 1 << 14), np.float32)],
            {},
        ),
        ("Gemm", [COLUMN, COLUMN], {"transB": 1}),
        ("Conv", [ROW[None], np.ones((1, 1, 1), np.float32)], {"pads": [1 << 30, 0]}),
        ("Conv", [ROW[None], np.ones((1, 1, 2), np.float32)], {"dilations": [1 << 30]}),
        ("Conv", [ROW, np.ones((1, 1, 1), np.float32)], {}),
        ("Einsum", [COLUMN[:, 0], ROW[0]], {"equation": "i,j->ij"}),
        ("Einsum", [COLUMN[:, 0], ROW[0]], {"equation": "...i,...j->...ij"}),
        ("OneHot", [np.zeros(1 << 14, np.int64), ints(1 << 14), np.float32([0, 1])], {}),
        ("GatherND", [ROW, np.zeros((1 << 14, 1), np.int64)], {}),
        ("ReduceSum", [np.ones((0, 1 << 14, 1 << 14), np.float32), ints(0)], {}),
        ("DequantizeLinear", [COLUMN[None].astype(np.int8), ROW[0, 1:]], {"axis": 0}),
    ],
)
def test_constants_are_bounded_before_they_are_made(op, constants, attributes):
    names = [f"k{i}" for i in range(len(constants))]
    made = folding(node(op, names, ["r"], **attributes), **dict(zip(names, constants, strict=True)))
    with pytest.raises(GraphError, match=rf"node 'my_{op}' .*it makes a constant of \d+ elements"):
        read_onnx(made)


def test_many_constants_add_up_and_a_file_that_holds_more_may_make_more(monkeypatch):
    monkeypatch.setattr(limits, "FOLDED", 100)
    monkeypatch.setattr(limits, "FOLDED_FOR_EACH", 2)

    def made(size, times):
        nodes = [node("Neg", [f"k{i}"], [f"k{i + 1}"]) for i in range(times)]
        nodes[-1].output[0] = "r"
        return folding(*nodes, k0=np.ones(size, np.float32))

    # Each sum and product after them counts as well: 2 * size + 100 in all.
    assert read_onnx(made(30, 4))
    with pytest.raises(GraphError, match="160 are allowed for this file"):
        read_onnx(made(30, 6))
    assert read_onnx(made(300, 1))


def test_shapes_cost_nothing_and_products_what_they_sum(monkeypatch):
    """Networks ask for the shapes of large values, and turn long, thin matrices."""
    monkeypatch.setattr(limits, "FOLDED", 2000)
    monkeypatch.setattr(limits, "FOLDED_FOR_EACH", 0)
    nodes = [node("Shape", ["x"], [f"s{i}"]) for i in range(100)]
    nodes.append(node("Gemm", ["thin", "few"], ["p"], transA=1, transB=1))
    nodes += [node("Reshape", ["p", "row"], ["r"]), node("Mul", ["x", "r"], ["y"])]
    constants = {"thin": weight(2, 40), "few": weight(3, 2), "row": ints(1, 120)}
    graph = read_onnx(model(nodes, constants, (("x", ["N", 120]),)))
    wanted = (constants["thin"].T @ constants["few"].T).reshape(1, 120)
    np.testing.assert_allclose(graph.constants[graph.nodes[0].inputs[1]], wanted, rtol=1e-5)


def test_sparse_initializers_add_up(monkeypatch):
    monkeypatch.setattr(limits, "FREE_BYTES", 1 << 14)
    monkeypatch.setattr(limits, "EXPANSION", 0)
    made = model(
        [node("Gemm", ["x", "a"], ["t"]), node("Gemm", ["t", "b"], ["y"])],
        inputs=(("x", ["N", 48]),),
    )
    for name in ("a", "b"):
        values = onnx.numpy_helper.from_array(np.ones(1, np.float32), name)
        indices = onnx.numpy_helper.from_array(ints(0), f"{name} at")
        made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [48, 48]))
    with pytest.raises(GraphError, match=r"'b': .* it claims 18432 bytes"):
        read_onnx(made)
    monkeypatch.setattr(limits, "FREE_BYTES", 1 << 15)
    assert len(read_onnx(made).nodes) == 2


def test_external_data_that_were_left_behind_are_named(tmp_path):
    made = model([node("Conv", ["x", "w"], ["y"])], {"w": weight(4, 3, 3, 3)})
    onnx.save(
        made, tmp_path / "n.onnx", save_as_external_data=True, location="n.onnx.data",
        size_threshold=0,
    )  # fmt: skip
    read_onnx(tmp_path / "n.onnx")
    (tmp_path / "n.onnx.data").unlink()
    with pytest.raises(FormatError, match=r"'n\.onnx\.data', which is missing.*'w'.*copy"):
        read_onnx(tmp_path / "n.onnx")


def test_external_data_may_not_be_read_over_and_over(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "FREE_BYTES", 0)
    names = [f"w{i}.weight" for i in range(50)]
    nodes = [
        node("Gemm", [f"t{i}" if i else "x", name], [f"t{i + 1}"], name=f"g{i}")
        for i, name in enumerate(names)
    ]
    made = model(nodes, {n: weight(64, 64) for n in names}, (("x", ["N", 64]),), ("t50",))
    onnx.save(made, tmp_path / "a.onnx", save_as_external_data=True, location="data")
    assert len(read_onnx(tmp_path / "a.onnx").nodes) == 50
    alone = onnx.load(tmp_path / "a.onnx", load_external_data=False)
    for tensor in alone.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "0" if entry.key == "offset" else entry.value
    (tmp_path / "data").write_bytes(weight(64, 64).tobytes())
    onnx.save(alone, tmp_path / "a.onnx")
    monkeypatch.setattr(limits, "EXPANSION", 4)
    with pytest.raises(FormatError, match="external data claim 819200 bytes"):
        read_onnx(tmp_path / "a.onnx")
