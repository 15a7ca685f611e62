"""Calibrating by the command line: what is written, shown and refused."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import small_network
from small_network import CONV, mask
from typer.testing import CliRunner

import masktools
import runtime
from masktools.cli import app as command
from masktools.conversion.result import Conversion

SIZE = small_network.SIZE
LAST = (12, 16, 3, 3)


def run(*arguments, status=0):
    done = CliRunner().invoke(command.app, [str(a) for a in arguments])
    assert done.exit_code == status, (done.output, done.stderr)
    return done.stdout, done.stderr


@pytest.fixture
def images(tmp_path):
    path = tmp_path / "images.npy"
    rng = np.random.default_rng(0)
    rough = rng.standard_normal((96, 3, SIZE + 2, SIZE))
    np.save(path, (rough[:, :, 2:] + rough[:, :, 1:-1] + rough[:, :, :-2]).astype(np.float32))
    return path


@pytest.fixture
def labels(net, images, tmp_path):
    """The classes that the network itself names."""
    plain = tmp_path / "plain.safetensors"
    masktools.export.from_onnx(net, plain)
    path = tmp_path / "labels.npy"
    np.save(path, runtime.load(plain)(np.load(images)).argmax(axis=1))
    return path


@pytest.fixture
def ticket(tmp_path):
    path = tmp_path / "masks.npz"
    masktools.save_masks(path, {"conv.0": mask(CONV), "last.0": mask(LAST, seed=1)})
    return path


def convert(ticket, out, net, *more, status=0):
    fast = ("--method", "regroup", "--partitioner", "spectral", "--group-rows", 4)
    return run("convert", ticket, out, *fast, "--graph", net, *more, status=status)


def test_a_conversion_is_calibrated_exported_and_verified(ticket, net, images, labels, tmp_path):
    result, out = tmp_path / "result", tmp_path / "out.safetensors"
    shown, _ = convert(ticket, result, net, "--calibrate", images, "--labels", labels)
    assert "refit on 84 inputs; on the 12 inputs that were held back" in shown
    assert "the source 100.0%" in shown
    assert max(map(len, shown.splitlines())) <= 80
    report = Conversion.load(result).calibration.report
    assert report.error_after < report.error_before
    assert report.accuracy_after == report.agreement_after

    exported = json.loads(run("export", net, out, "--layouts", result, "--json")[0])
    assert exported["difference"] < 1e-5
    assert exported["calibration"]["error_after"] == report.error_after
    held, checkpoint = np.load(images)[7::8], runtime.load(out)
    made = checkpoint(held).argmax(axis=1)
    assert (made == np.load(labels)[7::8]).mean() == report.agreement_after


@pytest.mark.parametrize("method", ["refit", "statistics"])
def test_export_calibrates_a_result_that_was_not(method, ticket, net, images, tmp_path):
    result, out = tmp_path / "result", tmp_path / "out.safetensors"
    convert(ticket, result, net)
    fitting = ("--calibrate", images, "--calibrate-method", method)
    exported = json.loads(
        run("export", net, out, "--layouts", result, "--residual", "drop", *fitting, "--json")[0]
    )
    assert exported["calibration"]["method"] == method
    assert exported["difference"] < 1e-5
    assert Conversion.load(result).calibration is None
    assert not (result / "values.safetensors").exists()


def test_the_values_are_there_to_retrain_from(ticket, net, images, tmp_path):
    result = tmp_path / "result"
    convert(ticket, result, net, "--calibrate", images)
    kept, weights = masktools.load_masks(result), masktools.load_weights(result)
    values = Conversion.load(result).values
    assert set(weights) == set(kept)
    for name, weight in weights.items():
        np.testing.assert_array_equal(weight, values[f"{name}.weight"])
        assert not weight[~kept[name]].any()
        assert weight.any()


def test_json_has_the_calibration(ticket, net, images, tmp_path):
    found = json.loads(
        convert(ticket, tmp_path / "result", net, "--calibrate", images, "--json")[0]
    )
    assert [row["layer"] for row in found["calibration"]["layers"]] == ["conv.0", "last.0", "head"]
    assert found["calibration"]["accuracy_after"] is None


def test_options_that_do_not_go_together_are_refused(ticket, net, images, tmp_path):
    out = tmp_path / "result"
    told = [
        run("convert", ticket, out, "--method", "regroup", "--calibrate", images, status=2),
        convert(ticket, tmp_path / "m.npz", net, "--calibrate", images, status=2),
        convert(ticket, out, net, "--labels", images, status=2),
        run("export", net, out, "--calibrate", images, status=2),
    ]
    for (_, stderr), word in zip(told, ("--graph", "folder", "belong", "--layouts"), strict=True):
        assert word in stderr
    assert not out.exists()


def test_inputs_that_do_not_fit_lose_nothing(ticket, net, images, tmp_path, monkeypatch):
    result = tmp_path / "result"
    convert(ticket, result, net)
    before = {path.name: path.read_bytes() for path in result.iterdir()}
    few = tmp_path / "few.npy"
    np.save(few, np.load(images)[:20])
    monkeypatch.setattr("masktools.conversion.convert.convert", None)  # Told before any work.
    _, stderr = convert(ticket, result, net, "--calibrate", few, status=1)
    assert stderr.startswith("masktools: 20 samples are too few to calibrate on")
    assert len(stderr.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in result.iterdir()} == before


def test_weights_of_another_network_are_noted(module, net, images, tmp_path):
    kept = {"conv.0": mask(CONV), "last.0": mask(LAST, seed=1)}
    weights = {"conv.0": module.conv[0].weight, "last.0": module.last[0].weight}
    for factor, notes in ((1, 0), (2, 1)):
        ticket = tmp_path / f"{factor}.npz"
        arrays = {n: factor * w.detach().numpy() * kept[n] for n, w in weights.items()}
        np.savez(ticket, **arrays)
        _, stderr = convert(ticket, tmp_path / str(factor), net, "--calibrate", images)
        assert stderr.count("are not those of the network") == notes


def test_a_result_of_another_network_is_refused(ticket, net, images, module, tmp_path):
    result, out = tmp_path / "result", tmp_path / "out.safetensors"
    convert(ticket, result, net, "--calibrate", images)
    model = onnx.load(net)
    for tensor in model.graph.initializer:
        if tensor.name == "stem.weight":
            array = onnx.numpy_helper.to_array(tensor)[..., :1].repeat(5, -1)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    for node in model.graph.node:
        if "stem.weight" in node.input:
            for attribute in node.attribute:
                if attribute.name == "kernel_shape":
                    attribute.ints[:] = [3, 5]
                if attribute.name == "pads":
                    attribute.ints[:] = [1, 2, 1, 2]
    del model.graph.value_info[:]
    other = tmp_path / "other.onnx"
    onnx.save(model, other)
    _, stderr = run("export", other, out, "--layouts", result, status=1)
    assert "calibrated value 'stem.weight'" in stderr
    assert not out.exists()
