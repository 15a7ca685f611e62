"""Layers side by side: on any executor, interrupted or not, with the same result."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from masktools import convert
from masktools.conversion import workers
from masktools.conversion.resume import FOLDER
from masktools.errors import MasktoolsError, PartitionError

FAST = {"partitioner": "spectral", "group_rows": 4, "progress": False}


@pytest.fixture
def layers():
    """Masks and weights of three layers, with rows that share columns."""
    rng = np.random.default_rng(0)
    masks, weights = {}, {}
    for name, shape in (
        ("conv1", (16, 8, 3, 3)),
        ("conv2", (12, 16, 3, 3)),
        ("conv3", (16, 12, 1, 1)),
    ):
        columns = rng.random((4, *shape[1:])) < 0.4
        masks[name] = columns[rng.integers(0, 4, shape[0])] ^ (rng.random(shape) < 0.05)
        weights[name] = rng.standard_normal(shape).astype(np.float32)
    return masks, weights


class Inline(Executor):
    """Runs a job when it is submitted; `fail` maps a layer to what its job raises."""

    def __init__(self, fail=None):
        self.fail = fail or {}
        self.layers = []

    def submit(self, function, job):
        future = Future()
        self.layers.append(job.layer)
        if job.layer in self.fail:
            future.set_exception(self.fail[job.layer])
        else:
            future.set_result(function(job))
        return future


def saved(result, folder):
    """Return the bytes of the files that must not depend on how the result was found."""
    result.save(folder)
    return [(folder / name).read_bytes() for name in ("masks.safetensors", "layouts.safetensors")]


def test_every_executor_gives_the_same_bytes(layers, tmp_path, monkeypatch):
    masks, weights = layers
    arguments = {"method": "regroup", "density": 0.2, "partitioner": "best", "group_rows": 4}
    monkeypatch.setattr(workers, "cores", lambda: 1)
    serial = convert(masks, weights, **arguments)
    found = {"serial": serial}
    with ThreadPoolExecutor(3) as threads:
        found["threads"] = convert(masks, weights, executor=threads, **arguments)
        assert threads.submit(int, 1).result() == 1
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        found["processes"] = convert(masks, weights, executor=processes, **arguments)
    monkeypatch.setattr(workers, "cores", lambda: 2)
    found["default"] = convert(masks, weights, **arguments)
    found["inline"] = convert(masks, weights, executor=Inline(), **arguments)
    bytes_of = {name: saved(result, tmp_path / name) for name, result in found.items()}
    assert [name for name in found if bytes_of[name] != bytes_of["serial"]] == []


@pytest.mark.parametrize("as_file", [True, False])
def test_a_script_without_a_main_guard_can_use_the_default_processes(tmp_path, as_file):
    script = """
import numpy as np, masktools
print("once")
masks = {name: np.eye(8, 16, dtype=bool) for name in ("a", "b", "c")}
result = masktools.convert(masks, method="regroup", partitioner="spectral", group_rows=4)
print(len(result.layouts))
"""
    path = tmp_path / "script.py"
    path.write_text(script)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path) if as_file else "-"],
        input=None if as_file else script,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LOKY_MAX_CPU_COUNT": "2"},
    )
    assert (done.stdout, done.stderr) == ("once\n2\n", "")


def test_numerical_libraries_run_on_one_thread_during_a_layer():
    import scipy.linalg  # noqa: F401

    before = [library["num_threads"] for library in threadpool_info()]
    with workers._one_thread:
        with workers._one_thread:
            pass
        assert {library["num_threads"] for library in threadpool_info()} == {1}
    assert [library["num_threads"] for library in threadpool_info()] == before


def test_an_executor_must_be_one(layers):
    masks, weights = layers
    with pytest.raises(TypeError, match="expected an Executor, got int"):
        convert(masks, weights, method="regroup", executor=4)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PartitionError("it gave up"), PartitionError),
        (MemoryError("too large"), MasktoolsError),
        (BrokenProcessPool("a worker died"), MasktoolsError),
    ],
)
def test_a_failing_layer_is_named_and_the_others_are_kept(layers, tmp_path, error, kind):
    masks, weights = layers
    arguments = {"method": "regroup", "resume": tmp_path / "result", **FAST}
    first = Inline(fail={"conv3": error})
    with pytest.raises(kind, match="layer 'conv3'"):
        convert(masks, weights, executor=first, **arguments)
    second = Inline()
    result = convert(masks, weights, executor=second, **arguments)
    assert second.layers == ["conv3"]
    assert {row.layer: row.resumed for row in result.report if not row.dense_because} == {
        "conv1": True,
        "conv2": True,
        "conv3": False,
    }
    fresh = convert(masks, weights, method="regroup", **FAST)
    assert saved(result, tmp_path / "result") == saved(fresh, tmp_path / "fresh")
    assert not (tmp_path / "result" / FOLDER).exists()


def test_work_that_is_abandoned_ends_quietly(tmp_path):
    # A limit on the size of files stands in for a full disk: the first layer cannot be kept.
    script = """
import errno, resource, sys, numpy as np, masktools
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
masks = {name: np.eye(8, 16, dtype=bool) for name in "abcdefghijk"}
try:
    masktools.convert(masks, method="regroup", partitioner="spectral", resume=sys.argv[1])
except OSError as error:
    assert error.errno == errno.EFBIG, error
    print(error.filename)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LOKY_MAX_CPU_COUNT": "2"},
    )
    assert done.stderr == ""
    assert done.stdout.startswith(str(tmp_path / "out" / FOLDER))
    assert list((tmp_path / "out" / FOLDER).iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a named pipe")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_a_parent_that_is_killed(tmp_path, how):
    script = """
import os, sys, time
from loky import ProcessPoolExecutor
from masktools.conversion.workers import serve

def hold(path):
    with open(path, "w") as file:
        print("here", file=file, flush=True)
        time.sleep(600)

pool = ProcessPoolExecutor(2, initializer=serve, initargs=(os.getpid(),))
futures = [pool.submit(hold, sys.argv[1]) for _ in range(2)]
futures[0].result()
"""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    parent = subprocess.Popen([sys.executable, "-c", script, str(pipe)])
    with pipe.open() as file:
        assert [file.readline(), file.readline()] == ["here\n"] * 2
        parent.send_signal(how)
        parent.wait()
        # The pipe ends when nobody has it open any more.
        assert select.select([file], [], [], 30)[0]
        assert file.read() == ""


def test_an_interrupt_keeps_what_is_done(layers, tmp_path, monkeypatch):
    masks, weights = layers
    monkeypatch.setattr(workers, "cores", lambda: 1)
    find, calls, again = workers.find, [], []

    def interrupted(job):
        calls.append(job.layer)
        if len(calls) == 3 and not again:
            raise KeyboardInterrupt
        return find(job)

    monkeypatch.setattr(workers, "find", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(masks, weights, method="regroup", resume=tmp_path, **FAST)
    again.append(True)
    third = calls.pop()
    convert(masks, weights, method="regroup", resume=tmp_path, **FAST)
    assert calls[2:] == [third]


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"group_rows": 8}, {"density": 0.1}, {"partitioner": "kahypar"}]
)
def test_another_wish_finds_nothing_to_resume(layers, tmp_path, change):
    masks, weights = layers
    convert(masks, weights, method="regroup", resume=tmp_path, **FAST)
    again = Inline()
    arguments = {**FAST, **change}
    convert(masks, weights, method="regroup", resume=tmp_path, executor=again, **arguments)
    assert sorted(again.layers) == ["conv1", "conv2", "conv3"]


def test_another_weight_is_found_again(layers, tmp_path):
    masks, weights = layers
    convert(masks, weights, method="regroup", resume=tmp_path, **FAST)
    kept = tuple(np.argwhere(masks["conv1"])[0])
    weights["conv1"][kept] += 1
    again = Inline()
    convert(masks, weights, method="regroup", resume=tmp_path, executor=again, **FAST)
    assert again.layers == ["conv1"]


def test_another_law_of_the_budget_finds_nothing_to_resume(layers, tmp_path):
    masks, weights = layers
    arguments = {"method": "regroup", "resume": tmp_path, "density": 0.1, **FAST}
    convert(masks, weights, across="absolute", **arguments)
    again = Inline()
    changed = convert(masks, weights, executor=again, **arguments)
    assert sorted(again.layers) == ["conv1", "conv2", "conv3"]
    assert changed.layouts == convert(masks, weights, **{**arguments, "resume": None}).layouts


@pytest.mark.parametrize("damage", ["cut", "flip", "other", "empty"])
def test_a_damaged_file_is_found_again_and_noted(layers, tmp_path, damage):
    masks, weights = layers
    convert(masks, weights, method="regroup", resume=tmp_path, **FAST)
    files = sorted((tmp_path / FOLDER).iterdir())
    content = files[0].read_bytes()
    files[0].write_bytes(
        {
            "cut": content[:-20],
            "flip": content[:-1] + bytes([content[-1] ^ 1]),
            "other": b"\x08\0\0\0\0\0\0\0" + b'{"a":1} ',
            "empty": b"",
        }[damage]
    )
    again = Inline()
    result = convert(masks, weights, method="regroup", resume=tmp_path, executor=again, **FAST)
    assert len(again.layers) == 1
    assert result.report.notes == (
        f"layer {again.layers[0]!r}: the file of its row groups was damaged; they were found again",
    )
    assert files[0].read_bytes() == content
