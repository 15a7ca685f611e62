"""The command line: what it prints where, what it writes, and its exit status."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file
from ticket_commands import FAST, SHAPES, only_line, run, unboxed, write_onnx

import masktools
from masktools.checkpoint import Checkpoint, write
from masktools.conversion.result import Conversion
from masktools.conversion.resume import FOLDER
from masktools.network.graph import Graph, Node, Value

NAMES = ("a[/b]", "a[red]b", "a\x1b[2Jb", "a\nb")
SHOWN = ("a[/b]", "a[red]b", "a\\x1b[2Jb", "a\\nb")


@pytest.fixture(autouse=True)
def _one_worker(monkeypatch):
    monkeypatch.setattr("masktools.conversion.workers.cores", lambda: 1)


def test_inspect_shows_tool_layers_densities_and_assumptions(ticket):
    stdout, stderr = run("inspect", ticket)
    assert "ticket.npz" in stdout
    assert "assumed" in stdout
    assert all(name in stdout for name in SHAPES)
    assert stderr == ""


def test_inspect_prints_one_json_object(ticket, weights):
    stdout, stderr = run("inspect", ticket, "--json")
    data = json.loads(stdout)
    kept = {name: int((np.abs(w) > 1).sum()) for name, w in weights.items()}
    assert {layer["name"]: layer["kept"] for layer in data["layers"]} == kept
    assert data["density"] == pytest.approx(
        sum(kept.values()) / sum(w.size for w in weights.values())
    )
    assert stderr == ""


def test_inspect_counts_the_residual_of_a_checkpoint(ticket, tmp_path, weights):
    from masktools.export import from_onnx

    run("convert", ticket, tmp_path / "out", *FAST, "--density", "0.3")
    write_onnx(tmp_path / "net.onnx", weights)
    result, masks = Conversion.load(tmp_path / "out"), masktools.load_masks(ticket)
    layouts, path = result.layouts, tmp_path / "kept.safetensors"
    from_onnx(tmp_path / "net.onnx", path, layouts=layouts, masks=masks, residual="keep")
    data = json.loads(run("inspect", path, "--json")[0])
    residual = {layer["name"]: layer["residual"] for layer in data["layers"]}
    assert residual["conv1"] == layouts["conv1"].residual(masks["conv1"]).sum() > 0
    stored = {layer["name"]: layer["stored"] for layer in data["layers"]}
    assert stored["conv1"] == layouts["conv1"].stored + residual["conv1"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["inspect", "{missing}"], "missing"),
        (["inspect", "{text}"], "text"),
        (["convert", "{missing}", "{out}", "--method", "refill"], "missing"),
        (["convert", "{ticket}", "{ticket}", "--method", "refill"], "it is an input as well"),
        (["convert", "{ticket}", "{out}", "--method", "refill", "--skip", "x"], "no layer 'x'"),
        (["convert", "{ticket}", "{out}", "--method", "refill", "--names", "{text}"], "not JSON"),
        (["convert", "{ticket}", "{text}", "--method", "refill"], "it is a file"),
        (["convert", "{ticket}", "{out}/m.pt", "--method", "regroup"], "there is no folder"),
        (["export", "{ticket}", "{ticket}"], "it is an input as well"),
        (["export", "{text}", "{ticket}", "--masks", "{ticket}"], "it is an input as well"),
        (["export", "{text}", "{out}/net.safetensors"], "out/net.safetensors: there is no folder"),
        (["export", "{text}", "{begun}"], "begun: it is a folder"),
        (["inspect", "{ticket}", "--names", "{list}"], "names must map the file's names"),
        (["inspect", "{begun}"], "begun: an unfinished conversion, layers done: 0"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(ticket, tmp_path, arguments, match):
    (tmp_path / "text").write_text("nothing of use")
    (tmp_path / "list").write_text("[1, 2]")
    (tmp_path / "begun" / FOLDER).mkdir(parents=True)
    paths = {
        "missing": tmp_path / "missing.pt",
        "text": tmp_path / "text",
        "list": tmp_path / "list",
        "begun": tmp_path / "begun",
        "out": tmp_path / "out",
        "ticket": ticket,
    }
    before = ticket.read_bytes()
    stdout, stderr = run(*(a.format(**paths) for a in arguments), status=1)
    assert stdout == ""
    line = only_line(stderr)
    assert line.startswith("masktools: ")
    assert match in line
    assert ticket.read_bytes() == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "method"),
        (["--method", "prune"], "prune"),
        (["--method", "refill", "--density", "1.5"], "--density"),
        (["--method", "refill", "--by", "multiplications"], "needs a graph"),
        (["--method", "refill", "--extra", "0.5"], "refill-plus"),
        (["--method", "regroup", "--criterion", "count"], "regroup picks no rows"),
        (["--method", "refill", "--group-rows", "8"], "regroup"),
        (["--method", "refill", "--partitioner", "best"], "regroup"),
        (["--method", "refill", "--saliency", "error"], "needs --calibrate INPUTS"),
        (
            ["--method", "refill", "--saliency", "input", "--calibrate", "x"],
            "--calibrate needs --graph",
        ),
        (["--method", "refill", "--calibrate", "x"], "--calibrate needs --graph"),
        (["--method", "refill", "--faster"], "faster"),
    ],
)
def test_wrong_usage_has_a_status_of_its_own(ticket, tmp_path, arguments, match):
    stdout, stderr = run("convert", ticket, tmp_path / "out", *arguments, status=2)
    assert stdout == ""
    assert match in unboxed(stderr)


def test_the_version_is_that_of_the_package():
    assert run("--version") == (f"masktools {masktools.__version__}\n", "")


@pytest.mark.parametrize(("name", "shown"), list(zip(NAMES, SHOWN, strict=True)))
def test_a_name_is_neither_markup_nor_a_command_for_the_terminal(tmp_path, name, shown):
    save_file({name: np.eye(2, dtype=np.float32)}, tmp_path / "masks.safetensors")
    out, _ = run("inspect", tmp_path / "masks.safetensors")
    assert f"{shown} " in out
    save_file({"x": np.zeros(3, np.float32), name: np.zeros(2, np.float32)}, tmp_path / "none.npz")
    _, err = run("inspect", tmp_path / "none.npz", status=1)
    assert shown in err
    weights = {f"{name}.weight": np.ones((2, 2), np.float32)}
    node = Node(name, "Gemm", ("x", f"{name}.weight"), (f"{name}y",), {"transB": 1})
    graph = Graph((Value("x", (None, 2)),), (Value(f"{name}y", (None, 2)),), (node,), weights)
    write(tmp_path / "net.safetensors", Checkpoint(graph, producer=name))
    out, _ = run("inspect", tmp_path / "net.safetensors")
    assert out.count(shown) == 3
    command = [sys.executable, "-m", "runtime", "profile", str(tmp_path / "net.safetensors")]
    done = subprocess.run([*command, "--batch", "1"], capture_output=True, text=True, check=True)
    assert f"{shown} " in done.stdout
    assert "\x1b" not in out + err + done.stdout


def test_a_dense_weight_may_have_any_name(tmp_path):
    weights = {
        "w": np.ones((2, 2), np.float32),
        "w.weight": np.ones((3, 2), np.float16),
    }
    nodes = (
        Node("a", "Gemm", ("x", "w"), ("t",), {"transB": 1}),
        Node("b", "Gemm", ("t", "w.weight"), ("y",), {"transB": 1}),
    )
    graph = Graph((Value("x", (None, 2)),), (Value("y", (None, 3)),), nodes, weights)
    write(tmp_path / "net.safetensors", Checkpoint(graph))
    out, _ = run("inspect", tmp_path / "net.safetensors", "--json")
    found = {row["name"]: (row["shape"], row["dtype"]) for row in json.loads(out)["layers"]}
    assert found == {"w": ([2, 2], "float32"), "w.weight": ([3, 2], "float16")}


def test_a_report_holds_numbers_that_can_be_divided(tmp_path, ticket):
    run("convert", ticket, tmp_path / "out", *FAST)
    report = json.loads((tmp_path / "out/report.json").read_text())
    for huge in (10**400, 2**63, -(2**63)):
        report["total"] |= {"multiplications": huge, "multiplications_stored": 1}
        (tmp_path / "out/report.json").write_text(json.dumps(report))
        _, err = run("inspect", tmp_path / "out", status=1)
        assert "report.json" in err
        assert "multiplications has more than 64 bits" in err
