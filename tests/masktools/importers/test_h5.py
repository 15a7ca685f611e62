"""HDF5 files whose links lead elsewhere, or whose groups and chunks hold more than they should."""

from __future__ import annotations

import subprocess
import sys
import zlib

import h5py
import numpy as np
import pytest
from hostile_files import WEIGHT

from masktools import limits
from masktools.errors import FormatError
from masktools.importers import load_masks


def refused(path, message):
    with pytest.raises(FormatError, match=message):
        load_masks(path)


@pytest.mark.parametrize("kind", ["external", "soft"])
def test_the_root_of_the_weights_may_be_no_link(tmp_path, kind):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["fc/kernel:0"] = WEIGHT
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["hidden/fc/kernel:0"] = WEIGHT
        secret = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/")
        file["model_weights"] = secret if kind == "external" else h5py.SoftLink("/hidden")
    refused(tmp_path / "a.h5", "'model_weights' is a link, and links are not followed")


@pytest.mark.parametrize("kind", ["external", "soft"])
def test_groups_that_are_links_are_left_out(tmp_path, kind):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["kernel:0"] = WEIGHT
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["model_weights/fc/kernel:0"] = WEIGHT
        file["elsewhere/kernel:0"] = WEIGHT
        secret = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/")
        link = secret if kind == "external" else h5py.SoftLink("/elsewhere")
        file["model_weights/linked"] = link
    assert list(load_masks(tmp_path / "a.h5")) == ["fc"]


def test_virtual_datasets_are_refused(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["kernel:0"] = WEIGHT
    layout = h5py.VirtualLayout((2, 3), "f4")
    layout[:] = h5py.VirtualSource(tmp_path / "secret.h5", "kernel:0", (2, 3))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_virtual_dataset("fc/kernel:0", layout)
    refused(tmp_path / "a.h5", "keeps its data in other files")


def test_a_group_inside_itself_is_read_once(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["fc/kernel:0"] = WEIGHT
        file["fc/again"] = file["fc"]
        file["fc/root"] = file["/"]
    assert load_masks(tmp_path / "a.h5")["fc"].T.tolist() == (WEIGHT != 0).tolist()


LOAD = """
import sys, masktools
try:
    masktools.load_masks(sys.argv[1])
except masktools.errors.FormatError as error:
    print(error)
"""


def test_groups_inside_groups_without_end(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file
        for _ in range(30_000):
            group = group.create_group("g")
        group["kernel:0"] = WEIGHT
    # In a process of its own: the C library's own walk ends by a signal.
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path / "a.h5")], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "groups nested more than 32 deep" in done.stdout


def test_objects_are_bounded(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for i in range(9):
            file[f"l{i}/kernel:0"] = WEIGHT
    monkeypatch.setattr(limits, "HDF5_OBJECTS", 19)
    assert len(load_masks(tmp_path / "a.h5")) == 9
    monkeypatch.setattr(limits, "HDF5_OBJECTS", 18)
    refused(tmp_path / "a.h5", "more than 18 objects")


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "gzip"},
        {"compression": "gzip", "shuffle": True},
        {"compression": "gzip", "fletcher32": True, "shuffle": True},
        {"fletcher32": True},
        {"chunks": (3, 2)},
    ],
)
def test_compressed_kernels_are_read(tmp_path, options):
    weight = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    weight[::2, 3] = 0
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("fc/kernel:0", data=weight, **options)
    assert np.array_equal(load_masks(tmp_path / "a.h5")["fc"].T, weight != 0)


def test_other_filters_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("fc/kernel:0", data=WEIGHT, compression="lzf")
    refused(tmp_path / "a.h5", r"dataset 'fc/kernel:0': filters \[32000\]; gzip and shuffle")


def chunk(path, packed, **options):
    """Write a dataset of 4 x 4 numbers whose one chunk is stored as given."""
    with h5py.File(path, "w") as file:
        data = file.create_dataset("fc/kernel:0", (4, 4), "f4", compression="gzip", **options)
        data.id.write_direct_chunk((0, 0), packed)


def test_a_chunk_may_not_unpack_to_more_than_it_holds(tmp_path):
    exact = np.diag(np.ones(4, np.float32)).tobytes()
    chunk(tmp_path / "a.h5", zlib.compress(exact), chunks=(4, 4))
    assert load_masks(tmp_path / "a.h5")["fc"].sum() == 4
    # The library would make room for all of it: here 64 MiB for 64 bytes.
    for beyond in (1, 1 << 26):
        chunk(tmp_path / "a.h5", zlib.compress(exact + bytes(beyond)), chunks=(4, 4))
        refused(tmp_path / "a.h5", "'fc/kernel:0': a chunk unpacks to more than it holds")
