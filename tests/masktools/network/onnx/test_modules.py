"""PyTorch modules through both of its exporters, and through `from_torch`: equal to PyTorch."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from onnx_models import torch_onnx
from torch import nn

import runtime
from masktools.export import from_onnx, from_torch

BATCHES = (1, 3, 16)


def exported(way, module, x, path):
    """Write the checkpoint of a module by way of one exporter."""
    if way == "from_torch":
        from_torch(module, x, path)
    elif way == "dynamo":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(module, (x,), dynamo=True, verbose=False)
        from_onnx(program.model_proto, path)
    else:
        axes = {"x": {0: "N"}} if way == "script, open batch" else None
        from_onnx(torch_onnx(module, x, input_names=["x"], dynamic_axes=axes), path)


WAYS = ("script", "script, open batch", "dynamo", "from_torch")


def check(way, module, shape, path, batches=BATCHES):
    """Compare a module with its checkpoint, on the reference and on the processor."""
    torch.manual_seed(0)
    module = module.eval()
    exported(way, module, torch.randn(2, *shape), path)
    for batch in batches:
        x = torch.randn(batch, *shape)
        with torch.no_grad():
            wanted = module(x)
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        for backend in ("reference", "cpu"):
            got = runtime.load(path, backend)(x.numpy())
            got = list(got.values()) if isinstance(got, dict) else [got]
            assert len(got) == len(wanted)
            for y, want in zip(got, wanted, strict=True):
                assert y.shape == want.shape
                np.testing.assert_allclose(y, want.numpy(), rtol=1e-4, atol=2e-5)


class ChunkAndSplit(nn.Module):
    """The block C2f of detectors, and parts by size, by sizes and by their number."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.inner = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Conv2d(12, 10, 1)

    def forward(self, x):
        parts = list(self.first(x).chunk(2, 1))
        parts.append(self.inner(parts[-1]))
        y = self.last(torch.cat(parts, 1))
        a, b, c = y.split([2, 5, 3], 1)
        small = y.split(4, 1)
        return a * 2, b, c, small[0] + small[1], small[-1]


@pytest.mark.parametrize("way", WAYS)
def test_parts_by_chunk_and_split(way, tmp_path):
    check(way, ChunkAndSplit(), (3, 6, 6), tmp_path / "net.safetensors")


class Reductions(nn.Module):
    """Attention to rows and columns as in coordinate attention, norms, extremes, pools."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.pool = nn.AdaptiveMaxPool2d(1)

    def forward(self, x):
        y = self.first(x)
        rows, columns = y.mean(3, keepdim=True), y.mean(2, keepdim=True)
        gate = torch.sigmoid(rows) * torch.sigmoid(columns) * self.pool(y)
        return (
            y * gate, y.mean(1), y.mean((2, 3)), y.sum((1, 3)), y.amax(1, keepdim=True),
            y.amin((2, 3)), y.norm(dim=1), y.flatten(1).mean(1, keepdim=True), y.mean(2),
        )  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_reductions_over_any_axes(way, tmp_path):
    check(way, Reductions(), (3, 6, 5), tmp_path / "net.safetensors")


class Attention(nn.Module):
    """Attention by PyTorch's own function, and written out."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 8)

    def forward(self, x):
        batch, tokens, width = x.shape
        parts = self.qkv(x).reshape(batch, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind(0)
        whole = nn.functional.scaled_dot_product_attention(q, k, v)
        spelled = ((q * 0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        whole, spelled = (
            self.out(y.transpose(1, 2).reshape(batch, tokens, width)) for y in (whole, spelled)
        )
        return whole, spelled, torch.bmm(x, x.transpose(1, 2))


class Heads(nn.Module):
    """PyTorch's layer, which makes one axis of batch and heads."""

    def __init__(self):
        super().__init__()
        self.layer = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.layer(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize("way", WAYS)
def test_attention_whose_heads_are_in_the_batch(way, tmp_path):
    check(way, Heads(), (7, 8), tmp_path / "net.safetensors")


@pytest.mark.parametrize("way", WAYS)
def test_attention(way, tmp_path):
    check(way, Attention(), (7, 8), tmp_path / "net.safetensors")


class Norms(nn.Module):
    """Each normalisation, with constants that are learned and without."""

    def __init__(self):
        super().__init__()
        self.layer, self.both = nn.LayerNorm(6), nn.LayerNorm((5, 6))
        self.plain = nn.LayerNorm(6, elementwise_affine=False)
        self.group, self.instance = nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True)
        self.bare = nn.InstanceNorm2d(8)
        for module in (self.layer, self.both, self.group, self.instance):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)

    def forward(self, x):
        first = x.permute(0, 2, 3, 1)
        last = nn.functional.layer_norm(first, (8,)).permute(0, 3, 1, 2)
        return (
            self.layer(x), self.both(x), self.plain(x), self.group(x), self.instance(x),
            self.bare(x), last,
        )  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_normalisations(way, tmp_path):
    check(way, Norms(), (8, 5, 6), tmp_path / "net.safetensors")


class Transformer(nn.Module):
    """A vision transformer in small: patches, a class token, positions, blocks, a head."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(1, 10, 8))
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(3))
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.wide, self.narrow = nn.Linear(8, 32), nn.Linear(32, 8)
        self.head = nn.Linear(8, 5)

    def attention(self, x):
        batch, tokens, width = x.shape
        parts = self.qkv(x).reshape(batch, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(*parts.unbind(0))
        return self.out(y.transpose(1, 2).reshape(batch, tokens, width))

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        x = x + self.attention(self.norms[0](x))
        x = x + self.narrow(nn.functional.gelu(self.wide(self.norms[1](x))))
        return self.head(self.norms[2](x)[:, 0])


@pytest.mark.parametrize("way", WAYS)
def test_a_vision_transformer(way, tmp_path):
    check(way, Transformer(), (3, 12, 12), tmp_path / "net.safetensors")


class ConvNext(nn.Module):
    """A ConvNeXt in small: normalisation over channels, depthwise windows, scaled branches."""

    def __init__(self):
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8)
        self.deep, self.norm = nn.Conv2d(8, 8, 7, padding=3, groups=8), nn.LayerNorm(8)
        self.wide, self.narrow = nn.Linear(8, 32), nn.Linear(32, 8)
        self.gamma = nn.Parameter(torch.randn(8))
        self.last, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x):
        x = self.first(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        y = self.norm(self.deep(x).permute(0, 2, 3, 1))
        y = self.gamma * self.narrow(nn.functional.gelu(self.wide(y)))
        return self.head(self.last((x + y.permute(0, 3, 1, 2)).mean((2, 3))))


@pytest.mark.parametrize("way", WAYS)
def test_a_convnext(way, tmp_path):
    check(way, ConvNext(), (3, 24, 24), tmp_path / "net.safetensors")


def test_a_layer_norm_that_is_spelled_out(tmp_path):
    """As PyTorch writes it before operator set 17: means, a power, a root."""
    module, path = nn.LayerNorm(6).eval(), tmp_path / "net.safetensors"
    nn.init.normal_(module.weight)
    x = torch.randn(2, 5, 6)
    from_onnx(torch_onnx(module, x, opset=16), path)
    y = runtime.load(path, "reference")(x.numpy())
    np.testing.assert_allclose(y, module(x).detach().numpy(), rtol=1e-4, atol=2e-5)
