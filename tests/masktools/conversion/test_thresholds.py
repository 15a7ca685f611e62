"""Whole networks by Algorithm 3's thresholds, or as the released code: a layer at a time."""

from __future__ import annotations

import json

import numpy as np
import pytest
from paths import ROOT

from masktools import Conversion, convert, load_masks, load_weights, regroup
from masktools.conversion.resume import FOLDER
from masktools.errors import MaskError
from masktools.network.graph import Graph, Node, Value

THRESHOLDS = {
    "row_groups": 3,
    "min_column_nonzeros": 4,
    "min_rows": 6,
    "min_columns": 20,
    "passes": 1,
}
FAST = {"method": "regroup", "partitioner": "spectral", "progress": False}


@pytest.fixture(autouse=True)
def _one_worker(monkeypatch):
    monkeypatch.setattr("masktools.conversion.workers.cores", lambda: 1)


@pytest.fixture
def network():
    """Masks and weights; "thin" has too few columns for the thresholds."""
    rng = np.random.default_rng(0)
    shapes = {"wide": (24, 8, 3, 3), "tall": (36, 6, 3, 3), "thin": (24, 4, 2, 2)}
    masks = {name: rng.random(shape) < 0.4 for name, shape in shapes.items()}
    weights = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    return masks, weights


def test_each_layer_is_regrouped_as_alone(network):
    masks, weights = network
    result = convert(masks, weights, group_rows=4, **THRESHOLDS, **FAST)
    for name in ("wide", "tall"):
        alone = regroup(
            masks[name], weights[name], group_rows=4, partitioner="spectral", **THRESHOLDS
        )
        assert alone.blocks
        assert result.layouts[name].blocks == alone.blocks
    options = result.report.options
    assert {name: options[name] for name in THRESHOLDS} == THRESHOLDS
    assert options["density"] is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("row_groups", 2),
        ("min_column_nonzeros", 6),
        ("min_rows", 9),
        ("min_columns", 45),
        ("passes", 2),
    ],
)
def test_every_threshold_counts(network, name, value):
    masks, weights = network
    base = {"row_groups": 3, "min_column_nonzeros": 5, "passes": 1}
    before, after = (
        convert(masks, weights, **how, **FAST) for how in (base, {**base, name: value})
    )
    alone = {
        layer: regroup(mask, weights[layer], partitioner="spectral", **{**base, name: value})
        for layer, mask in masks.items()
    }
    assert any(before.layouts[layer] != after.layouts[layer] for layer in masks)
    for layer, layout in alone.items():
        assert np.array_equal(
            after.masks[layer], layout.to_mask() if layout.blocks else masks[layer]
        )


def test_the_target_gives_the_height_of_groups(network):
    masks, weights = network
    for target, heights in (("cpu", {8, 12}), ("cuda", {24, 36})):
        result = convert(masks, weights, min_rows=1, target=target, passes=1, **FAST)
        found = {len(block.rows) for one in result.layouts.values() for block in one.blocks}
        assert found == heights


@pytest.mark.parametrize("fate", ["mask", "dense", "empty"])
def test_what_becomes_of_a_layer_without_a_block(network, tmp_path, fate):
    masks, weights = network
    result = convert(masks, weights, without_blocks=fate, **THRESHOLDS, **FAST)
    expected = {
        "mask": masks["thin"],
        "dense": np.ones_like(masks["thin"]),
        "empty": np.zeros_like(masks["thin"]),
    }[fate]
    assert np.array_equal(result.masks["thin"], expected)
    assert ("thin" in result.layouts) == (fate != "dense")
    row = {row.layer: row for row in result.report}["thin"]
    assert (row.without_blocks, row.dense_because, row.blocks) == (fate, "", 0)
    assert row.stored == expected.sum()
    assert [other.without_blocks for other in result.report if other.layer != "thin"] == ["", ""]
    total = result.report.converted
    assert total.weights == sum(mask.size for mask in masks.values())
    assert total.stored == sum(mask.sum() for mask in result.masks.values())
    assert result.report.notes == ()
    result.save(tmp_path)
    again = Conversion.load(tmp_path)
    assert again.report == result.report
    assert np.array_equal(again.masks["thin"], expected)
    said = json.loads((tmp_path / "report.json").read_text())["layers"]
    assert [layer["without_blocks"] for layer in said if layer["layer"] == "thin"] == [fate]


def test_masks_are_kept_unless_something_else_is_asked_for(network):
    masks, weights = network
    result = convert(masks, weights, **THRESHOLDS, **FAST)
    assert np.array_equal(result.masks["thin"], masks["thin"])


def test_convolution_groups_are_heeded_with_blocks_and_without():
    mask = np.tile(np.random.default_rng(0).random((2, 4, 1, 1)) < 0.5, (6, 1, 1, 1))
    node = Node("a", "Conv", ("x", "a.weight"), ("y",), {
        "strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1), "group": 2,
    })  # fmt: skip
    constants = {"a.weight": mask.astype(np.float32)}
    graph = Graph((Value("x", (None, 8, 4, 4)),), (Value("y", (None,) * 4),), (node,), constants)
    for columns in (1, 5):
        how = {"min_columns": columns, "group_rows": 3}
        result = convert({"a": mask}, graph=graph, include=["a"], **how, **FAST)
        assert (result.report[0].without_blocks == "mask") == (columns == 5)
        assert np.array_equal(result.masks["a"], mask)
        assert result.layouts["a"].groups == 2


def test_the_preset_regroups_each_layer_as_alone():
    rng = np.random.default_rng(1)
    masks = {
        "large": rng.random((160, 20, 3, 3)) < 0.2,
        "small": rng.random((128, 20, 3, 3)) < 0.2,
    }
    result = convert(masks, preset="released", method="regroup", seed=2, progress=False)
    assert (
        result.layouts["large"].blocks == regroup(masks["large"], preset="released", seed=2).blocks
    )
    assert np.array_equal(result.masks["small"], masks["small"])
    assert [row.without_blocks for row in result.report] == ["", "mask"]
    assert result.report.options["preset"] == "released"


def test_the_released_code_makes_the_digits_ticket_denser_by_half():
    ticket = ROOT / "examples/digits/digitsnet_round07.safetensors"
    result = convert(
        load_masks(ticket), load_weights(ticket), method="regroup", preset="released",
        graph=ROOT / "examples/digits/digitsnet.onnx", progress=False,
    )  # fmt: skip
    grouped = [row for row in result.report if row.blocks]
    assert [row.layer for row in grouped] == ["block2.conv1", "block2.conv2", "conv3"]
    assert all(row.rows == 256 and row.blocks == 8 for row in grouped)
    growth = sum(row.stored for row in grouped) / sum(row.kept for row in grouped)
    assert 1.65 < growth < 1.8
    whole = result.report.converted
    assert 1.4 < whole.density_after / whole.density_before < 1.6
    # Their columns are those of most nonzeros of mostly random masks: few of the others are lost.
    assert 0.6 < whole.retained < 0.8


def test_blocks_are_kept_when_a_conversion_is_interrupted(network, tmp_path):
    masks, weights = network
    arguments = {**THRESHOLDS, **FAST, "resume": tmp_path}
    first = convert(masks, weights, **arguments)
    files = sorted((tmp_path / FOLDER).iterdir())
    assert len(files) == 3
    content = files[0].read_bytes()
    files[0].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    again = convert(masks, weights, **arguments)
    assert again.layouts == first.layouts
    assert [row.resumed for row in again.report].count(True) == 2
    (note,) = again.report.notes
    assert "was damaged" in note
    assert files[0].read_bytes() == content
    # Other thresholds, or a budget, find no file of these.
    for other in ({"min_columns": 21}, dict.fromkeys(THRESHOLDS)):
        assert not any(
            row.resumed for row in convert(masks, weights, **{**arguments, **other}).report
        )


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"density": 0.2}, TypeError, "density and thresholds exclude each other"),
        ({"density": 0.2, "preset": "released"}, TypeError, "settles how to regroup: leave out"),
        ({"preset": "paper"}, MaskError, "preset must be one of released, got 'paper'"),
        ({"min_rows": 0}, MaskError, "min_rows must be at least 1, got 0"),
        ({"passes": 1.5}, TypeError, "passes must be a whole number, got 1.5"),
        ({"min_rows": None, "passes": 1}, TypeError, "passes belongs to the form with thresholds"),
        ({"without_blocks": "drop"}, MaskError, "without_blocks must be one of mask, dense, empty"),
        (
            {"min_rows": None, "without_blocks": "dense"},
            TypeError,
            "without_blocks belongs to thresholds and presets",
        ),
        ({"across": "own"}, TypeError, "across='own' is about a density"),
        ({"method": "refill", "partitioner": "kahypar"}, TypeError, "min_rows belongs to method"),
        (
            {"method": "refill", "partitioner": "kahypar", "min_rows": None, "preset": "released"},
            TypeError,
            "preset belongs to method 'regroup', not to 'refill'",
        ),
        (
            {"method": "refill", "partitioner": "kahypar", "min_rows": None,
             "without_blocks": "dense"},
            TypeError,
            "without_blocks belongs to method 'regroup'",
        ),
    ],
)  # fmt: skip
def test_refusals(network, change, error, match):
    masks, weights = network
    with pytest.raises(error, match=match):
        convert(masks, weights, **{"min_rows": 6, **FAST, **change})


def test_multiplications_are_no_budget_of_thresholds(network):
    masks, weights = network
    graph = ROOT / "examples/digits/digitsnet.onnx"
    with pytest.raises(TypeError, match="by='multiplications' is about a density"):
        convert(masks, weights, min_rows=6, by="multiplications", graph=graph, **FAST)
