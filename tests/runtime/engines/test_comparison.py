"""A checkpoint beside other engines: who is asked, what is printed, and what is left out."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import zoo
from torch import nn

import masktools
from runtime.__main__ import main
from runtime.cpu.backend import CpuBackend
from runtime.engines import comparison
from runtime.engines.comparison import _apart, _compared, compare, interpreters
from runtime.engines.turns import Engine, EngineError, Times
from runtime.errors import InputError

pytestmark = pytest.mark.skipif(
    not CpuBackend().available().ok, reason="the kernels of the CPU backend were not built"
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A checkpoint and its ONNX file, of a network of two convolutions pruned by half."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("net")
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)).eval()
    with torch.no_grad():
        net[2].weight[:, 8:] = 0
    graph = zoo.to_onnx(net, 12)
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    onnx.save(graph, folder / "net.onnx")
    mask = net[2].weight.detach().numpy() != 0
    checkpoint = folder / "net.safetensors"
    masktools.export.from_onnx(folder / "net.onnx", checkpoint, masks={"2": mask}, residual="keep")
    return checkpoint, folder / "net.onnx"


def bench(files, monkeypatch, capsys, *more, batch=1):
    checkpoint, onnx = files
    how = ["--batch", batch, "--onnx", onnx, "--repeat", "2", "--threads", "1", *more]
    monkeypatch.setattr(sys, "argv", ["runtime", "bench", *map(str, (checkpoint, *how))])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, *capsys.readouterr()


def test_the_command_prints_ratios_limit_and_share(files, monkeypatch, capsys):
    more = ("--against", "onnxruntime", "--json")
    code, out, err = bench(files, monkeypatch, capsys, *more, batch=2)
    assert (code, err) == (0, "")
    found = json.loads(out)
    ours, peer = found["engines"]
    assert (ours["engine"], ours["over_ours"], ours["apart"]) == ("masktools", 1.0, 0.0)
    assert peer["engine"] == "onnxruntime"
    assert peer["apart"] < 1e-5
    assert peer["over_ours"] > 0
    # Half of the second layer's weights are left, and nobody reads half of the first layer's rows.
    assert found["limit"] == 2
    assert 0 < found["share_of_peak"] < 1
    assert found["left_out"] == []


def test_the_table_is_for_people(files, monkeypatch, capsys):
    code, out, _ = bench(files, monkeypatch, capsys, "--against", "onnxruntime")
    assert code == 0
    assert "over ours" in out
    assert "dense over stored multiplications 2.00" in out


def test_a_system_that_cannot_stop_processes_is_told(files, monkeypatch, capsys):
    monkeypatch.delattr(signal, "SIGSTOP")
    code, _, err = bench(files, monkeypatch, capsys, "--against", "onnxruntime")
    assert code == 1
    assert "cannot stop one engine while another has its turn" in err


def test_an_engine_that_fails_is_left_out_with_what_it_said(files):
    checkpoint, onnx = files
    how = {"dtype": "float32", "threads": 1, "rounds": 1, "tuned": False}
    wrong = np.zeros((1, 4, 12, 12), np.float32)
    with pytest.raises(EngineError, match="masktools: InputError"):
        compare(checkpoint, onnx, {}, wrong, **how)
    right = np.zeros((1, 3, 12, 12), np.float32)
    found = compare(checkpoint, checkpoint, {"onnxruntime": sys.executable}, right, **how)
    assert [row.engine for row in found.rows] == ["masktools"]
    assert found.left_out[0].startswith("onnxruntime: ")


def test_what_cannot_be_asked_is_named(files, monkeypatch, capsys):
    for asked, said in [("tensorrt", "the engines are"), ("deepsparse", "not installed here")]:
        if comparison.importlib.util.find_spec(asked):
            continue
        code, out, err = bench(files, monkeypatch, capsys, "--against", asked)
        assert (code, out) == (1, "")
        assert f"--against {asked}" in err.replace("'", "")
        assert said in err
    assert interpreters("mnn=/somewhere/python") == {"mnn": "/somewhere/python"}
    with pytest.raises(InputError, match="engines are onnxruntime"):
        interpreters("")


def test_ratios_are_taken_within_rounds():
    theirs, ours = Times((2.0, 4.0, 8.0), (1.0,) * 3), Times((1.0, 2.0, 2.0), (1.0,) * 3)
    row = _compared("onnxruntime", "1", theirs, ours, 0.5)
    assert (row.milliseconds, row.over_ours, row.quartiles) == (4000.0, 2.0, (2.0, 3.0))


def test_outputs_that_cannot_be_compared_are_infinitely_far():
    one = np.float32([[1, -2]])
    assert _apart(one, one) == (0, "")
    assert _apart(one + np.float32([0, 1]), one) == (0.5, "")
    assert _apart(one[0], one) == (None, "another shape")
    for bad in (np.nan, np.inf):
        assert _apart(one * np.float32(bad), one) == (None, "not finite")
        assert _apart(one, one * np.float32(bad)) == (None, "not finite")


def test_an_engine_that_dies_in_its_turn_is_left_out(files, monkeypatch):
    checkpoint, onnx_file = files
    ask, asked = Engine.ask, []

    def dies(self, do, **what):
        asked.append(self.name)
        if self.name == "onnxruntime" and do == "run" and asked.count("onnxruntime") > 4:
            self.process.kill()
        return ask(self, do, **what)

    monkeypatch.setattr(Engine, "ask", dies)
    how = {"dtype": "float32", "threads": 1, "rounds": 3, "tuned": False}
    x = np.zeros((1, 3, 12, 12), np.float32)
    found = compare(checkpoint, onnx_file, {"onnxruntime": sys.executable}, x, **how)
    assert [row.engine for row in found.rows] == ["masktools"]
    assert found.left_out == ("onnxruntime: ended with status -9",)


@pytest.mark.parametrize(
    ("script", "said"),
    [("cat", "is no answer"), ("echo hello; sleep 5", "'hello"), ("echo no numpy >&2; exit 3",
     "ended with status 3, saying 'no numpy'")],
)  # fmt: skip
def test_what_is_no_interpreter_is_told(files, tmp_path, script, said):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    checkpoint, onnx_file = files
    how = {"dtype": "float32", "threads": 1, "rounds": 1, "tuned": False}
    x = np.zeros((1, 3, 12, 12), np.float32)
    found = compare(checkpoint, onnx_file, {"onnxruntime": str(python)}, x, **how)
    assert said in found.left_out[0]


def test_another_backend_is_refused(files, monkeypatch, capsys):
    asked = ("--against", "onnxruntime", "--backend", "reference")
    code, out, err = bench(files, monkeypatch, capsys, *asked)
    assert (code, out) == (2, "")
    assert "on the processor" in " ".join(err.split())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a stopped process sees no end")
def test_engines_end_with_a_process_that_is_killed(tmp_path):
    code = (
        "import sys, time\nfrom runtime.engines.turns import Engine\n"
        "engine = Engine('masktools', sys.executable)\n"
        "engine.ask('peak', threads=1, seconds=0.001)\n"
        "print(engine.process.pid, flush=True)\ntime.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    for _ in range(100):
        status = Path(f"/proc/{worker}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            return
        threading.Event().wait(0.05)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the engine's process is still there")
