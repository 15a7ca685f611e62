"""Safetensors, NumPy, HDF5 and ONNX files whose headers lie about what they hold."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hostile_files import WEIGHT, onnx_file, onnx_tensor
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from masktools import limits
from masktools.errors import FormatError
from masktools.importers import load_masks
from masktools.importers.contents import check_room, strip_prefixes


def raw_safetensors(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize(
    "header",
    [
        {"fc": {"dtype": "F32", "shape": [1 << 40, 1 << 20], "data_offsets": [0, 24]}},
        {"fc": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 1 << 50]}},
        {"fc": {"dtype": "F32", "shape": [2, -3], "data_offsets": [0, 24]}},
        {"fc": {"dtype": "F31", "shape": [2, 3], "data_offsets": [0, 24]}},
        b"{not json",
    ],
)
def test_safetensors_headers_that_lie(tmp_path, header):
    raw_safetensors(tmp_path / "a.safetensors", header, WEIGHT.tobytes())
    with pytest.raises(FormatError, match="a damaged file: Error while deserializing"):
        load_masks(tmp_path / "a.safetensors")


def test_safetensors_of_floats_that_are_not_read_say_so(tmp_path):
    header = {"fc.weight": {"dtype": "F8_E8M0", "shape": [2, 3], "data_offsets": [0, 6]}}
    raw_safetensors(tmp_path / "a.safetensors", header, bytes(6))
    with pytest.raises(FormatError, match=r"no tool's masks.*fc\.weight \(dtype F8_E8M0\)"):
        load_masks(tmp_path / "a.safetensors")


def npz_with(path, header, data=b"", compression=zipfile.ZIP_STORED):
    text = header.encode().ljust(118) + b"\n"
    with zipfile.ZipFile(path, "w", compression) as archive:
        start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text))
        archive.writestr("fc.npy", start + text + data)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 1024), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -3), }",
        "{'descr': '<f4', 'fortran_order': False}",
        "__import__('os').mkdir('executed')",
    ],
)
def test_npz_headers_that_lie(tmp_path, header, monkeypatch):
    monkeypatch.chdir(tmp_path)
    npz_with(tmp_path / "a.npz", header, WEIGHT.tobytes())
    with pytest.raises(FormatError, match="array 'fc'"):
        load_masks(tmp_path / "a.npz")
    assert not (tmp_path / "executed").exists()


def test_npz_bomb(tmp_path, monkeypatch):
    header = "{'descr': '|b1', 'fortran_order': False, 'shape': (4096, 1024), }"
    npz_with(tmp_path / "a.npz", header, bytes(1 << 22), zipfile.ZIP_DEFLATED)
    assert (tmp_path / "a.npz").stat().st_size < 1 << 13
    monkeypatch.setattr("masktools.limits.FREE_BYTES", 1 << 20)
    with pytest.raises(FormatError, match="claims 4194"):
        load_masks(tmp_path / "a.npz")


def test_masks_may_compress_as_well_as_they_do(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", fc=np.ones((4096, 4096), np.bool_))
    assert (tmp_path / "a.npz").stat().st_size < 1 << 16
    assert load_masks(tmp_path / "a.npz")["fc"].all()


def test_room_grows_with_the_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 10))
    check_room(path, (1 << 30) + (32 << 10))
    with pytest.raises(FormatError, match="claims"):
        check_room(path, (1 << 30) + (32 << 10) + 1)


def test_h5_chunks_that_were_never_written(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("fc/fc/kernel:0", (1 << 20, 1 << 20), "f4", chunks=(1024, 1024))
    assert (tmp_path / "a.h5").stat().st_size < 1 << 16
    with pytest.raises(FormatError, match="claims"):
        load_masks(tmp_path / "a.h5")


def test_h5_data_in_other_files_are_refused(tmp_path):
    (tmp_path / "secret").write_bytes(WEIGHT.tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        secret = [(str(tmp_path / "secret"), 0, 24)]
        file.create_dataset("fc/fc/kernel:0", (2, 3), "f4", external=secret)
    with pytest.raises(FormatError, match="other files"):
        load_masks(tmp_path / "a.h5")


def test_h5_links_are_not_followed(tmp_path):
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["kernel:0"] = WEIGHT
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["fc/fc/kernel:0"] = h5py.ExternalLink("b.h5", "kernel:0")
    with pytest.raises(FormatError, match="no tool's masks"):
        load_masks(tmp_path / "a.h5")


@pytest.mark.parametrize("dims", [(2, 4), (1 << 20, 1 << 4), (-2, -3), (-1, 3)])
def test_onnx_dims_against_data(tmp_path, dims):
    onnx_file(tmp_path / "a.onnx", dense=[onnx_tensor(dims)])
    with pytest.raises(FormatError, match=r"'fc\.weight'"):
        load_masks(tmp_path / "a.onnx")


@pytest.mark.parametrize("dims", [(1 << 40, 1 << 20), (1 << 20, 1 << 20)])
def test_onnx_dims_beyond_all_room(tmp_path, dims):
    values = numpy_helper.from_array(np.ones(1, np.float32), "fc.weight")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    sparse = helper.make_sparse_tensor(values, indices, dims)
    onnx_file(tmp_path / "a.onnx", sparse=[sparse])
    with pytest.raises(FormatError, match="claims"):
        load_masks(tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0, 6], "outside"),
        ([-1, 2], "outside"),
        ([3, 3], "twice"),
        ([[0, 0], [1, 3]], "outside"),
        ([0, 1, 2], "fit neither"),
        ([0.0, 1.0], "integers"),
    ],
)
def test_onnx_sparse_indices(tmp_path, indices, message):
    values = numpy_helper.from_array(np.ones(2, np.float32), "fc.weight")
    sparse = helper.make_sparse_tensor(
        values, numpy_helper.from_array(np.array(indices), "i"), (2, 3)
    )
    onnx_file(tmp_path / "a.onnx", sparse=[sparse])
    with pytest.raises(FormatError, match=message):
        load_masks(tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "../secret"}, "outside"),
        ({"location": "/etc/hostname"}, "outside"),
        ({"location": "link"}, "outside"),
        ({"location": "nothing"}, "missing"),
        ({}, "outside"),
        ({"location": "data", "offset": "8"}, "needs 24 bytes, got 16"),
        ({"location": "data", "offset": "8", "length": "24"}, "end at byte 24"),
        ({"location": "data", "offset": "-8", "length": "24"}, "end at byte 24"),
        ({"location": "data", "length": "many"}, "external data"),
    ],
)
def test_onnx_external_data_stay_in_the_folder(tmp_path, entries, message):
    folder = tmp_path / "model"
    folder.mkdir()
    for place in (tmp_path / "secret", folder / "data"):
        place.write_bytes(WEIGHT.tobytes())
    (folder / "link").symlink_to(tmp_path / "secret")
    tensor = onnx_tensor((2, 3), b"")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    onnx_file(folder / "a.onnx", dense=[tensor])
    with pytest.raises(FormatError, match=message):
        load_masks(folder / "a.onnx")


def test_names_are_bounded(tmp_path):
    longest = "module." + "a" * (limits.NAME_LENGTH - 7)
    save_file({longest: WEIGHT != 0}, tmp_path / "a.safetensors")
    assert list(load_masks(tmp_path / "a.safetensors")) == ["a" * (limits.NAME_LENGTH - 7)]
    for name in ("b" + longest, "param" + "1" * 5000):
        save_file({name: WEIGHT != 0}, tmp_path / "a.safetensors")
        with pytest.raises(FormatError, match=rf"a name of {len(name)} characters"):
            load_masks(tmp_path / "a.safetensors")


def test_numbers_in_names_are_those_that_a_tool_counts_to(tmp_path):
    # As a dict's key this number has the hash 0, and so have all multiples of 2**61 - 1.
    save_file({f"param{2**61 - 1}": WEIGHT != 0}, tmp_path / "a.safetensors")
    assert list(load_masks(tmp_path / "a.safetensors")) == [f"param{2**61 - 1}"]


def test_prefixes_are_stripped_as_often_as_all_names_have_them():
    named = {
        "module._orig_mod.module.a": WEIGHT,
        "module._orig_mod.module.module.b": WEIGHT,
        "module.count": np.array(3),
    }
    stripped, notes = strip_prefixes(Path("f"), named)
    assert list(stripped) == ["a", "module.b", "count"]
    assert notes == [
        "the prefix 'module.' was stripped from all names, 2 times",
        "the prefix '_orig_mod.' was stripped from all names",
    ]


def test_nodes_that_read_one_constant_count_each(tmp_path, monkeypatch):
    weight = numpy_helper.from_array(np.zeros((64, 64), np.float32), "w")
    nodes = [helper.make_node("Gemm", ["x", "w"], [f"y{i}"], name=f"n{i}") for i in range(60)]
    graph = helper.make_graph(nodes, "net", [], [], [weight])
    (tmp_path / "a.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    assert len(load_masks(tmp_path / "a.onnx")) == 60
    monkeypatch.setattr(limits, "FREE_BYTES", 0)
    with pytest.raises(FormatError, match="claims 1228800 bytes"):
        load_masks(tmp_path / "a.onnx")


def test_bitmasks_may_not_spread_without_bound(tmp_path, monkeypatch):
    shape = (256, 256)
    arrays = {"shape": np.array(shape), "compressed": np.empty(0, np.float64)}
    arrays["bitmask"] = np.zeros((256, 32), np.uint8)
    save_file({f"fc.{name}": array for name, array in arrays.items()}, tmp_path / "a.safetensors")
    assert not load_masks(tmp_path / "a.safetensors")["fc"].any()
    monkeypatch.setattr(limits, "FREE_BYTES", 0)
    with pytest.raises(FormatError, match="claims 589824 bytes"):
        load_masks(tmp_path / "a.safetensors")


def test_a_depthwise_kernel_without_elements(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["fc/depthwise_kernel:0"] = np.zeros((0, 3, 2, 1), np.float32)
    assert load_masks(tmp_path / "a.h5")["fc"].shape == (2, 1, 0, 3)
