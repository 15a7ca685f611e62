"""The command `prune`: masks of weights alone, which the other commands take."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx_models import model, node
from safetensors.numpy import save_file
from ticket_commands import FAST, SHAPES, only_line, run, unboxed, write_onnx

import masktools
import runtime
from masktools.conversion.result import Conversion

ROLES = {"stem": "the first layer", "conv1": "", "conv2": "", "fc": "the classifier"}
IMAGES = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)


@pytest.fixture(autouse=True)
def _one_worker(monkeypatch):
    monkeypatch.setattr("masktools.conversion.workers.cores", lambda: 1)


@pytest.fixture
def net(tmp_path, weights):
    path = tmp_path / "net.onnx"
    write_onnx(path, weights)
    return path


def same(found, wanted):
    return list(found) == list(wanted) and all(np.array_equal(found[n], wanted[n]) for n in wanted)


def by_onnxruntime(weights, masks, path):
    """Return what onnxruntime computes of the network whose weights are masked."""
    write_onnx(path, {name: weight * masks[name] for name, weight in weights.items()})
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": IMAGES})[0]


def close(found, wanted):
    return np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("across", ["global", "uniform", "erk", "lamp"])
def test_prune_writes_what_the_function_gives(net, tmp_path, weights, across):
    out = tmp_path / "masks.npz"
    run("prune", net, out, "--density", "0.2", "--across", across)
    masks = masktools.load_masks(out)
    assert same(
        {name: masks[name] for name in SHAPES},
        masktools.prune.magnitude(weights, 0.2, across=across, graph=net),
    )
    assert sum(masks[name].sum() for name in ("conv1", "conv2")) == round(0.2 * (1152 + 2304))


def test_prune_is_global_by_default_and_takes_names_of_layers(net, tmp_path, weights):
    out = tmp_path / "masks.safetensors"
    run("prune", net, out, "--density", "0.3", "--skip", "conv1", "--include", "fc")
    masks = masktools.load_masks(out)
    wanted = masktools.prune.magnitude(weights, 0.3, graph=net, skip=["conv1"], include=["fc"])
    assert same({name: masks[name] for name in SHAPES}, wanted)
    assert [name for name in SHAPES if not masks[name].all()] == ["conv2", "fc"]


def test_prune_shows_the_layers_and_why_some_stay_dense(net, tmp_path):
    out = tmp_path / "masks.npz"
    arguments = ("prune", net, out, "--density", "0.25", "--across", "uniform")
    table, stderr = run(*arguments)
    assert stderr == ""
    lines = [line.split() for line in table.splitlines()]
    assert ["conv1", "1,152", "288", "0.2500"] in [[*line[:1], *line[-3:]] for line in lines]
    assert ["2", "pruned", "3,456", "864", "0.2500"] in lines
    assert ["all", "4", "3,832", "1,240", "0.3236"] in lines
    assert "dense: stem (the first layer)" in table
    assert "dense: fc (the classifier)" in table
    data = json.loads(run(*arguments, "--json")[0])
    assert data["out"] == str(out)
    assert {row["layer"]: row["dense_because"] for row in data["layers"]} == ROLES
    assert data["layers"][1] == {
        "layer": "conv1",
        "shape": [16, 8, 3, 3],
        "weights": 1152,
        "kept": 288,
        "density": 0.25,
        "dense_because": "",
    }
    assert data["pruned"] == {"weights": 3456, "kept": 864, "density": 0.25}
    assert data["total"] == {"weights": 3832, "kept": 1240, "density": 1240 / 3832}


def test_a_file_of_weights_is_pruned_by_shapes(tmp_path, weights):
    save_file({f"{name}.weight": w for name, w in weights.items()}, tmp_path / "net.safetensors")
    out = tmp_path / "masks.npz"
    table, _ = run("prune", tmp_path / "net.safetensors", out, "--density", "0.2")
    assert "dense: stem (taken for the first layer: no graph says otherwise)" in table
    masks = masktools.load_masks(out)
    wanted = masktools.prune.magnitude(weights, 0.2)
    assert same({name: masks[name] for name in SHAPES}, wanted)


def test_a_ticket_is_pruned_further_and_kept_zeros_are_said(ticket, tmp_path, weights):
    """The ticket keeps weights above 1, 32 % of them."""
    out = tmp_path / "masks.npz"
    _, stderr = run("prune", ticket, out, "--density", "0.1")
    assert stderr == ""
    masks, before = masktools.load_masks(out), masktools.load_masks(ticket)
    assert all(not (masks[name] & ~before[name]).any() for name in ("conv1", "conv2"))
    _, stderr = run("prune", ticket, out, "--density", "0.5", "--across", "uniform")
    others = sum(int(before[name].sum()) for name in ("conv1", "conv2"))
    assert f"{1728 - others} of the kept weights are zero, in layer 'conv1', 'conv2'" in stderr
    assert f"have {others} that are not" in only_line(stderr)


def test_a_layer_that_is_left_with_nothing_is_said(tmp_path, weights):
    write_onnx(tmp_path / "net.onnx", weights | {"conv1": weights["conv1"] * 1e-6})
    arguments = ("prune", tmp_path / "net.onnx", tmp_path / "masks.npz", "--density", "0.2")
    _, stderr = run(*arguments)
    assert "nothing is left of layer 'conv1': give --across lamp" in only_line(stderr)
    assert run(*arguments, "--across", "lamp")[1] == ""


# The journeys


def test_masks_of_a_dense_network_are_exported_and_compute_what_onnxruntime_does(
    net, tmp_path, weights
):
    out, checkpoint = tmp_path / "masks.pt", tmp_path / "net.safetensors"
    run("prune", net, out, "--density", "0.2", "--across", "erk")
    _, stderr = run("export", net, checkpoint, "--masks", out, status=1)
    assert "residual='keep' (--residual keep), which stores them one by one" in stderr
    _, stderr = run("export", net, checkpoint, "--masks", out, "--residual", "keep")
    masks = masktools.load_masks(out)
    cut = sum(int((~mask).sum()) for mask in masks.values())
    assert f"the masks prune {cut} weights that are not zero in the network" in stderr
    wanted = by_onnxruntime(weights, masks, tmp_path / "masked.onnx")
    assert not close(by_onnxruntime(weights, dict.fromkeys(masks, 1), tmp_path / "x.onnx"), wanted)
    for backend in ("reference", "auto"):
        assert close(runtime.load(checkpoint, backend=backend)(IMAGES), wanted)


def test_masks_of_a_dense_network_are_converted_exported_and_run(net, tmp_path, weights):
    out, result, checkpoint = (tmp_path / n for n in ("masks.npz", "result", "net.safetensors"))
    run("prune", net, out, "--density", "0.3", "--across", "lamp")
    table, _ = run("convert", out, result, *FAST, "--graph", net, "--weights", net)
    assert "2 converted" in table
    found = Conversion.load(result)
    assert found.report.converted.density_before == pytest.approx(0.3, abs=1e-3)
    assert found.report.converted.density_after <= found.report.converted.density_before
    run("export", net, checkpoint, "--layouts", result, "--residual", "drop")
    whole = {name: np.ones(shape, bool) for name, shape in SHAPES.items()}
    masks = whole | {name: layout.to_mask() for name, layout in found.layouts.items() if layout}
    wanted = by_onnxruntime(weights, masks, tmp_path / "blocks.onnx")
    assert close(runtime.load(checkpoint, backend="reference")(IMAGES), wanted)


def saved(path, shapes, nodes):
    """Write a network of 3 x 8 x 8 images whose layers have random weights."""
    rng = np.random.default_rng(0)
    constants = {f"{n}.weight": rng.standard_normal(s).astype("f") for n, s in shapes.items()}
    onnx.save(model(nodes, constants, [("x", [1, 3, 8, 8])]), path)
    return path


def test_layers_that_keep_every_weight_are_exported_dense(tmp_path):
    """Also depthwise convolutions, whose blocks would be one for each channel."""
    net = saved(
        tmp_path / "net.onnx",
        {"stem": (8, 3, 3, 3), "deep": (8, 1, 3, 3), "conv": (12, 8, 1, 1), "fc": (5, 12)},
        [
            node("Conv", ["x", "stem.weight"], ["a"], "stem"),
            node("Conv", ["a", "deep.weight"], ["b"], "deep", group=8),
            node("Conv", ["b", "conv.weight"], ["c"], "conv"),
            node("GlobalAveragePool", ["c"], ["d"]),
            node("Flatten", ["d"], ["e"]),
            node("Gemm", ["e", "fc.weight"], ["y"], transB=1),
        ],
    )
    out, checkpoint = tmp_path / "masks.npz", tmp_path / "net.safetensors"
    table, _ = run("prune", net, out, "--density", "0.5")
    assert "dense: deep (a depthwise convolution)" in table
    run("export", net, checkpoint, "--masks", out, "--residual", "keep")
    layers = json.loads(run("inspect", checkpoint, "--json")[0])["layers"]
    stored = {one["name"]: one["density"] for one in layers}
    assert [name for name, density in stored.items() if density == 1] == ["stem", "deep", "fc"]


def test_a_transposed_convolution_is_said_to_stay_dense(tmp_path):
    net = saved(
        tmp_path / "net.onnx",
        {"stem": (8, 3, 3, 3), "conv": (12, 8, 1, 1), "up": (12, 4, 2, 2)},
        [
            node("Conv", ["x", "stem.weight"], ["a"], "stem"),
            node("Conv", ["a", "conv.weight"], ["b"], "conv"),
            node("ConvTranspose", ["b", "up.weight"], ["y"], strides=[2, 2]),
        ],
    )
    out = tmp_path / "masks.npz"
    _, stderr = run("prune", net, out, "--density", "0.25")
    assert "layer 'up' stays dense, without a mask" in only_line(stderr)
    assert sorted(masktools.load_masks(out)) == ["conv", "stem"]
    weights = masktools.load_weights(net) | {"up": np.arange(192.0).reshape(12, 4, 2, 2)}
    for called in ("conv", "model.conv"):  # names are matched beside it, too
        given = {n.replace("conv", called): w for n, w in weights.items()}
        if called != "conv":
            given["model.stem"] = given.pop("stem")
        masks = masktools.prune.magnitude(given, 0.5, across="uniform", graph=net)
        assert (masks["up"].sum(), masks[called].sum()) == (96, 48)
        assert np.array_equal(masks["up"], given["up"] >= 96)


# Refusals


def test_prune_never_writes_over_its_input(tmp_path, weights):
    path = tmp_path / "net.npz"
    np.savez(path, **weights)
    before = path.read_bytes()
    (tmp_path / "link.npz").symlink_to(path)
    for out in (path, tmp_path / "link.npz"):
        _, stderr = run("prune", path, out, "--density", "0.2", status=1)
        assert "it is an input as well; write the result elsewhere" in only_line(stderr)
        assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--density", "0"], "density 0.0 keeps none of the 3456 weights in the layers to prune"),
        (["--density", "0.2", "--skip", "conv9"], "skip: there is no layer 'conv9'; there are"),
        (["--density", "0.2", "--skip", "conv1", "--skip", "conv2"], "there is no layer to prune"),
    ],
)
def test_prune_refuses_in_one_line_and_leaves_no_file(net, tmp_path, arguments, said):
    _, stderr = run("prune", net, tmp_path / "masks.npz", *arguments, status=1)
    assert said in only_line(stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_prune_refuses_places_and_endings_before_it_reads(net, tmp_path, monkeypatch):
    def read(*_):
        raise AssertionError("it was read")

    monkeypatch.setattr("masktools.cli.prune._read", read)
    for name in ("masks.onnx", "masks", "masks.json"):
        _, stderr = run("prune", net, tmp_path / name, "--density", "0.2", status=1)
        assert "masks are saved as .safetensors, .npz, .pt; end it in one" in only_line(stderr)
    _, stderr = run("prune", net, tmp_path / "no" / "masks.npz", "--density", "0.2", status=1)
    assert "there is no folder" in only_line(stderr)


def test_weights_that_are_not_finite_are_refused(tmp_path, weights):
    weights["conv2"][1, 2, 0, 1] = np.nan
    np.savez(tmp_path / "net.npz", **weights)
    out = tmp_path / "masks.npz"
    _, stderr = run("prune", tmp_path / "net.npz", out, "--density", "0.2", status=1)
    assert "conv2" in only_line(stderr)
    assert "nan" in stderr
    assert not out.exists()


def test_names_are_for_files_of_weights(net, tmp_path, weights):
    np.savez(tmp_path / "net.npz", **weights)
    (tmp_path / "names.json").write_text(json.dumps({"conv1": "first.conv"}))
    out, named = tmp_path / "m.npz", ("--names", tmp_path / "names.json")
    run("prune", tmp_path / "net.npz", out, "--density", "0.2", *named)
    assert sorted(masktools.load_masks(out)) == ["conv2", "fc", "first.conv", "stem"]
    _, stderr = run("prune", net, out, "--density", "0.2", *named, status=2)
    assert "--names is for files of weights" in unboxed(stderr)


def test_shapes_of_inputs_are_for_networks(net, tmp_path, weights):
    _, stderr = run(
        "prune", net, tmp_path / "m.npz", "--density", "0.2", "--input-shape", "1,3,9,8", status=1
    )
    assert "the network fixes axis 2 to 8" in only_line(stderr)
    np.savez(tmp_path / "net.npz", **weights)
    arguments = ("--density", "0.2", "--input-shape", "1,3,8,8")
    _, stderr = run("prune", tmp_path / "net.npz", tmp_path / "m.npz", *arguments, status=2)
    assert "--input-shape is for networks" in unboxed(stderr)
    _, stderr = run("prune", tmp_path / "net.npz", tmp_path / "m.npz", "--density", "2", status=2)
    assert "--density" in unboxed(stderr)
