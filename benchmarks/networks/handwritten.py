"""Networks that no package holds, as their papers describe them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


def _conv(c: int, out: int, k: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(c, out, k, stride, k // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU())


class UNet(nn.Module):
    """Ronneberger et al. 2015, with padding, and transposed convolutions or interpolation."""

    def __init__(self, width: int = 16, depth: int = 3, transposed: bool = True) -> None:
        super().__init__()
        sizes = [width * 2**level for level in range(depth + 1)]
        ways = [(3, sizes[0]), *itertools.pairwise(sizes)]
        self.down = nn.ModuleList(nn.Sequential(_conv(a, b), _conv(b, b)) for a, b in ways)
        self.pool = nn.MaxPool2d(2)
        back = list(zip(sizes[:0:-1], sizes[-2::-1], strict=True))
        self.up = nn.ModuleList(_up(a, b, transposed) for a, b in back)
        self.join = nn.ModuleList(nn.Sequential(_conv(2 * b, b), _conv(b, b)) for _, b in back)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level, stage in enumerate(self.down):
            x = stage(x if level == 0 else self.pool(x))
            skips.append(x)
        for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
            x = join(torch.cat([up(x), skip], 1))
        return self.head(x)


def _up(a: int, b: int, transposed: bool) -> nn.Module:
    if transposed:
        return nn.ConvTranspose2d(a, b, 2, 2)
    larger = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    return nn.Sequential(larger, nn.Conv2d(a, b, 1))


class _Body(nn.Module):
    """EDSR's block: no normalisation, a scale on the branch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * self.body(x)


class EDSR(nn.Module):
    """Lim et al. 2017, small: means of colours taken off and put back."""

    def __init__(self, width: int = 32, blocks: int = 4, scale: int = 2) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.45, 0.44, 0.40]).view(1, 3, 1, 1))
        self.head = nn.Conv2d(3, width, 3, 1, 1)
        self.body = nn.Sequential(*(_Body(width) for _ in range(blocks)))
        self.after = nn.Conv2d(width, width, 3, 1, 1)
        self.up = nn.Conv2d(width, width * scale**2, 3, 1, 1)
        self.shuffle = nn.PixelShuffle(scale)
        self.tail = nn.Conv2d(width, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x - self.mean)
        x = x + self.after(self.body(x))
        return self.tail(self.shuffle(self.up(x))) + self.mean


class DnCNN(nn.Module):
    """Zhang et al. 2017: predicts the noise."""

    def __init__(self, width: int = 32, depth: int = 6) -> None:
        super().__init__()
        inner = [_conv(width, width) for _ in range(depth)]
        first = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1), nn.ReLU())
        self.noise = nn.Sequential(first, *inner, nn.Conv2d(width, 1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x - self.noise(x)


def espcn() -> nn.Module:
    """Shi et al. 2016."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, 1, 2), nn.Tanh(), nn.Conv2d(32, 32, 3, 1, 1), nn.Tanh(),
        nn.Conv2d(32, 9, 3, 1, 1), nn.PixelShuffle(3), nn.Sigmoid(),
    )  # fmt: skip


def fsrcnn() -> nn.Module:
    """Dong et al. 2016: the last layer is a transposed convolution."""
    middle = [layer for _ in range(3) for layer in (nn.Conv2d(12, 12, 3, 1, 1), nn.PReLU(12))]
    return nn.Sequential(
        nn.Conv2d(1, 40, 5, 1, 2), nn.PReLU(40), nn.Conv2d(40, 12, 1), nn.PReLU(12), *middle,
        nn.Conv2d(12, 40, 1), nn.PReLU(40), nn.ConvTranspose2d(40, 1, 9, 2, 4, output_padding=1),
    )  # fmt: skip


def dcgan() -> nn.Module:
    """Radford et al. 2016: the generator."""
    layers: list[nn.Module] = []
    sizes = [64, 128, 64, 32]
    for number, (c, out) in enumerate(itertools.pairwise(sizes)):
        stride, padding = (1, 0) if number == 0 else (2, 1)
        layers += [
            nn.ConvTranspose2d(c, out, 4, stride, padding, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.ConvTranspose2d(32, 3, 4, 2, 1, bias=False), nn.Tanh())


def ds_cnn() -> nn.Module:
    """Zhang et al. 2017, *Hello Edge*: a keyword spotter."""
    blocks = [part for _ in range(4) for part in (_conv(64, 64, 3, groups=64), _conv(64, 64, 1))]
    first = nn.Conv2d(1, 64, (10, 4), 2, (5, 1), bias=False)
    return nn.Sequential(
        first, nn.BatchNorm2d(64), nn.ReLU(), *blocks, nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 12),
    )  # fmt: skip


def audio() -> nn.Module:
    """Dai et al. 2017: M5, on the waveform."""
    layers: list[nn.Module] = []
    for c, out, k, stride in ((1, 32, 80, 16), (32, 32, 3, 1), (32, 64, 3, 1), (64, 64, 3, 1)):
        layers += [nn.Conv1d(c, out, k, stride), nn.BatchNorm1d(out), nn.ReLU(), nn.MaxPool1d(4)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 35))


class _Temporal(nn.Module):
    """A gated block of a temporal convolution network."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.both = nn.Conv1d(width, 2 * width, 3, padding=dilation, dilation=dilation)
        self.out = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.both(x).chunk(2, dim=1)
        return x + self.out(torch.tanh(a) * torch.sigmoid(b))


def wavenet() -> nn.Module:
    """Van den Oord et al. 2016, not causal: gated, dilated."""
    blocks = [_Temporal(32, 2**i) for i in range(5)]
    return nn.Sequential(nn.Conv1d(1, 32, 1), *blocks, nn.ReLU(), nn.Conv1d(32, 8, 1))


class Style(nn.Module):
    """Johnson et al. 2016: reflection, instance normalisation, enlarging."""

    def __init__(self) -> None:
        super().__init__()

        def stage(c: int, out: int, k: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(
                nn.ReflectionPad2d(k // 2),
                nn.Conv2d(c, out, k, stride),
                nn.InstanceNorm2d(out, affine=True),
                nn.ReLU(),
            )

        self.down = nn.Sequential(stage(3, 16, 9), stage(16, 32, 3, 2), stage(32, 32, 3))
        self.up = nn.Sequential(nn.Upsample(scale_factor=2), stage(32, 16, 3))
        self.last = nn.Sequential(nn.ReflectionPad2d(4), nn.Conv2d(16, 3, 9))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.up(self.down(x)))


class Captions(nn.Module):
    """A text recogniser's convolutions, as CRNN has them: (batch, time, classes)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _conv(1, 32), nn.MaxPool2d(2), _conv(32, 64), nn.MaxPool2d(2), _conv(64, 64),
            nn.MaxPool2d((2, 1)), _conv(64, 64), nn.AdaptiveAvgPool2d((1, None)),
        )  # fmt: skip
        self.classes = nn.Linear(64, 37)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).squeeze(2).permute(0, 2, 1)
        return self.classes(x).log_softmax(2)


HANDWRITTEN: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "unet": (UNet, (3, 64, 64)),
    "unet_bilinear": (lambda: UNet(transposed=False), (3, 64, 64)),
    "edsr": (EDSR, (3, 32, 32)),
    "espcn": (espcn, (1, 32, 32)),
    "fsrcnn": (fsrcnn, (1, 24, 24)),
    "dncnn": (DnCNN, (1, 40, 40)),
    "dcgan_generator": (dcgan, (64, 1, 1)),
    "style_transfer": (Style, (3, 48, 48)),
    "ds_cnn": (ds_cnn, (1, 49, 10)),
    "m5_audio": (audio, (1, 8000)),
    "wavenet": (wavenet, (1, 256)),
    "crnn_convolutions": (Captions, (1, 32, 96)),
}
