"""The networks that the digits tickets are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.project: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.project = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.project(x))


class DigitsNet(nn.Sequential):
    """The example: 1.7 million weights, three layers of 256 output channels, 8x8 images."""

    image_size = 8

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 64, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(64)
        self.stem_relu = nn.ReLU()
        self.block1 = ResidualBlock(64, 128, 1)
        self.block2 = ResidualBlock(128, 256, 2)
        self.conv3 = nn.Conv2d(256, 256, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(256)
        self.relu3 = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(256, 10)


class ResNet18(nn.Sequential):
    """ResNet-18 for small images, for the benchmarks: layers up to 512 x 4608, 16x16 images."""

    image_size = 16

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 64, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(64)
        self.stem_relu = nn.ReLU()
        channels = 64
        widths = ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1))
        for i, (width, stride) in enumerate(widths, 1):
            self.add_module(f"block{i}", ResidualBlock(channels, width, stride))
            channels = width
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(512, 10)


class MobileNet(nn.Sequential):
    """A small MobileNet, for the benchmarks: depthwise and 1x1 convolutions, 16x16 images."""

    image_size = 16

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(32)
        self.stem_relu = nn.ReLU()
        channels = 32
        for i, (width, stride) in enumerate(((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)), 1):
            depthwise = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
            pointwise = nn.Conv2d(channels, width, 1, bias=False)
            parts = [depthwise, nn.BatchNorm2d(channels), nn.ReLU()]
            parts += [pointwise, nn.BatchNorm2d(width), nn.ReLU()]
            self.add_module(f"block{i}", nn.Sequential(*parts))
            channels = width
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(256, 10)


NETWORKS: dict[str, type[nn.Sequential]] = {
    "digitsnet": DigitsNet,
    "mobilenet": MobileNet,
    "resnet18": ResNet18,
}
