"""Masks named by module meet networks whose exporters have lost the names."""

from __future__ import annotations

import json
import logging
import warnings

import numpy as np
import onnx
import pytest
import torch
from command_lines import invoke
from onnx import helper
from torch import nn
from torch.nn.utils import prune
from typer.testing import CliRunner

import masktools
from masktools import MaskError
from masktools.cli import app
from masktools.export import from_onnx
from masktools.export.exporting import prepare


class Block(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=bias)
        self.bn = nn.BatchNorm2d(8)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x))) + x


class Net(nn.Module):
    """Modules in lists and lists of lists, normalised and not, with and without biases."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.layers = nn.ModuleList([Block(True), Block(False)])
        self.mlp = nn.Sequential(nn.Sequential(nn.Linear(8, 6)), nn.ReLU(), nn.Linear(6, 5))

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return self.mlp(x.mean((2, 3)))


PRUNED = ("stem.0", "layers.0.conv", "layers.1.conv", "mlp.0.0", "mlp.2")


def pruned(hooks):
    torch.manual_seed(0)
    net = Net().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.running_mean, -1, 1)
    for name in PRUNED:
        prune.random_unstructured(net.get_submodule(name), "weight", 0.6)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    if not hooks:
        for name in PRUNED:
            prune.remove(net.get_submodule(name), "weight")
    return net, state


def exported(net, path, exporter):
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        new = exporter != "TorchScript"
        options = {"optimize": exporter == "optimized"} if new else {}
        example = torch.randn(2, 3, 9, 9)
        torch.onnx.export(net, (example,), str(path), dynamo=new, verbose=False, **options)
    return path


@pytest.mark.parametrize("hooks", [False, True])
@pytest.mark.parametrize("exporter", ["TorchScript", "torch.export", "optimized"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_state_dict_meets_its_network(tmp_path, exporter, hooks, prefix):
    net, state = pruned(hooks)
    path = exported(net, tmp_path / "net.onnx", exporter)
    torch.save({f"{prefix}{k}": v for k, v in state.items()}, tmp_path / "ticket.pt")
    out = tmp_path / "out.safetensors"
    stdout, _ = invoke(path, out, "--masks", tmp_path / "ticket.pt", "--residual=keep", "--json")
    assert json.loads(stdout)["difference"] < 1e-5
    masks = masktools.load_masks(tmp_path / "ticket.pt")
    _, kept = prepare(path, masks=masks, residual="keep")
    found = sorted(int(keep.sum()) for keep in kept.values())
    assert found == sorted(int(mask.sum()) for mask in masks.values())


def model_of(weights, bias=None):
    """Return a chain of convolutions without any name."""
    inits = [onnx.numpy_helper.from_array(w, f"onnx::Conv_{i}") for i, w in enumerate(weights)]
    nodes = [
        helper.make_node("Conv", [f"t{i}", f"onnx::Conv_{i}"], [f"t{i + 1}"], name=f"Conv_{i}")
        for i in range(len(weights))
    ]
    ends = [helper.make_tensor_value_info(f"t{i}", 1, ["N", 4, n, n]) for i, n in ((0, 9), (2, 5))]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], inits)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def chain():
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((2, 4, 4, 3, 3)).astype(np.float32)
    return weights, rng.random((2, 4, 4, 3, 3)) < 0.4


def test_zeros_tell_layers_apart_whose_rows_were_scaled(chain, caplog):
    weights, keep = chain
    scaled = weights * keep * np.arange(1, 5).reshape(4, 1, 1, 1)
    masks = {"second": keep[1], "first": keep[0]}
    _, kept = prepare(model_of(scaled.astype(np.float32)), masks=masks, residual="keep")
    assert np.array_equal(kept["Conv_0"], keep[0])
    assert np.array_equal(kept["Conv_1"], keep[1])
    assert "zeros of the weights: second as Conv_1, first as Conv_0" in caplog.text


def test_order_decides_about_a_network_that_is_not_pruned_yet(chain, caplog):
    weights, keep = chain
    masks = {"first": keep[0], "second": keep[1]}
    _, kept = prepare(model_of(weights), masks=masks, residual="keep")
    assert np.array_equal(kept["Conv_1"], keep[1])
    assert "masks were matched by shape and order alone" in caplog.text
    with pytest.raises(MaskError, match="mask 'first' matches no layer"):
        prepare(model_of(weights), masks={"first": keep[0]})


def test_layouts_are_matched_too(tmp_path):
    net, _ = pruned(False)
    path = exported(net, tmp_path / "net.onnx", "TorchScript")
    keep = np.zeros((8, 3, 3, 3), bool)
    keep[:, ::2] = True
    layout = masktools.BlockLayout.from_mask(keep)
    written, _ = prepare(path, layouts={"stem.0": layout}, residual="drop")
    assert list(written.sparse) == ["/stem/stem.0/Conv"]


def test_hostile_metadata_is_passed_over(chain):
    model = model_of(chain[0])
    for value in ("[" * 500, "__import__('os')", "[1, 2, 3]", "'text'", "a" * 10000):
        del model.graph.node[0].metadata_props[:]
        model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value=value)
        prepare(model)


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def odd(tmp_path):
    """A network, and its masks under names that tell nothing."""
    net, state = pruned(False)
    exported(net, tmp_path / "net.onnx", "torch.export")
    masks = {"x": state["stem.0.weight_mask"], "y": state["mlp.2.weight_mask"]}
    arrays = {f"{name}.weight_mask": mask * 0.5 for name, mask in masks.items()}
    torch.save(arrays, tmp_path / "masks.pt")
    (tmp_path / "names.json").write_text(json.dumps({"x": "stem.0", "y": "mlp.2"}))
    return tmp_path


def test_names_tool_and_threshold(odd):
    arguments = [odd / "net.onnx", odd / "out.safetensors", "--masks", odd / "masks.pt"]
    arguments += ["--residual=keep", "--json"]
    _, stderr = invoke(*arguments, status=1)
    assert "--threshold" in stderr
    stdout, stderr = invoke(
        *arguments, "--threshold=0.2", "--names", odd / "names.json", "--tool=torch-prune"
    )
    report = json.loads(stdout)
    assert report["sparse_layers"] == 2
    assert any("'x' was named 'stem.0'" in note for note in report["notes"])
    assert "'x' was named 'stem.0'" in stderr
    _, stderr = invoke(*arguments, "--threshold=0.2", "--tool=nncf", status=1)
    assert "not written by nncf" in stderr


def test_how_names_were_matched_is_told(tmp_path):
    net, state = pruned(False)
    path = exported(net, tmp_path / "net.onnx", "TorchScript")
    torch.save({f"module.net.{k}": v for k, v in state.items()}, tmp_path / "ticket.pt")
    _, stderr = invoke(
        path, tmp_path / "out.safetensors", "--masks", tmp_path / "ticket.pt", "--residual=keep"
    )
    assert "'module.' was stripped" in stderr
    assert "masks were matched once the prefix 'net.' was stripped from the file's names" in stderr


def test_from_onnx_logs_what_it_matched(tmp_path, caplog):
    net, state = pruned(False)
    path = exported(net, tmp_path / "net.onnx", "TorchScript")
    masks = {"stem.0": state["stem.0.weight_mask"].numpy()}
    from_onnx(path, tmp_path / "out.safetensors", masks=masks, residual="keep")
    assert "stem.0 as /stem/stem.0/Conv" in caplog.text


# --- conversions ----------------------------------------------------------------------------------


def test_a_graph_meets_masks_named_by_module(tmp_path, caplog):
    net, state = pruned(False)
    path = exported(net, tmp_path / "net.onnx", "TorchScript")
    masks = {"layers.0.conv": state["layers.0.conv.weight_mask"].numpy()}
    options = {"method": "refill", "density": 0.5, "progress": False}
    found = masktools.convert(masks, graph=path, by="multiplications", **options)
    assert list(found.layouts) == ["layers.0.conv"]
    assert "layers.0.conv as /layers.0/conv/Conv" in caplog.text
    with pytest.raises(MaskError, match="the graph has no layer 'conv9'"):
        masktools.convert({"conv9": masks["layers.0.conv"]}, graph=path, **options)


def test_weights_of_another_file_meet_the_masks(tmp_path):
    net, state = pruned(False)
    path = exported(net, tmp_path / "net.onnx", "TorchScript")
    masks = {n: state[f"{n}.weight_mask"].numpy() != 0 for n in PRUNED}
    masktools.save_masks(tmp_path / "masks.npz", {f"net.{n}": m for n, m in masks.items()})
    torch.save({"a": state["mlp.2.weight_orig"]}, tmp_path / "odd.pt")
    (tmp_path / "names.json").write_text(json.dumps({"a": "net.mlp.2"}))

    def converted(*arguments, status=0):
        command = ["convert", tmp_path / "masks.npz", tmp_path / "result", "--method=refill"]
        done = CliRunner().invoke(app.app, [*map(str, [*command, *arguments])])
        assert done.exit_code == status, done.stderr
        return done.stderr

    assert "the prefix 'net.' was stripped" in converted("--weights", path)
    stderr = converted("--weights", tmp_path / "odd.pt", status=1)
    assert "matches no layer of" in stderr or "match no layer of" in stderr
    assert "odd.pt, which has a (5, 6)" in stderr
    masktools.save_masks(tmp_path / "masks.npz", {"net.mlp.2": masks["mlp.2"]})
    converted(
        "--weights", tmp_path / "odd.pt", "--include=net.mlp.2",
        "--weights-names", tmp_path / "names.json", "--weights-tool=arrays",
    )  # fmt: skip
