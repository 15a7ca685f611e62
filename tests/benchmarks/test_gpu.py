"""The GPU benchmark, every part of it, with a fake device and no cuDNN."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fake_cupy
import numpy as np
import pytest
import torch
from paths import GOLDEN as DATA
from paths import ROOT, TESTS

sys.path.append(str(ROOT))

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import cases, cudnn, report
from runtime.cuda import tuning
from runtime.cuda.driver import current_device

GOLDEN = DATA / "minimal.safetensors"
PASSED = "..\n12 passed in 3.00s\n"


@pytest.fixture
def cupy(monkeypatch, tmp_path):
    fake = fake_cupy.install(monkeypatch, tmp_path)
    fake.cuda.get_elapsed_time = lambda begin, end: 2.0
    monkeypatch.setenv("MASKTOOLS_CUDA_TUNE", "1")  # main sets it; this takes it back.
    for module in (cases, tuning):
        monkeypatch.setattr(module, "COPIES", 1)
    monkeypatch.setattr(tuning, "TIMED", 1)
    monkeypatch.setattr(gpu, "ceilings", lambda device: {"copy, B/s": 1e12})
    monkeypatch.setattr(gpu, "cudnn_layer", lambda *_: {"NCHW fused": 1e-2, "NHWC fused": "no"})
    monkeypatch.setattr(gpu, "cudnn_network", lambda *_: {"NHWC apart": 4e-3})
    monkeypatch.setattr(gpu, "LAYERS", [(32, 3)])
    monkeypatch.setattr(gpu, "HEIGHTS", {"float32": (32,), "tf32": (32,), "float16": (32,)})
    return fake


@pytest.fixture
def ran(monkeypatch):
    """Commands that would have been run, each with an outcome to give."""
    commands = []

    def run(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, PASSED, "")

    replace_run(monkeypatch, run)
    return commands


def replace_run(monkeypatch, run):
    """Let the benchmark, and nothing else, run commands by another function."""
    errors = {name: getattr(subprocess, name) for name in ("TimeoutExpired", "CalledProcessError")}
    monkeypatch.setattr(gpu, "subprocess", SimpleNamespace(run=run, **errors))


def results(folder, *arguments):
    """Run the benchmark and return its exit status and its record."""
    path = folder / "gpu.json"
    status = gpu.main([*arguments, "--batch", "2", "--output", str(path), "--commit", "abc"])
    return status, json.loads(path.read_text())


def test_layers_are_tuned_checked_and_compared(cupy, ran, tmp_path, capsys):
    status, record = results(tmp_path, "--parts", "ceilings", "layers")
    assert status == 0
    assert record["environment"]["commit"] == "abc"
    assert record["ceilings"] == [{"unit": "copy, B/s", "rate": 1e12}]
    lines = record["layers"]
    assert {(r["dtype"], r["density"]) for r in lines} == {
        (dtype, density) for dtype in gpu.HEIGHTS for density in report.DENSITIES
    }
    for row in lines:
        assert row["speed-up"] == pytest.approx(1e-2 / 2e-3)
        assert row["goal"] == report.GOALS[row["dtype"]][row["density"]]
    shown = capsys.readouterr().out
    assert "layers, float32, density 0.1: over cuDNN" in shown
    assert shown.rstrip().splitlines()[-1].startswith("└")  # The summary is what comes last.


def test_a_wrong_result_is_no_figure(cupy, ran, tmp_path, monkeypatch):
    monkeypatch.setattr(cases, "TOLERANCE", {"float32": 0.0})
    status, record = results(tmp_path, "--parts", "layers", "--dtypes", "float32")
    assert status == 1
    assert record["layers"] == []
    assert "off by" in record["failed"]["layers"]


def ticket(folder):
    """Write a ticket of thirteen small layers."""
    blocks = [[list(range(32)), list(range(0, 72, 5))]]
    layers = {f"l{i}": {"shape": [40, 8, 3, 3], "blocks": blocks} for i in range(13)}
    path = folder / "ticket.json"
    path.write_text(json.dumps({"layers": layers}))
    return path


def test_the_ticket_is_timed_at_its_own_sizes_and_at_the_papers(cupy, ran, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "SIZES", (3,) * 13)
    monkeypatch.setattr(gpu, "PAPER_SIZE", 4)
    monkeypatch.setattr(gpu, "PARTS", {n: gpu.PARTS[n] for n in ("ticket", "paper")})
    path = str(ticket(tmp_path))
    status, record = results(tmp_path, "--ticket", path, "--dtypes", "float32")
    assert status == 0
    assert [r["layer"] for r in record["ticket"]] == [f"l{i} 40x8x3x3 @3" for i in range(13)]
    assert {r["layer"].split("@")[1] for r in record["paper"]} == {"4"}


def test_networks_say_what_is_saved_and_what_the_host_takes(
    cupy, ran, tmp_path, monkeypatch, capsys
):
    dense, taken = {"vgg16-dense": 500}, {"seconds": 2e-3, "steps": 1e-3, "host": 9e-6}
    monkeypatch.setattr(cases, "export", lambda folder, network, masks, name: Path(name))
    monkeypatch.setattr(cases, "masks_of", lambda *_: {})
    monkeypatch.setattr(cases, "images", lambda *_: np.zeros((2, 3, 4, 4)))
    monkeypatch.setattr(cases, "multiplications", lambda path, _: dense.get(path.name, 200))
    monkeypatch.setattr(cases, "network_seconds", lambda *_: taken)
    monkeypatch.setattr(gpu, "NETWORKS", ("vgg16",))
    status, record = results(tmp_path, "--parts", "networks", "--dtypes", "float32")
    assert status == 0
    masks = ["20% in groups of 32", "10% in groups of 32", "dense"]
    assert [r["masks"] for r in record["networks"]] == masks
    row = record["networks"][0]
    assert (row["saved"], row["limit"], row["share of limit"]) == pytest.approx((0.5, 2.5, 0.8))
    shown = capsys.readouterr().out
    assert "64.9% (0.85 of it)" in shown
    assert "9.0 at most" in shown


def test_a_network_is_timed_from_array_to_array(cupy):
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8), np.float32)
    model = cases.runtime.load(GOLDEN, "reference")
    x = np.resize(x, (2, *model.inputs[0].shape[1:])).astype(np.float32)
    taken = cases.network_seconds(current_device(cupy), GOLDEN, x, "float32")
    assert taken["seconds"] == pytest.approx(2e-3 / 20)
    assert taken["error"] < 1e-5
    assert taken["kernels"]


def test_tests_and_sanitizers_run_apart_and_are_told(cupy, ran, tmp_path, monkeypatch, capsys):
    status, record = results(tmp_path, "--parts", "tests", "sanitizer")
    assert status == 0
    assert [r["outcome"] for r in record["tests"]] == ["12 passed in 3.00s"]
    assert [r["what"] for r in record["sanitizer"]] == list(gpu.SANITIZERS)
    assert [command[0] for command in ran[-3:]] == ["compute-sanitizer"] * 3

    def fails(command, **_):
        raise FileNotFoundError("compute-sanitizer")

    replace_run(monkeypatch, fails)
    status, record = results(tmp_path, "--parts", "tests")
    assert status == 1
    assert record["tests"][0]["outcome"] == "compute-sanitizer"


def test_time_that_is_over_ends_a_part_and_keeps_its_lines(cupy, ran, tmp_path, capsys):
    status, record = results(tmp_path, "--parts", "layers", "ceilings", "--minutes", "0")
    assert status == 1
    assert len(record["layers"]) == 1
    assert record["failed"] == {
        "layers": "out of time after 1 lines",
        "ceilings": "out of time after 1 lines",
    }
    assert "layers is not complete" in capsys.readouterr().out


def test_what_is_quick_needs_no_ticket(cupy):
    options = gpu.parsed(["--quick"])
    assert options.parts == ["ceilings", "tests", "sanitizer", "layers", "networks"]
    assert gpu.parsed(["--ticket", "t.json"]).parts == list(gpu.PARTS)


def test_the_sanitized_tests_exist():
    text = (TESTS / "runtime" / "cuda" / "test_steps.py").read_text(encoding="utf-8")
    for chosen in gpu.SANITIZED.split(" or "):
        assert any(chosen in line for line in text.splitlines() if line.startswith("def test_"))


def test_of_many_ways_the_fastest_that_ran_counts():
    ways = {"NCHW": "not supported", "NHWC": 2.0, "NHWC fused": 1.0}
    assert cudnn.best(ways) == ("NHWC fused", 1.0)
    with pytest.raises(RuntimeError, match="cuDNN ran nothing"):
        cudnn.best({"NCHW": "not supported"})


@pytest.mark.parametrize("network", ["resnet18-cifar", "vgg16"])
def test_fused_epilogues_compute_the_same(network):
    module = gpu.zoo.make(network).eval()
    x = torch.from_numpy(cases.images(network, 1))
    with torch.inference_mode():
        wanted = module(x)
        for variant in cudnn.network_variants(module).values():
            torch.testing.assert_close(variant(x), wanted, rtol=1e-3, atol=1e-4)
