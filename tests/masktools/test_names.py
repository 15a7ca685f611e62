"""Names meet: by name, prefix, weights, shape; and what does not is named on both sides."""

from __future__ import annotations

import pytest

from masktools.names import Known, Match, match, module_path, unmatched

A, B, C = (16, 3, 3, 3), (16, 16, 3, 3), (10, 16)


def plain(**shapes):
    return {name.replace("__", "."): Known(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("node", "module"),
    [
        ("/stem/Conv", "stem"),
        ("/stem/conv/Conv_3", "stem.conv"),
        ("/layer1/layer1.0/conv1/Conv", "layer1.0.conv1"),
        ("/features/features.3/conv/conv.0/conv.0.0/Conv", "features.3.conv.0.0"),
        ("/layers.1/conv/Conv", "layers.1.conv"),
        ("/Model/Encoder/MatMul", "Model.Encoder"),
        ("/Conv", None),
        ("Conv_20", None),
        ("node_conv2d", None),
        ("", None),
        ("/a/b", None),
        ("model/conv2d/Conv2D", None),
    ],
)
def test_module_path(node, module):
    assert module_path(node) == module


def test_equal_names_need_no_note():
    found = match({"a": A, "c": C}, plain(a=A, b=B, c=C))
    assert found == Match({"a": ["a"], "c": ["c"]})


def test_other_names_of_a_layer():
    known = {"/stem/Conv": Known(A, ("stem",), True), "b": Known(B)}
    found = match({"stem": A, "b": B}, known)
    assert found.layers == {"/stem/Conv": ["stem"], "b": ["b"]}
    assert "stem as /stem/Conv" in found.notes[0]


def test_a_module_that_runs_twice_has_its_mask_twice():
    known = {"/c/Conv": Known(A, ("c",), True), "/c/Conv_1": Known(A, ("c",), True)}
    assert match({"c": A}, known).layers == {"/c/Conv": ["c"], "/c/Conv_1": ["c"]}


def test_layers_that_share_a_weight_have_two_names():
    known = {"a": Known(A, ("b",))}
    assert match({"a": A, "b": A}, known).layers == {"a": ["a", "b"]}


def test_another_name_is_none_where_a_layer_has_it_itself():
    known = {"x": Known(A, ("y",)), "y": Known(A)}
    found = match({"y": A}, known)
    assert found.layers == {"y": ["y"]}


@pytest.mark.parametrize("prefix", ["model.", "net.", "ema.module.", "backbone."])
def test_one_prefix_of_the_files_names(prefix):
    given = {f"{prefix}stem.conv": A, f"{prefix}fc": C}
    known = {"/stem/conv/Conv": Known(A, ("stem.conv",), True), "b": Known(B), "fc": Known(C)}
    found = match(given, known)
    assert found.layers == {"/stem/conv/Conv": [f"{prefix}stem.conv"], "fc": [f"{prefix}fc"]}
    assert repr(prefix) in found.notes[0]


def test_one_prefix_of_the_networks_names():
    known = {"model.a": Known(A), "model.b": Known(B)}
    found = match({"b": B}, known)
    assert found.layers == {"model.b": ["b"]}
    assert "'model.'" in found.notes[0]


@pytest.mark.parametrize(
    "given", [{"model.a": A, "head.c": C}, {"model.a": A, "model.z": B}, {"model.a": B}]
)
def test_a_prefix_is_stripped_only_where_all_then_fits(given):
    found = match(given, plain(a=A, b=B, c=C))
    assert found.layers == {}
    assert found.unused == tuple(given)


def test_slashes_are_dots():
    assert match({"block/conv": A}, plain(block__conv=A)).layers == {"block.conv": ["block/conv"]}


def test_weights_decide_where_each_fits_no_other():
    known = {"Conv_0": Known(B), "Conv_1": Known(B), "Conv_2": Known(B)}
    pairs = {("b", "Conv_2"), ("a", "Conv_0")}
    found = match({"a": B, "b": B}, known, lambda name, layer: (name, layer) in pairs)
    assert found.layers == {"Conv_0": ["a"], "Conv_2": ["b"]}
    assert "zeros" in found.notes[0]
    assert not found.guesses
    found = match({"a": B, "b": B}, known, lambda name, layer: True)
    assert found.unused == ("a", "b")
    assert match({"a": A}, known, lambda name, layer: True).unused == ("a",)


def test_shape_alone_decides_about_lost_names():
    known = {"Conv_0": Known(A, lost=True), "Conv_1": Known(B, lost=True), "fc": Known(C)}
    found = match({"x": B, "fc": C}, known)
    assert found.layers == {"fc": ["fc"], "Conv_1": ["x"]}
    assert "shape alone: x as Conv_1" in found.guesses[0]
    assert match({"x": A}, plain(conv=A)).unused == ("x",)


def test_shapes_in_order_decide_where_all_agree():
    known = {f"Conv_{i}": Known(s, lost=True) for i, s in enumerate((A, B, B))}
    found = match({"x": A, "y": B, "z": B}, known)
    assert found.layers == {"Conv_0": ["x"], "Conv_1": ["y"], "Conv_2": ["z"]}
    assert "order" in found.guesses[0]
    assert match({"y": B, "x": A, "z": B}, known).unused == ("y", "x", "z")
    assert match({"y": B, "z": B}, known).unused == ("y", "z")


def test_what_does_not_fit_is_named_on_both_sides():
    given, known = {"a": A, "layer1.cv": B, "aux": (3, 3)}, plain(a=A, layer1__conv=B, c=C)
    error = str(unmatched("mask", given, known, match(given, known)))
    assert "masks 'layer1.cv', 'aux' match no layer of the network" in error
    assert "which has layer1.conv (16, 16, 3, 3), c (10, 16) without one" in error
    assert "nearest to 'layer1.cv' (16, 16, 3, 3): 'layer1.conv' (16, 16, 3, 3)" in error
    assert "nearest to 'aux'" not in error
    assert "--names" in error


def test_long_lists_are_cut():
    given = {f"x{i}": (1, 1) for i in range(20)}
    error = str(unmatched("mask", given, plain(a=A), match(given, plain(a=A))))
    assert "'x7' and 12 more" in error
