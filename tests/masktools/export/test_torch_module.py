"""Exporting PyTorch modules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zoo
from small_network import CONV, IMAGES, LAST, SIZE, close, expected, run
from torch import nn
from torch.nn.utils import prune

from masktools import GraphError
from masktools.checkpoint import read
from masktools.export import from_torch


def test_modules_keep_their_names_and_their_state(module, tmp_path):
    module.train()
    module.conv.eval()
    keep = {"conv.0": np.ones(CONV, bool), "last.0": np.ones(LAST, bool)}
    keep["conv.0"][::2, ::2] = keep["conv.0"][1::2, 1::2] = keep["last.0"][[0, 5, 7]] = False
    path = tmp_path / "out.safetensors"
    from_torch(module, torch.zeros(1, 3, SIZE, SIZE), path, masks=keep)
    assert module.training
    assert not module.conv.training
    written = read(path)
    assert written.graph.inputs[0].shape == (None, 3, SIZE, SIZE)
    assert written.source is None
    assert set(written.sparse) == {"conv.0"}  # The other shrank to what it keeps.
    close(run(path, IMAGES), expected(module.eval(), IMAGES, **keep))


@pytest.mark.parametrize("name", ["mobilenet-v3", "inception"])
def test_modules_of_the_zoo(name, tmp_path):
    module, size = zoo.make(name), zoo.ZOO[name][1]
    masks = zoo.random_masks(module, 0.5, refilled=True)
    path = tmp_path / "out.safetensors"
    from_torch(module, torch.zeros(2, 3, size, size), path, masks=masks)
    x = zoo.images(name, size)
    close(run(path, x), zoo.under(module, masks, x))


def test_modules_under_pruning_are_exported_as_they_run(module, tmp_path):
    prune.ln_structured(module.conv[0], "weight", 0.5, n=1, dim=0)
    path = tmp_path / "out.safetensors"
    from_torch(module, torch.zeros(1, 3, SIZE, SIZE), path)
    assert read(path).graph.constants["conv.0.weight"].shape[0] < 16
    close(run(path, IMAGES), expected(module, IMAGES))


def test_what_torch_cannot_capture_is_one_error(tmp_path):
    class Loop(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    class Spectrum(nn.Module):
        def forward(self, x):
            return torch.linalg.svdvals(x)

    path = tmp_path / "out.safetensors"
    with pytest.raises(GraphError, match=r"torch\.export cannot capture the module: .*from_onnx$"):
        from_torch(Loop(), torch.zeros(1, 3), path)
    # In one line: PyTorch's own message has pages.
    with pytest.raises(GraphError, match=r"write the module as ONNX: .*_linalg_svd.*from_onnx$"):
        from_torch(Spectrum(), torch.zeros(1, 3, 3), path)
