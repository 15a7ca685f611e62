"""The networks of the experiments: convolutions, BatchNorm and ReLU, and one matrix at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def chain(
    channels: int, classes: int, stem: int, layers: Sequence[tuple[int, int]]
) -> nn.Sequential:
    """Return a chain of 3x3 convolutions.

    Parameters
    ----------
    channels : int
        Of an image.
    classes : int
    stem : int
        Output channels of the first convolution.
    layers : sequence of (int, int)
        Output channels and stride of every other one.
    """
    network = nn.Sequential()
    names = ["stem", *(f"conv{number}" for number in range(1, len(layers) + 1))]
    for name, (width, stride) in zip(names, [(stem, 1), *layers], strict=True):
        network.add_module(name, nn.Conv2d(channels, width, 3, stride, 1, bias=False))
        network.add_module(f"{name}_norm", nn.BatchNorm2d(width))
        network.add_module(f"{name}_relu", nn.ReLU())
        channels = width
    _finish(network, channels, classes)
    return network


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != width:
            self.shortcut.append(nn.Conv2d(channels, width, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return both branches added."""
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def resnet18(channels: int, classes: int) -> nn.Sequential:
    """Return ResNet-18 for images of 32x32 pixels: a 3x3 stem, and no pooling after it."""
    network = nn.Sequential()
    network.add_module("stem", nn.Conv2d(channels, 64, 3, 1, 1, bias=False))
    network.add_module("stem_norm", nn.BatchNorm2d(64))
    network.add_module("stem_relu", nn.ReLU())
    before = 64
    for number, width in enumerate((64, 64, 128, 128, 256, 256, 512, 512), 1):
        stride = 1 if width == before else 2
        network.add_module(f"block{number}", Residual(before, width, stride))
        before = width
    _finish(network, before, classes)
    return network


def vgg16(channels: int, classes: int) -> nn.Sequential:
    """Return VGG-16 with strides in place of pooling, and one matrix."""
    widths = (64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    strides = (1, 2, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1)
    return chain(channels, classes, 64, list(zip(widths, strides, strict=True)))


def _finish(network: nn.Sequential, channels: int, classes: int) -> None:
    network.add_module("pool", nn.AdaptiveAvgPool2d(1))
    network.add_module("flatten", nn.Flatten())
    network.add_module("classifier", nn.Linear(channels, classes))


# Of the channels of an image and the number of classes.
NETWORKS: dict[str, Callable[[int, int], nn.Sequential]] = {
    # Layers of 64, 128 and 128 rows: enough for blocks of 8 and of 32.
    "small": lambda channels, classes: chain(channels, classes, 32, [(64, 2), (128, 2), (128, 1)]),
    "tiny": lambda channels, classes: chain(channels, classes, 8, [(16, 2), (16, 2)]),
    "resnet18": resnet18,
    "vgg16": vgg16,
}
