"""python -m runtime: what it writes, what it prints, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from paths import GOLDEN

import masktools
from masktools.checkpoint import Checkpoint, write
from masktools.network.graph import Graph, Node, Value
from masktools.network.sizes import Size
from runtime import backend
from runtime.__main__ import main
from runtime.cpu import native

NET = str(GOLDEN / "minimal.safetensors")
X = np.array([[1, 2, 3, 4], [0, 0, 0, 1]], np.float32)


@pytest.fixture
def command(monkeypatch, capsys):
    """Return a function that runs the command line: exit status, standard output and error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["runtime", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return (code if isinstance(code, int) else 0, *capsys.readouterr())

    return call


def test_run_writes_the_output(command, tmp_path):
    np.save(tmp_path / "in.npy", X)
    target = tmp_path / "out.npy"
    for dtype in ("float32", "float64"):
        how = ("--backend", "reference", "--dtype", dtype)
        assert command("run", NET, tmp_path / "in.npy", target, *how)[0] == 0
        assert np.load(target).tolist() == [[10.5, 5.0, 21.5], [2.5, 0.0, 3.5]]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.npy", "out.npy"]


def test_module_runs_as_a_program(tmp_path):
    np.save(tmp_path / "in.npy", X)
    arguments = [NET, tmp_path / "in.npy", tmp_path / "out.npy", "--backend", "reference"]
    done = subprocess.run([sys.executable, "-m", "runtime", "run", *arguments], check=False)
    assert done.returncode == 0
    assert (tmp_path / "out.npy").exists()


def test_refusals_are_one_line_and_leave_no_file(command, tmp_path):
    np.save(tmp_path / "in.npy", X)
    np.save(tmp_path / "wide.npy", X.astype(np.float64))
    np.save(tmp_path / "narrow.npy", X[:, :2])
    np.savez(tmp_path / "many.npz", X)
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "empty.npy").write_bytes(b"")
    claim = (
        (tmp_path / "in.npy")
        .read_bytes()
        .replace(b"(2, 4), }" + b" " * 12, b"(2000000000000, 4), }")
    )
    (tmp_path / "claim.npy").write_bytes(claim)
    target = tmp_path / "out.npy"
    refused = {
        "wide.npy": "expected float32, got float64",
        "narrow.npy": "expected shape (N, 4), got (2, 2)",
        "many.npz": "give one array",
        "pickle.npy": "pickle.npy: not an array of numbers",
        "text.npy": "text.npy: not an array of numbers",
        "empty.npy": "empty.npy: not an array of numbers",
        "claim.npy": "claim.npy: not an array of numbers",
        "none.npy": "No such file",
    }
    for name, reason in refused.items():
        code, out, err = command("run", NET, tmp_path / name, target)
        assert (code, out) == (1, "")
        assert reason in err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
    for arguments, reason in (
        (("--backend", "tpu"), "backend 'tpu' does not exist"),
        (("--dtype", "float16"), "not float16"),
    ):
        code, _, err = command("run", NET, tmp_path / "in.npy", target, *arguments)
        assert (code, err.count("\n")) == (1, 1)
        assert reason in err
    assert not target.exists()
    code, _, err = command("run", NET, tmp_path / "in.npy", tmp_path / "none" / "out.npy")
    assert (code, err.count("\n")) == (1, 1)
    assert str(tmp_path / "none" / "out.npy") in err
    code, _, err = command("run", NET, tmp_path / "in.npy", tmp_path / "in.npy")
    assert (code, err.count("\n")) == (1, 1)
    assert "in.npy: it is an input as well" in err
    assert np.array_equal(np.load(tmp_path / "in.npy"), X)
    code, _, err = command("run", tmp_path / "in.npy", tmp_path / "in.npy", target)
    assert code == 1
    assert "not a safetensors file" in err


def test_run_takes_one_input_and_one_output(command, tmp_path):
    values = (Value("a", (None, 2)), Value("b", (None, 2))), (Value("y", (None, 2)),)
    graph = Graph(*values, (Node("n", "Add", ("a", "b"), ("y",), {}),))
    write(tmp_path / "net.safetensors", Checkpoint(graph))
    np.save(tmp_path / "in.npy", X)
    arguments = ("run", tmp_path / "net.safetensors", tmp_path / "in.npy", tmp_path / "out.npy")
    code, _, err = command(*arguments)
    assert code == 1
    assert "this has 2 and 1" in err
    assert command("bench", tmp_path / "net.safetensors", "--batch", 2, "--repeat", 1)[0] == 0


def test_bench_prints_one_json_object(command):
    how = ("--backend", "reference", "--dtype", "float64", "--json")
    code, out, err = command("bench", NET, "--batch", 3, "--shape", "4", "--repeat", 5, *how)
    assert (code, err) == (0, "")
    figures = json.loads(out)
    assert (figures["batch"], figures["repeat"], figures["dtype"]) == (3, 5, "float64")
    assert (figures["backend"], figures["threads"]) == ("reference", None)
    assert figures["on"].startswith("NumPy")
    assert 0 < figures["p10_ms"] <= figures["median_ms"] <= figures["p90_ms"]


def test_bench_says_which_kernels_ran(command):
    if backend.choose("auto").name != "cpu":
        pytest.skip("the kernels of the CPU backend were not built")
    code, out, _ = command("bench", NET, "--batch", 3, "--repeat", 1, "--threads", 2, "--json")
    assert code == 0
    figures = json.loads(out)
    assert (figures["backend"], figures["threads"]) == ("cpu", 2)
    assert figures["on"].split()[0] in native.VARIANTS


def test_bench_refuses_what_the_network_does_not_take(command, tmp_path):
    code, _, err = command("bench", NET, "--batch", 1, "--shape", "3,32,32")
    assert (code, err) == (1, "error: --shape 3,32,32: the network takes 4\n")
    how = ("--backend", "reference", "--threads", 2)
    code, _, err = command("bench", NET, "--batch", 1, *how)
    assert code == 1
    assert "OMP_NUM_THREADS" in err
    values = (Value("x", (2, 3)),), (Value("y", (2, 3)),)
    graph = Graph(*values, (Node("r", "Relu", ("x",), ("y",), {}),))
    write(tmp_path / "fixed.safetensors", Checkpoint(graph))
    code, _, err = command("bench", tmp_path / "fixed.safetensors", "--batch", 1)
    assert (code, err) == (1, "error: --batch 1: input 'x' takes 2 alone\n")


def test_profile_prints_a_row_for_each_step(command):
    net = GOLDEN / "halves.safetensors"
    code, out, _ = command("profile", net, "--batch", 2, "--json")
    assert code == 0
    profile = json.loads(out)
    assert [step["operator"] for step in profile["steps"]] == ["Conv+Clip", "Mul", "Conv"]
    assert profile["steps"][0]["output"] == [2, 4, 5]
    assert profile["peak_bytes"] == 2 * 2 * 4 * 5 * 4
    code, out, _ = command("profile", net, "--batch", 2)
    assert code == 0
    assert [line.split()[1] for line in out.splitlines()[1:]] == ["Conv+Clip", "Mul", "Conv"]


def test_figures_are_readable_without_json(command):
    code, out, _ = command("bench", NET, "--batch", 1, "--repeat", 1)
    assert code == 0
    assert "median_ms" in out


@pytest.mark.parametrize(
    "arguments", [("run", NET), ("bench", NET), ("bench", NET, "--batch", "0"), ("fly",)]
)
def test_usage_ends_with_two(command, arguments):
    assert command(*arguments)[0] == 2


def test_the_version_is_that_of_masktools(command):
    assert command("--version") == (0, f"runtime {masktools.__version__}\n", "")


def test_more_than_memory_holds_is_refused_in_one_line(command):
    code, out, err = command("bench", NET, "--batch", 10**15)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: Unable to allocate")


def test_bench_and_profile_take_open_sizes(command, tmp_path):
    side, width = Size.open("side", 8), Size.open("width", 6)
    graph = Graph(
        (Value("x", (None, 2, side, width)),),
        (Value("y", (None, 2, side, width)),),
        (Node("relu", "Relu", ("x",), ("y",)),),
    )
    path = tmp_path / "net.safetensors"
    write(path, Checkpoint(graph))
    how = ("--batch", 3, "--backend", "reference", "--json")
    assert json.loads(command("bench", path, *how)[1])["inputs"] == "x 3x2x8x6"
    given = json.loads(command("bench", path, *how, "--shape", "2,5,7")[1])
    assert given["inputs"] == "x 3x2x5x7"
    told = json.loads(command("profile", path, *how, "--shape", "2,5,7")[1])
    assert told["steps"][0]["output"] == [3, 2, 5, 7]
    assert told["peak_bytes"] == 2 * 3 * 2 * 5 * 7 * 4
    for wrong in ("3,5,7", "2,5", "2,0,7", "2,x,7", "2,5,7,1"):
        code, _, err = command("bench", path, *how, "--shape", wrong)
        assert (code, err) == (1, f"error: --shape {wrong}: the network takes 2,side,width\n")
