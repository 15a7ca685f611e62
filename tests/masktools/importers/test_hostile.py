"""Files that lie, are damaged, or would run code: refused before they do harm."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import zipfile

import h5py
import numpy as np
import onnx
import pytest
import torch
from hostile_files import WEIGHT, onnx_file, onnx_tensor
from onnx import helper
from safetensors.numpy import save_file

from masktools.errors import FormatError, MaskError, MasktoolsError
from masktools.importers import load_masks, load_weights

RAW = WEIGHT.tobytes()


class Bomb:
    """Unpickled, it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def write_torch(path, payload):
    torch.save({"fc.weight": torch.from_numpy(WEIGHT), "other": payload}, path)


def write_torch_legacy(path, payload):
    torch.save({"fc.weight": payload}, path, _use_new_zipfile_serialization=False)


def write_pickle(path, payload):
    path.write_bytes(pickle.dumps([WEIGHT, payload]))


def write_npz(path, payload):
    np.savez(path, fc=WEIGHT, other=np.array([payload], object))


@pytest.mark.parametrize("write", [write_torch, write_torch_legacy, write_pickle, write_npz])
def test_a_file_that_would_run_code_is_refused_before_it_does(tmp_path, write):
    proof, path = tmp_path / "executed", tmp_path / "ticket.npz"
    write(path, Bomb(proof))
    with pytest.raises(FormatError, match=r"ticket\.npz.*could run code"):
        load_masks(path)
    assert not proof.exists()
    # The file is armed: whoever unpickles it blindly runs it.
    if write is write_pickle:
        pickle.loads(path.read_bytes())
        assert proof.exists()


def test_the_refusal_names_what_the_pickle_wanted(tmp_path):
    write_torch(tmp_path / "a.pt", Bomb(tmp_path / "executed"))
    with pytest.raises(FormatError, match=r"'(posix|nt)\.mkdir'"):
        load_masks(tmp_path / "a.pt")


def test_torchscript_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:
        archive.writestr("net/data.pkl", b"")
        archive.writestr("net/constants.pkl", b"")
    with pytest.raises(FormatError, match="TorchScript"):
        load_masks(tmp_path / "net.pt")


def rewrite_zip(path, change):
    """Write the archive anew, `change` applied to the bytes of each member."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, change(name, data))


def test_torch_storage_that_claims_more_than_the_file(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"fc.weight": torch.zeros(200, 100)}, path)
    rewrite_zip(path, lambda name, data: data[:16] if "/data/" in name else data)
    with pytest.raises(FormatError, match="damaged"):
        load_masks(path)


def test_torch_strides_of_zero_do_not_take_memory(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"fc.weight": torch.zeros(1).expand(1 << 20, 1 << 20)}, path)
    with pytest.raises(FormatError, match="claims"):
        load_masks(path)


def test_torch_archive_must_not_be_compressed(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"fc.weight": torch.zeros(4, 4)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(FormatError, match="compressed"):
        load_masks(path)


def test_a_dict_that_contains_itself_or_shares_without_end(tmp_path):
    layer = {"fc.weight": torch.from_numpy(WEIGHT)}
    layer["self"] = layer
    tree = [1]
    for _ in range(60):
        tree = [tree, tree]
    torch.save({"state_dict": layer, "tree": tree}, tmp_path / "a.pt")
    assert load_masks(tmp_path / "a.pt")["fc"].tolist() == (WEIGHT != 0).tolist()


@pytest.mark.parametrize(
    "state",
    [
        (1, (1 << 40,), ("f4", "<"), False, b"\0" * 8),
        (1, (-1, -2), ("f4", "<"), False, b"\0" * 8),
        (1, "text", ("f4", "<"), False, b"\0" * 8),
        (1, (2,), "no dtype", False, b"\0" * 8),
        (),
    ],
    ids=["too long", "negative", "no shape", "no dtype", "empty"],
)
def test_pickled_arrays_do_not_believe_their_state(state):
    from masktools.importers.containers.harmless import PickledArray, PickledDtype

    if len(state) == 5 and isinstance(state[2], tuple):
        state = (*state[:2], PickledDtype(state[2][0]), *state[3:])
    with pytest.raises(ValueError, match=r"."):
        PickledArray().__setstate__(state)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i8", "|u1", "|b1"])
def test_pickled_arrays_come_back_as_they_were(tmp_path, dtype, order):
    array = np.array([[1, 0, 1], [0, 0, 1]], dtype, order=order)
    torch.save({"fc": array}, tmp_path / "a.pt")
    assert np.array_equal(load_masks(tmp_path / "a.pt")["fc"], array != 0)
    for protocol in (2, 4):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps([array], protocol=protocol))
        assert np.array_equal(load_masks(tmp_path / "a.pkl", names=["fc"])["fc"], array != 0)


def bitmask_file(path, **changed):
    keep = WEIGHT != 0
    arrays = {
        "shape": np.array(keep.shape),
        "compressed": WEIGHT[keep],
        "bitmask": np.packbits(keep, axis=-1, bitorder="little"),
        "row_offsets": np.array([0, 2]),
    }
    arrays.update(changed)
    save_file({f"fc.{k}": np.ascontiguousarray(v) for k, v in arrays.items()}, path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"shape": np.array([1 << 60, 3])}, "needs a bitmask"),
        ({"shape": np.array([1 << 31, 1 << 33])}, "needs a bitmask"),
        ({"shape": np.array([-2, 3])}, "shape"),
        ({"shape": np.array([2, 0])}, "shape"),
        ({"shape": np.array([2.0, 3.0])}, "integers"),
        ({"shape": np.zeros(0, np.int64)}, "integers"),
        ({"compressed": np.ones(2, np.float32)}, "keeps 3 weights, but 2"),
        ({"bitmask": np.zeros((2, 2), np.uint8)}, "needs a bitmask"),
        ({"bitmask": np.zeros((2, 1), np.int8)}, "needs a bitmask"),
        ({"row_offsets": np.array([0, 1])}, "contradict"),
    ],
)
def test_bitmasks_that_contradict_themselves(tmp_path, changed, message):
    bitmask_file(tmp_path / "a.safetensors", **changed)
    with pytest.raises(FormatError, match=rf"layer 'fc'.*{message}"):
        load_masks(tmp_path / "a.safetensors")


def sound_files(folder):
    torch.save({"fc.weight": torch.from_numpy(WEIGHT)}, folder / "a.pt")
    save_file({"fc.weight": WEIGHT}, folder / "a.safetensors")
    np.savez_compressed(folder / "a.npz", fc=WEIGHT)
    with h5py.File(folder / "a.h5", "w") as file:
        file["fc/fc/kernel:0"] = WEIGHT
    onnx_file(folder / "a.onnx", dense=[onnx_tensor((2, 3))])
    (folder / "a.pkl").write_bytes(pickle.dumps([WEIGHT]))


@pytest.mark.parametrize("suffix", ["pt", "safetensors", "npz", "h5", "onnx", "pkl"])
def test_truncated_or_garbled_files_raise_one_kind_of_error(tmp_path, suffix):
    sound_files(tmp_path)
    path = tmp_path / f"a.{suffix}"
    names = ["fc"] if suffix == "pkl" else None
    whole = path.read_bytes()
    assert load_weights(path, names=names) if suffix != "pkl" else load_masks_fails(path)
    rng = np.random.default_rng(0)
    for cut in rng.integers(0, len(whole), 12):
        path.write_bytes(whole[:cut])
        read_or_refuse(path, names)
    for _ in range(60):
        garbled = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            garbled[at] = rng.integers(256)
        path.write_bytes(garbled)
        read_or_refuse(path, names)


def load_masks_fails(path):
    """A list of weights is no list of masks."""
    with pytest.raises(MaskError, match="0 and 1"):
        load_masks(path, names=["fc"])
    return True


def read_or_refuse(path, names):
    # Some damage leaves another sound file; anything but our own errors is a fault.
    with contextlib.suppress(MasktoolsError):
        load_masks(path, names=names)


def test_empty_and_foreign_files(tmp_path):
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pt").write_text("these are no masks")
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as archive:
        archive.writestr("readme.txt", "none here")
    for name in ("empty.pt", "text.pt", "zip.npz"):
        with pytest.raises(FormatError, match=name):
            load_masks(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        load_masks(tmp_path / "nowhere.pt")


def test_onnx_is_told_from_other_bytes(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"\x08\x07")
    with pytest.raises(FormatError, match="neither a known container"):
        load_masks(tmp_path / "a.onnx")
    buffer = io.BytesIO()
    onnx.save(helper.make_model(helper.make_graph([], "g", [], [])), buffer)
    (tmp_path / "b.onnx").write_bytes(buffer.getvalue())
    with pytest.raises(FormatError, match="neither a known container"):
        load_masks(tmp_path / "b.onnx")
