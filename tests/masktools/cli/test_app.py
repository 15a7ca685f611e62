"""The command line: what it prints where, what it writes, and its exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

import masktools
from masktools.checkpoint import Checkpoint, write
from masktools.cli import app as command
from masktools.conversion.result import Conversion
from masktools.conversion.resume import FOLDER, count
from masktools.network.graph import Graph, Node, Value

FAST = ["--method", "regroup", "--partitioner", "spectral", "--group-rows", "4"]
SHAPES = {
    "stem": (8, 3, 3, 3),
    "conv1": (16, 8, 3, 3),
    "conv2": (16, 16, 3, 3),
    "fc": (10, 16),
}


@pytest.fixture(autouse=True)
def _one_worker(monkeypatch):
    monkeypatch.setattr("masktools.conversion.workers.cores", lambda: 1)


@pytest.fixture
def weights():
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


@pytest.fixture
def ticket(tmp_path, weights):
    """A file of masked weights, and the masks it holds."""
    path = tmp_path / "ticket.npz"
    np.savez(path, **{name: np.where(np.abs(w) > 1, w, 0) for name, w in weights.items()})
    return path


def run(*arguments, status=0):
    """Run a command in this process; return what it wrote to both streams."""
    done = CliRunner().invoke(command.app, [str(a) for a in arguments])
    assert done.exit_code == status, (done.output, done.stderr)
    return done.stdout, done.stderr


def unboxed(stderr):
    """Return the words of a usage error, which the terminal breaks into lines inside a box."""
    return " ".join(stderr.translate(dict.fromkeys(map(ord, "│─╭╮╰╯"), " ")).split())


def only_line(stderr):
    assert stderr.count("\n") == 1, stderr
    return stderr


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


def write_onnx(path, weights):
    """Write the ticket's network: three convolutions, the mean over the image, a classifier."""
    from onnx import TensorProto, helper, numpy_helper, save

    nodes, x = [], "image"
    for name in ("stem", "conv1", "conv2"):
        pads = [1, 1, 1, 1]
        nodes.append(helper.make_node("Conv", [x, f"{name}.weight"], [name], name, pads=pads))
        x = name
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["mean"], "mean"))
    nodes.append(helper.make_node("Flatten", ["mean"], ["flat"], "flat"))
    nodes.append(helper.make_node("Gemm", ["flat", "fc.weight"], ["scores"], "fc", transB=1))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "net",
        [value("image", TensorProto.FLOAT, [1, 3, 8, 8])],
        [value("scores", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(weight, f"{name}.weight") for name, weight in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


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
    data = json.loads(run("inspect", checkpoint, "--json")[0])
    assert {layer["name"]: layer["stored"] for layer in data["layers"]} == {
        row.layer: row.stored for row in report
    }
    assert [layer["blocks"] > 0 for layer in data["layers"]] == [False, True, True, False]


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


# --- names out of a file -----------------------------------------------------------------------

NAMES = ("a[/b]", "a[red]b", "a\x1b[2Jb", "a\nb")
SHOWN = ("a[/b]", "a[red]b", "a\\x1b[2Jb", "a\\nb")


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
