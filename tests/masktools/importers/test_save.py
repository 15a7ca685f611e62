"""Masks that are saved, and loaded again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file
from small_masks import DENSE, MASK
from torch import nn
from torch.nn.utils import prune

from masktools.errors import FormatError, MaskError
from masktools.importers import load_masks, save_masks

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,6}(\.[a-z0-9_]{1,6}){0,3}", fullmatch=True)
MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=5))


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt"])
@given(masks=st.dictionaries(NAMES, MASKS, min_size=1, max_size=4))
def test_what_is_saved_is_loaded(tmp_path_factory, suffix, masks):
    folder = tmp_path_factory.mktemp("saved")
    try:
        save_masks(folder / f"a{suffix}", masks)
    except MaskError:
        # Names that mean something to a reader are refused, and nothing is left behind.
        assert not list(folder.iterdir())
        return
    found = load_masks(folder / f"a{suffix}")
    assert found.keys() == masks.keys()
    assert all(np.array_equal(found[n], m) and found[n].dtype == np.bool_ for n, m in masks.items())
    save_masks(folder / f"b{suffix}", dict(reversed(masks.items())))
    assert (folder / f"a{suffix}").read_bytes() == (folder / f"b{suffix}").read_bytes()
    assert sorted(p.name for p in folder.iterdir()) == [f"a{suffix}", f"b{suffix}"]


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt"])
@pytest.mark.parametrize(
    "name", ["module.fc", "_orig_mod.fc", "a.weight.weight", "", "a\nb", "a\\b"]
)
def test_names_that_would_not_come_back_are_refused(tmp_path, suffix, name):
    with pytest.raises(MaskError, match="name"):
        save_masks(tmp_path / f"a{suffix}", {name: MASK})
    assert not list(tmp_path.iterdir())


def test_names_that_are_a_tools_keys_are_refused_where_they_would_be_taken_for_them(tmp_path):
    for name in ("param0", "fc.weight_mask", "conv/kernel"):
        with pytest.raises(MaskError, match="read"):
            save_masks(tmp_path / "a.npz", {name: MASK})
    save_masks(tmp_path / "a.pt", {"param0": MASK})
    assert set(load_masks(tmp_path / "a.pt")) == {"param0"}


def test_saved_forms_are_plain(tmp_path):
    masks = {"conv.weight": MASK.astype(int), "fc": ~MASK}
    for suffix in ("safetensors", "npz", "pt"):
        save_masks(tmp_path / f"m.{suffix}", masks)
    for plain in (load_file(tmp_path / "m.safetensors"), np.load(tmp_path / "m.npz")):
        assert sorted(plain) == ["conv", "fc"]
        assert plain["conv"].dtype == np.bool_
    state = torch.load(tmp_path / "m.pt", weights_only=True)
    net = nn.ModuleDict({"conv": nn.Linear(3, 2), "fc": nn.Linear(3, 2)})
    for layer in net.values():
        prune.identity(layer, "weight")
    result = net.load_state_dict(state, strict=False)
    assert not result.unexpected_keys
    assert np.array_equal(net["conv"].weight_mask.numpy() != 0, MASK)


def test_saving_refuses_what_is_no_mask(tmp_path):
    with pytest.raises(FormatError, match=r"saved as \.safetensors, \.npz, \.pt"):
        save_masks(tmp_path / "a.bin", {"fc": MASK})
    with pytest.raises(MaskError, match=r"layer 'fc'.*0 and 1"):
        save_masks(tmp_path / "a.npz", {"fc": DENSE})
    with pytest.raises(MaskError, match="no masks"):
        save_masks(tmp_path / "a.npz", {})
    with pytest.raises(TypeError, match="name"):
        save_masks(tmp_path / "a.npz", {3: MASK, "fc": MASK})
    with pytest.raises(TypeError, match=r"expected masks as \{layer: array\}, got list"):
        save_masks(tmp_path / "a.npz", [MASK])
    with pytest.raises(TypeError, match="layer 'fc': expected a mask of bool or 0/1 numbers"):
        save_masks(tmp_path / "a.npz", {"fc": MASK.astype(complex)})
    assert not list(tmp_path.iterdir())


def test_saving_replaces_whole_files(tmp_path):
    save_masks(tmp_path / "a.npz", {"fc": MASK})
    save_masks(tmp_path / "a.npz", {"fc": ~MASK})
    assert np.array_equal(load_masks(tmp_path / "a.npz")["fc"], ~MASK)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_a_result_folder_is_read_by_its_masks(tmp_path):
    with pytest.raises(FormatError, match=r"without masks\.safetensors"):
        load_masks(tmp_path)
    save_masks(tmp_path / "masks.safetensors", {"fc": MASK})
    assert np.array_equal(load_masks(tmp_path)["fc"], MASK)
