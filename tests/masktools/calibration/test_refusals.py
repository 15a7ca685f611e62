"""What calibration refuses, and what it leaves as it is and names."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from calibration_networks import halves, images, mixed, run

import masktools
from masktools.calibration import network
from masktools.calibration.affine import with_values
from masktools.errors import CalibrationError, GraphError, MaskError
from masktools.network.graph import Graph, Node, Value


def test_a_layer_whose_output_is_always_zero_is_named_and_left():
    graph = mixed()
    constants = dict(graph.constants)
    for name in ("grouped.weight", "grouped.bias"):
        constants[name] = np.zeros_like(constants[name])
    graph = replace(graph, constants=constants)
    layouts = halves(graph, ["plain", "grouped", "point"])
    found = masktools.calibrate(graph, layouts, images(), run=run)
    dead = {"grouped", "point", "hidden", "last"}  # All after the first read nothing but zeros.
    assert {note.split("'")[1] for note in found.report.notes if "same for" in note} == dead
    assert not found.values["grouped.weight"].any()
    assert {row.layer for row in found.report.layers if row.ridge is None} == dead


def test_too_few_samples_for_the_columns_are_told_how_many_would_do():
    graph = mixed()
    found = masktools.calibrate(graph, halves(graph, ["hidden"]), images(40), run=run)
    (note,) = (note for note in found.report.notes if "positions" in note)
    assert note.startswith("layer 'hidden': 35 positions for 288 columns; 330 samples would do")
    assert np.isfinite(found.values["hidden.weight"]).all()


def shared():
    nodes = (
        Node("a", "Gemm", ("x", "w.weight"), ("h",), {"transB": 1}),
        Node("r", "Relu", ("h",), ("g",)),
        Node("b", "Gemm", ("g", "w.weight"), ("k",), {"transB": 1}),
        Node("c", "Gemm", ("k", "c.weight"), ("y",), {"transB": 1}),
    )
    rng = np.random.default_rng(0)
    constants = {
        n: rng.standard_normal((4, 4)).astype(np.float32) for n in ("w.weight", "c.weight")
    }
    return Graph((Value("x", (None, 4)),), (Value("y", (None, 4)),), nodes, constants)


def test_a_weight_that_several_nodes_read_is_left_and_named():
    graph = shared()
    layouts = halves(graph)
    x = np.random.default_rng(1).standard_normal((64, 4)).astype(np.float32)
    found = masktools.calibrate(graph, layouts, x, run=run)
    kept = graph.constants["w.weight"] * layouts["w"].to_mask()
    np.testing.assert_array_equal(found.values["w.weight"], kept)
    assert found.report.notes[0].startswith("layer 'w': several nodes read its weight")
    with pytest.raises(MaskError, match="no layer to calibrate"):
        masktools.calibrate(graph, {"w": layouts["w"]}, x, run=run, skip=["c"])


BAD = {
    "shape": (np.zeros((64, 3, 5, 6), np.float32), r"input 'x': expected shape \(N, 3, 6, 6\)"),
    "few": (images(31), r"31 samples are too few to calibrate on: at least 32 are needed"),
    "same": (np.repeat(images(1), 40, 0), r"all 40 samples are the same"),
    "name": ({"image": images()}, r"expected inputs named \['x'\], got \['image'\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_inputs_that_do_not_fit_are_refused(case):
    graph = mixed()
    given, message = BAD[case]
    with pytest.raises(CalibrationError, match=message):
        masktools.calibrate(graph, halves(graph, ["plain"]), given, run=run)


def test_other_bad_arguments_are_refused():
    graph = mixed()
    layouts, x = halves(graph, ["plain"]), images()
    calibrate = partial(masktools.calibrate, graph, run=run)
    broken = x.copy()
    broken[9, 1, 2, 3] = np.nan
    with pytest.raises(CalibrationError, match="input 'x': sample 9 holds a number that is not"):
        calibrate(layouts, broken)
    with pytest.raises(TypeError, match="input 'x': expected float32, got uint8"):
        calibrate(layouts, x.astype(np.uint8))
    with pytest.raises(CalibrationError, match=r"a label for each of 64 samples, got \(63,\)"):
        calibrate(layouts, x, labels=np.zeros(63, int))
    with pytest.raises(TypeError, match="labels must be whole numbers, got float64"):
        calibrate(layouts, x, labels=np.zeros(64))
    with pytest.raises(
        CalibrationError, match="method must be one of refit, values, statistics, got 'x'"
    ):
        calibrate(layouts, x, method="x")
    with pytest.raises(MaskError, match="residual must be one of drop, keep, got 'x'"):
        calibrate(layouts, x, residual="x")
    with pytest.raises(MaskError, match="the network has no layer 'lost'; it has first, plain"):
        calibrate({"lost": layouts["plain"]}, x)
    with pytest.raises(MaskError, match="layer 'first': expected a layout of shape"):
        calibrate({"first": layouts["plain"]}, x)
    with pytest.raises(TypeError, match="layer 'plain': expected a BlockLayout, got ndarray"):
        calibrate({"plain": layouts["plain"].to_mask()}, x)


def test_values_of_another_network_are_refused():
    graph = mixed()
    with pytest.raises(GraphError, match=r"value .lost.weight.: the network has no such"):
        with_values(graph, {"lost.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(GraphError, match=r"'plain.weight': it has the shape \(2, 2\), but"):
        with_values(graph, {"plain.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(GraphError, match=r"'point.bias': it has the shape \(3,\), but .* \(16,\)"):
        with_values(graph, {"point.bias": np.zeros(3, np.float32)})


def test_columns_stay_where_a_choice_would_take_long(monkeypatch):
    monkeypatch.setattr(network, "MOST", 100)
    graph = mixed()
    found = masktools.calibrate(graph, halves(graph, ["plain"]), images(), run=run)
    assert not found.layouts
    assert any("too many to choose among" in note for note in found.report.notes)
