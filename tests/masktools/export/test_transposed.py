"""Masks and layouts of transposed convolutions: honoured as the tools write them, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from draws import RANDOM
from onnx_models import torch_onnx
from torch import nn

import runtime
from masktools import BlockLayout, DenseBlock, MaskError, convert
from masktools.checkpoint import read
from masktools.export import from_onnx, from_torch
from masktools.network.onnx.reader import read_onnx

SHAPE = (2, 3, 6, 5)
WINDOWS = [
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 4, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": (1, 2), "dilation": 2, "groups": 2},
]
IDS = [str(window) for window in WINDOWS]


class Decoder(nn.Module):
    def __init__(self, rows=8, **window):
        super().__init__()
        self.first, self.up = nn.Conv2d(3, 8, 3, padding=1), nn.ConvTranspose2d(8, rows, **window)
        self.last = nn.Conv2d(rows, 4, 1)

    def forward(self, x):
        return self.last(torch.relu(self.up(torch.relu(self.first(x)))))


def decoder(rows=8, **window):
    torch.manual_seed(0)
    return Decoder(rows, **window).eval()


def saved(module):
    names = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
    return torch_onnx(module, torch.zeros(SHAPE), **names)


def assert_runs(module, path, keep=None):
    """Compare with the module under a mask; `keep` in the shape of its own weight."""
    x = RANDOM.standard_normal(SHAPE).astype(np.float32)
    with torch.no_grad():
        if keep is not None:
            module.up.weight *= torch.from_numpy(keep)
        wanted = module(torch.from_numpy(x)).numpy()
    for backend in ("reference", "cpu"):
        got = runtime.load(path, backend=backend)(x)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("window", WINDOWS, ids=IDS)
@pytest.mark.parametrize("rows", [8, 2])
def test_without_a_mask_nothing_is_refused(window, rows, tmp_path):
    """Zeros of phases that lack taps are no zeros of the weight, and are not stored."""
    module, path = decoder(rows, **window), tmp_path / "a.safetensors"
    from_onnx(saved(module), path)
    written = read(path)
    stored = written.sparse.get("up.phases")
    size = module.up.weight.numel()
    assert (written.graph.constants["up.phases.weight"].size if stored is None else stored.stored) == size  # fmt: skip # noqa: E501
    assert_runs(module, path)


@pytest.mark.parametrize("window", WINDOWS, ids=IDS)
def test_a_mask_has_the_shape_of_the_files_weight(window, tmp_path):
    module, path = decoder(**window), tmp_path / "a.safetensors"
    keep = RANDOM.random(module.up.weight.shape) < 0.4
    from_onnx(saved(module), path, masks={"up": keep}, residual="keep")
    # A row that lacks a few of a block's columns stores zeros there.
    assert keep.sum() <= read(path).sparse["up.phases"].stored < 1.2 * keep.sum()
    assert_runs(module, path, keep)


@pytest.mark.parametrize("window", WINDOWS, ids=IDS)
def test_zeros_of_the_weight_are_its_mask(window, tmp_path):
    module, path = decoder(**window), tmp_path / "a.safetensors"
    keep = RANDOM.random(module.up.weight.shape) < 0.4
    with torch.no_grad():
        module.up.weight *= torch.from_numpy(keep)
    from_onnx(saved(module), path, residual="keep")
    assert keep.sum() <= read(path).sparse["up.phases"].stored < 1.2 * keep.sum()
    assert_runs(module, path)


@pytest.mark.parametrize("window", WINDOWS, ids=IDS)
def test_blocks_of_the_files_weight_are_stored_as_blocks(window, tmp_path):
    module, path = decoder(**window), tmp_path / "a.safetensors"
    shape = tuple(module.up.weight.shape)
    columns = int(np.prod(shape[1:]))
    some = [np.sort(RANDOM.choice(columns, columns // 3, replace=False)) for _ in range(2)]
    rows = ([0, 1, 4, 6], [2, 3, 5])
    layout = BlockLayout(shape, [DenseBlock(r, c) for r, c in zip(rows, some, strict=True)])
    from_onnx(saved(module), path, layouts={"up": layout}, residual="drop")
    written = read(path).sparse["up.phases"]
    assert written.stored == layout.stored
    assert written.residual is None
    assert_runs(module, path, layout.to_mask())


def test_names_of_a_module_are_kept(tmp_path):
    module, path = decoder(**WINDOWS[1]), tmp_path / "a.safetensors"
    keep = RANDOM.random(module.up.weight.shape) < 0.4
    from_torch(module, torch.zeros(SHAPE), path, masks={"up": keep}, residual="keep")
    assert list(read(path).sparse) == ["up.phases"]
    assert_runs(module, path, keep)


def test_a_mask_in_another_order_is_refused(tmp_path):
    """Also one that has the layer's own shape, of which the file knows nothing."""
    module, path = decoder(4, **WINDOWS[0]), tmp_path / "a.safetensors"
    message = r"layer 'up.phases': expected a mask of shape \(8, 4, 2, 2\), as the transposed"
    for shape in ((4, 8, 2, 2), (16, 8, 1, 1)):
        with pytest.raises(MaskError, match=message):
            from_onnx(saved(module), path, masks={"up": np.ones(shape, bool)})
    layout = BlockLayout((16, 8, 1, 1), [DenseBlock([0], [0])])
    with pytest.raises(MaskError, match=message.replace("mask", "layout")):
        from_onnx(saved(module), path, layouts={"up": layout})


def test_a_conversion_with_a_graph_says_what_to_do():
    module = decoder(**WINDOWS[3])
    masks = {"up": RANDOM.random(module.up.weight.shape) < 0.4}
    with pytest.raises(
        MaskError, match=r"'up' is a transposed convolution.*convert without graph="
    ):
        convert(masks, method="refill", graph=read_onnx(saved(module)))
