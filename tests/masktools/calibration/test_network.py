"""Whole networks fitted to their sources: every kind of layer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import zoo
from builder import SIZE, Builder
from calibration_networks import halves, images, mixed, normed, outputs, run

import masktools
from masktools import BlockLayout
from masktools.calibration import scope, walk
from masktools.checkpoint import Checkpoint
from masktools.errors import MaskError
from masktools.network.graph import Value


@pytest.mark.parametrize("method", ["refit", "statistics"])
@pytest.mark.parametrize("norm", [True, False])
def test_every_kind_of_layer_comes_closer_to_its_source(norm, method):
    graph = mixed(norm)
    before = {name: array.copy() for name, array in graph.constants.items()}
    layouts = halves(graph, ["plain", "deep", "grouped", "point", "hidden"])
    x = images(160)
    found = masktools.calibrate(graph, layouts, x, run=run, method=method)
    report = found.report
    assert (report.samples, report.held_back) == (140, 20)
    behind = ["last"] if method == "refit" else []  # Dense, but what is before it changed.
    assert [row.layer for row in report.layers] == [*layouts, *behind]
    assert report.error_after < report.error_before
    if method == "refit":
        assert all(row.error_after < row.error_before for row in report.layers)
        assert all(row.condition >= 1 and row.ridge for row in report.layers)
    for name, layout in {**layouts, **found.layouts}.items():
        assert not found.values[f"{name}.weight"][~layout.to_mask()].any()
    for name in {"first", "last"} - {*behind}:  # Not a bit of them changes.
        np.testing.assert_array_equal(found.values[f"{name}.weight"], before[f"{name}.weight"])
        assert f"{name}.bias" not in found.values
    for name, array in before.items():
        np.testing.assert_array_equal(graph.constants[name], array)


def test_the_report_measures_what_the_values_do():
    graph = mixed()
    layouts = halves(graph, ["plain", "grouped"])
    x, held = images(160), slice(7, None, 8)
    source = outputs(graph, {}, x)["y"]
    labels = np.where(np.arange(160) % 2, source.argmax(axis=1), 0)
    found = masktools.calibrate(graph, layouts, x, run=run, labels=labels)
    as_is = {
        f"{n}.weight": graph.constants[f"{n}.weight"] * m.to_mask() for n, m in layouts.items()
    }
    variance = source[held].var(axis=0).sum()
    for values, error, agreement, accuracy in (
        (as_is, found.report.error_before, found.report.agreement_before,
         found.report.accuracy_before),
        (found.values, found.report.error_after, found.report.agreement_after,
         found.report.accuracy_after),
    ):  # fmt: skip
        made = outputs(graph, values, x)["y"][held]
        wrong = np.square(made - source[held]).sum(axis=1).mean()
        assert error == pytest.approx(wrong / variance, rel=1e-3)
        assert agreement == (made.argmax(1) == source[held].argmax(1)).mean()
        assert accuracy == (made.argmax(1) == labels[held]).mean()
    assert found.report.accuracy_source == (source[held].argmax(1) == labels[held]).mean()


def test_statistics_alone_touch_nothing_but_the_normalisation():
    graph = mixed()
    layouts = halves(graph, ["plain"])
    found = masktools.calibrate(graph, layouts, images(160), run=run, method="statistics")
    kept = layouts["plain"].to_mask()
    weight = graph.constants["plain.weight"] * kept
    np.testing.assert_array_equal(found.values["plain.weight"], weight)
    norm = next(node for node in graph.nodes if node.op == "BatchNormalization")
    changed = {name for name in found.values if not name.endswith(".weight")}
    assert changed == set(norm.inputs[3:5])


@pytest.mark.parametrize("method", ["refit", "statistics"])
def test_statistics_folded_or_not_come_to_the_same(method):
    graph = mixed()
    layouts = halves(graph, ["plain"])
    norm = next(node for node in graph.nodes if node.op == "BatchNormalization")
    scale, shift, mean, variance = (graph.constants[name] for name in norm.inputs[1:])
    factor = scale / np.sqrt(variance + np.float32(1e-5))
    constants = {n: a for n, a in graph.constants.items() if n not in norm.inputs[1:]}
    constants["plain.weight"] = constants["plain.weight"] * factor[:, None, None, None]
    constants["plain.bias"] = shift - mean * factor
    nodes = [n for n in graph.nodes if n is not norm]
    at = next(i for i, n in enumerate(nodes) if "plain.weight" in n.inputs)
    nodes[at] = replace(nodes[at], inputs=(*nodes[at].inputs, "plain.bias"), outputs=norm.outputs)
    folded = replace(graph, nodes=tuple(nodes), constants=constants)
    x = images(160)
    made = [
        outputs(g, masktools.calibrate(g, layouts, x, run=run, method=method).values, x)["y"]
        for g in (graph, folded)
    ]
    np.testing.assert_allclose(made[0], made[1], atol=2e-2 * np.abs(made[0]).max())


@pytest.mark.parametrize("name", ["densenet", "inception"])
def test_the_error_falls_in_every_layer_of_the_zoo(name):
    module = zoo.make(name)
    size = zoo.ZOO[name][1]
    masks = zoo.random_masks(module, 0.4, refilled=False)
    layouts = {layer: BlockLayout.from_mask(mask, 4) for layer, mask in masks.items()}
    x = zoo.images(name, size, 64)
    report = masktools.calibrate(zoo.to_onnx(module, size), layouts, x, run=run).report
    worse = [row for row in report.layers if not row.error_after < row.error_before]
    assert worse == []
    assert report.error_after < report.error_before


def test_rows_that_are_left_take_over_what_refilling_dropped():
    module = zoo.make("densenet")
    masks = zoo.random_masks(module, 0.5, refilled=True)
    layouts = {name: BlockLayout.from_mask(mask) for name, mask in masks.items()}
    x = zoo.images("densenet", 16, 64)
    report = masktools.calibrate(zoo.to_onnx(module, 16), layouts, x, run=run).report
    assert all(row.error_after < row.error_before for row in report.layers)


def test_residual_weights_are_fitted_where_they_are_kept():
    graph = mixed()
    constants = dict(graph.constants)
    sparse = np.random.default_rng(3).random(constants["plain.weight"].shape) < 0.7
    constants["plain.weight"] = constants["plain.weight"] * sparse
    graph = replace(graph, constants=constants)
    layouts = halves(graph, ["plain"])
    errors = {}
    for residual in ("drop", "keep"):
        found = masktools.calibrate(graph, layouts, images(), run=run, residual=residual)
        kept = {**layouts, **found.layouts}["plain"].to_mask()
        if residual == "keep":
            assert not found.layouts
            kept |= sparse
        assert not found.values["plain.weight"][~kept].any()
        errors[residual] = found.report.error_after
    assert errors["keep"] < 1e-3 < errors["drop"]  # Every kept weight is stored: nothing is lost.


def test_dense_layers_behind_converted_ones_are_fitted_too():
    graph, x = mixed(), images(160)
    layouts = halves(graph, ["grouped"])
    found = masktools.calibrate(graph, layouts, x, run=run)
    behind = ["grouped", "point", "hidden", "last"]
    assert [row.layer for row in found.report.layers] == behind
    assert found.values.keys() >= {f"{name}.weight" for name in behind}
    for name in ("first", "plain", "deep"):
        weight = f"{name}.weight"
        np.testing.assert_array_equal(
            found.values.get(weight, graph.constants[weight]), graph.constants[weight]
        )
    alone = masktools.calibrate(graph, layouts, x, run=run, skip=["point", "hidden", "last"])
    assert [row.layer for row in alone.report.layers] == ["grouped"]
    assert found.report.error_after < 0.7 * alone.report.error_after
    statistics = masktools.calibrate(graph, layouts, x, run=run, method="statistics")
    assert [row.layer for row in statistics.report.layers] == ["grouped"]


def test_layers_to_skip_keep_their_values():
    graph = mixed()
    layouts = halves(graph, ["plain", "hidden"])
    found = masktools.calibrate(graph, layouts, images(160), run=run, skip=["plain"])
    assert "plain" not in {row.layer for row in found.report.layers}
    assert "plain" not in found.layouts
    weight = graph.constants["plain.weight"] * layouts["plain"].to_mask()
    np.testing.assert_array_equal(found.values["plain.weight"], weight)
    with pytest.raises(MaskError, match="skip: there is no layer 'lost'; there are 'first'"):
        masktools.calibrate(graph, layouts, images(), run=run, skip=["lost"])
    with pytest.raises(TypeError, match="skip must hold layer names, got the one name 'plain'"):
        masktools.calibrate(graph, layouts, images(), run=run, skip="plain")


def test_a_dense_layer_that_is_too_large_is_left_and_named(monkeypatch):
    monkeypatch.setattr(scope, "MOST_WEIGHTS", 200)
    graph = mixed()
    found = masktools.calibrate(graph, halves(graph, ["grouped"]), images(), run=run)
    assert [row.layer for row in found.report.layers] == ["grouped", "last"]
    notes = [note for note in found.report.notes if "is too large to be fitted along" in note]
    assert [note.split("'")[1] for note in notes] == ["hidden", "point"]


def test_the_same_input_gives_the_same_bytes_whether_values_lie_in_memory_or_files(monkeypatch):
    graph = mixed()
    layouts = halves(graph, ["plain", "grouped"])
    found = [masktools.calibrate(graph, layouts, images(), run=run) for _ in range(2)]
    written = []
    save = np.save
    monkeypatch.setattr(walk, "MEMORY", 2**16)
    monkeypatch.setattr(np, "save", lambda path, array: (written.append(path), save(path, array)))
    found.append(masktools.calibrate(graph, layouts, images(), run=run))
    assert written
    assert not any(path.exists() for path in written)
    for other in found[1:]:
        assert other.report == found[0].report
        for name, array in found[0].values.items():
            assert array.tobytes() == other.values[name].tobytes()


def test_no_more_samples_run_at_once_than_a_batch():
    graph, seen = mixed(), []

    def watched(checkpoint):
        ready = run(checkpoint)

        def call(inputs):
            seen.extend(len(array) for array in inputs.values())
            return ready(inputs)

        return call

    masktools.calibrate(graph, halves(graph, ["plain"]), images(200), run=watched)
    assert max(seen) <= 32


def test_a_fixed_batch_is_kept_and_what_is_left_over_is_noted():
    graph = mixed()
    fixed = replace(
        graph,
        inputs=(Value("x", (4, *graph.inputs[0].shape[1:])),),
        outputs=(Value(graph.outputs[0].name, (4, 5)),),
    )
    report = masktools.calibrate(fixed, halves(graph, ["plain"]), images(66), run=run).report
    assert report.samples + report.held_back == 64
    assert report.notes[0] == "2 samples in excess of whole batches were left out"
    assert report.error_after < report.error_before


def test_a_checkpoint_is_a_source_too():
    graph = mixed()
    layouts = halves(graph, ["plain"])
    by_graph, by_checkpoint = (
        masktools.calibrate(network, layouts, images(), run=run)
        for network in (graph, Checkpoint(graph))
    )
    assert by_graph.report == by_checkpoint.report


def test_chosen_columns_lessen_the_error_and_keep_what_is_stored():
    graph, x = mixed(), images(160)
    layouts = halves(graph, ["plain", "grouped", "point", "hidden"])
    kept, chosen = (
        masktools.calibrate(graph, layouts, x, run=run, method=m) for m in ("values", "refit")
    )
    assert not kept.layouts
    assert not any(row.replaced for row in kept.report.layers)
    assert chosen.report.error_after < kept.report.error_after
    moved = {row.layer for row in chosen.report.layers if row.replaced}
    assert moved == set(chosen.layouts)
    assert moved
    for name, layout in chosen.layouts.items():
        old = layouts[name]
        assert [b.rows.tolist() for b in layout.blocks] == [b.rows.tolist() for b in old.blocks]
        assert [len(b.columns) for b in layout.blocks] == [len(b.columns) for b in old.blocks]
        assert not chosen.values[f"{name}.weight"][~layout.to_mask()].any()
    again = masktools.calibrate(graph, layouts, x, run=run)
    assert again.layouts == chosen.layouts
    for name, array in chosen.values.items():
        np.testing.assert_array_equal(again.values[name], array)


@pytest.mark.parametrize(("norm", "column"), [(False, 1), (True, 0)])
def test_columns_are_chosen_for_what_the_normalisation_makes_of_the_rows(norm, column):
    b = Builder()
    x = b.conv("x", 2, 1, layer="both", bias=False)
    weight = np.float32([[1, 0.1, 0.1], [0.1, 100, 0.1]])
    b.constants["both.weight"] = weight.reshape(2, 3, 1, 1)
    if norm:
        x = normed(b, x)
        # What the second row makes is a hundred times as large before it, a tenth behind it.
        b.constants[f"{b.nodes[-1].inputs[3]}"][:] = 0
        b.constants[f"{b.nodes[-1].inputs[4]}"][:] = [1, 1e6]
        b.constants[f"{b.nodes[-1].inputs[1]}"][:] = 1
    graph = b.graph(x)
    noise = np.random.default_rng(0).standard_normal((64, 3, SIZE, SIZE)).astype(np.float32)
    for start in (0, 1, 2):
        mask = np.zeros((2, 3, 1, 1), bool)
        mask[:, start] = True
        found = masktools.calibrate(graph, {"both": BlockLayout.from_mask(mask)}, noise, run=run)
        chosen = found.layouts.get("both", BlockLayout.from_mask(mask))
        assert [block.columns.tolist() for block in chosen.blocks] == [[column]]
