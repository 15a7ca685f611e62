"""Exporting: what is refused, and folding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import zoo
from small_network import CONV, IMAGES, LAST, SIZE, close, expected, mask, run
from torch import nn

from masktools import BlockLayout, DenseBlock, MaskError
from masktools.checkpoint import read
from masktools.export import from_onnx, from_torch
from masktools.export.exporting import prepare


def blocks(shape, *parts):
    return BlockLayout(shape, [DenseBlock(rows, columns) for rows, columns in parts])


def test_what_does_not_fit_is_refused(net, tmp_path):
    path = tmp_path / "out.safetensors"
    for arguments, message in (
        ({"masks": {"conv9": mask(CONV)}}, "mask 'conv9' matches no layer of the network, which"),
        ({"layouts": {"x": blocks(CONV)}}, r"layout 'x' matches no layer .* has stem \(8, 3"),
        ({"masks": {"conv.0": mask(LAST)}}, r"layer 'conv.0': expected a mask of shape \(16, 8, 3"),
        ({"layouts": {"conv.0": blocks(LAST)}}, "layer 'conv.0': expected a layout of shape"),
        ({"masks": {"conv.0": np.full(CONV, 0.5)}}, "layer 'conv.0': expected a mask of 0 and 1"),
    ):
        with pytest.raises(MaskError, match=message):
            from_onnx(net, path, **arguments)
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"masks": 3}, TypeError, "masks must be a mapping by layer, got int"),
        ({"layouts": [3]}, TypeError, "layouts must be a mapping by layer, got list"),
        ({"layouts": {"fc": 3}}, TypeError, "layouts: layer 'fc': expected a BlockLayout, got int"),
        ({"masks": {"conv.0": "x"}}, TypeError, "layer 'conv.0': expected a mask of bool"),
        ({"residual": "most"}, MaskError, "residual must be one of error, keep, drop, got 'most'"),
        ({"seed": 1.5}, TypeError, "seed must be a whole number, got 1.5"),
        ({"seed": -1}, MaskError, "seed must be at least 0, got -1"),
    ],
)
def test_arguments_of_another_kind_are_refused(net, module, tmp_path, arguments, error, message):
    path = tmp_path / "out.safetensors"
    with pytest.raises(error, match=message):
        from_onnx(net, path, **arguments)
    with pytest.raises(error, match=message):
        from_torch(module, torch.from_numpy(IMAGES), path, **arguments)
    with pytest.raises(TypeError, match="names must be a mapping by layer, got str"):
        from_onnx(net, path, names="x")
    assert not path.exists()


def test_weights_that_are_not_finite_are_refused(net, module, tmp_path):
    with torch.no_grad():
        module.conv[0].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(MaskError, match=r"'conv.0.*finite"):
        from_onnx(zoo.to_onnx(module, SIZE), tmp_path / "out.safetensors")
    assert not list(tmp_path.glob("*out*"))


def test_normalisation_is_folded_or_left_as_scale_and_shift(net):
    written = prepare(net)[0]
    assert [node.op for node in written.graph.nodes] == [
        "Conv", "Relu", "Conv", "Relu", "Conv", "Relu", "Mul", "Add", "ReduceMean", "Gemm",
    ]  # fmt: skip
    assert "conv.0.bias" in written.graph.constants


def test_a_shared_weight_is_stored_once_and_its_normalisations_stay(tmp_path):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
            self.second.weight = self.first.weight
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x):
            return self.second(torch.relu(self.norm(self.first(x))))

    module = Shared().eval()
    zoo.randomise(module)
    path = tmp_path / "out.safetensors"
    x = torch.zeros(1, 3, SIZE, SIZE)
    keep, other = mask((3, 3, 3, 3)), mask((3, 3, 3, 3), seed=1)
    with pytest.raises(MaskError, match="'first' and 'second' share their weight, but differ"):
        from_torch(module, x, path, masks={"first": keep, "second": other}, residual="keep")
    from_torch(module, x, path, masks={"second": keep, "first": keep}, residual="keep")
    assert list(read(path).sparse) == ["first"]
    from_torch(module, x, path)
    constants = read(path).graph.constants
    assert [name for name, array in constants.items() if array.shape == (3, 3, 3, 3)] == [
        "first.weight"
    ]
    close(run(path, IMAGES), expected(module, IMAGES))


@pytest.mark.parametrize("groups", [1, 4])
def test_one_dimension_and_convolution_groups(tmp_path, groups):
    module = nn.Sequential(
        nn.Conv1d(4, 16, 5, stride=2, padding=2), nn.ReLU(),
        nn.Conv1d(16, 32, 3, padding=1, groups=groups), nn.LeakyReLU(), nn.Flatten(),
        nn.Linear(32 * 6, 5),
    ).eval()  # fmt: skip
    keep = mask((32, 16 // groups, 3))
    for first in range(0, 32, 4):
        keep[first : first + 4] = keep[first]
    path = tmp_path / "out.safetensors"
    x = np.random.default_rng(0).standard_normal((3, 4, 12), np.float32)
    from_torch(module, torch.from_numpy(x), path, masks={"2": keep})
    layout = read(path).sparse["2"].layout
    assert layout.groups == groups
    assert len(layout.blocks) == 8
    close(run(path, x), zoo.under(module, {"2": keep}, x))


def test_a_layout_converted_without_the_graph_says_what_it_lacks(tmp_path):
    module = nn.Sequential(nn.Conv1d(16, 32, 3, groups=4)).eval()
    layouts = {"0": blocks((32, 4, 3), ([5, 31], [0, 1]))}
    out = tmp_path / "out.safetensors"
    message = r"layer '0': .*rows 5 and 31 lie in different .*groups: 1, the layer: 4; .*graph="
    with pytest.raises(MaskError, match=message):
        from_torch(module, torch.ones(1, 16, 9), out, layouts=layouts, residual="drop")
    assert not out.exists()
