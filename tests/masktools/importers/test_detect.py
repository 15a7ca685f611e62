"""Folders and shards, and files that are told for what they are."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
import torch
from mask_writers import MASKED, MASKS, WEIGHTS, tensors
from safetensors.torch import save_file

from masktools import limits
from masktools.errors import FormatError
from masktools.importers import inspect_masks, load_masks, load_weights

STATE = tensors(MASKED, ".weight")


def same(found):
    assert found.keys() == MASKS.keys()
    for layer, mask in MASKS.items():
        assert np.array_equal(found[layer], mask)


# --- folders --------------------------------------------------------------------------------------


def shards(folder, suffix, write):
    """Write a layer to each shard, and the index; return the index."""
    names = {key: f"model-{i}-of-3.{suffix}" for i, key in enumerate(STATE)}
    for key, name in names.items():
        write({key: STATE[key]}, folder / name)
    index = folder / f"model.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": names}, indent=2))
    return index


@pytest.mark.parametrize(("suffix", "write"), [("safetensors", save_file), ("bin", torch.save)])
def test_shards_by_their_index_or_folder(tmp_path, suffix, write):
    index = shards(tmp_path, suffix, write)
    (tmp_path / "config.json").write_text("{}")
    for path in (tmp_path, index):
        same(load_masks(path))
        assert inspect_masks(path).container == "shards"
    assert np.array_equal(load_weights(index)["fc"], MASKED["fc"])


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "net.pt"])
def test_a_folder_of_one_checkpoint(tmp_path, name):
    (save_file if name.endswith("safetensors") else torch.save)(STATE, tmp_path / name)
    (tmp_path / "config.json").write_text('{"architectures": []}')
    same(load_masks(tmp_path))


def test_a_folder_prefers_safetensors_and_results(tmp_path):
    torch.save(tensors(WEIGHTS, ".weight"), tmp_path / "pytorch_model.bin")
    save_file(STATE, tmp_path / "model.safetensors")
    same(load_masks(tmp_path))
    save_file({"fc": torch.eye(4, dtype=torch.bool)}, tmp_path / "masks.safetensors")
    assert list(load_masks(tmp_path)) == ["fc"]


def test_a_folder_of_several_checkpoints_is_ambiguous(tmp_path):
    for name in ("a.safetensors", "b.safetensors"):
        save_file(STATE, tmp_path / name)
    with pytest.raises(FormatError, match=r"a\.safetensors, b\.safetensors; name one"):
        load_masks(tmp_path)


def test_shards_that_are_missing_or_elsewhere(tmp_path):
    index = shards(tmp_path, "safetensors", save_file)
    held = json.loads(index.read_text())
    (tmp_path / "model-1-of-3.safetensors").unlink()
    with pytest.raises(FormatError, match=r"the shard model-1-of-3\.safetensors is missing"):
        load_masks(tmp_path)
    for bad in ("../model-0-of-3.safetensors", "/etc/passwd", "a/b", 3):
        index.write_text(json.dumps(held | {"weight_map": {"fc.weight": bad}}))
        with pytest.raises(FormatError, match="weight_map"):
            load_masks(index)
    index.write_text(json.dumps({"weight_map": {"fc.weight": index.name}}))
    with pytest.raises(FormatError, match="a shard is safetensors or PyTorch's"):
        load_masks(index)


def test_a_tensor_in_two_shards(tmp_path):
    index = shards(tmp_path, "safetensors", save_file)
    save_file(STATE, tmp_path / "model-1-of-3.safetensors")
    with pytest.raises(FormatError, match="is in two shards"):
        load_masks(index)


def test_shards_together_stay_within_the_limits(tmp_path, monkeypatch):
    names = {f"l{i}.weight": f"{i}.bin" for i in range(4)}
    for key, name in names.items():
        torch.save({key: torch.zeros(1, 64).expand(64, 64)}, tmp_path / name)
    (tmp_path / "index.json").write_text(json.dumps({"weight_map": names}))
    monkeypatch.setattr(limits, "EXPANSION", 0)
    monkeypatch.setattr(limits, "FREE_BYTES", 3 * 64 * 64 * 4)
    assert (tmp_path / "0.bin").stat().st_size < 64 * 64 * 4
    with pytest.raises(FormatError, match="claims 65536 bytes"):
        load_masks(tmp_path / "index.json")


def test_folders_of_other_tools(tmp_path):
    with pytest.raises(FormatError, match=r"without masks\.safetensors or model\.safetensors"):
        load_masks(tmp_path)
    for name, words in (
        ("checkpoint", "TensorFlow checkpoint"),
        (".metadata", "dcp_to_torch_save"),
        ("saved_model.pb", "SavedModel"),
    ):
        (tmp_path / name).write_bytes(b"\x08\x01")
        with pytest.raises(FormatError, match=words):
            load_masks(tmp_path)


# --- files ----------------------------------------------------------------------------------------


def npy(value):
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=True)
    return buffer.getvalue()


def tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.pt"))
    return buffer.getvalue()


def zipped(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return buffer.getvalue()


FOREIGN = {
    "npy": (npy(np.eye(3)), r"\.npy file.*numpy\.savez"),
    "pickled npy": (npy({"fc": np.eye(3)}), r"\.npy file.*numpy\.savez"),
    "gzip": (gzip.compress(b"x"), "gzip archive; unpack it with gunzip"),
    "zlib text": (b"BZh91AY", "compressed archive; unpack"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(9), "compressed archive; unpack"),
    "tar": (tar(), "tar archive; unpack"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 1\n", "git lfs pull"),
    "page": (b"\n<!DOCTYPE html><html></html>", "web page.*download again"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "web page or an XML"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(60), "TFLite model"),
    "executorch": (b"\x1c\0\0\0ET12" + bytes(60), "ExecuTorch"),
    "gguf": (b"GGUF\x03" + bytes(60), "GGUF"),
    "matlab": (b"MATLAB 5.0 MAT-file" + bytes(200), "MATLAB"),
    "saved model": (b"\x08\x01\x12\x80\x01\x0a\x00", "SavedModel.*tf2onnx"),
    "msgpack": (b"\x81\xa6params\x81\xa5Dense\x81\xa6kernel" + bytes(40), "msgpack.*Flax"),
    "large msgpack": (b"\xde\x00\x14\xa6params" + bytes(40), "msgpack.*Flax"),
    "json": (b'{"fc": [1, 0]}', "JSON file"),
    "text": (b"Not Found\n", "text file"),
    "empty": (b"", "the file is empty"),
    "noise": (zlib.compress(bytes(range(256))), "neither safetensors, npz, PyTorch"),
    "torch.export": (zipped("net/archive_format", "net/model.json"), r"torch\.export.*state"),
    "older torch.export": (zipped("serialized_exported_program.json"), r"torch\.export.*state"),
    "TorchScript": (zipped("net/constants.pkl", "net/data.pkl"), r"TorchScript.*state_dict\(\)"),
    "zip": (zipped("a.pt", "b.pt"), r"zip archive.*it holds a\.pt, b\.pt; unpack"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_of_another_kind_is_told_for_what_it_is(tmp_path, kind):
    content, message = FOREIGN[kind]
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(FormatError, match=rf"file: .*{message}"):
        load_masks(tmp_path / "file")


def test_programs_of_torch_export(tmp_path):
    program = torch.export.export(torch.nn.Linear(3, 4), (torch.randn(1, 3),))
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(FormatError, match=r"torch\.export.*state_dict\(\)"):
        load_masks(tmp_path / "net.pt2")


def test_pickles_are_not_taken_for_msgpack(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"fc": np.eye(3)}, protocol=4))
    assert load_masks(tmp_path / "a.pkl")["fc"].sum() == 3
