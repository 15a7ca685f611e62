"""Operators that move and reshape of the normal form, against onnxruntime."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_operators import assert_equal, assert_one, network, normal, onnx, to_onnx

from masktools.errors import GraphError
from masktools.network.graph import Node
from masktools.network.operators import COORDINATES, ROUNDINGS
from runtime.errors import PlanError
from runtime.model import Model
from runtime.plan import plan
from runtime.reference.backend import ReferenceBackend


def test_concat():
    inputs = {"a": normal(2, 3, 4), "b": normal(2, 1, 4), "c": normal(2, 2, 4)}
    assert_equal(Node("node", "Concat", tuple(inputs), ("y",), {"axis": 1}), inputs, {})
    assert_equal(Node("node", "Concat", ("a", "a"), ("y",), {"axis": 2}), {"a": inputs["a"]}, {})
    assert_equal(Node("node", "Concat", ("a",), ("y",), {"axis": 2}), {"a": inputs["a"]}, {})


@pytest.mark.parametrize("split", [(6,), (1, 5), (2, 3, 1)])
def test_split(split):
    assert_one("Split", normal(2, 6, 3), {"axis": 1, "split": split})


@given(data=st.data())
def test_slice(data):
    shape, axes = (2, 5, 6, 7), data.draw(st.permutations([1, 2, 3])) [: data.draw(st.integers(1, 3))]  # fmt: skip # noqa: E501
    cuts = []
    for axis in axes:
        ends = st.one_of(st.integers(-9, 9), st.sampled_from([2**63 - 1, -(2**63)]))
        cut = (data.draw(ends), data.draw(ends), data.draw(st.sampled_from([1, 2, 3, -1, -2])))
        if not np.arange(shape[axis])[_numpy_slice(*cut, shape[axis])].size:
            cut = (0, 2**63 - 1, 1)
        cuts.append(cut)
    starts, ends_, steps = zip(*cuts, strict=True)
    attributes = {"starts": starts, "ends": ends_, "axes": tuple(axes), "steps": steps}
    assert_one("Slice", normal(*shape), attributes)


def _numpy_slice(start: int, end: int, step: int, size: int) -> slice:
    return slice(start, None if step < 0 and end < -size else end, step)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize(
    "pads", [(0, 0, 1, 2, 0, 0, 2, 1), (0, 1, 0, 0, 0, 1, 0, 0), (0, 0, 0, 0, 0, 0, 0, 0)]
)
def test_pad(mode, pads):
    value = 1.5 if mode == "constant" else 0.0
    assert_one("Pad", normal(2, 3, 4, 5), {"mode": mode, "pads": pads, "value": value})


def test_negative_pads_crop():
    attributes = {"mode": "constant", "pads": (0, 0, -1, 2, 0, 0, 1, -2), "value": 0.5}
    assert_one("Pad", normal(2, 3, 4, 5), attributes)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("Flatten", {"axis": 1}),
        ("Reshape", {"shape": (0, -1)}),
        ("Reshape", {"shape": (0, -1, 0, 1)}),
        ("Reshape", {"shape": (-1, 24)}),
        ("Reshape", {"shape": (0, 3, 2, 4, 1)}),
        ("Squeeze", {"axes": (2,)}),
        ("Unsqueeze", {"axes": (4,)}),
        ("Unsqueeze", {"axes": (1, 3)}),
        ("Transpose", {"perm": (0, 1, 2, 3)}),
        ("Transpose", {"perm": (0, 3, 1, 2)}),
    ],
)
def test_reshaping(op, attributes):
    shape = (2, 3, 1, 8) if op != "Reshape" or attributes["shape"][2:3] != (0,) else (2, 3, 4, 2)
    assert_one(op, normal(*shape), attributes)


CUBIC: dict[str, Any] = {"mode": "cubic", "cubic_coeff_a": -0.75, "exclude_outside": 0}
SIZES = [(5, 3), (4, 8), (3, 7), (7, 4), (2, 5), (6, 1), (3, 3)]


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_resize(coordinates, rounding):
    modes = {
        "mode": "nearest",
        "coordinate_transformation_mode": coordinates,
        "nearest_mode": rounding,
    }
    for (h, h2), (w, w2) in itertools.pairwise(SIZES):
        attributes: dict[str, Any] = {"axes": (2, 3), "sizes": (h2, w2), **modes}
        if coordinates == "tf_crop_and_resize":
            attributes |= {"roi": (0.1, -0.2, 0.8, 1.3), "extrapolation_value": 7.5}
            assert_crop(normal(2, 3, h, w), attributes)
        else:
            assert_resized(normal(2, 3, h, w), attributes)
    if coordinates == "tf_crop_and_resize":
        return
    for scales in [(2.0, 3.0), (0.625, 0.625), (1.5, 0.5), (1.0, 2.0)]:
        assert_resized(normal(1, 2, 5, 7), {"axes": (2, 3), "scales": scales, **modes})
    assert_resized(normal(2, 3, 5), {"axes": (2,), "scales": (2.0,), **modes})


@pytest.mark.parametrize("coordinates", COORDINATES[:-1])
@pytest.mark.parametrize(
    "modes",
    [
        {"mode": "linear"},
        {"mode": "cubic", "cubic_coeff_a": -0.75, "exclude_outside": 0},
        {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1},
    ],
)
def test_resize_by_interpolation(coordinates, modes):
    modes = {**modes, "coordinate_transformation_mode": coordinates}
    for (h, h2), (w, w2) in itertools.pairwise(SIZES):
        attributes = {"axes": (2, 3), "sizes": (h2, w2), **modes}
        assert_one("Resize", normal(2, 3, h, w), attributes)
    for scales in [(2.0, 3.0), (0.625, 0.625), (1.5, 0.5), (1.0, 2.0)]:
        assert_one("Resize", normal(1, 2, 5, 7), {"axes": (2, 3), "scales": scales, **modes})


@pytest.mark.parametrize("modes", [{"mode": "linear"}, CUBIC, {**CUBIC, "exclude_outside": 1}])
@pytest.mark.parametrize("axes", [(2,), (1,), (3, 1), (2, 4)])
def test_interpolation_along_any_axes(modes, axes):
    """Of any rank, as onnx's evaluator has it."""
    attributes = {
        **modes,
        "coordinate_transformation_mode": "half_pixel",
        "axes": axes,
        "scales": (1.5, 0.6)[: len(axes)],
    }
    x = normal(2, 3, 5, 6, 4)[(..., *(0,) * (4 - max(axes)))]
    checkpoint = network(Node("node", "Resize", ("x",), ("y",), attributes), {"x": x}, {})
    want = onnx.reference.ReferenceEvaluator(to_onnx(checkpoint)).run(None, {"x": x})[0]
    got = Model(plan.build(checkpoint), ReferenceBackend())(x)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"mode": "linear", "nearest_mode": "floor"}, "nearest_mode goes with mode nearest"),
        ({"mode": "nearest"}, "nearest_mode goes with mode nearest"),
        ({"mode": "cubic", "exclude_outside": 0}, "cubic_coeff_a goes with mode cubic"),
        ({**CUBIC, "mode": "linear"}, "cubic_coeff_a goes with mode cubic"),
        ({"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"},
         "mode linear with tf_crop_and_resize is not supported"),
        ({"mode": "lanczos"}, "one of nearest, linear, cubic"),
    ],
)  # fmt: skip
def test_attributes_of_one_mode_stand_with_it_alone(attributes, message):
    given = {"axes": (2,), "scales": (2.0,), "coordinate_transformation_mode": "half_pixel"}
    node = Node("node", "Resize", ("x",), ("y",), given | attributes)
    checkpoint = network(node, {"x": normal(1, 2, 3)}, {})
    with pytest.raises(GraphError, match=message):
        checkpoint.check()


def test_weights_that_cannot_be_divided_by_their_sum_are_refused():
    attributes = {"axes": (2,), "sizes": (2,), "coordinate_transformation_mode": "asymmetric"}
    modes = {"mode": "cubic", "cubic_coeff_a": 4.0, "exclude_outside": 1}  # of an axis of size 1
    node = Node("node", "Resize", ("x",), ("y",), {**attributes, **modes})
    with pytest.raises(PlanError, match=r"'node' \(Resize\): attribute cubic_coeff_a=4.0: .* to 0"):
        plan.build(network(node, {"x": normal(1, 2, 1)}, {}))


def assert_resized(x: Any, attributes: dict[str, Any]) -> None:
    """Compare sizes with onnx's evaluator, scales with onnxruntime.

    onnxruntime turns sizes into float32 scales, and floors 2.9999998; the evaluator means
    something else by scales whose output was rounded, and lacks tf_half_pixel_for_nn.
    """
    if "scales" in attributes or "tf_" in attributes["coordinate_transformation_mode"]:
        assert_one("Resize", x, attributes)
        return
    checkpoint = network(Node("node", "Resize", ("x",), ("y",), attributes), {"x": x}, {})
    want = onnx.reference.ReferenceEvaluator(to_onnx(checkpoint)).run(None, {"x": x})[0]
    got = Model(plan.build(checkpoint), ReferenceBackend())(x)
    np.testing.assert_array_equal(got, want)


def assert_crop(x: Any, attributes: dict[str, Any]) -> None:
    """Compare with the formula: onnxruntime and onnx's evaluator have no nearest crop in common."""
    node = Node("node", "Resize", ("x",), ("y",), attributes)
    checkpoint = network(node, {"x": x}, {})
    got = Model(plan.build(checkpoint), ReferenceBackend())(x)
    assert got.shape == (*x.shape[:2], *attributes["sizes"])
    np.testing.assert_array_equal(got, crop_by_hand(x, attributes))


def crop_by_hand(x: Any, attributes: dict[str, Any]) -> Any:
    """Return the crop by the formula of docs/format.md, pixel by pixel."""
    roi = attributes["roi"]
    rounded = {
        "round_prefer_floor": lambda v: np.ceil(v - 0.5),
        "round_prefer_ceil": lambda v: np.floor(v + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }[attributes["nearest_mode"]]
    fill = np.float32(attributes["extrapolation_value"])
    out = np.full((*x.shape[:2], *attributes["sizes"]), fill)
    for at in np.ndindex(*attributes["sizes"]):
        source = []
        for axis, i in enumerate(at):
            last, size = x.shape[2 + axis] - 1, attributes["sizes"][axis]
            start, end = roi[axis], roi[axis + 2]
            where = (start + end) / 2 * last
            if size > 1:
                where = start * last + i * (end - start) * last / (size - 1)
            source.append(int(rounded(where)) if 0 <= where <= last else None)
        if None not in source:
            out[..., at[0], at[1]] = x[..., source[0], source[1]]
    return out


@pytest.mark.parametrize(("axis", "indices"), [(1, (2, 0, 2)), (3, (0, 0)), (2, (4,))])
def test_gather(axis, indices):
    assert_one("Gather", normal(2, 3, 5, 4), {"axis": axis, "indices": indices})


@pytest.mark.parametrize("indices", [(), (0, 3)])
def test_entries_that_are_not_there_are_not_gathered(indices):
    node = Node("node", "Gather", ("x",), ("y",), {"axis": 1, "indices": indices})
    with pytest.raises((GraphError, ValueError)):
        network(node, {"x": normal(2, 3)}, {}).check()
