"""A network small enough to export in every test, and what it must compute."""

from __future__ import annotations

import numpy as np
import onnx
import torch
import zoo
from torch import nn

import runtime

SIZE = 12


class Net(nn.Module):
    """A stem, two convolutions with normalisation, a matrix."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        self.last = nn.Sequential(nn.Conv2d(16, 12, 3), nn.ReLU(), nn.BatchNorm2d(12))
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.last(torch.relu(self.conv(torch.relu(self.stem(x)))))
        return self.head(x.mean((2, 3)))


def make():
    """Return the network, with parameters that are the same every time."""
    torch.manual_seed(0)
    net = Net().eval()
    zoo.randomise(net)
    return net


def saved(module, folder):
    """Return the path of the network as a file in a folder."""
    path = folder / "net.onnx"
    onnx.save(zoo.to_onnx(module, SIZE), path)
    return path


def mask(shape, density=0.5, seed=0):
    return np.random.default_rng(seed).random(shape) < density


def run(path, x):
    return runtime.load(path, backend="reference")(x)


def expected(module, x, **weights):
    parts = {name: part for name, part in module.named_modules() if name in weights}
    return zoo.under(module, {name: weights[name] for name in parts}, x)


def close(found, wanted):
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


IMAGES = zoo.images("any", SIZE, 3)
CONV, LAST = (16, 8, 3, 3), (12, 16, 3, 3)
