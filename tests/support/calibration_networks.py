"""Networks to calibrate, layouts of them, and images whose neighbours are alike."""

from __future__ import annotations

from functools import partial

import numpy as np
from builder import SIZE, Builder

import runtime
from masktools import BlockLayout
from masktools.calibration.affine import with_values
from masktools.checkpoint import Checkpoint
from masktools.network.layers import layers

run = partial(runtime.prepare, backend="cpu")


def images(samples=64, channels=3, seed=0):
    """Return images whose channels and neighbours are alike, as those of real images are."""
    rng = np.random.default_rng(seed)
    rough = rng.standard_normal((samples, channels, SIZE + 2, SIZE + 2))
    smooth = sum(np.roll(rough, (a, b), (2, 3)) for a in range(3) for b in range(3))
    mixed = np.einsum("ncyx,cd->ndyx", smooth, rng.standard_normal((channels, channels)))
    return (mixed[:, :, 1:-1, 1:-1] / 3).astype(np.float32)


def halves(graph, names=None, seed=0):
    """Return layouts that keep half of each layer's columns, in groups of up to four rows."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, layer in layers(graph).items():
        if names is not None and name not in names:
            continue
        height = min(4, layer.shape[0] // layer.groups)
        width = int(np.prod(layer.shape[1:]))
        mask = np.zeros((layer.shape[0], width), bool)
        for row in range(0, len(mask), height):
            mask[row : row + height, rng.permutation(width)[: max(1, width // 2)]] = True
        found[name] = BlockLayout.from_mask(mask.reshape(layer.shape), groups=layer.groups)
    return found


def outputs(graph, values, x):
    """Return what the network makes with other values."""
    made = run(Checkpoint(with_values(graph, values)))(x)
    return made if isinstance(made, dict) else {"y": made}


def mixed(norm=True):
    """Return a network of every kind of layer: plain, depthwise, grouped, 1 x 1, matrix."""
    b = Builder()
    x = b.act("Relu", b.conv("x", 8, layer="first"))
    x = (
        normed(b, b.conv(x, 12, layer="plain", bias=False))
        if norm
        else b.conv(x, 12, layer="plain")
    )
    x = b.act("Relu", x)
    x = b.act("Relu", b.depthwise(x, layer="deep"))
    x = b.act("Relu", b.conv(x, 16, groups=4, layer="grouped"))
    skip = b.conv(x, 16, 1, layer="point", bias=False)
    x = b.act("Relu", b.add_skip(x, skip))
    x = b.act("Relu", b.fc(x, 24, layer="hidden"))
    b.size[x] = 1
    y = b.fc(x, 5, layer="last")
    return b.graph(y)


def normed(b, x):
    rows = b.channels[x]
    names = [b.constant(f"{x}.{part}", rows) for part in ("scale", "shift", "mean", "var")]
    b.constants[names[0]] = np.abs(b.constants[names[0]]) + np.float32(0.5)
    b.constants[names[3]] = np.abs(b.constants[names[3]]) + np.float32(20)
    return b.add("BatchNormalization", [x, *names], rows, epsilon=1e-5)
