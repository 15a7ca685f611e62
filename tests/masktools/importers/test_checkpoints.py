"""Checkpoints as people write them: a mask in the file is read or named, never passed over."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from mask_writers import MASKED, MASKS, WEIGHTS, tensors
from safetensors.torch import save_file
from torch import nn
from torch.ao.pruning._experimental.data_sparsifier import DataNormSparsifier
from torch.nn.utils import prune

from masktools.errors import FormatError, MaskError
from masktools.importers import inspect_masks, load_masks, load_weights

# Pruned in an earlier round: its zeros are a superset of what the masks keep.
EARLIER = {n: WEIGHTS[n] * (MASKS[n] | (np.arange(MASKS[n].size).reshape(MASKS[n].shape) % 3 == 0))
           for n in MASKS}  # fmt: skip


def saved(path, tree):
    torch.save(tree, path)
    return path


def same(found, expected=MASKS):
    assert found.keys() == expected.keys()
    for layer, mask in expected.items():
        assert np.array_equal(found[layer], mask), layer


def nested(arrays):
    tree = {}
    for name, mask in tensors(arrays).items():
        *above, leaf = name.split(".")
        here = tree
        for part in above:
            here = here.setdefault(part, {})
        here[leaf] = mask
    return tree


# --- masks under a key of their own ---------------------------------------------------------------


@pytest.mark.parametrize(
    "masks",
    [
        pytest.param(tensors(MASKS, ".weight"), id="parameters"),
        pytest.param(tensors(MASKS), id="layers"),
        pytest.param(tensors(MASKS, ".weight_mask"), id="buffers"),
        pytest.param(tensors(MASKS, ".mask"), id="masks"),
        pytest.param({f"module.{k}": v for k, v in tensors(MASKS).items()}, id="wrapped"),
        pytest.param({k: {"weight": v} for k, v in tensors(MASKS).items()}, id="layerwise"),
        pytest.param(nested(MASKS), id="tree"),
        pytest.param(list(tensors(MASKS).values()), id="list"),
        pytest.param(dict(enumerate(tensors(MASKS).values())), id="numbers"),
    ],
)
@pytest.mark.parametrize("around", ["state_dict", "model", "net", None])
@pytest.mark.parametrize("key", ["masks", "mask", "pruning_masks"])
def test_masks_beside_the_weights_go_before_zeros(tmp_path, key, around, masks):
    state = tensors(EARLIER, ".weight") | {"fc.bias": torch.zeros(5)}
    tree = {key: masks, "epoch": 3} | ({around: state} if around else state)
    path = saved(tmp_path / "a.pt", tree)
    same(load_masks(path))
    weights = load_weights(path)
    same({n: w != 0 for n, w in weights.items()})
    assert any(repr(key) in note for note in load_masks(path).notes)


def test_masks_may_be_all_that_is_there(tmp_path):
    same(load_masks(saved(tmp_path / "a.pt", {"masks": tensors(MASKS, ".weight")})))
    with pytest.raises(FormatError, match="no trained weights"):
        load_weights(tmp_path / "a.pt")


def test_masks_around_a_wrapped_state_dict(tmp_path):
    inner = {"state_dict": tensors(EARLIER, ".weight"), "mask": tensors(MASKS)}
    same(load_masks(saved(tmp_path / "a.pt", {"model": inner})))


def test_a_mask_of_none_keeps_the_layer(tmp_path):
    masks = tensors(MASKS) | {"fc": None, "fc.bias": None}
    path = saved(tmp_path / "a.pt", {"model": tensors(WEIGHTS, ".weight"), "masks": masks})
    found = load_masks(path)
    same(found, MASKS | {"fc": np.ones((5, 4), bool)})
    assert any("None" in note and "fc" in note for note in found.notes)


def test_numbered_masks_take_names_where_shapes_do_not_tell(tmp_path):
    masks = [torch.tensor(MASKS["fc"]), torch.tensor(MASKS["conv1"])]
    path = saved(tmp_path / "a.pt", {"model": tensors(WEIGHTS, ".weight"), "masks": masks})
    with pytest.raises(FormatError, match=r"masks0 \(5, 4\), masks1 .*names="):
        load_masks(path)
    same(load_masks(path, names=["fc", "conv1"]), {n: MASKS[n] for n in ("fc", "conv1")})


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (torch.ones(5, 4), r"under 'masks' lies no dict of masks, but shape \(5, 4\)"),
        ({"fc": "all"}, "'fc' under 'masks' is no mask, but str"),
        ({"fc": torch.ones(5, 4), "fc.weight": torch.ones(5, 4)}, "two masks of layer 'fc'"),
        ({"fc": torch.full((5, 4), 0.3)}, r"0 and 1, got 0\.3.*threshold="),
        ({"fc": torch.ones(4, 5)}, r"weights of shape \(5, 4\), but a mask of \(4, 5\)"),
    ],
)
def test_masks_that_cannot_be_read_are_named(tmp_path, masks, message):
    tree = {"state_dict": tensors(EARLIER, ".weight"), "masks": masks}
    with pytest.raises((FormatError, MaskError), match=message):
        load_masks(saved(tmp_path / "a.pt", tree))


def test_two_keys_of_masks_are_ambiguous(tmp_path):
    tree = {"masks": tensors(MASKS), "old_masks": tensors(MASKS), "model": tensors(EARLIER)}
    with pytest.raises(FormatError, match="'masks' and 'old_masks'"):
        load_masks(saved(tmp_path / "a.pt", tree))


def test_a_tool_beside_masks_is_ambiguous(tmp_path):
    tree = {"masks": tensors(MASKS), "state_dict": tensors(MASKS, ".weight_mask")}
    with pytest.raises(FormatError, match=r"torch-prune .*masks-beside .*say tool="):
        load_masks(saved(tmp_path / "a.pt", tree))
    same(load_masks(tmp_path / "a.pt", tool="masks-beside"))


def test_shared_dicts_do_not_explode(tmp_path):
    inner = {"fc": torch.ones(5, 4)}
    for _ in range(12):
        inner = {f"n{i}": inner for i in range(8)}
    with pytest.raises(FormatError, match="more than 65536 masks under 'masks'"):
        load_masks(saved(tmp_path / "a.pt", {"masks": inner, "model": tensors(EARLIER)}))
    assert len(load_masks(saved(tmp_path / "b.pt", {"x": inner, "model": tensors(EARLIER)}))) == 3


# --- buffers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaf", [".mask", ".weight.mask", ".pruning_mask", ".mask_buffer_mask"])
def test_buffers_called_masks(tmp_path, leaf):
    named = leaf != ".mask_buffer_mask"
    state = tensors(EARLIER, ".weight") | tensors(MASKS, leaf)
    path = saved(tmp_path / "a.pt", state)
    if named:
        same(load_masks(path))
        same({n: w != 0 for n, w in load_weights(path).items()})
    else:
        with pytest.raises(FormatError, match=r"conv1\.mask_buffer_mask.*called a mask.*tool="):
            load_masks(path)
        assert load_masks(path, tool="arrays")["fc"].sum() == (EARLIER["fc"] != 0).sum()


def test_masks_of_attention_are_left_out_with_a_line(tmp_path):
    state = tensors(MASKED, ".weight") | {
        "attn.mask": torch.ones(1, 1, 7, 7).tril(),
        "block.attn_mask": torch.full((2, 7, 7), -100.0),
    }
    found = load_masks(saved(tmp_path / "a.pt", state))
    same(found)
    assert any("attn.mask" in note and "block.attn_mask" in note for note in found.notes)
    found = load_masks(saved(tmp_path / "a.pt", state | {"fc.mask": torch.tensor(MASKS["fc"])}))
    same(found, {"fc": MASKS["fc"]})
    assert any("attn.mask" in note for note in found.notes)


def test_masks_alone_lose_what_calls_them_masks(tmp_path):
    save_file(tensors(MASKS, ".mask", torch.bool), tmp_path / "a.safetensors")
    found = load_masks(tmp_path / "a.safetensors")
    same(found)
    assert any("conv1.mask" in note for note in found.notes)


# --- shapes ---------------------------------------------------------------------------------------

ROWS = np.array([1, 0, 1, 1, 0, 1], bool)


@pytest.mark.parametrize(
    ("layer", "mask"),
    [
        ("conv1", ROWS),
        ("conv1", ROWS.reshape(6, 1, 1, 1)),
        ("conv1", np.array([1, 0, 1], bool).reshape(1, 3, 1, 1)),
        ("conv1", np.arange(18).reshape(6, 3) % 4 == 0),
        ("fc", np.array([1, 0, 1, 1, 0], bool)),
        ("fc", np.array([1, 0, 0, 1], bool)),
    ],
)
@pytest.mark.parametrize("form", ["weight_mask", "mask", "masks"])
def test_smaller_masks_cover_rows_columns_or_windows(tmp_path, layer, mask, form):
    weight = torch.tensor(WEIGHTS[layer])
    state = {f"{layer}.weight_orig": weight, f"{layer}.weight_mask": torch.tensor(mask).float()}
    if form == "mask":
        state = {f"{layer}.weight": weight, f"{layer}.mask": torch.tensor(mask)}
    elif form == "masks":
        state = {"model": {f"{layer}.weight": weight}, "masks": {layer: torch.tensor(mask)}}
    shape = WEIGHTS[layer].shape
    axis = shape.index(mask.size) if mask.ndim == 1 else 0
    behind = (1,) * (len(shape) - mask.ndim - axis)
    whole = np.broadcast_to(mask.reshape(*mask.shape, *behind), shape)
    found = load_masks(saved(tmp_path / "a.pt", state))
    same(found, {layer: whole})
    assert any("spread" in note and layer in note for note in found.notes)


def test_a_vector_for_rows_or_columns_is_refused(tmp_path):
    state = {"fc.weight_orig": torch.randn(4, 4), "fc.weight_mask": torch.ones(4)}
    with pytest.raises(MaskError, match=r"layer 'fc'.*\(4,\).*\(4, 4\).*\(4, 1\)"):
        load_masks(saved(tmp_path / "a.pt", state))
    state = {"c.weight_orig": torch.randn(6, 3, 2, 2), "c.weight_mask": torch.ones(3)}
    with pytest.raises(MaskError, match=r"\(6, 1, 1, 1\)"):
        load_masks(saved(tmp_path / "a.pt", state))


def test_vectors_without_weights_are_told(tmp_path):
    state = {"c.weight_mask": torch.ones(4), "fc.weight_mask": torch.tensor(MASKS["fc"])}
    found = load_masks(saved(tmp_path / "a.pt", state))
    assert list(found) == ["fc"]
    assert any("one axis were left out: c" in note for note in found.notes)
    with pytest.raises(FormatError, match="one axis were left out: c"):
        load_masks(saved(tmp_path / "a.pt", {"c.weight_mask": torch.ones(4)}))


# --- parameters of other names --------------------------------------------------------------------


def test_masks_of_attention_and_recurrence(tmp_path):
    net = nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2), "rnn": nn.LSTM(4, 3)})
    pruned = [("attn", "in_proj_weight"), ("rnn", "weight_ih_l0"), ("rnn", "weight_hh_l0")]
    for module, parameter in pruned:
        prune.random_unstructured(net[module], parameter, 0.5)
    prune.random_unstructured(net["rnn"], "bias_ih_l0", 0.5)
    path = saved(tmp_path / "a.pt", net.state_dict())
    found = load_masks(path)
    names = [f"{module}.{parameter}" for module, parameter in pruned]
    same(found, {n: net.state_dict()[f"{n}_mask"].numpy() != 0 for n in names})
    assert any("1 bias masks" in note for note in found.notes)
    weights = load_weights(path, masked=False)
    assert np.array_equal(weights[names[0]], net.state_dict()[f"{names[0]}_orig"])


def test_apex_masks_of_attention(tmp_path):
    state = {"a.in_proj_weight": torch.randn(6, 4), "a.__in_proj_weight_mma_mask": torch.ones(6, 4)}
    assert list(load_masks(saved(tmp_path / "a.pt", state))) == ["a.in_proj_weight"]


@pytest.mark.parametrize(
    "state",
    [
        {"fc.weight_orig": torch.ones(5, 4), "fc.weight_mask": torch.ones(5, 4)},
        {"fc.weight": torch.ones(5, 4), "fc.weight_mask": torch.ones(5, 4)},
        {"fc.weight": torch.ones(5, 4), "fc._weight_mask": torch.ones(5, 4)},
    ],
)
def test_masks_that_belong_to_nothing_are_told(tmp_path, state):
    path = saved(tmp_path / "a.pt", state | {"other.odd_mask": torch.ones(3, 3)})
    assert any("left out" in n and "other.odd_mask" in n for n in load_masks(path).notes)


# --- wrappers -------------------------------------------------------------------------------------

KEYS = (
    "net", "module", "network", "weights", "params", "ema", "state_dict_ema", "net_state_dict",
    "model_state", "params_ema", "generator",
)  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_a_lone_state_dict_is_found_under_any_key(tmp_path, key):
    optimizer = {"state": {0: {"exp_avg": torch.ones(5, 4)}}, "param_groups": []}
    tree = {key: tensors(MASKED, ".weight"), "epoch": 3, "optimizer": optimizer, "ema_decay": 0.9}
    found = load_masks(saved(tmp_path / "a.pt", tree))
    same(found)
    assert any(repr(key) in note for note in found.notes)


def test_a_lone_state_dict_two_dicts_down(tmp_path):
    same(load_masks(saved(tmp_path / "a.pt", {"ema": {"module": tensors(MASKED, ".weight")}})))


def test_two_state_dicts_under_other_keys_are_named(tmp_path):
    state = tensors(MASKED, ".weight")
    with pytest.raises(FormatError, match=r"state dicts lie under 'net' and 'ema': save the one"):
        load_masks(saved(tmp_path / "a.pt", {"net": state, "ema": state, "epoch": 3}))


def test_what_else_holds_arrays_is_told(tmp_path):
    tree = {"state_dict": tensors(MASKED, ".weight"), "ema": tensors(WEIGHTS), "epoch": 3}
    found = load_masks(saved(tmp_path / "a.pt", tree))
    assert "left out: what lies under 'ema'" in found.notes
    assert found.notes == inspect_masks(tmp_path / "a.pt").assumptions


# --- kinds of tensors -----------------------------------------------------------------------------


# torch warns whoever makes a sparse tensor; who reads one is spared (see the tests' settings).
MAKING = pytest.mark.filterwarnings("ignore:Sparse ")


def by_subprocess(path):
    code = "import sys, masktools; print(masktools.load_masks(sys.argv[1])['fc'].sum())"
    command = [sys.executable, "-W", "error", "-c", code, str(path)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@MAKING
def test_who_reads_a_sparse_tensor_is_not_warned(tmp_path):
    mask = torch.eye(8)
    path = saved(tmp_path / "a.pt", {"fc.weight_mask": mask.to_sparse_csr()})
    assert by_subprocess(path) == 8


@MAKING
@pytest.mark.parametrize("layout", ["sparse", "sparse_csr", "sparse_csc", "sparse_bsr"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.bfloat16])
def test_sparse_tensors_are_spread_out(tmp_path, layout, dtype):
    mask = torch.rand(8, 12) < 0.3
    blocks = [(4, 4)] if layout == "sparse_bsr" else []
    sparse = getattr(mask.to(dtype), f"to_{layout}")(*blocks)
    same(load_masks(saved(tmp_path / "a.pt", {"fc.weight_mask": sparse})), {"fc": mask.numpy()})


@MAKING
def test_sparse_tensors_that_reach_outside_are_refused(tmp_path):
    values = torch.ones(2)
    coo = torch.sparse_coo_tensor(
        torch.tensor([[0, 5_000_000], [0, 1]]), values, (8, 8), check_invariants=False
    )
    csr = torch.sparse_csr_tensor(
        torch.tensor([0, 1] + [2] * 7), torch.tensor([0, 10**6]), values, (8, 8),
        check_invariants=False,
    )  # fmt: skip
    for tensor in (coo, csr):
        with pytest.raises(FormatError, match="damaged"):
            load_masks(saved(tmp_path / "a.pt", {"fc.weight_mask": tensor}))


@MAKING
def test_a_sparse_tensor_may_not_claim_any_size(tmp_path):
    huge = torch.sparse_coo_tensor(torch.tensor([[0], [0]]), torch.ones(1), (1 << 20, 1 << 20))
    with pytest.raises(FormatError, match="claims"):
        load_masks(saved(tmp_path / "a.pt", {"fc.weight_mask": huge}))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("write", [torch.save, save_file])
def test_floats_of_eight_bits(tmp_path, dtype, write):
    weight = torch.arange(-1, 1, 1 / 64).reshape(8, 16).to(dtype)
    write({"fc.weight": weight}, tmp_path / "a.bin")
    assert np.array_equal(load_weights(tmp_path / "a.bin")["fc"], weight.float())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_float_of_eight_bits(dtype):
    from masktools.importers.containers.safetensors_file import _EIGHT_BITS, _eight_bits

    kind = {torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2"}[dtype]
    expected = torch.arange(256, dtype=torch.uint8).view(dtype).float().numpy()
    assert np.array_equal(_eight_bits(*_EIGHT_BITS[kind]), expected, equal_nan=True)


def test_the_data_sparsifier(tmp_path):
    data = [("fc", nn.Parameter(torch.randn(16, 16)))]
    sparsifier = DataNormSparsifier(data_list=data, sparsity_level=0.5, sparse_block_shape=(1, 4))
    sparsifier.step()
    state = sparsifier.state_dict()
    mask = state["state"]["fc"]["mask"].to_dense().numpy() != 0
    assert 0 < mask.mean() < 1
    same(load_masks(saved(tmp_path / "a.pt", state)), {"fc": mask})
    weights = load_weights(tmp_path / "a.pt", masked=False)["fc"]
    assert np.array_equal(weights, data[0][1].detach().numpy())


def test_soft_masks_by_a_threshold(tmp_path):
    scores = {n: np.where(m, 0.7, 0.2).astype(np.float32) for n, m in MASKS.items()}
    tree = {"model": tensors(WEIGHTS, ".weight"), "masks": tensors(scores)}
    path = saved(tmp_path / "a.pt", tree)
    with pytest.raises(MaskError, match=r"got 0\.[27].*threshold= \(--threshold\)"):
        load_masks(path)
    found = load_masks(path, threshold=0.5)
    same(found)
    assert any("above 0.5" in note for note in found.notes)
    same({n: w != 0 for n, w in load_weights(path, threshold=0.5).items()})
    assert inspect_masks(path, threshold=0.5).layers[0].kept == MASKS["conv1"].sum()
    with pytest.raises(TypeError, match="threshold"):
        load_masks(path, threshold="0.5")


def test_tensors_that_pickle_wrote(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(tensors(MASKS)))
    with pytest.raises(FormatError, match=r"pickle\.dump.*torch\.save.*safetensors"):
        load_masks(tmp_path / "a.pkl")
