"""Safetensors files that are sound, that lie, and that change while they are read."""

import os
import subprocess
import sys

import numpy as np
import pytest
from paths import GOLDEN, ROOT
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from masktools.errors import FormatError
from masktools.tensor_file import CUT_OFF, TensorFile

ARRAYS = {
    "half": np.arange(6, dtype=np.float16).reshape(2, 3),
    "empty": np.zeros((0, 4), np.int64),
    "one": np.array(-2.5, np.float64),
    "many": np.arange(-40_000, 40_000, dtype=np.int32).reshape(100, 800),
}


@pytest.fixture
def path(tmp_path):
    save_file(ARRAYS, tmp_path / "a.safetensors", {"by": "me"})
    return tmp_path / "a.safetensors"


def test_tensors_are_those_that_the_library_reads(path):
    with TensorFile(path) as file, safe_open(path, "numpy") as library:
        assert file.metadata == library.metadata() == {"by": "me"}
        assert sorted(file.dtypes) == sorted(ARRAYS)
        for name, array in ARRAYS.items():
            found, wanted = file.read(name), library.get_tensor(name)
            assert (
                (found.dtype, found.shape)
                == (wanted.dtype, wanted.shape)
                == (
                    array.dtype,
                    array.shape,
                )
            )
            np.testing.assert_array_equal(found, array)
            found[...] = 0  # An array of its own.
        np.testing.assert_array_equal(file.read("many"), ARRAYS["many"])


@pytest.mark.parametrize("left", [4096, 9, 8, 0])
def test_a_file_that_is_cut_off_while_it_is_read_is_an_error(path, left):
    with TensorFile(path) as file:
        os.truncate(path, left)
        with pytest.raises(FormatError, match=rf"tensor 'many': {CUT_OFF}"):
            file.read("many")


def test_nothing_is_allocated_for_what_is_gone(path):
    with TensorFile(path) as file:
        file._offsets["many"], file.shapes["many"] = (0, 2**50), (2**48,)
        with pytest.raises(FormatError, match=CUT_OFF):
            file.read("many")
        file.shapes["many"] = (3,)
        with pytest.raises(FormatError, match="do not fill"):
            file.read("many")


def test_files_that_the_library_refuses_are_refused(path):
    data = path.read_bytes()
    for bad in (b"", data[:5], data[:-1], b"\xff" * 8 + data[8:], data + b"x"):
        path.write_bytes(bad)
        with pytest.raises(SafetensorError):
            TensorFile(path)
    with pytest.raises(FileNotFoundError):
        TensorFile(path.with_name("none"))
    with pytest.raises(FormatError, match="it is a folder"):
        TensorFile(path.parent)


CUT = """
import os, sys
import masktools
from masktools import checkpoint, tensor_file
path, what = sys.argv[1:]
read = tensor_file.TensorFile.read
def cut(self, name):
    os.truncate(path, 1000)
    return read(self, name)
tensor_file.TensorFile.read = cut
try:
    {"weights": masktools.load_weights, "masks": masktools.load_masks,
     "checkpoint": checkpoint.read}[what](path)
except masktools.errors.FormatError as error:
    print(error)
"""


@pytest.mark.parametrize("what", ["weights", "masks", "checkpoint"])
def test_no_reader_ends_by_a_signal(what, tmp_path):
    path = tmp_path / "net.safetensors"
    if what == "checkpoint":
        path.write_bytes((GOLDEN / "minimal.safetensors").read_bytes())
    else:
        save_file({"a.weight": np.ones((64, 64), np.float32)}, path)
    size = path.stat().st_size
    code = CUT.replace("1000", str(size - 8))
    done = subprocess.run(
        [sys.executable, "-c", code, path, what], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert CUT_OFF in done.stdout
    assert str(path) in done.stdout


def test_all_readers_are_covered():
    """Who opens safetensors with the library maps them: nobody but `tensor_file`, and headers."""
    users = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "masktools").rglob("*.py")
        if "get_tensor(" in path.read_text() or "np.memmap" in path.read_text()
    }
    assert users == set()
