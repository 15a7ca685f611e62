"""Products along any axes: Einsum, constant left factors and stacks, against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from onnx_models import model, node, run, torch_onnx, weight
from torch import nn

from masktools.checkpoint import Checkpoint
from masktools.errors import GraphError
from masktools.network.onnx.altered import with_values
from masktools.network.onnx.forms import Rearranged
from masktools.network.onnx.reader import load_onnx, read_onnx, with_masks


def evaluated(net, given):
    return onnxruntime.InferenceSession(net.SerializeToString()).run(None, given)[0]


def network(nodes, constants, given):
    return model(nodes, constants, [(name, ["N", *x.shape[1:]]) for name, x in given.items()])


def check(nodes, constants, **given):
    net = network(nodes, constants, given)
    wanted = evaluated(net, given)
    graph = read_onnx(net)
    Checkpoint(graph).check()
    assert graph.outputs[0].shape[0] is None
    got = run(graph, given)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    return [n.op for n in graph.nodes]


# Equation, sizes by letter, operators of the product.
OF_VALUES = {
    "attention": ("bhid,bhjd->bhij", "MatMul"),
    "its other half": ("bhij,bhjd->bhid", "MatMul"),
    "to channels-last": ("bhij,bhjd->bihd", "MatMul"),
    "summed twice": ("bhid,bhjd->bij", "MatMul"),
    "one axis alone": ("bic,bjc->bj", "MatMul"),
    "outer": ("bi,bj->bij", "MatMul"),
    "outer, turned": ("bi,bj->bji", "MatMul"),
    "by number": ("bij,bij->bij", "MatMul"),
    "inner": ("bij,bij->b", "MatMul"),
    "implicit": ("bij,bjc", "MatMul"),
    "spaces": (" bij , bjc -> bic ", "MatMul"),
}
SIZES = {"b": 3, "h": 2, "i": 4, "j": 5, "d": 6, "c": 7, "k": 2, "m": 3}


def array(letters, seed):
    return weight(*(SIZES[c] for c in letters), seed=seed)


@pytest.mark.parametrize("name", OF_VALUES)
def test_einsum_of_two_values(name):
    equation, op = OF_VALUES[name]
    x, z = equation.replace(" ", "").split("->")[0].split(",")
    nodes = [node("Einsum", ["x", "z"], ["y"], equation=equation)]
    if "->" not in equation:  # Letters in alphabetical order: the batch comes first here.
        assert sorted(c for c in x + z if (x + z).count(c) == 1) != []
        with pytest.raises(GraphError, match="first axis of a value must be the first"):
            read_onnx(network(nodes, {}, {"x": array(x, 0), "z": array(z, 1)}))
        return
    assert op in check(nodes, {}, x=array(x, 0), z=array(z, 1))


WITH_CONSTANTS = {
    "a matrix": ("bic,cj->bij", "Gemm"),
    "turned": ("bic,jc->bij", "Gemm"),
    "the left one": ("jc,bci->bji", "Gemm"),
    "to heads": ("bic,chd->bihd", "Gemm"),
    "to heads, turned": ("bic,chd->bhid", "Gemm"),
    "from heads": ("bihd,hdc->bic", "Gemm"),
    "a matrix for each head": ("bhid,hdj->bhij", "Conv"),
    "on the left": ("hji,bhid->bhjd", "Conv"),
    "heads elsewhere": ("bihd,hdj->bihj", "Conv"),
    "two axes of heads": ("bhkid,hkdj->bhkij", "Conv"),
    "a vector": ("bic,c->bi", "Gemm"),
    "by number": ("bhi,hi->bhi", "Conv"),
    "relative positions": ("bhid,ijd->bhij", "Conv"),
    "summed first": ("bicd,cj->bij", "Gemm"),
}


@pytest.mark.parametrize("name", WITH_CONSTANTS)
def test_einsum_with_a_constant(name):
    equation, op = WITH_CONSTANTS[name]
    terms = equation.split("->")[0].split(",")
    at = 1 if terms[0].startswith("b") else 0
    names = ["x", "w"] if at else ["w", "x"]
    nodes = [node("Einsum", names, ["y"], equation=equation)]
    made = check(nodes, {"w": array(terms[at], 1)}, x=array(terms[1 - at], 0))
    assert op in made
    assert not {"Conv", "Gemm", "MatMul"} & set(made) - {op}


@pytest.mark.parametrize(
    ("equation", "message"),
    [
        ("bij->bji", "only products of two factors"),
        ("...ij,...jk->...ik", "only products of two factors"),
        ("bii,bij->bj", "must name each axis of 'x' once"),
        ("bij,bj->bij", "must name each axis of 'z' once"),
        ("bic,bjc->ijb", "the first axis of a value must be the first of the result"),
    ],
)
def test_other_einsums_are_refused_by_name(equation, message):
    given = {"x": weight(3, 4, 4), "z": weight(3, 5, 4)}
    names = ["x"] if equation.count(",") == 0 else ["x", "z"]
    net = network([node("Einsum", names, ["y"], equation=equation)], {}, given)
    with pytest.raises(GraphError, match=rf"\(Einsum\): .*{message}"):
        read_onnx(net)


@pytest.mark.parametrize(("equation", "shape"), [("bi,bj->ij", (3, 5)), ("bij,jk->bi", (4, 2))])
def test_constants_that_are_summed_alone_or_lie_along_the_batch_are_refused(equation, shape):
    x = weight(3, 4, 4)[:, :, 0] if equation.startswith("bi,") else weight(3, 4, 4)
    nodes = [node("Einsum", ["x", "w"], ["y"], equation=equation)]
    with pytest.raises(GraphError, match=r"\(Einsum\): "):
        read_onnx(network(nodes, {"w": weight(*shape)}, {"x": x}))


LEFT = [
    ((5, 3), (3, 4), "Gemm"),
    ((5, 3), (2, 3, 4), "Gemm"),
    ((1, 5, 3), (3, 4), "Gemm"),
    ((1, 1, 5, 3), (2, 3, 4), "Gemm"),
    ((2, 5, 3), (2, 3, 4), "Conv"),
    ((1, 2, 5, 3), (2, 3, 4), "Conv"),
    ((2, 5, 3), (6, 2, 3, 4), "Conv"),
    ((6, 2, 5, 3), (6, 2, 3, 4), "Conv"),
]


@pytest.mark.parametrize(("constant", "shape", "op"), LEFT)
def test_constant_left_factors(constant, shape, op):
    nodes = [node("MatMul", ["w", "x"], ["y"])]
    assert op in check(nodes, {"w": weight(*constant)}, x=weight(3, *shape, seed=1))


@pytest.mark.parametrize(("constant", "shape", "op"), LEFT)
def test_constant_right_factors(constant, shape, op):
    turned = (*constant[:-2], constant[-1], constant[-2])
    x = weight(3, *shape[:-2], shape[-1], shape[-2], seed=1)
    assert op in check([node("MatMul", ["x", "w"], ["y"])], {"w": weight(*turned)}, x=x)


@pytest.mark.parametrize(
    ("constant", "shape", "message"),
    [
        ((3, 4, 5), (3, 3, 4), "lies along the batch"),
        ((1, 1, 4, 5), (3, 3, 4), "factors of 3 and 4 axes"),
        ((6, 4, 5), (3, 1, 3, 4), "axes of 1 and 6 entries differ"),
    ],
)
def test_stacks_that_are_refused(constant, shape, message):
    net = model([node("MatMul", ["x", "w"], ["y"])], {"w": weight(*constant)}, [("x", [*shape])])
    with pytest.raises(GraphError, match=message):
        read_onnx(net)


def test_a_constant_vector_is_no_left_factor():
    net = model([node("MatMul", ["w", "x"], ["y"])], {"w": weight(3)}, [("x", ["N", 3, 4])])
    with pytest.raises(GraphError, match="factors of 3 and 1 axes"):
        read_onnx(net)


@pytest.mark.parametrize(
    "form",
    [
        Rearranged((2, 3, 4), (0, 2, 1), (8, 3, 1)),
        Rearranged((1, 3, 4), (0, 2, 1), (4, 3)),
        Rearranged((3, 2, 4), (1, 2, 0), (8, 3)),
    ],
)
def test_forms_turn_back(form):
    array = weight(*form.shape)
    assert form.to_layer(array).shape == form.layer_shape
    np.testing.assert_array_equal(form.to_file(form.to_layer(array)), array)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("constant", [(5, 4), (1, 5, 4), (2, 5, 4)])
def test_masks_and_values_go_back_to_the_file(first, constant):
    """The file with a mask, or other values, is the network with them."""
    w, x = weight(*constant), weight(3, 2, 4, 6, seed=1)
    if not first:
        w, x = w.swapaxes(-1, -2), x.swapaxes(-1, -2)
    nodes = [node("MatMul", ["layer.weight", "x"] if first else ["x", "layer.weight"], ["y"])]
    net = load_onnx(network(nodes, {"layer.weight": np.ascontiguousarray(w)}, {"x": x}))
    graph = read_onnx(net)
    (name,) = graph.constants
    assert name == "layer.weight"
    keep = weight(*graph.constants[name].shape, seed=3) > 0
    masked = with_masks(net, {"layer": keep})
    changed = {**graph.constants, name: graph.constants[name] * keep}
    wanted = run(type(graph)(graph.inputs, graph.outputs, graph.nodes, changed), x)
    np.testing.assert_allclose(evaluated(masked, {"x": x}), wanted, rtol=1e-4, atol=1e-5)
    altered = with_values(net, {name: changed[name].astype(np.float32)})
    np.testing.assert_allclose(evaluated(altered, {"x": x}), wanted, rtol=1e-4, atol=1e-5)
    if first or constant == (2, 5, 4):
        with pytest.raises(GraphError, match=r"calibrated value 'layer\.bias': .* takes no bias"):
            with_values(net, {"layer.bias": np.zeros(len(keep), np.float32)})


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Parameter(torch.from_numpy(weight(4, 4)))
        self.heads = nn.Parameter(torch.from_numpy(weight(2, 3, 5)))

    def forward(self, x):
        x = self.tokens @ x
        x = x.reshape(-1, 4, 2, 3)
        x = torch.einsum("bthd,hde->bhte", x, self.heads)
        return torch.einsum("bhid,bhjd->bhij", x, x)


def test_products_of_pytorch():
    x = torch.from_numpy(weight(3, 4, 6))
    module = Mixer()
    axes = {"x": {0: "N"}, "y": {0: "N"}}
    net = torch_onnx(module, x, input_names=["x"], output_names=["y"], dynamic_axes=axes)
    graph = read_onnx(net)
    assert graph.inputs[0].shape[0] is None
    with torch.no_grad():
        wanted = module(x).numpy()
    np.testing.assert_allclose(run(graph, x.numpy()), wanted, rtol=1e-4, atol=1e-5)
