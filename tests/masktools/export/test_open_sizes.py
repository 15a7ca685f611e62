"""Exporting PyTorch modules whose sizes stay open."""

from __future__ import annotations

import re

import numpy as np
import open_networks
import pytest
import torch
from small_network import close, run
from torch import nn

from masktools import GraphError
from masktools.checkpoint import read
from masktools.export import from_torch

AUTO = torch.export.Dim.AUTO


@pytest.mark.parametrize("name", ["plain", "reader"])
def test_sizes_may_stay_open(name, tmp_path):
    make, shape, axes, shapes = open_networks.MODULES[name]
    torch.manual_seed(0)
    module, path = make().eval(), tmp_path / "out.safetensors"
    from_torch(module, torch.zeros(shape), path, dynamic_shapes=(axes,))
    wanted = ("N" if n == 0 else str(axes.get(n, size)) for n, size in enumerate(shape))
    assert read(path).graph.inputs[0].shape_text == f"({', '.join(wanted)})"
    for sizes in shapes:
        x = np.random.default_rng(1).standard_normal(sizes).astype(np.float32)
        with torch.no_grad():
            made = module(torch.from_numpy(x))
        found = run(path, x)
        if isinstance(made, torch.Tensor):
            made, found = (made,), {"": found}
        for one, other in zip(made, found.values(), strict=True):
            close(other, one.numpy())


class Kept(nn.Module):
    """Takes tensors in several ways; works at one width alone."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(16, 5)

    def forward(self, x, *more, factor=2.0):
        return self.linear(self.conv(x) * factor + sum(more))


HEIGHT, BOTH = {2: "height"}, {2: torch.export.Dim("height"), 3: torch.export.Dim("width")}


@pytest.mark.parametrize("shapes", [(HEIGHT, (HEIGHT,)), {"x": HEIGHT, "more": (HEIGHT,)}])
def test_masks_meet_the_layers_of_a_network_with_open_sizes(shapes, tmp_path):
    module, path = Kept().eval(), tmp_path / "out.safetensors"
    keep = np.random.default_rng(0).random((4, 3, 3, 3)) < 0.5
    example = (torch.zeros(1, 3, 8, 16), torch.zeros(1, 4, 8, 16))
    options = {"masks": {"conv": keep}, "residual": "keep", "dynamic_shapes": shapes}
    from_torch(module, example, path, **options)
    written = read(path)
    assert set(written.sparse) == {"conv"}
    assert [i.shape_text for i in written.graph.inputs] == [
        "(N, 3, height, 16)",
        "(N, 4, height, 16)",
    ]


def test_a_size_that_pytorch_fixes_is_not_left_open_in_silence(tmp_path):
    path, x = tmp_path / "out.safetensors", torch.zeros(1, 3, 8, 16)
    with pytest.raises(GraphError, match=r"input 'x': dynamic_shapes.* axis 3 open.* 16 alone"):
        from_torch(Kept(), x, path, dynamic_shapes={"x": BOTH})
    with pytest.raises(GraphError, match=r"with open sizes: .*static shape of 16 .*from_onnx$"):
        from_torch(Kept(), x, path, dynamic_shapes=({3: "width"},))
    assert not path.exists()


class Asks(nn.Module):
    """Does something else at some sizes."""

    def __init__(self, asks):
        super().__init__()
        self.asks, self.conv = asks, nn.Conv2d(3, 3, 1)

    def forward(self, x):
        y = self.conv(x)
        return y[:, :, 1:] if self.asks(*y.shape[2:]) else y


@pytest.mark.parametrize(
    "asks",
    [
        lambda height, width: width % 2 == 1,
        lambda height, width: height > width,
        lambda height, width: height == width,
        lambda height, width: width < 10,
    ],
)
def test_a_module_that_asks_for_its_sizes_is_refused(asks, tmp_path):
    path, x = tmp_path / "out.safetensors", torch.zeros(1, 3, 8, 16)
    with pytest.raises(GraphError, match=r"computes something else at .*height = .*leave them out"):
        from_torch(Asks(asks), x, path, dynamic_shapes=({2: "height", 3: "width"},))
    assert not path.exists()


def test_sizes_that_must_be_equal_have_one_name(tmp_path):
    module, path = Asks(lambda height, width: height != width), tmp_path / "out.safetensors"
    x = torch.zeros(1, 3, 16, 16)
    with pytest.raises(GraphError, match=r"axis 3 open.*sizes height and width must be equal"):
        from_torch(module, x, path, dynamic_shapes=({2: "height", 3: "width"},))
    from_torch(module, x, path, dynamic_shapes=({2: "size", 3: "size"},))
    assert read(path).graph.inputs[0].shape_text == "(N, 3, size, size)"


def test_what_pytorch_may_decide_is_open_where_it_can(tmp_path):
    path = tmp_path / "out.safetensors"
    from_torch(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 16), path, dynamic_shapes=({3: AUTO},))
    assert re.fullmatch(r"\(N, 3, 8, [a-z]\w+\)", read(path).graph.inputs[0].shape_text)
