"""Every format of docs/mask_formats.md: masks, weights, layout and polarity."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
import torch
from mask_writers import (
    MASKED,
    MASKS,
    SHAPES,
    START,
    TORCHPRUNE_NAMES,
    WEIGHTS,
    apex,
    apex_pruned,
    bitmask,
    bitmask_by_tool,
    bitmask_half,
    continuous_sparsification,
    distiller,
    jax_tree,
    jaxpruner_keystr,
    jaxpruner_masks_alone,
    jaxpruner_packed,
    jaxpruner_zeros,
    keras,
    keras_stripped,
    keras_weights_alone,
    mask_dict,
    modelopt,
    nncf,
    nncf_scores,
    nni,
    onnx_lost_names,
    onnx_model,
    onnx_sparse,
    onnx_sparse_coordinates,
    openlth_checkpoint,
    openlth_mask,
    plain_bool,
    plain_float,
    plain_uint8,
    plain_zeros,
    shrinkbench,
    structure_lth,
    tensors,
    torch_ao,
    torch_ao_state_alone,
    torch_prune,
    torch_prune_legacy,
    torch_prune_parallel,
    torch_prune_removed,
    torch_prune_submodules,
    torchprune,
)
from onnx import TensorProto, helper, numpy_helper
from paths import MASK_FILES, ROOT
from safetensors.numpy import save_file

from masktools.errors import FormatError
from masktools.importers import inspect_masks, load_masks, load_weights
from masktools.importers.tools.registry import TOOLS


@dataclass(frozen=True)
class Case:
    """A file; `holds` says which weights it has: "all", "masked" (zeros where pruned) or ""."""

    build: Callable[[Path], None]
    suffix: str
    tool: str
    holds: str = ""
    rewound: bool = False
    names: object = None


CASES = [
    Case(torch_prune, ".pt", "torch-prune", "all"),
    Case(torch_prune_legacy, ".pth", "torch-prune", "all"),
    Case(torch_prune_parallel, ".pt", "torch-prune", "all"),
    Case(torch_prune_submodules, ".pt", "torch-prune", "all"),
    Case(torch_prune_removed, ".pt", "arrays", "masked"),
    Case(mask_dict, ".pt", "torch-prune"),
    Case(structure_lth, ".pth.tar", "structure-lth", "all", rewound=True),
    Case(torch_ao, ".pt", "torch-ao", "all"),
    Case(torch_ao_state_alone, ".pt", "torch-ao"),
    Case(nni, ".pth", "nni"),
    Case(openlth_mask, ".pth", "openlth"),
    Case(openlth_checkpoint, ".pth", "openlth", "masked"),
    Case(bitmask, ".safetensors", "compressed-tensors", "masked"),
    Case(bitmask_by_tool, ".safetensors", "compressed-tensors", "masked"),
    Case(nncf, ".pt", "nncf", "all"),
    Case(nncf_scores, ".pt", "nncf", "all"),
    Case(modelopt, ".pt", "modelopt", "all"),
    Case(apex, ".pt", "apex", "masked"),
    Case(apex_pruned, ".pt", "apex", "all"),
    Case(keras, ".h5", "tfmot", "all", names={"body_0": "body.0"}),
    Case(keras_weights_alone, ".h5", "tfmot", "all", names={"body_0": "body.0"}),
    Case(keras_stripped, ".h5", "tfmot", "masked", names={"body_0": "body.0"}),
    Case(onnx_model, ".onnx", "onnx", "masked"),
    Case(onnx_lost_names, ".onnx", "onnx", "masked"),
    Case(onnx_sparse, ".onnx", "onnx", "masked"),
    Case(onnx_sparse_coordinates, ".onnx", "onnx", "masked"),
    Case(distiller, ".pth.tar", "distiller", "masked"),
    Case(shrinkbench, ".pt", "shrinkbench", "masked"),
    Case(torchprune, ".pt", "torchprune", "masked", names=TORCHPRUNE_NAMES),
    Case(continuous_sparsification, ".pt", "continuous-sparsification", "all", rewound=True),
    Case(jax_tree, ".npz", "jaxpruner", "all", names={"body/0": "body.0"}),
    Case(jaxpruner_packed, ".npz", "jaxpruner", "all", names={"body/0": "body.0"}),
    Case(jaxpruner_keystr, ".npz", "jaxpruner", names={"body/0": "body.0"}),
    Case(jaxpruner_masks_alone, ".npz", "jaxpruner", names={"body/0": "body.0"}),
    Case(jaxpruner_zeros, ".npz", "jaxpruner", "masked", names={"body/0": "body.0"}),
    Case(plain_bool, ".safetensors", "arrays"),
    Case(plain_uint8, ".npz", "arrays"),
    Case(plain_float, ".npz", "torch-prune"),
    Case(plain_zeros, ".safetensors", "arrays", "masked"),
]


@pytest.fixture(params=CASES, ids=lambda case: case.build.__name__)
def written(request, tmp_path):
    # A name that says nothing: only the content may tell the tool.
    path = tmp_path / "file.bin"
    request.param.build(path.with_suffix(request.param.suffix))
    path.with_suffix(request.param.suffix).rename(path)
    return request.param, path


def same(found, expected):
    assert found.keys() == expected.keys()
    for layer, array in expected.items():
        assert found[layer].dtype == array.dtype
        assert found[layer].flags.c_contiguous
        np.testing.assert_array_equal(found[layer], array, err_msg=layer)


def test_tool_and_masks(written):
    case, path = written
    assert inspect_masks(path, names=case.names).tool == case.tool
    same(load_masks(path, names=case.names), MASKS)
    same(load_masks(str(path), tool=case.tool, names=case.names), MASKS)


def test_trained_weights(written):
    case, path = written
    if not case.holds:
        with pytest.raises(FormatError, match="holds no trained weights"):
            load_weights(path, names=case.names)
        return
    same(load_weights(path, names=case.names), MASKED)
    if case.holds == "all":
        same(load_weights(path, names=case.names, masked=False), WEIGHTS)
    else:
        with pytest.raises(FormatError, match="holds no unmasked ones"):
            load_weights(path, names=case.names, masked=False)


def test_rewound_weights(written):
    case, path = written
    if not case.rewound:
        with pytest.raises(FormatError, match="holds no rewound weights"):
            load_weights(path, names=case.names, which="rewound")
        return
    same(load_weights(path, which="rewound", masked=False), START)
    same(load_weights(path, which="rewound"), {n: w * MASKS[n] for n, w in START.items()})


def test_inspect_says_what_was_assumed(written):
    case, path = written
    file = inspect_masks(path, names=case.names)
    assert {layer.name: layer.kept for layer in file.layers} == {
        layer: int(mask.sum()) for layer, mask in MASKS.items()
    }
    assert {layer.name: layer.shape for layer in file.layers} == SHAPES
    assert file.weights == (("trained",) if case.holds else ()) + ("rewound",) * case.rewound
    assert file.refusal == ""
    assert file.density == pytest.approx(
        sum(m.sum() for m in MASKS.values()) / sum(m.size for m in MASKS.values())
    )


def test_the_document_lists_every_tool():
    text = (ROOT / "docs" / "mask_formats.md").read_text(encoding="utf-8")
    table = text[text.index("## The tools") : text.index("### Plain arrays")]
    listed = re.findall(r"^\| `([^`=]+)` \|", table, re.MULTILINE)
    assert sorted(listed) == sorted(TOOLS)


def test_half_precision_under_parameter_names(tmp_path):
    bitmask_half(tmp_path / "ticket.safetensors")
    same(load_masks(tmp_path / "ticket.safetensors"), MASKS)
    half = {n: w.astype(np.float16).astype(np.float32) for n, w in MASKED.items()}
    same(load_weights(tmp_path / "ticket.safetensors"), half)


def test_onnx_weights_behind_a_cast_and_a_copy(tmp_path):
    path = tmp_path / "net.onnx"
    onnx_model(path)
    model = onnx.load(path)
    before = []
    for tensor, node in zip(model.graph.initializer, list(model.graph.node), strict=True):
        half = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
        copy, full = f"{tensor.name}.copy", f"{tensor.name}.float"
        before += [
            helper.make_node("Identity", [tensor.name], [copy]),
            helper.make_node("Cast", [copy], [full], to=TensorProto.FLOAT),
        ]
        node.input[1] = full
    after = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*before, *after])
    onnx.save(model, path)
    same(load_masks(path), MASKS)
    same(load_weights(path), {n: np.float32(np.float16(w)) for n, w in MASKED.items()})


def test_bfloat16_from_safetensors_and_torch(tmp_path):
    from safetensors.torch import save_file as save_tensors

    state = {f"{n}.weight": torch.from_numpy(w).bfloat16() for n, w in MASKED.items()}
    expected = {n: state[f"{n}.weight"].float().numpy() for n in MASKED}
    save_tensors(state, tmp_path / "bf16.safetensors")
    torch.save(state, tmp_path / "bf16.pt")
    same(load_weights(tmp_path / "bf16.safetensors"), expected)
    same(load_weights(tmp_path / "bf16.pt"), expected)


def test_two_to_four_bitmask_stores_a_matrix_and_a_column(tmp_path):
    keep = np.tile([[True, False, False, True], [False, True, True, False]], (3, 2))
    weight = np.arange(1, 49, dtype=np.float32).reshape(6, 8) * keep
    save_file(
        {
            "fc.shape": np.array([[6], [8]]),
            "fc.compressed": weight[keep].reshape(6, 4),
            "fc.bitmask": np.packbits(keep, axis=-1, bitorder="little"),
        },
        tmp_path / "24.safetensors",
    )
    same(load_masks(tmp_path / "24.safetensors"), {"fc": keep})
    same(load_weights(tmp_path / "24.safetensors"), {"fc": weight})


def test_keras_depthwise_and_one_dimensional_kernels(tmp_path):
    depthwise, line = np.ones((3, 2, 4, 2)), np.ones((5, 3, 2))
    depthwise[1, 0, 2, 1] = line[4, 2, 1] = 0
    with h5py.File(tmp_path / "net.h5", "w") as file:
        file["dw/dw/depthwise_kernel:0"], file["line/line/kernel:0"] = depthwise, line
    masks = load_masks(tmp_path / "net.h5")
    assert masks["dw"].shape == (8, 1, 3, 2)
    assert masks["line"].shape == (2, 3, 5)
    # Output channel = input channel * multiplier + index.
    assert np.argwhere(~masks["dw"]).tolist() == [[5, 0, 1, 0]]
    assert np.argwhere(~masks["line"]).tolist() == [[1, 2, 4]]


def test_keras_transposed_convolutions_are_left_out(tmp_path):
    keras_stripped(tmp_path / "net.h5")
    inner = {"class_name": "Conv2DTranspose", "config": {"name": "conv1"}}
    with h5py.File(tmp_path / "net.h5", "r+") as file:
        file.attrs["model_config"] = f'{{"config": {{"layers": [{inner}]}}}}'.replace("'", '"')
    assert set(load_masks(tmp_path / "net.h5")) == {"body_0", "fc"}
    assert any("transposed" in a for a in inspect_masks(tmp_path / "net.h5").assumptions)


def test_onnx_matmul_constant_node_and_external_data(tmp_path):
    weight = MASKED["fc"]
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weight.T))
    product = helper.make_node("MatMul", ["x", "w"], ["y"], name="/fc/MatMul")
    conv = helper.make_node("Conv", ["z", "conv1.weight"], ["v"], name="/conv1/Conv")
    graph = helper.make_graph(
        [constant, product, conv],
        "net",
        [],
        [],
        [numpy_helper.from_array(MASKED["conv1"], "conv1.weight")],
    )
    onnx.save(
        helper.make_model(graph),
        tmp_path / "net.onnx",
        save_as_external_data=True,
        location="net.bin",
        size_threshold=0,
    )
    expected = {"/fc/MatMul": MASKED["fc"], "conv1": MASKED["conv1"]}
    same(load_weights(tmp_path / "net.onnx"), expected)
    assert any("/fc/MatMul" in a for a in inspect_masks(tmp_path / "net.onnx").assumptions)


def test_distiller_masks_that_are_none_keep_all(tmp_path):
    masks = {"conv1.weight": torch.from_numpy(MASKS["conv1"]).float(), "fc.weight": None}
    state = tensors(WEIGHTS, ".weight")
    torch.save({"state_dict": state, "compression_sched": {"masks_dict": masks}}, tmp_path / "d.pt")
    same(load_masks(tmp_path / "d.pt"), {"conv1": MASKS["conv1"], "fc": np.ones((5, 4), np.bool_)})


def test_modelopt_layers_without_a_mask_keep_all(tmp_path):
    state = tensors(WEIGHTS, ".weight") | {"norm.weight": torch.ones(6)}
    state["fc._weight_mask"] = torch.from_numpy(MASKS["fc"])
    torch.save(state, tmp_path / "m.pt")
    full = {layer: np.ones(shape, np.bool_) for layer, shape in SHAPES.items()}
    same(load_masks(tmp_path / "m.pt"), full | {"fc": MASKS["fc"]})


def test_continuous_sparsification_without_checkpoint_has_no_rewound_weights(tmp_path):
    state = {f"fc.{leaf}": torch.ones(3, 2) for leaf in ("weight", "mask_weight")}
    torch.save(state | {"fc.init_weight": torch.zeros(3, 2)}, tmp_path / "c.pt")
    assert inspect_masks(tmp_path / "c.pt").weights == ("trained",)


def test_structure_lth_before_the_first_pruning_is_dense(tmp_path):
    state = tensors(WEIGHTS, ".weight")
    torch.save({"state_dict": state, "init_weight": tensors(START, ".weight")}, tmp_path / "0.tar")
    with pytest.raises(FormatError, match="dense"):
        load_masks(tmp_path / "0.tar")
    same(load_weights(tmp_path / "0.tar", which="rewound"), START)


TOOL_FILES = sorted(
    file
    for file in MASK_FILES.iterdir()
    if file.with_name(f"{file.name}.expected.safetensors").exists()
)


@pytest.mark.parametrize("path", TOOL_FILES, ids=lambda path: path.name)
def test_files_that_the_tools_themselves_wrote(path):
    from safetensors.numpy import load_file

    expected = load_file(path.with_name(f"{path.name}.expected.safetensors"))
    masks = {name: a for name, a in expected.items() if a.dtype == np.bool_}
    weights = {n.removesuffix(".weight"): a for n, a in expected.items() if a.dtype != np.bool_}
    found = load_masks(path)
    same({layer: found[layer] for layer in masks}, masks)
    assert all(found[layer].all() for layer in found.keys() - masks.keys())
    if weights:
        found_weights = load_weights(path)
        same({layer: found_weights[layer] for layer in weights}, weights)


def test_there_are_files_of_every_tool_that_could_be_installed():
    assert {path.name for path in TOOL_FILES} == {
        "compressed_tensors_24.safetensors",
        "compressed_tensors_bitmask.safetensors",
        "modelopt.pt",
        "nncf.pt",
        "nni_masks.pt",
        "nni_wrapped.pt",
    }
