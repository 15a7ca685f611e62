"""The networks that tests and benchmarks export: random weights, sane batch normalisation."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor, nn

from masktools import refill
from masktools.export.exporting import prepare
from masktools.network.onnx.reader import with_masks
from runtime.backend import choose
from runtime.model import Model
from runtime.plan import plan

Masks = Mapping[str, NDArray[np.bool_]]


def norm_conv(
    c: int, out: int, k: int, stride: int = 1, groups: int = 1, act: nn.Module | None = None
) -> nn.Sequential:
    conv = nn.Conv2d(c, out, k, stride, k // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU() if act is None else act)


def vgg16(classes: int = 10, width: int = 64) -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    for item in (1, 1, 0, 2, 2, 0, 4, 4, 4, 0, 8, 8, 8, 0, 8, 8, 8, 0):
        if not item:
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(norm_conv(channels, item * width, 3))
        channels = item * width
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(), nn.Linear(channels, classes))


class Residual(nn.Module):
    """y = act(body(x) + shortcut(x))."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut, self.act = body, shortcut, act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x) + self.shortcut(x))


def shortcut(c: int, out: int, stride: int) -> nn.Module:
    if c == out and stride == 1:
        return nn.Identity()
    return norm_conv(c, out, 1, stride, act=nn.Identity())


def basic(c: int, out: int, stride: int) -> nn.Module:
    body = nn.Sequential(norm_conv(c, out, 3, stride), norm_conv(out, out, 3, act=nn.Identity()))
    return Residual(body, shortcut(c, out, stride), nn.ReLU())


def bottleneck(c: int, middle: int, stride: int) -> nn.Module:
    body = nn.Sequential(
        norm_conv(c, middle, 1),
        norm_conv(middle, middle, 3, stride),
        norm_conv(middle, 4 * middle, 1, act=nn.Identity()),
    )
    return Residual(body, shortcut(c, 4 * middle, stride), nn.ReLU())


def head(channels: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def resnet18(classes: int = 10, imagenet: bool = False) -> nn.Module:
    stem = [norm_conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)] if imagenet else [norm_conv(3, 64, 3)]
    blocks, channels = [], 64
    for out, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        blocks += [basic(channels, out, stride), basic(out, out, 1)]
        channels = out
    return nn.Sequential(*stem, *blocks, head(512, classes))


def resnet50(classes: int = 1000) -> nn.Module:
    blocks, channels = [], 64
    for middle, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(count):
            blocks.append(bottleneck(channels, middle, stride if i == 0 else 1))
            channels = 4 * middle
    stem = [norm_conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *blocks, head(channels, classes))


class PreActivation(nn.Module):
    """The block of wide residual networks: batch normalisation before each convolution."""

    def __init__(self, c: int, out: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(c), nn.BatchNorm2d(out)
        self.conv1 = nn.Conv2d(c, out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.shortcut = nn.Identity() if c == out else nn.Conv2d(c, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        before = torch.relu(self.norm1(x))
        y = self.conv2(torch.relu(self.norm2(self.conv1(before))))
        plain = isinstance(self.shortcut, nn.Identity)
        return y + (x if plain else self.shortcut(before))


def wide_resnet32_2(classes: int = 10) -> nn.Module:
    blocks, channels = [], 16
    for out, stride in ((32, 1), (64, 2), (128, 2)):
        for i in range(5):
            blocks.append(PreActivation(channels, out, stride if i == 0 else 1))
            channels = out
    first = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    end = [nn.BatchNorm2d(channels), nn.ReLU(), head(channels, classes)]
    return nn.Sequential(first, *blocks, *end)


def mobilenet_v1(classes: int = 10) -> nn.Module:
    layers, channels = [norm_conv(3, 32, 3, 2)], 32
    for out, stride in (
        (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
        *((512, 1),) * 5, (1024, 2), (1024, 1),
    ):  # fmt: skip
        layers += [
            norm_conv(channels, channels, 3, stride, groups=channels),
            norm_conv(channels, out, 1),
        ]
        channels = out
    return nn.Sequential(*layers, head(channels, classes))


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(c, max(c // 4, 8), 1)
        self.excite = nn.Conv2d(max(c // 4, 8), c, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True)
        return x * nn.functional.hardsigmoid(self.excite(torch.relu(self.squeeze(pooled))))


def inverted(
    c: int, hidden: int, out: int, k: int, stride: int, act: nn.Module, gate: bool = False
) -> nn.Module:
    layers: list[nn.Module] = [norm_conv(c, hidden, 1, act=act)] if hidden != c else []
    layers.append(norm_conv(hidden, hidden, k, stride, groups=hidden, act=act))
    layers += [Gate(hidden)] if gate else []
    layers.append(norm_conv(hidden, out, 1, act=nn.Identity()))
    body = nn.Sequential(*layers)
    if stride == 1 and c == out:
        return Residual(body, nn.Identity(), nn.Identity())
    return body


def mobilenet_v2(classes: int = 10) -> nn.Module:
    relu6 = nn.ReLU6()
    layers, channels = [norm_conv(3, 32, 3, 2, act=relu6)], 32
    for expand, out, count, stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
        (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for i in range(count):
            first = stride if i == 0 else 1
            layers.append(inverted(channels, channels * expand, out, 3, first, relu6))
            channels = out
    return nn.Sequential(*layers, norm_conv(channels, 1280, 1, act=relu6), head(1280, classes))


def mobilenet_v3(classes: int = 10) -> nn.Module:
    relu, hard = nn.ReLU(), nn.Hardswish()
    layers, channels = [norm_conv(3, 16, 3, 2, act=hard)], 16
    for k, hidden, out, gate, act, stride in (
        (3, 16, 16, True, relu, 2), (3, 72, 24, False, relu, 2), (3, 88, 24, False, relu, 1),
        (5, 96, 40, True, hard, 2), (5, 240, 40, True, hard, 1), (5, 240, 40, True, hard, 1),
        (5, 120, 48, True, hard, 1), (5, 144, 48, True, hard, 1), (5, 288, 96, True, hard, 2),
        (5, 576, 96, True, hard, 1), (5, 576, 96, True, hard, 1),
    ):  # fmt: skip
        layers.append(inverted(channels, hidden, out, k, stride, act, gate))
        channels = out
    layers += [norm_conv(channels, 576, 1, act=hard), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(
        *layers, nn.Linear(576, 1024), hard, nn.Dropout(0.2), nn.Linear(1024, classes)
    )


class Dense(nn.Module):
    """The layer of densely connected networks: its output joins its input."""

    def __init__(self, c: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(c), nn.BatchNorm2d(4 * growth)
        self.conv1 = nn.Conv2d(c, 4 * growth, 1, bias=False)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(torch.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(torch.relu(self.norm2(y)))], 1)


def densenet(classes: int = 10, growth: int = 12, depth: int = 4) -> nn.Module:
    channels = 2 * growth
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1, bias=False)]
    for stage in range(3):
        for _ in range(depth):
            layers.append(Dense(channels, growth))
            channels += growth
        if stage < 2:
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
            layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
    return nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(), head(channels, classes))


class Inception(nn.Module):
    """Four branches of different windows, concatenated."""

    def __init__(self, c: int, width: int) -> None:
        super().__init__()
        self.one = norm_conv(c, width, 1)
        self.three = nn.Sequential(norm_conv(c, width, 1), norm_conv(width, 2 * width, 3))
        self.row = nn.Sequential(
            nn.Conv2d(c, width, (1, 7), padding=(0, 3)), nn.ReLU(),
            nn.Conv2d(width, width, (7, 1), padding=(3, 0)), nn.ReLU(),
        )  # fmt: skip
        self.pooled = nn.Sequential(
            nn.AvgPool2d(3, 1, 1, count_include_pad=False), norm_conv(c, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.row(x), self.pooled(x)], 1)


def inception(classes: int = 10) -> nn.Module:
    return nn.Sequential(
        norm_conv(3, 32, 3, 2), Inception(32, 16), nn.MaxPool2d(3, 2, 0, ceil_mode=True),
        Inception(80, 24), Inception(120, 24), head(120, classes),
    )  # fmt: skip


# Each with the size of the images in tests, and its own.
ZOO: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "vgg16": (vgg16, 32, 32),
    "resnet18-cifar": (resnet18, 16, 32),
    "resnet18": (lambda: resnet18(1000, imagenet=True), 40, 224),
    "resnet50": (resnet50, 40, 224),
    "wide-resnet32-2": (wide_resnet32_2, 16, 32),
    "mobilenet-v1": (mobilenet_v1, 40, 224),
    "mobilenet-v2": (mobilenet_v2, 40, 224),
    "mobilenet-v3": (mobilenet_v3, 40, 224),
    "densenet": (densenet, 16, 32),
    "inception": (inception, 32, 128),
}


def make(name: str, seed: int = 0) -> nn.Module:
    """Return a network of the zoo in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = ZOO[name][0]()
        randomise(module)
    return module.eval()


def randomise(module: nn.Module) -> None:
    """Give batch normalisation statistics that keep activations near one, but none at zero."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0.0, 0.3)
            nn.init.normal_(part.running_mean, 0.0, 0.3)
            nn.init.uniform_(part.running_var, 0.5, 2.0)


def to_onnx(module: nn.Module, size: int, opset: int = 17) -> ModelProto:
    """Return the module as ONNX, nothing folded, with the names of its parameters."""
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The exporter that is quick is the older one.
        torch.onnx.export(
            module,
            (torch.zeros(1, 3, size, size),),
            data,
            dynamo=False,
            opset_version=opset,
            do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE,
        )
    return onnx.load_from_string(data.getvalue())


def random_masks(module: nn.Module, density: float, refilled: bool, seed: int = 0) -> Masks:
    """Return random masks of all layers but the first and the last.

    Whole rows if refilled; else two thirds of the rows share their columns in groups of eight, and
    the others lie outside every block; depthwise convolutions have no mask then.
    """
    rng = np.random.default_rng(seed)
    found = [(n, p) for n, p in module.named_modules() if isinstance(p, nn.Conv2d | nn.Linear)]
    masks = {}
    for name, part in found[1:-1]:
        weight = part.weight.detach().numpy()
        mask = rng.random(weight.shape, np.float32) < density
        if refilled:
            masks[name] = refill(mask, weight, density=density)
            continue
        if getattr(part, "groups", 1) > 1:
            continue
        for first in range(0, len(mask) * 2 // 3 // 8 * 8, 8):
            mask[first : first + 8] = mask[first]
        masks[name] = mask
    return masks


def images(name: str, size: int, batch: int = 2) -> NDArray[np.float32]:
    rng = np.random.default_rng(len(name))
    return rng.standard_normal((batch, 3, size, size), np.float32)


def deviations(
    module: nn.Module, model: ModelProto, masks: Masks | None, residual: str, x: NDArray[np.float32]
) -> tuple[float, float]:
    """Return max|Δ| / max|y| of the exported network against PyTorch and onnxruntime.

    Both run under the weights that are stored. The module's weights are put back afterwards.
    """
    checkpoint, kept = prepare(model, masks=masks, residual=residual)
    found = Model(plan.build(checkpoint), choose("reference"))(x)
    session = onnxruntime.InferenceSession(
        with_masks(model, kept).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    by_onnx = np.concatenate([session.run(None, {name: image[None]})[0] for image in x])
    by_torch = under(module, kept, x)
    return tuple(float(np.abs(found - y).max() / np.abs(y).max()) for y in (by_torch, by_onnx))  # type: ignore[return-value]


def under(module: nn.Module, masks: Masks, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what a module makes of images with its weights masked."""
    parts = dict(module.named_modules())
    before = {name: parts[name].weight.detach().clone() for name in masks}
    with torch.no_grad():
        for name, mask in masks.items():
            parts[name].weight *= torch.from_numpy(np.asarray(mask))
        y: NDArray[np.float32] = module(torch.from_numpy(x)).numpy()
        for name, weight in before.items():
            parts[name].weight.copy_(weight)
    return y
