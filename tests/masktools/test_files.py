"""Files appear whole or not at all, and what goes wrong is said of the file that was asked for."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from masktools import checkpoint
from masktools.checkpoint.inventory import is_checkpoint
from masktools.cli.common import read_names
from masktools.conversion.result import Conversion, is_result
from masktools.errors import FormatError
from masktools.files import check_apart, check_ending, check_source, check_target, whole_file
from masktools.importers import load_masks
from masktools.network.onnx.reader import read_onnx
from runtime.__main__ import _load as load_array


def test_the_file_is_there_at_the_end_and_nothing_beside_it(tmp_path):
    target = tmp_path / "out.npz"
    with whole_file(target) as beside:
        assert beside.parent == tmp_path
        assert beside.suffix == ".npz"
        beside.write_bytes(b"new")
        assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out.npz"]
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("name", ["a.onnx", "a.PT", "a.ckpt", "a.tar.gz"])
def test_an_ending_promises_a_format(name):
    with pytest.raises(FormatError, match=rf"{name}: a cake is no \.\w+ file; bake it"):
        check_ending(Path(name), "a cake", "bake it", (".cake",))


@pytest.mark.parametrize("name", ["a", "a.v2", "a.cake", "resnet18.d/out"])
def test_other_endings_promise_nothing(name):
    check_ending(Path(name), "a cake", "bake it", (".cake",))


def half_written(path, error):
    with whole_file(path) as beside:
        beside.write_bytes(b"half")
        raise error


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), ValueError("bad")])
def test_what_was_there_stays_where_writing_fails(tmp_path, error):
    target = tmp_path / "out"
    target.write_bytes(b"old")
    with pytest.raises(type(error)):
        half_written(target, error)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert target.read_bytes() == b"old"


def test_a_full_disk_is_said_of_the_file(tmp_path):
    with pytest.raises(OSError, match="No space left") as raised, whole_file(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(tmp_path / "out")


def test_a_missing_folder_is_said_of_the_file(tmp_path):
    target = tmp_path / "none" / "out"
    with pytest.raises(FileNotFoundError) as raised, whole_file(target) as beside:
        beside.write_bytes(b"")
    assert raised.value.filename == str(target)


def test_errors_about_other_files_keep_their_name(tmp_path):
    with pytest.raises(FileNotFoundError) as raised, whole_file(tmp_path / "out"):
        (tmp_path / "other").read_bytes()
    assert raised.value.filename == str(tmp_path / "other")


@pytest.mark.parametrize("check", [check_apart, check_target])
def test_an_input_is_not_written_over_whatever_it_is_called(tmp_path, check):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    check(tmp_path / "b", [tmp_path / "a", None, tmp_path / "none"])
    for name in ("a", "link"):
        with pytest.raises(FormatError, match=f"{name}: it is an input as well"):
            check(tmp_path / name, [None, tmp_path / "none", tmp_path / "a"])


def test_a_file_needs_a_folder_to_lie_in_and_is_none(tmp_path):
    check_target(tmp_path / "a")
    with pytest.raises(FormatError, match=r"a: there is no folder .*none"):
        check_target(tmp_path / "none" / "a")
    with pytest.raises(FormatError, match="it is a folder; name a file"):
        check_target(tmp_path)


@pytest.fixture
def pipe(tmp_path):
    """Return the path of a pipe that nobody writes to: opening it to read would wait for ever."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def result_with_a_pipe(pipe):
    """Return a folder whose report is a pipe."""
    folder = pipe.parent / "result"
    folder.mkdir()
    os.mkfifo(folder / "report.json")
    return folder


READERS = {
    "masks": load_masks,
    "checkpoint": checkpoint.read,
    "network": read_onnx,
    "array": load_array,
    "is_checkpoint": lambda pipe: is_checkpoint(pipe) or check_source(pipe),
    "result": lambda pipe: Conversion.load(result_with_a_pipe(pipe)),
    "is_result": lambda pipe: is_result(result_with_a_pipe(pipe)) or check_source(pipe),
    "names": read_names,
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("reader", READERS)
def test_nothing_is_read_from_a_pipe(pipe, reader):
    # Where it is opened all the same, a writer ends the wait with another error.
    writer = subprocess.Popen(["sh", "-c", f"sleep 60; : > {pipe}"])
    try:
        with pytest.raises(FormatError, match="no regular file"):
            READERS[reader](pipe)
    finally:
        writer.kill()
        writer.wait()


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs a device")
def test_nothing_is_written_over_a_pipe_or_a_device(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for place in (pipe, Path("/dev/null")):
        with pytest.raises(FormatError, match="is no regular file, and would be replaced"):
            check_target(place)
    assert pipe.is_fifo()


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs a device")
def test_nothing_is_read_from_a_device_or_a_folder(tmp_path):
    with pytest.raises(FormatError, match="/dev/zero: it is no regular file"):
        load_masks("/dev/zero")
    with pytest.raises(FormatError, match="it is a folder"):
        check_source(tmp_path)
    with pytest.raises(FileNotFoundError):
        check_source(tmp_path / "nowhere")


def test_threads_that_write_one_file_do_not_disturb_each_other(tmp_path):
    target = tmp_path / "out.npz"
    with whole_file(target) as one, whole_file(target) as other:
        one.write_bytes(b"one")
        other.write_bytes(b"other")
        assert one != other
    assert target.read_bytes() == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["out.npz"]
