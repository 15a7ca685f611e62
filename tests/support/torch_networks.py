"""Small PyTorch modules to take masks of, and all that must be the same afterwards."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import nn

from masktools.prune.gradients.prunable import layers_of


class Residual(nn.Module):
    """Convolutions with BatchNorm, one of them depthwise, a skip, dropout, a hidden matrix."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 6, 1)
        self.hidden = nn.Linear(6, 9)
        self.drop = nn.Dropout(0.4)
        self.head = nn.Linear(9, 4)

    def forward(self, x):
        x = torch.relu(self.norm1(self.stem(x)))
        x = x + torch.relu(self.norm2(self.conv(self.deep(x))))
        x = torch.relu(self.last(x)).mean((2, 3))
        return self.head(self.drop(torch.relu(self.hidden(x))))


PRUNED = ("conv", "last", "hidden")


def residual(seed=0, dtype=torch.float32):
    """Return a network whose modes, gradients and frozen weights are mixed on purpose."""
    torch.manual_seed(seed)
    module = Residual().to(dtype)
    module.train()
    module.norm2.eval()
    module.drop.eval()
    with torch.no_grad():
        module.norm1.running_mean.uniform_(-1, 1)
        module.norm2.running_var.uniform_(0.5, 2)
        module.head.bias[0] = -0.0
    module.conv.weight.grad = torch.randn_like(module.conv.weight)
    module.head.bias.grad = torch.zeros_like(module.head.bias)
    module.last.weight.requires_grad_(False)
    module.norm2.weight.requires_grad_(False)
    return module


def chain(widths=(4, 6, 5, 7), classes=3, seed=0, dtype=torch.float64):
    """Return convolutions one after the other, with biases and no BatchNorm, and a classifier."""
    torch.manual_seed(seed)
    parts = []
    for before, width in pairwise(widths):
        parts += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
    parts += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes)]
    return nn.Sequential(*parts).to(dtype)


def batch(channels=3, samples=12, size=5, classes=4, seed=0):
    """Return images of float64 and classes, as NumPy arrays."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((samples, channels, size, size)), rng.integers(0, classes, samples)


def fingerprint(module):
    """Return all of a module that a source must leave alone, bit for bit, and the random state."""

    def bits(tensor):
        return None if tensor is None else (id(tensor), tensor.detach().numpy().tobytes())

    parts = [
        (
            name,
            part.training,
            {
                n: (bits(p), bits(p.grad), p.requires_grad)
                for n, p in part._parameters.items()
                if p is not None
            },
            {n: bits(b) for n, b in part._buffers.items()},
            [
                len(hooks)
                for hooks in (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks)
            ],
            sorted(vars(part)),
        )
        for name, part in module.named_modules()
    ]
    return parts, torch.get_rng_state().numpy().tobytes()


def kept(masks, layers=PRUNED):
    """Return how many weights masks keep in some layers together."""
    return sum(int(masks[name].sum()) for name in layers)


def sizes(module, layers=PRUNED):
    """Return how many weights some layers have together."""
    found = layers_of(module)
    return sum(found[name].weight.numel() for name in layers)
