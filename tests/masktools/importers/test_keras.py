"""Keras 3: what model.save and model.save_weights write, kernels turned to (out, in, kh, kw)."""

from __future__ import annotations

import json
import zipfile

import h5py
import numpy as np
import pytest
from mask_writers import MASKED, MASKS, hwio

from masktools import limits
from masktools.errors import FormatError, MaskError
from masktools.importers import inspect_masks, load_masks, load_weights

# The names that Keras gives: by class, numbered from the second one on.
CALLED = {"conv1": "conv2d", "body.0": "conv2d_1", "fc": "dense"}
NAMES = {new: old for old, new in CALLED.items()}
DEPTHWISE = np.arange(18, dtype=np.float32).reshape(3, 2, 3, 1) % 5  # (kh, kw, in, multiplier)


def datasets(path, arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def variables(extra=(), root="layers"):
    arrays = {f"{root}/{CALLED[n]}/vars/0": hwio(w) for n, w in MASKED.items()}
    arrays |= {f"{root}/{CALLED[n]}/vars/1": np.zeros(len(w)) for n, w in MASKED.items()}
    return (
        arrays | {"optimizer/vars/0": np.ones((3, 4)), "optimizer/vars/1": np.ones(4)} | dict(extra)
    )


def archive(path, arrays):
    inner = datasets(path.with_suffix(".inner"), arrays)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("metadata.json", "{}")
        file.writestr("config.json", json.dumps({"class_name": "Sequential"}))
        file.write(inner, "model.weights.h5")
    return path


def same(found):
    assert found.keys() == MASKS.keys()
    for layer, mask in MASKS.items():
        assert np.array_equal(found[layer], mask), layer


@pytest.mark.parametrize("root", ["layers", "_layer_checkpoint_dependencies"])
def test_weights_are_told_by_their_class(tmp_path, root):
    path = datasets(tmp_path / "net.weights.h5", variables(root=root))
    file = inspect_masks(path, names=NAMES)
    assert file.tool == "keras"
    assert any("turned" in note for note in file.assumptions)
    assert any("optimizer" in note for note in file.assumptions)
    same(load_masks(path, names=NAMES))
    assert np.array_equal(load_weights(path, names=NAMES)["fc"], MASKED["fc"])


def test_archives(tmp_path, monkeypatch):
    path = archive(tmp_path / "net.keras", variables())
    same(load_masks(path, names=NAMES))
    assert inspect_masks(path).container == "keras"
    monkeypatch.setattr(limits, "FREE_BYTES", 0)
    monkeypatch.setattr(limits, "EXPANSION", 0)
    with pytest.raises(FormatError, match="claims"):
        load_masks(path)


def test_whole_models_in_h5(tmp_path):
    arrays = {
        f"model_weights/{c}/sequential/{c}/kernel": hwio(MASKED[n]) for n, c in CALLED.items()
    }
    arrays |= {f"model_weights/{c}/sequential/{c}/bias": np.zeros(3) for c in CALLED.values()}
    same(load_masks(datasets(tmp_path / "net.h5", arrays), names=NAMES))


@pytest.mark.parametrize("form", ["vars", "config", "name"])
def test_depthwise_kernels(tmp_path, form):
    if form == "vars":
        path = datasets(tmp_path / "a.h5", {"layers/depthwise_conv2d/vars/0": DEPTHWISE})
    else:
        layer = "depthwise_conv2d" if form == "name" else "dw"
        arrays = {f"model_weights/{layer}/sequential/{layer}/kernel": DEPTHWISE}
        path = datasets(tmp_path / "a.h5", arrays)
        if form == "config":
            layers = [{"class_name": "DepthwiseConv2D", "config": {"name": "dw"}}]
            with h5py.File(path, "a") as file:
                file.attrs["model_config"] = json.dumps({"config": {"layers": layers}})
    (found,) = load_weights(path).values()
    assert np.array_equal(found, DEPTHWISE.transpose(2, 3, 0, 1))


def test_separable_convolutions_are_two_layers(tmp_path):
    point = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)
    arrays = {"layers/separable_conv2d/vars/0": DEPTHWISE, "layers/separable_conv2d/vars/1": point}
    found = load_weights(datasets(tmp_path / "a.h5", arrays))
    assert {n: w.shape for n, w in found.items()} == {
        "separable_conv2d/depthwise": (3, 1, 3, 2),
        "separable_conv2d/pointwise": (4, 3, 1, 1),
    }


def test_convolutions_over_time(tmp_path):
    kernel = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    path = datasets(tmp_path / "a.h5", {"layers/conv1d/vars/0": kernel})
    assert np.array_equal(load_weights(path)["conv1d"], kernel.transpose(2, 1, 0))


def test_what_is_no_kernel_is_left_out_with_a_line(tmp_path):
    extra = {
        "layers/conv2d_transpose/vars/0": np.ones((3, 3, 4, 5)),
        "layers/embedding/vars/0": np.ones((10, 4)),
        "layers/lstm/cell/vars/0": np.ones((4, 12)),
        "layers/my_attention/vars/0": np.ones((4, 2, 3)),
        "layers/my_block/vars/0": np.ones((4, 2, 3)),
        "layers/my_block/vars/1": np.ones((4, 2)),
    }
    found = load_masks(datasets(tmp_path / "a.h5", variables(extra)), names=NAMES)
    same(found)
    (note,) = [note for note in found.notes if "no kernels" in note]
    assert all(name in note for name in extra)


def test_layers_of_unknown_class_are_told(tmp_path):
    path = datasets(tmp_path / "a.h5", {"stem/vars/0": hwio(MASKED["conv1"])})
    found = load_masks(path)
    assert found["stem"].shape == MASKS["conv1"].shape
    assert any("taken for convolutions" in note and "stem" in note for note in found.notes)


def test_other_kernels_of_keras_2_are_told(tmp_path):
    arrays = {
        "lstm/lstm_cell/recurrent_kernel:0": np.ones((3, 12)),
        "conv/conv/kernel:0": hwio(MASKED["conv1"]),
    }
    found = load_masks(datasets(tmp_path / "a.h5", arrays))
    assert list(found) == ["conv"]
    assert any("recurrent_kernel" in note for note in found.notes)


def test_volumes_are_refused(tmp_path):
    path = datasets(tmp_path / "a.h5", {"layers/conv3d/vars/0": np.zeros((2, 2, 2, 3, 4))})
    with pytest.raises(MaskError, match="Conv3d"):
        load_masks(path)
