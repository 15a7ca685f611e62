"""Files of every format of docs/mask_formats.md, built key by key.

Shapes are asymmetric throughout, so that a wrong transposition cannot pass.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict

import h5py
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from torch import nn
from torch.ao.pruning import WeightNormSparsifier
from torch.nn.utils import prune

SHAPES = {"conv1": (6, 3, 3, 2), "body.0": (4, 6, 1, 3), "fc": (5, 4)}
RNG = np.random.default_rng(0)
MASKS = {layer: RNG.random(shape) < 0.5 for layer, shape in SHAPES.items()}
WEIGHTS = {n: RNG.normal(size=s).astype(np.float32) for n, s in SHAPES.items()}
START = {n: RNG.normal(size=s).astype(np.float32) for n, s in SHAPES.items()}
MASKED = {n: w * MASKS[n] for n, w in WEIGHTS.items()}


def tensors(arrays, suffix="", dtype=torch.float32):
    return {n + suffix: torch.tensor(a, dtype=dtype) for n, a in arrays.items()}


def network():
    net = nn.Module()
    net.conv1, net.fc = nn.Conv2d(3, 6, (3, 2)), nn.Linear(4, 5)
    net.body = nn.Sequential(nn.Conv2d(6, 4, (1, 3), bias=False))
    for layer, weight in WEIGHTS.items():
        net.get_submodule(layer).weight.data = torch.from_numpy(weight.copy())
    return net


def pruned_network():
    net = network()
    for layer, mask in MASKS.items():
        prune.custom_from_mask(net.get_submodule(layer), "weight", torch.from_numpy(mask))
    prune.random_unstructured(net.conv1, "bias", amount=2)
    return net


def torch_prune(path):
    torch.save(pruned_network().state_dict(), path)


def torch_prune_legacy(path):
    torch.save(pruned_network().state_dict(), path, _use_new_zipfile_serialization=False)


def torch_prune_parallel(path):
    state = {f"module._orig_mod.{k}": v for k, v in pruned_network().state_dict().items()}
    torch.save({"epoch": 3, "best": np.float64(0.5), "model": {"state_dict": state}}, path)


def torch_prune_submodules(path):
    state = pruned_network().state_dict()
    state = {k.replace("body.", "body._orig_mod."): v for k, v in state.items()}
    torch.save({"model_state_dict": state}, path)


def torch_prune_removed(path):
    net = pruned_network()
    for layer in MASKS:
        prune.remove(net.get_submodule(layer), "weight")
    prune.remove(net.conv1, "bias")
    torch.save({"state_dict": net.state_dict()}, path)


def mask_dict(path):
    torch.save(tensors(MASKS, ".weight_mask"), path)


def structure_lth(path):
    init = {f"module.{k}": v for k, v in tensors(START, ".weight").items()}
    state = {f"module.{k}": v for k, v in pruned_network().state_dict().items()}
    optimizer = torch.optim.SGD([torch.zeros(1)], 0.1).state_dict()
    torch.save(
        {
            "result": {"train_ta": [90.0], "test_ta": [91.5]},
            "epoch": 160,
            "state": 7,
            "state_dict": state,
            "init_weight": init,
            "optimizer": optimizer,
        },
        path,
    )


def torch_ao(path, model=True, state=True):
    net = network()
    kept = torch.from_numpy(MASKS["fc"])
    sparsifier = WeightNormSparsifier(sparse_block_shape=(1, 4), zeros_per_block=2)
    sparsifier.prepare(net, [{"tensor_fqn": f"{layer}.weight"} for layer in MASKS])
    for layer, mask in MASKS.items():
        parametrization = net.get_submodule(layer).parametrizations.weight[0]
        parametrization.mask = torch.from_numpy(mask)
        sparsifier.state[f"{layer}.weight"]["mask"] = torch.from_numpy(mask)
    assert torch.equal(net.fc.weight != 0, kept)
    held = {"model": net.state_dict()} if model else {}
    torch.save(held | ({"sparsifier": sparsifier.state_dict()} if state else {}), path)


def torch_ao_state_alone(path):
    torch_ao(path, model=False)


def nni(path):
    masks = defaultdict(dict)
    for layer, mask in tensors(MASKS).items():
        masks[f"module.{layer}"] = {"weight": mask, "bias": None, "_output_": torch.ones(1, 2)}
    torch.save(masks, path)


def openlth_mask(path):
    torch.save(tensors(MASKS, ".weight", torch.int32), path)


def openlth_checkpoint(path):
    state = {f"model.{k}": v for k, v in tensors(MASKED, ".weight").items()}
    state |= {
        f"mask_{layer.replace('.', '___')}___weight": mask for layer, mask in tensors(MASKS).items()
    }
    torch.save({"ep": 1, "it": 2, "model_state_dict": state, "optimizer_state_dict": {}}, path)


def bitmask(path, leaf="", values=WEIGHTS, offsets="flat"):
    arrays = {}
    for layer, keep in MASKS.items():
        rows = keep.sum(-1)
        stored = {
            "shape": np.array(keep.shape, np.int64),
            "compressed": values[layer][keep],
            "bitmask": np.packbits(keep, axis=-1, bitorder="little"),
        }
        if offsets == "flat":
            stored["row_offsets"] = np.cumsum(rows.ravel()) - rows.ravel()
        elif offsets == "tool":
            stored["row_offsets"] = np.cumsum(rows, 0) - rows
        arrays |= {f"{layer}{leaf}.{name}": array for name, array in stored.items()}
    save_file({**arrays, "fc.bias": np.ones(5, np.float32)}, path)


def bitmask_by_tool(path):
    bitmask(path, offsets="tool")


def bitmask_half(path):
    half = {layer: weight.astype(np.float16) for layer, weight in WEIGHTS.items()}
    bitmask(path, ".weight", half, offsets=None)


def nncf(path):
    state = tensors(WEIGHTS, ".weight")
    for layer, mask in tensors(MASKS, dtype=torch.bool).items():
        hook = f"{layer}.weight".replace(".", ":")
        state[f"__nncf_hooks.post_hooks.{hook}__0.0.binary_mask"] = mask
    torch.save(state, path)


def nncf_scores(path):
    state = tensors(WEIGHTS, ".weight")
    for layer, mask in MASKS.items():
        hook = f"{layer}.weight".replace(".", ":")
        score = torch.tensor(np.where(mask, 0.1, -0.1))
        state[f"__nncf_hooks.post_hooks.{hook}__0.0.mask"] = score
    torch.save(state, path)


def modelopt(path):
    state = tensors(WEIGHTS, ".weight") | tensors(MASKS, "._weight_mask", torch.bool)
    held = {"modelopt_state_dict": [("sparse_magnitude", {})], "modelopt_version": "0.47.0"}
    torch.save({"modelopt_state": held, "model_state_dict": state}, path)


def apex(path, pruned=False):
    state = tensors(MASKED, ".weight") | tensors(MASKS, ".__weight_mma_mask", torch.bool)
    if pruned:
        lost = {layer: weight * ~MASKS[layer] for layer, weight in WEIGHTS.items()}
        state |= tensors(lost, ".__weight_mma_pruned_p")
    torch.save({"model": state, "optimizer": {"state": {0: {}}}}, path)


def apex_pruned(path):
    apex(path, pruned=True)


def hwio(array):
    return array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0)


def keras(path, wrapped=True, root="model_weights/"):
    with h5py.File(path, "w") as file:
        for layer in MASKS:
            scope = layer.replace(".", "_")
            if not wrapped:
                file[f"{root}{scope}/{scope}/kernel:0"] = hwio(MASKED[layer])
                file[f"{root}{scope}/{scope}/bias:0"] = np.zeros(SHAPES[layer][0])
                continue
            group = f"{root}prune_low_magnitude_{scope}"
            inner = f"{group}/prune_low_magnitude_{scope}"
            file[f"{group}/{scope}/kernel:0"] = hwio(WEIGHTS[layer])
            file[f"{inner}/mask:0"] = hwio(MASKS[layer]).astype(np.float32)
            file[f"{inner}/threshold:0"] = np.float32(0.1)
            file[f"{inner}/pruning_step:0"] = np.int64(7)
        if root:
            file["optimizer_weights/Adam/m/kernel:0"] = np.ones((3, 2))


def keras_weights_alone(path):
    keras(path, root="")


def keras_stripped(path):
    keras(path, wrapped=False)


def onnx_model(path, lost=False, sparse=None):
    """Conv, Conv, then Gemm without transB, so that its matrix is (in, out)."""
    inits, sparse_inits, nodes, value = [], [], [], "x"
    for i, (layer, weight) in enumerate(MASKED.items()):
        stored = weight.T if layer == "fc" else weight
        name = f"onnx::Conv_{i}" if lost else f"{layer}.weight"
        if sparse:
            keep = MASKS[layer].T if layer == "fc" else MASKS[layer]
            at = np.argwhere(keep) if sparse == "coordinates" else np.flatnonzero(keep)
            values = numpy_helper.from_array(np.ascontiguousarray(stored[keep]), name)
            indices = numpy_helper.from_array(at.astype(np.int64), f"{name}_indices")
            sparse_inits.append(helper.make_sparse_tensor(values, indices, stored.shape))
        else:
            inits.append(numpy_helper.from_array(np.ascontiguousarray(stored), name))
        op = "Gemm" if layer == "fc" else "Conv"
        nodes.append(
            helper.make_node(op, [value, name], [f"y{i}"], name=layer if lost else f"n{i}")
        )
        value = f"y{i}"
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, None)],
        inits,
        sparse_initializer=sparse_inits,
    )
    onnx.save(helper.make_model(graph), path)


def onnx_lost_names(path):
    onnx_model(path, lost=True)


def onnx_sparse(path):
    onnx_model(path, sparse="linear")


def onnx_sparse_coordinates(path):
    onnx_model(path, sparse="coordinates")


def distiller(path):
    masks = {f"module.{k}": v for k, v in tensors(MASKS, ".weight").items()}
    masks |= {"module.fc.bias": None, "module.conv1.bias": torch.ones(6)}
    state = {f"module.{k}": v for k, v in tensors(MASKED, ".weight").items()}
    torch.save(
        {
            "epoch": 9,
            "arch": "net",
            "state_dict": state,
            "compression_sched": {"masks_dict": masks},
            "optimizer_type": torch.optim.SGD,
            "optimizer_state_dict": {"state": {}, "param_groups": []},
        },
        path,
    )


def shrinkbench(path):
    state = tensors(MASKED, ".weight") | tensors(MASKS, ".weight_mask")
    state |= {"fc.bias": torch.ones(5), "fc.bias_mask": torch.ones(5)}
    torch.save({"model_state_dict": state, "optim_state_dict": {}}, path)


TORCHPRUNE_NAMES = ["conv1", None, "body.0.weight", "fc", None]


def torchprune(path):
    """`compressible_layers.parameters()`: weights and biases as they come, 1 = pruned."""
    state, i = OrderedDict(), 0
    for number, (layer, bias) in enumerate((("conv1", 6), ("body.0", 0), ("fc", 5))):
        held = {"weight": (MASKS[layer], MASKED[layer])}
        if bias:
            held["bias"] = (np.ones(bias, np.bool_), np.ones(bias))
        for leaf, (mask, value) in held.items():
            state[f"compressed_net.param{i}"] = torch.tensor(~mask, dtype=torch.uint8)
            state[f"compressed_net.torchnet.{layer}.{leaf}"] = torch.tensor(value)
            state[f"compressed_net.compressible_layers.{number}.{leaf}"] = torch.tensor(value)
            i += 1
    torch.save(state, path)


def continuous_sparsification(path):
    scores = {n: np.where(m, 0.2, -0.3) for n, m in MASKS.items()}
    state = tensors(WEIGHTS, ".weight") | tensors(START, ".init_weight")
    torch.save(state | tensors(scores, ".mask_weight"), path)


def jax_tree(path, packed=False, flat="masks/params/{}/kernel", params="params/{}/kernel"):
    arrays = {}
    for layer in MASKS:
        mask = hwio(MASKS[layer]).astype(np.uint8)
        arrays[flat.format(layer)] = np.packbits(mask) if packed else mask
        if params:
            arrays[params.format(layer)] = hwio(WEIGHTS[layer])
    np.savez(path, **arrays, count=np.int32(7))


def jaxpruner_packed(path):
    jax_tree(path, packed=True)


def jaxpruner_keystr(path):
    jax_tree(path, flat=".masks['{}']['kernel']", params=None)


def jaxpruner_masks_alone(path):
    jax_tree(path, flat="{}/kernel", params=None)


def jaxpruner_zeros(path):
    np.savez(path, **{f"{layer}/kernel": hwio(w) for layer, w in MASKED.items()})


def plain_bool(path):
    save_file(MASKS, path)


def plain_uint8(path):
    np.savez(path, **{f"{layer}.weight": mask.astype(np.uint8) for layer, mask in MASKS.items()})


def plain_float(path):
    np.savez_compressed(
        path, **{f"{n}.weight_mask": m.astype(np.float64) for n, m in MASKS.items()}
    )


def plain_zeros(path):
    norm = {"norm.weight": np.ones(6, np.float32), "table": np.ones((2, 2), np.float32)}
    save_file({f"{n}.weight": w for n, w in MASKED.items()} | norm, path)
