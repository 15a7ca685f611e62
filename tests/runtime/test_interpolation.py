"""PyTorch's interpolation, exported and run on the backends, against PyTorch itself."""

from __future__ import annotations

import numpy as np
import pytest

from masktools.checkpoint import Checkpoint, write
from masktools.network.onnx.reader import read_onnx
from runtime import load

torch = pytest.importorskip("torch")
onnx_models = pytest.importorskip("onnx_models")

# What a pixel may differ by: coordinates in float32, as PyTorch has them.
TOLERANCE = 2e-5
TARGETS = [
    {"scale_factor": 2.0},
    {"scale_factor": 1.5},
    {"scale_factor": (0.6, 3.0)},
    {"size": (13, 5)},
    {"size": (4, 40)},
    {"size": (9, 14)},
    {"size": (1, 1)},
]


class Interpolated(torch.nn.Module):
    def __init__(self, **arguments):
        super().__init__()
        self.arguments = arguments

    def forward(self, x):
        return torch.nn.functional.interpolate(x, **self.arguments)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_interpolation_as_torch_has_it(target, mode, align, backend, tmp_path):
    module = Interpolated(mode=mode, align_corners=align, **target).eval()
    assert_equal(module, (1, 3, 9, 14), backend, tmp_path)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("target", [{"scale_factor": 2.5}, {"size": 7}], ids=str)
def test_interpolation_along_one_axis(target, backend, tmp_path):
    module = Interpolated(mode="linear", **target).eval()
    assert_equal(module, (1, 3, 14), backend, tmp_path)


def assert_equal(module, shape, backend, folder):
    made = onnx_models.torch_onnx(
        module, torch.zeros(shape), 17, input_names=["x"], dynamic_axes={"x": {0: "batch"}}
    )
    write(folder / "net.safetensors", Checkpoint(read_onnx(made)))
    model = load(folder / "net.safetensors", backend=backend)
    for batch in (1, 3, 17):
        x = np.random.default_rng(0).standard_normal((batch, *shape[1:]), np.float32)
        with torch.no_grad():
            wanted = module(torch.from_numpy(x)).numpy()
        got = model(x)
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE)
