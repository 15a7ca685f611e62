"""Networks whose images may have any size, as PyTorch exports them, and sizes to run them at."""

from __future__ import annotations

import numpy as np
import onnxruntime
import torch
from onnx_models import ints, model, node, torch_onnx, weight
from torch import nn
from torch.nn import functional

BOTH = {0: "batch", 2: "height", 3: "width"}
SIZES = ((1, 3, 32, 48), (2, 3, 33, 47), (1, 3, 50, 21))


class Plain(nn.Module):
    """Convolutions, pools and a Resize by scales: no arithmetic on shapes."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        y = torch.relu(self.norm(self.a(x)))
        y = functional.max_pool2d(y, 3, 2, 1, ceil_mode=True)
        return functional.interpolate(self.b(y), scale_factor=2, mode="nearest")


class Pyramid(nn.Module):
    """Features are resized to the size of those that they are added to."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(n, 8, 3, 2, 1) for n in (3, 8, 8))
        self.skip, self.last = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x):
        a = torch.relu(self.a(x))
        b = torch.relu(self.b(a))
        c = torch.relu(self.c(b))
        y = functional.interpolate(c, size=b.shape[2:], mode="nearest") + b
        y = functional.interpolate(y, size=a.shape[2:], mode="nearest") + self.skip(a)
        return self.last(y), c


class Decoder(nn.Module):
    """Features are interpolated: to the size of others, and by factors."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.last = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x):
        a = torch.relu(self.a(x))
        b = torch.relu(self.b(a))
        y = functional.interpolate(b, size=a.shape[2:], mode="bilinear") + a
        y = functional.interpolate(self.last(y), scale_factor=2.0, mode="bicubic")
        size = [size + 3 for size in x.shape[2:]]
        return functional.interpolate(y, size=size, mode="bilinear", align_corners=True)


class UNet(nn.Module):
    """What is enlarged is padded to the size of the skip, with which it is joined."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.last = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        a = torch.relu(self.a(x))
        b = torch.relu(self.b(functional.max_pool2d(a, 2)))
        y = functional.interpolate(b, scale_factor=2.0, mode="nearest")
        rows, columns = (a.shape[axis] - y.shape[axis] for axis in (2, 3))
        y = functional.pad(y, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
        return self.last(torch.relu(self.c(torch.cat([a, y], 1))))


class Reader(nn.Module):
    """Text recognition: the height is fixed, a distribution for each column comes out."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, (2, 1), 1), nn.Conv2d(8, 16, (8, 3), 1, (0, 1))
        self.last = nn.Linear(16, 11)

    def forward(self, x):
        y = torch.relu(self.b(torch.relu(self.a(x)))).squeeze(2).permute(0, 2, 1)
        return functional.softmax(self.last(y), 2)


class Classifier(nn.Module):
    """A view by the batch's size, and another by sizes that are computed."""

    def __init__(self):
        super().__init__()
        self.a, self.last = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 5)

    def forward(self, x):
        y = torch.relu(self.a(x))
        batch, channels, height, width = y.shape
        shuffled = y.view(batch, 2, channels // 2, height, width).transpose(1, 2)
        mixed = shuffled.reshape(batch, channels, height, width) + y[:, :, :height, 0:]
        pooled = functional.adaptive_avg_pool2d(mixed, 1)
        return self.last(pooled.view(pooled.size(0), -1)), mixed.flatten(2)


class Sound(nn.Module):
    """One axis, of any length."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(2, 8, 9, 5), nn.Conv1d(8, 4, 3, 1, 1)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


MODULES = {
    "plain": (Plain, SIZES[0], BOTH, SIZES),
    "pyramid": (Pyramid, SIZES[0], BOTH, SIZES),
    "decoder": (Decoder, SIZES[0], BOTH, SIZES),
    "unet": (UNet, SIZES[0], BOTH, SIZES),
    "reader": (
        Reader, (1, 3, 16, 40), {0: "batch", 3: "width"},
        ((1, 3, 16, 40), (3, 3, 16, 33), (1, 3, 16, 90)),
    ),
    "classifier": (Classifier, SIZES[0], BOTH, SIZES),
    "sound": (Sound, (1, 2, 64), {0: "batch", 2: "time"}, ((1, 2, 64), (2, 2, 100), (1, 2, 33))),
}  # fmt: skip


def exported(name, opset=17):
    """Return a network as ONNX, and the shapes to run it at."""
    make, shape, axes, shapes = MODULES[name]
    torch.manual_seed(0)
    module = make().eval()
    made = torch_onnx(
        module, torch.zeros(shape), opset, input_names=["x"], dynamic_axes={"x": axes}
    )
    return made, shapes


def same_padding():
    """Return a network as TensorFlow exports it: the pads follow from the image's size."""
    layers = [
        node("Conv", ["x", "w"], ["c"], name="conv", auto_pad="SAME_UPPER", strides=[2, 2]),
        node("MaxPool", ["c"], ["p"], auto_pad="SAME_LOWER", strides=[3, 2], kernel_shape=[2, 3]),
        node("Shape", ["c"], ["shape"]),
        node("Slice", ["shape", "two", "four"], ["size"]),
        node("Concat", ["head", "size"], ["sizes"], axis=0),
        node("Resize", ["p", "", "", "sizes"], ["r"], name="resize", mode="nearest",
             coordinate_transformation_mode="asymmetric"),
        node("Add", ["r", "c"], ["y"]),
    ]  # fmt: skip
    constants = {"w": weight(4, 3, 3, 3), "two": ints(2), "four": ints(4), "head": ints(1, 4)}
    return model(layers, constants, [("x", [1, 3, "height", "width"])]), (
        (1, 3, 32, 48), (1, 3, 33, 47), (1, 3, 50, 21),
    )  # fmt: skip


def expected(made, x):
    """Return what onnxruntime computes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(made.SerializeToString(), options)
    return session.run(None, {"x": x})


def image(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def outputs(found):
    return list(found.values()) if isinstance(found, dict) else [found]
