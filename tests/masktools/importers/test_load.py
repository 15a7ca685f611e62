"""The front door: which tool, which reading, which names."""

from __future__ import annotations

import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from small_masks import DENSE, MASK
from torch import nn
from torch.nn.utils import prune

import masktools
from masktools.errors import FormatError, MaskError
from masktools.importers import inspect_masks, load_masks, load_weights, save_masks

WEIGHT = (MASK * np.arange(1, 7).reshape(2, 3)).astype(np.float32)


def pt(path, **arrays):
    torch.save({k.replace("__", "."): torch.as_tensor(v) for k, v in arrays.items()}, path)
    return path


# Which tool ---------------------------------------------------------------------------------


def test_keys_of_two_tools_are_ambiguous_until_one_is_named(tmp_path):
    state = {"fc.weight": DENSE, "fc._weight_mask": MASK, "fc.mask_weight": np.where(MASK, -1, 1)}
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(FormatError, match=r"modelopt .*continuous-sparsification .*say tool="):
        load_masks(tmp_path / "a.safetensors")
    assert np.array_equal(load_masks(tmp_path / "a.safetensors", tool="modelopt")["fc"], MASK)
    other = load_masks(tmp_path / "a.safetensors", tool="continuous-sparsification")
    assert np.array_equal(other["fc"], ~MASK)


def test_two_state_dicts_are_ambiguous(tmp_path):
    state = {"fc.weight": torch.from_numpy(WEIGHT)}
    torch.save({"state_dict": state, "model": state}, tmp_path / "a.pt")
    with pytest.raises(FormatError, match="'state_dict' and 'model'"):
        load_masks(tmp_path / "a.pt")


def test_a_forced_tool_must_fit(tmp_path):
    pt(tmp_path / "a.pt", fc__weight=WEIGHT)
    with pytest.raises(FormatError, match=r"not written by nncf.*binary_mask.*fc\.weight"):
        load_masks(tmp_path / "a.pt", tool="nncf")
    with pytest.raises(FormatError, match=r"'pruner' is not read; known are .*torch-prune"):
        load_masks(tmp_path / "a.pt", tool="pruner")
    with pytest.raises(TypeError, match="tool"):
        load_masks(tmp_path / "a.pt", tool=3)


def test_nothing_to_read_is_summed_up(tmp_path):
    torch.save({"epoch": 3, "best": 0.5}, tmp_path / "a.pt")
    with pytest.raises(FormatError, match="no tool's masks are in it: a torch file with epoch"):
        load_masks(tmp_path / "a.pt")
    torch.save({"bias": torch.ones(3)}, tmp_path / "a.pt")
    with pytest.raises(FormatError, match="no tool's masks"):
        load_masks(tmp_path / "a.pt")


# Which reading ------------------------------------------------------------------------------


def test_dense_weights_have_no_masks_but_can_be_loaded(tmp_path):
    save_file({"fc.weight": DENSE}, tmp_path / "a.safetensors")
    with pytest.raises(FormatError, match="dense: no mask and no zeros"):
        load_masks(tmp_path / "a.safetensors")
    for masked in (True, False):
        found = load_weights(tmp_path / "a.safetensors", masked=masked)
        assert np.array_equal(found["fc"], DENSE)
    file = inspect_masks(tmp_path / "a.safetensors")
    assert "dense" in file.refusal
    assert file.layers[0].density == 1


def test_zeros_by_chance_are_no_mask(tmp_path):
    weight = np.full((100, 100), 2, np.float16)
    weight[3, 5] = 0
    save_file({"fc.weight": weight}, tmp_path / "a.safetensors")
    with pytest.raises(FormatError, match="1 zeros among 10000 weights"):
        load_masks(tmp_path / "a.safetensors")


def test_one_dense_layer_among_pruned_ones_is_fine(tmp_path):
    save_file({"a.weight": DENSE, "b.weight": WEIGHT}, tmp_path / "a.safetensors")
    masks = load_masks(tmp_path / "a.safetensors")
    assert masks["a"].all()
    assert np.array_equal(masks["b"], MASK)


def test_masks_of_all_ones_are_masks(tmp_path):
    np.savez(tmp_path / "a.npz", fc=np.ones((2, 3), np.bool_))
    assert load_masks(tmp_path / "a.npz")["fc"].all()


def test_torch_ao_without_its_sparsifier_is_refused_with_the_reason(tmp_path):
    pt(tmp_path / "a.pt", fc__parametrizations__weight__original=DENSE)
    for load in (load_masks, load_weights):
        with pytest.raises(FormatError, match=r"without its sparsifier.*sparsifier\.state_dict"):
            load(tmp_path / "a.pt")
    assert np.array_equal(load_weights(tmp_path / "a.pt", masked=False)["fc"], DENSE)


def test_bool_beside_float_is_ambiguous(tmp_path):
    np.savez(tmp_path / "a.npz", a=MASK, b=WEIGHT)
    with pytest.raises(FormatError, match="ambiguous: 'a' is bool"):
        load_masks(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", **{"a": MASK, "a.weight": MASK})
    with pytest.raises(FormatError, match="ambiguous"):
        load_masks(tmp_path / "b.npz")


def test_masks_must_be_zero_or_one(tmp_path):
    pt(tmp_path / "a.pt", fc__weight_orig=DENSE, fc__weight_mask=DENSE)
    with pytest.raises(MaskError, match=r"a\.pt: layer 'fc': .*0 and 1, got 2"):
        load_masks(tmp_path / "a.pt")


def test_shapes_of_mask_and_weight_must_agree(tmp_path):
    pt(tmp_path / "a.pt", fc__weight_orig=DENSE.T, fc__weight_mask=MASK)
    with pytest.raises(MaskError, match=r"layer 'fc': weights of shape \(3, 2\).*\(2, 3\)"):
        load_masks(tmp_path / "a.pt")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("load", [load_masks, load_weights, inspect_masks])
def test_weights_that_are_not_finite_are_refused(tmp_path, load, bad):
    weight = WEIGHT.copy()
    weight[1, 1] = bad
    pt(tmp_path / "net.pt", fc__weight=weight)
    with pytest.raises(MaskError, match=rf"net\.pt: layer 'fc': .*{bad} at \(1, 1\)"):
        load(tmp_path / "net.pt")
    pt(tmp_path / "net.pt", fc__weight_orig=weight, fc__weight_mask=MASK)
    with pytest.raises(MaskError, match="finite"):
        load(tmp_path / "net.pt")


def test_three_dimensional_convolutions_are_refused_by_name(tmp_path):
    volume = np.zeros((2, 3, 1, 1, 1), np.float32)
    pt(tmp_path / "a.pt", conv__weight=volume)
    pt(tmp_path / "b.pt", conv__weight_orig=volume, conv__weight_mask=volume)
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["conv/conv/kernel:0"] = volume
    for name in ("a.pt", "b.pt", "c.h5"):
        with pytest.raises(MaskError, match=r"layer 'conv': .*Conv3d"):
            load_masks(tmp_path / name)


def test_integer_weights_are_neither(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.arange(6).reshape(2, 3))
    with pytest.raises(FormatError, match="'images': int64 values from 0 to 5 are neither"):
        load_masks(tmp_path / "a.npz")


def test_missing_weights_of_one_layer_are_named(tmp_path):
    pt(tmp_path / "a.pt", a__weight_orig=DENSE, a__weight_mask=MASK, b__weight_mask=MASK)
    assert set(load_masks(tmp_path / "a.pt")) == {"a", "b"}
    with pytest.raises(FormatError, match="no trained weights of b"):
        load_weights(tmp_path / "a.pt")


def test_which_must_be_known(tmp_path):
    with pytest.raises(ValueError, match="'trained' or 'rewound', got 'first'"):
        load_weights(tmp_path / "a.pt", which="first")


def test_what_is_returned_is_the_callers_own(tmp_path):
    save_file({"fc.weight": WEIGHT}, tmp_path / "a.safetensors")
    weights, masks = (
        load_weights(tmp_path / "a.safetensors"),
        load_masks(tmp_path / "a.safetensors"),
    )
    weights["fc"][:] = 7
    masks["fc"][:] = True
    assert np.array_equal(load_weights(tmp_path / "a.safetensors")["fc"], WEIGHT)
    np.savez(tmp_path / "a.npz", fc=MASK)
    load_masks(tmp_path / "a.npz")["fc"][:] = True


def test_a_network_that_is_one_layer(tmp_path):
    layer = prune.custom_from_mask(nn.Linear(3, 2), "weight", torch.from_numpy(MASK))
    torch.save(layer.state_dict(), tmp_path / "a.pt")
    assert np.array_equal(load_masks(tmp_path / "a.pt")["weight"], MASK)


def test_the_name_of_the_one_layer_can_be_changed(tmp_path):
    pt(tmp_path / "a.pt", weight=WEIGHT)
    assert set(load_masks(tmp_path / "a.pt", names={"weight": "fc"})) == {"fc"}


def test_averaged_models_keep_their_counter_outside_the_wrapper(tmp_path):
    pt(tmp_path / "a.pt", n_averaged=torch.tensor(3), module__fc__weight=WEIGHT)
    assert set(load_masks(tmp_path / "a.pt")) == {"fc"}


def test_numbers_as_keys_are_no_layers(tmp_path):
    torch.save({0: {"weight": torch.from_numpy(WEIGHT)}}, tmp_path / "a.pt")
    with pytest.raises(FormatError, match="no tool's masks"):
        load_masks(tmp_path / "a.pt")


def test_a_layer_called_model_is_no_wrapper(tmp_path):
    layers = {"model": {"weight": torch.tensor(MASK)}, "fc": {"weight": torch.tensor(~MASK)}}
    torch.save(layers, tmp_path / "nni.pt")
    assert set(load_masks(tmp_path / "nni.pt")) == {"model", "fc"}


def test_a_submodule_called_module_keeps_its_name(tmp_path):
    pt(tmp_path / "a.pt", module__fc__weight=WEIGHT, head__weight=WEIGHT)
    assert set(load_masks(tmp_path / "a.pt")) == {"module.fc", "head"}


# Which names --------------------------------------------------------------------------------


def test_names_map_the_files_names(tmp_path):
    pt(tmp_path / "a.pt", a__weight=WEIGHT, b__weight=WEIGHT)
    found = load_masks(tmp_path / "a.pt", names={"a.weight": "stem.weight"})
    assert set(found) == {"stem", "b"}
    assert any("'a' was named 'stem'" in s for s in said(tmp_path / "a.pt", {"a": "stem"}))
    with pytest.raises(MaskError, match="'c' is no layer of the file; it has a, b"):
        load_masks(tmp_path / "a.pt", names={"c": "stem"})
    with pytest.raises(MaskError, match="the same name"):
        load_masks(tmp_path / "a.pt", names={"a": "b"})
    for wrong in (["a", "b"], "a", 3):
        with pytest.raises(TypeError, match="names must map"):
            load_masks(tmp_path / "a.pt", names=wrong)
    with pytest.raises(TypeError, match="strings"):
        load_masks(tmp_path / "a.pt", names={"a": 3})


def said(path, names):
    return inspect_masks(path, names=names).assumptions


def test_numbered_masks_need_names(tmp_path):
    pt(tmp_path / "a.pt", param0=~MASK, param1=np.zeros(2, np.uint8))
    with pytest.raises(FormatError, match=r"param0 \(2, 3\), param1 \(2,\); give names="):
        load_masks(tmp_path / "a.pt")
    with pytest.raises(MaskError, match="1 names for 2 masks, biases counted"):
        load_masks(tmp_path / "a.pt", names=["fc"])
    with pytest.raises(MaskError, match="'param7' is none of param0, param1"):
        load_masks(tmp_path / "a.pt", names={"param7": "fc"})
    for names in (["fc", None], ["fc.weight", "fc.bias"], ("fc", None), {"param0": "fc"}):
        found = load_masks(tmp_path / "a.pt", names=names)
        assert found.keys() == {"fc"}
        assert np.array_equal(found["fc"], MASK)
    pt(tmp_path / "b.pt", param0=~MASK, param1=MASK)
    with pytest.raises(MaskError, match="twice"):
        load_masks(tmp_path / "b.pt", names=["fc", "fc"])


def test_a_pickled_list_of_arrays(tmp_path):
    import pickle

    (tmp_path / "masks.pkl").write_bytes(pickle.dumps([MASK.astype(float), None, ~MASK]))
    found = load_masks(tmp_path / "masks.pkl", names=["a", "b"])
    assert np.array_equal(found["a"], MASK)
    assert np.array_equal(found["b"], ~MASK)
    with pytest.raises(FormatError, match="give names"):
        load_masks(tmp_path / "masks.pkl")


# The package --------------------------------------------------------------------------------


def test_reached_from_the_top():
    assert masktools.load_masks is load_masks
    assert masktools.load_weights is load_weights
    assert masktools.save_masks is save_masks


def test_reading_safetensors_and_npz_imports_no_framework(tmp_path):
    save_masks(tmp_path / "a.npz", {"fc": MASK})
    save_masks(tmp_path / "a.safetensors", {"fc": MASK})
    code = (
        "import sys, masktools\n"
        "for name in sys.argv[1:]: masktools.load_masks(name)\n"
        "print([m for m in ('torch', 'onnx', 'h5py', 'scipy', 'networkx') if m in sys.modules])"
    )
    files = [str(tmp_path / "a.npz"), str(tmp_path / "a.safetensors")]
    done = subprocess.run(
        [sys.executable, "-c", code, *files], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("missing", "suffix", "extra"),
    [("torch", ".pt", "torch"), ("h5py", ".h5", "keras"), ("onnx", ".onnx", "onnx")],
)
def test_a_missing_library_is_named_with_what_to_install(
    tmp_path, monkeypatch, missing, suffix, extra
):
    starts = {".h5": b"\x89HDF\r\n\x1a\n", ".onnx": b"\x08\x0a\x12\x00"}
    path = tmp_path / f"a{suffix}"
    if suffix == ".pt":
        pt(path, fc__weight=WEIGHT)
    else:
        path.write_bytes(starts[suffix])
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(FormatError, match=rf"needs {missing}: pip install 'masktools\[{extra}\]'"):
        load_masks(path)
