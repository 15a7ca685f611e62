"""The command `convert`: what it writes and prints, and how an interrupted run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from ticket_commands import FAST, SHAPES, only_line, run, unboxed, write_onnx

import masktools
from masktools.conversion.result import Conversion
from masktools.conversion.resume import FOLDER, count


@pytest.fixture(autouse=True)
def _one_worker(monkeypatch):
    monkeypatch.setattr("masktools.conversion.workers.cores", lambda: 1)


def test_convert_writes_a_result_folder_that_inspect_reads(ticket, tmp_path):
    stdout, stderr = run("convert", ticket, tmp_path / "out", *FAST, "--density", "0.2")
    assert "2 converted" in stdout
    assert "dense: stem" in stdout
    assert stderr == ""
    result = Conversion.load(tmp_path / "out")
    assert list(result.layouts) == ["conv1", "conv2"]
    assert result.report.options["density"] == 0.2
    again, _ = run("inspect", tmp_path / "out")
    assert again == stdout
    assert not (tmp_path / "out" / FOLDER).exists()


def test_convert_prints_one_json_object(ticket, tmp_path):
    stdout, stderr = run("convert", ticket, tmp_path / "out", *FAST, "--json")
    data = json.loads(stdout)
    assert data["out"] == str(tmp_path / "out")
    assert [row["layer"] for row in data["layers"]] == list(SHAPES)
    assert data["converted"]["stored"] <= data["converted"]["kept"]
    assert stderr == ""
    shown, _ = run("inspect", tmp_path / "out", "--json")
    assert json.loads(shown)["layers"] == data["layers"]


def test_convert_gives_what_the_function_gives(ticket, tmp_path):
    run("convert", ticket, tmp_path / "out", *FAST, "--density", "0.3", "--skip", "conv2")
    masks, weights = masktools.load_masks(ticket), masktools.load_weights(ticket)
    result = masktools.convert(
        masks,
        weights,
        method="regroup",
        density=0.3,
        skip=["conv2"],
        partitioner="spectral",
        group_rows=4,
    )
    result.save(tmp_path / "same")
    for name in ("masks.safetensors", "layouts.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "same" / name).read_bytes()


def test_convert_shares_the_density_as_it_is_asked_to(ticket, tmp_path):
    arguments = ("convert", ticket, tmp_path / "out", *FAST, "--density", "0.1")
    found = {}
    for law in ("log-share", "share", "absolute", "erk", "own"):
        data = json.loads(run(*arguments, "--across", law, "--json")[0])
        assert data["options"]["across"] == law
        assert Conversion.load(tmp_path / "out").report.options["across"] == law
        shares = [row["budget_share"] for row in data["layers"]]
        assert [share is None for share in shares] == [True, False, False, True]
        assert sum(filter(None, shares)) == pytest.approx(1)
        found[law] = [row["stored"] for row in data["layers"]]
    assert json.loads(run(*arguments, "--json")[0])["layers"][1]["stored"] == found["log-share"][1]
    assert len({tuple(stored) for stored in found.values()}) > 1
    _, stderr = run("convert", ticket, tmp_path / "out", *FAST, "--across", "erk", status=2)
    assert "give a density" in unboxed(stderr)
    _, stderr = run(*arguments, "--across", "layers", status=2)
    assert "log-share" in stderr


def test_convert_shows_what_each_layer_takes_of_the_budget(ticket, tmp_path):
    arguments = ("convert", ticket, tmp_path / "out", *FAST, "--density", "0.1")
    table, _ = run(*arguments)
    assert {"retained", "budget"} <= set(" ".join(table.splitlines()[:2]).split())
    for row in json.loads(run(*arguments, "--json")[0])["layers"]:
        line = next(line for line in table.splitlines() if line.split()[:1] == [row["layer"]])
        assert ("%" in line) == (row["budget_share"] is not None)
        if row["budget_share"] is not None:
            assert f"{row['budget_share']:.1%}" in line.split()


@pytest.mark.parametrize("saliency", ["input", "error"])
def test_saliency_from_inputs_is_found_by_running_the_network(ticket, tmp_path, weights, saliency):
    from masktools.calibration.columns import column_norms
    from masktools.network.onnx.reader import read_onnx
    from runtime import prepare

    write_onnx(tmp_path / "net.onnx", weights)
    images = np.random.default_rng(0).standard_normal((40, 3, 8, 8)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    arguments = ["convert", ticket, tmp_path / "out", *FAST, "--density", "0.1"]
    arguments += ["--graph", tmp_path / "net.onnx"]
    inputs = ("--saliency", saliency, "--calibrate", tmp_path / "images.npy")
    data = json.loads(run(*arguments, *inputs, "--json")[0])
    assert data["options"]["saliency"] == saliency
    graph = read_onnx(tmp_path / "net.onnx")
    norms = column_norms(graph, ["conv1", "conv2"], saliency, images, prepare)
    masks, values = masktools.load_masks(ticket), masktools.load_weights(ticket)
    options = {"method": "regroup", "density": 0.1, "group_rows": 4, "partitioner": "spectral"}
    options |= {"graph": graph, "progress": False}
    expected = masktools.convert(masks, values, saliency=saliency, norms=norms, **options)
    expected = expected.calibrated(
        masktools.calibrate(graph, expected, images, run=prepare, progress=False)
    )
    assert Conversion.load(tmp_path / "out").layouts == expected.layouts
    assert expected.layouts != masktools.convert(masks, values, **options).layouts
    np.save(tmp_path / "images.npy", images.astype(np.float64))
    _, stderr = run(*arguments, *inputs, status=1)
    assert "images.npy: holds float64" in only_line(stderr)
    masktools.save_masks(tmp_path / "masks.safetensors", masks)
    np.save(tmp_path / "images.npy", images)
    arguments[1] = tmp_path / "masks.safetensors"
    _, stderr = run(*arguments, *inputs, status=1)
    assert "masks.safetensors holds no weights: --saliency" in only_line(stderr)


@pytest.mark.parametrize("ending", [".safetensors", ".npz", ".pt"])
def test_convert_writes_masks_alone(ticket, tmp_path, ending):
    out = tmp_path / f"masks{ending}"
    run("convert", ticket, out, "--method", "refill-plus", "--extra", "0.5", "--include", "fc")
    masks = masktools.load_masks(out)
    assert set(masks) == set(SHAPES)
    for name in ("conv1", "conv2", "fc"):
        rows = masks[name].reshape(len(masks[name]), -1)
        assert (rows.all(axis=1) == rows.any(axis=1)).all()
    assert sorted(tmp_path.iterdir()) == sorted([ticket, out])


@pytest.mark.parametrize("name", ["masks.pth", "pruned.onnx", "masks.h5"])
def test_convert_makes_no_folder_of_a_files_name(ticket, tmp_path, name):
    _, stderr = run("convert", ticket, tmp_path / name, "--method", "refill", status=1)
    assert f"{name}: a folder with masks and a report is no" in stderr
    assert "masks alone end in .safetensors, .npz, .pt" in stderr
    assert list(tmp_path.iterdir()) == [ticket]


def test_weights_may_come_from_another_file_or_from_none(ticket, tmp_path, weights):
    masks = {name: mask.astype(np.uint8) for name, mask in masktools.load_masks(ticket).items()}
    masktools.save_masks(tmp_path / "masks.npz", masks)
    np.savez(tmp_path / "weights.npz", **weights)
    arguments = (
        "convert",
        tmp_path / "masks.npz",
        tmp_path / "out",
        "--method",
        "refill",
        "--json",
    )
    alone, stderr = run(*arguments)
    assert "holds no weights" in only_line(stderr)
    retained = json.loads(alone)["converted"]["saliency"]
    assert retained == sum(masks[name].sum() for name in ("conv1", "conv2"))
    both, stderr = run(*arguments, "--weights", tmp_path / "weights.npz")
    assert stderr == ""
    assert json.loads(both)["converted"]["saliency"] != retained


def test_a_graph_counts_multiplications_and_names_the_limit(ticket, tmp_path, weights):
    path = tmp_path / "net.onnx"
    write_onnx(path, weights)
    arguments = ("convert", ticket, tmp_path / "out", *FAST, "--graph", path, "--density", "0.2")
    stdout, stderr = run(*arguments, "--by", "multiplications")
    assert "limit" in stdout
    assert "dense: stem (the first layer)" in stdout
    assert "dense: fc (the classifier)" in stdout
    assert stderr == ""
    report = Conversion.load(tmp_path / "out").report
    assert 0.1 < report.converted.multiplication_density_after <= 0.2
    assert report.total.limit > 2
    cost = report.cost
    for how, of in (("inside the image", "inside"), ("with padding", "padded")):
        dense, before, after = (getattr(cost[case], of) for case in ("dense", "before", "after"))
        assert f"{how}, {dense:,}: {before:,} → {after:,}\n" in stdout
    data = json.loads(run("inspect", tmp_path / "out", "--json")[0])
    assert data["cost"]["after"] == {"inside": cost["after"].inside, "padded": cost["after"].padded}
    assert data["excluded"] == {"stem": "the first layer", "fc": "the classifier"}


def test_a_converted_network_is_exported_and_verified(ticket, tmp_path, weights):
    run("convert", ticket, tmp_path / "out", *FAST, "--density", "0.3")
    write_onnx(tmp_path / "net.onnx", weights)
    checkpoint = tmp_path / "net.safetensors"
    arguments = ("export", tmp_path / "net.onnx", checkpoint, "--layouts", tmp_path / "out")
    _, stderr = run(*arguments, status=1)
    assert "lie outside the dense blocks" in only_line(stderr)
    assert not checkpoint.exists()
    stdout, _ = run(*arguments, "--residual", "drop", "--json")
    data = json.loads(stdout)
    assert data["sparse_layers"] == 2
    assert data["difference"] < 1e-5
    report = Conversion.load(tmp_path / "out").report
    shown, _ = run("inspect", checkpoint)
    assert all(name in shown for name in SHAPES)
    assert "limit" in shown
    assert "inside the image" in shown
    data = json.loads(run("inspect", checkpoint, "--json")[0])
    assert {layer["name"]: layer["stored"] for layer in data["layers"]} == {
        row.layer: row.stored for row in report
    }
    assert [layer["blocks"] > 0 for layer in data["layers"]] == [False, True, True, False]
    pixels = {"stem": 64, "conv1": 64, "conv2": 64, "fc": 1}
    for layer in data["layers"]:
        assert layer["padded"] == layer["size"] * pixels[layer["name"]]
        assert layer["padded_stored"] == layer["stored"] * pixels[layer["name"]]
    assert f"{sum(layer['padded_stored'] for layer in data['layers']):,} with padding" in shown


def test_masks_of_a_result_are_not_written_over(ticket, tmp_path):
    result = tmp_path / "out"
    run("convert", ticket, result, *FAST)
    arguments = ("convert", result, result / "masks.safetensors", *FAST)
    assert "it is an input as well" in only_line(run(*arguments, status=1)[1])
    assert Conversion.load(result).layouts


def test_an_existing_result_is_replaced_and_a_strange_folder_is_not(ticket, tmp_path):
    out = tmp_path / "out"
    run("convert", ticket, out, "--method", "refill")
    run("convert", ticket, out, "--method", "refill", "--density", "0.1")
    assert Conversion.load(out).report.options["density"] == 0.1
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "thesis.txt").write_text("years")
    _, stderr = run("convert", ticket, tmp_path / "strange", "--method", "refill", status=1)
    assert "strange: it is not empty, and not a result of masktools" in only_line(stderr)
    assert [path.name for path in (tmp_path / "strange").iterdir()] == ["thesis.txt"]


def test_an_interrupted_run_says_how_to_go_on(ticket, tmp_path, monkeypatch):
    from masktools.conversion import workers

    find, calls = workers.find, []

    def interrupted(job):
        calls.append(job.layer)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return find(job)

    monkeypatch.setattr(workers, "find", interrupted)
    out = tmp_path / "out"
    _, stderr = run("convert", ticket, out, *FAST, status=130)
    assert only_line(stderr) == (
        "masktools: interrupted; 1 layer is done, --resume goes on from there\n"
    )
    stdout, _ = run("convert", ticket, out, *FAST, "--resume", "--json")
    assert calls == ["conv2", "conv1", "conv1"]
    resumed = {row["layer"]: row["resumed"] for row in json.loads(stdout)["layers"]}
    assert resumed == {"stem": False, "conv1": False, "conv2": True, "fc": False}
    run("convert", ticket, out, *FAST)
    assert len(calls) == 5


def test_a_real_process_can_be_interrupted_and_resumed(tmp_path):
    # KaHyPar works for many seconds on these layers, so the interrupt comes while workers run.
    rng = np.random.default_rng(0)
    path, out = tmp_path / "large.npz", tmp_path / "out"
    np.savez(path, small=rng.random((16, 16)) < 0.3, large=rng.random((768, 2304)) < 0.3)
    arguments = [path, out, "--method", "regroup", "--include", "large", "--group-rows", "8"]
    # Tests that run in the background may ignore interrupts, and a child would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "masktools", "convert", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "LOKY_MAX_CPU_COUNT": "2"},
        start_new_session=True,
    )
    signal.signal(signal.SIGINT, before)
    while not count(out / FOLDER):
        assert process.poll() is None, process.communicate()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to parent and workers
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert stdout == ""
    assert "1 layer is done" in only_line(stderr)


def test_thresholds_are_given_as_to_the_function(ticket, tmp_path):
    given = {
        "row_groups": 2,
        "min_column_nonzeros": 3,
        "min_rows": 4,
        "min_columns": 5,
        "passes": 1,
        "without_blocks": "empty",
    }
    spelled = [word for name, n in given.items() for word in (f"--{name.replace('_', '-')}", n)]
    run("convert", ticket, tmp_path / "out", *FAST, *spelled)
    masks, weights = masktools.load_masks(ticket), masktools.load_weights(ticket)
    same = masktools.convert(
        masks, weights, method="regroup", partitioner="spectral", group_rows=4, **given
    )
    found = Conversion.load(tmp_path / "out")
    assert found.layouts == same.layouts
    assert found.report.options == same.report.options


@pytest.mark.parametrize(
    ("fate", "said"),
    [
        ("mask", "no block found: conv1, conv2 (the mask is kept, row by row)"),
        ("dense", "no block found: conv1, conv2 (stays dense)"),
        ("empty", "no block found: conv1, conv2 (nothing is stored)"),
    ],
)
def test_layers_without_a_block_are_told_and_exported(ticket, tmp_path, weights, fate, said):
    arguments = ("--method", "regroup", "--preset", "released", "--without-blocks", fate)
    stdout, stderr = run("convert", ticket, tmp_path / "out", *arguments)
    assert said in stdout
    assert [line.split()[4] for line in stdout.splitlines() if line.startswith("conv")] == [
        fate
    ] * 2
    assert stderr == ""
    assert run("inspect", tmp_path / "out")[0] == stdout
    write_onnx(tmp_path / "net.onnx", weights)
    network = ("export", tmp_path / "net.onnx", tmp_path / "net.safetensors", "--json")
    exported, _ = run(*network, "--layouts", tmp_path / "out", "--residual", "drop")
    data = json.loads(exported)
    assert data["difference"] < 1e-5
    report = Conversion.load(tmp_path / "out").report
    layers = json.loads(run("inspect", tmp_path / "net.safetensors", "--json")[0])["layers"]
    if fate != "empty":  # what empty layers leave is a constant, and is cut
        assert [layer["stored"] for layer in layers] == [row.stored for row in report]


def test_thresholds_beside_a_density_are_a_usage_error(ticket, tmp_path):
    arguments = ("convert", ticket, tmp_path / "out", *FAST, "--min-rows", "8", "--density", "0.2")
    _, stderr = run(*arguments, status=2)
    assert "density and thresholds exclude each other" in unboxed(stderr)
