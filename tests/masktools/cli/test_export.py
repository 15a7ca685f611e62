"""Exporting by the command line, and what is never written over."""

from __future__ import annotations

import errno
import json

import numpy as np
import pytest
import torch
from command_lines import invoke
from small_network import CONV, IMAGES, Net, close, expected, mask, run

import masktools
from masktools import FormatError
from masktools.checkpoint import read
from masktools.cli.verification import TOLERANCE
from masktools.export import from_onnx, from_torch
from masktools.export.exporting import prepare
from masktools.network.onnx.reader import read_onnx


def test_the_command_writes_and_verifies(net, tmp_path):
    masktools.save_masks(tmp_path / "masks.npz", {"conv.0": mask(CONV)})
    out = tmp_path / "out.safetensors"
    stdout, _ = invoke(net, out, "--masks", tmp_path / "masks.npz", "--residual", "keep", "--json")
    report = json.loads(stdout)
    assert report["out"] == str(out)
    assert report["bytes"] == out.stat().st_size
    assert 0 <= report["difference"] < 1e-5
    assert "max|Δ| / max|y| = " in invoke(net, out)[0]
    assert json.loads(invoke(net, out, "--no-verify", "--json")[0])["difference"] is None


def test_the_command_takes_a_result(net, module, tmp_path):
    keep = mask(CONV, 0.4)
    weights = {"conv.0": module.conv[0].weight.detach().numpy() * keep}
    result = masktools.convert(
        {"conv.0": keep}, weights, method="regroup", density=0.5, group_rows=4,
        partitioner="spectral", progress=False,
    )  # fmt: skip
    result.save(tmp_path / "result")
    out = tmp_path / "out.safetensors"
    invoke(net, out, "--layouts", tmp_path / "result", "--residual", "drop")
    kept = result.layouts["conv.0"].to_mask()
    close(run(out, IMAGES), expected(module, IMAGES, **{"conv.0": kept}))


def test_a_checkpoint_keeps_the_seed_of_its_conversion(net, module, tmp_path):
    out, result = tmp_path / "out.safetensors", tmp_path / "result"
    masktools.convert(
        {"conv.0": mask(CONV)}, method="refill", seed=np.int64(7), progress=False
    ).save(result)
    arguments = (net, out, "--residual", "drop", "--no-verify")
    for layouts, seed in ((result, 7), (result / "layouts.safetensors", None)):
        invoke(*arguments, "--layouts", layouts)
        assert read(out).seed == seed
    found = masktools.Conversion.load(result)
    same = {"layouts": found.layouts, "residual": "drop", "seed": found.report.options["seed"]}
    from_onnx(net, out, **same)
    assert read(out).seed == 7
    from_torch(module, torch.from_numpy(IMAGES), out, **same)
    assert read(out).seed == 7
    report = json.loads((result / "report.json").read_text())
    report["options"]["seed"] = "seven"
    (result / "report.json").write_text(json.dumps(report))
    _, stderr = invoke(*arguments, "--layouts", result, status=1)
    assert "result: its report has the seed 'seven'" in stderr


def test_the_command_leaves_no_file_when_outputs_differ(net, tmp_path, monkeypatch):
    def wrong(network, stored):
        stored = dict(stored)
        weight = stored["head"].weight.copy()
        weight[2, 3] += 0.1
        stored["head"] = type(stored["head"])(weight)
        return network.graph, stored

    monkeypatch.setattr("masktools.export.exporting.shrink", wrong)
    _, stderr = invoke(net, tmp_path / "out.safetensors", status=1)
    assert "the checkpoint computes something else" in stderr
    assert stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_the_command_refuses_in_one_line(net, tmp_path):
    out = tmp_path / "out.safetensors"
    masktools.save_masks(tmp_path / "masks.npz", {"conv.0": mask(CONV)})
    _, stderr = invoke(net, out, "--masks", tmp_path / "masks.npz", status=1)
    assert "kept weights lie outside the dense blocks" in stderr
    invoke(net, out, "--masks", tmp_path / "masks.npz", "--layouts", tmp_path, status=2)
    invoke(tmp_path / "none.onnx", out, status=1)
    assert not out.exists()


def test_a_name_that_promises_another_format_is_refused(net, module, tmp_path):
    for name in ("out.onnx", "out.pt"):
        _, stderr = invoke(net, tmp_path / name, status=1)
        assert f"{name}: a checkpoint is no {name[3:]} file; end its name in .safeten" in stderr
        for write in (
            lambda path: from_onnx(net, path),
            lambda path: from_torch(module, torch.from_numpy(IMAGES), path),
        ):
            with pytest.raises(FormatError, match="a checkpoint is no"):
                write(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_a_residual_is_refused_by_the_options_name(net, tmp_path):
    masktools.save_masks(tmp_path / "masks.npz", {"conv.0": mask(CONV)})
    out = tmp_path / "out.safetensors"
    _, stderr = invoke(net, out, "--masks", tmp_path / "masks.npz", status=1)
    assert "--residual keep" in stderr


def test_no_input_is_written_over(net, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "masktools.network.onnx.reader.read_onnx", lambda _: pytest.fail("work was done")
    )
    result = tmp_path / "result"
    masktools.convert(
        {"conv.0": mask(CONV)}, method="regroup", partitioner="spectral", progress=False
    ).save(result)
    before = {path: path.read_bytes() for path in (net, *result.iterdir())}
    for path in before:
        _, stderr = invoke(net, path, "--layouts", result, status=1)
        assert f"{path}: it is an input as well" in stderr
    with pytest.raises(FormatError, match="it is an input as well"):
        from_onnx(net, net)
    with pytest.raises(FormatError, match="there is no folder"):
        from_torch(Net(), torch.from_numpy(IMAGES), tmp_path / "none" / "out.safetensors")
    assert {path: path.read_bytes() for path in before} == before


def test_what_cannot_be_written_is_said_of_the_file_asked_for(net, tmp_path, monkeypatch):
    def full(path, _):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("masktools.checkpoint.write", full)
    out = tmp_path / "out.safetensors"
    _, stderr = invoke(net, out, status=1)
    assert stderr == f"masktools: [Errno {errno.ENOSPC}] No space left on device: '{out}'\n"
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_verification_sees_what_is_masked(net):
    _, kept = prepare(net, masks={"conv.0": mask(CONV)}, residual="drop")
    assert not kept["conv.0"].any()
    assert kept["stem"].all()
    assert TOLERANCE <= 1e-4
    assert read_onnx(net).inputs[0].shape[0] is None
