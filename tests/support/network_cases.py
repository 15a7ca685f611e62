"""Small networks that hold what is hard for the CPU backend, and how to run them."""

from __future__ import annotations

import numpy as np
from builder import Builder

from masktools.checkpoint import Checkpoint
from runtime.cpu.backend import CpuBackend
from runtime.model import Model
from runtime.plan import plan
from runtime.reference.backend import ReferenceBackend


def window(kernel, stride, op="MaxPool", **more):
    return {
        "kernel_shape": (kernel, kernel), "strides": (stride, stride), "dilations": (1, 1),
        "pads": (0, 0, 0, 0), "ceil_mode": 0, **more,
    }  # fmt: skip


def residual_network(b):
    x = b.act("Relu", b.conv("x", 8))
    z = b.act("Relu", b.add_skip(b.conv(x, 8), x))
    g = b.gate(b.conv(z, 4, 1))
    return b.fc(b.add("MaxPool", [g], 4, 3, **window(2, 2)), 5)


def dense_network(b):
    a = b.conv("x", 4)
    c = b.concat("x", a)
    e = b.concat(c, b.conv(c, 4))
    return b.fc(b.concat(a, b.conv(e, 4), a), 7), b.conv(e, 4, 1), e


def pooled_network(b):
    p = b.add("MaxPool", [b.act("Relu", b.conv("x", 8))], 8, 3, **window(2, 2))
    q = b.add("AveragePool", [b.conv(p, 4)], 4, 1, **window(3, 3), count_include_pad=0)
    return b.fc(b.add("GlobalAveragePool", [b.conv(p, 6)], 6, 1), 6), q


def moving_network(b):
    a = b.conv("x", 8)
    part = b.add("Slice", [a], 4, axes=(1,), starts=(2,), ends=(6,), steps=(1,))
    every = b.add("Slice", [a], 8, 3, axes=(2, 3), starts=(0, 1), ends=(6, 6), steps=(2, 2))
    r = b.add("Reshape", [a], 0, shape=(0, 2, 4, 6, 6))
    r = b.add("Transpose", [r], 0, perm=(0, 2, 1, 3, 4))
    shuffled = b.add("Reshape", [r], 8, shape=(0, 8, 6, 6))
    last = b.add("Transpose", [a], 6, perm=(0, 2, 3, 1))
    b.constant("w", 5, 8)
    counted = {"count_include_pad": 1}
    many = b.add("Gemm", [last, "w"], 6, transB=1)
    return (
        b.conv(part, 4), b.conv(every, 4), b.conv(shuffled, 4), many,
        b.add("Softmax", [many], 6, axis=3),
        b.add("Pad", [a], 8, 9, pads=(0, 0, 1, -1, 0, 0, 2, 2), value=1.5, mode="constant"),
        b.add("AveragePool", [part], 4, 6, **window(3, 1) | {"pads": (1, 1, 1, 1), **counted}),
        b.concat(part, part, shuffled), b.add("Reshape", [last], 1, shape=(0, -1)),
    )  # fmt: skip


def stacked_network(b):
    """Halos under depthwise convolutions, skips, and constants of every shape."""
    a = b.depthwise(b.conv("x", 4))
    b.constant("whole", 4, 6, 6)
    b.constant("one")
    c = b.act("LeakyRelu", b.add("Sub", [a, "whole"], 4), alpha=0.1)
    d = b.add("Div", ["one", b.act("Sigmoid", c)], 4, 6)
    return b.conv(b.add_skip(d, a, "Mul"), 4), b.conv(b.add_skip(b.conv(c, 4), c), 3, 5)


NETWORKS = (residual_network, dense_network, pooled_network, moving_network, stacked_network)


BATCHES = (1, 2, 3, 7, 8, 16, 17, 64, 65)


def outputs(model, x):
    found = model(x)
    return list(found.values()) if isinstance(found, dict) else [found]


def compare(network, x, threads=2):
    """Run a plan on both backends; values differ by rounding alone."""
    ours = Model(network, CpuBackend(), threads=threads)
    exact = Model(network, ReferenceBackend(), "float64")
    for a, b in zip(outputs(ours, x), outputs(exact, x), strict=True):
        assert np.abs(a - b).max() <= 1e-5 * max(np.abs(b).max(), 1)


def planned(network):
    b = Builder()
    made = network(b)
    return plan.build(Checkpoint(b.graph(*(made if isinstance(made, tuple) else (made,)))))


def images(batch, channels=3, size=6, seed=0):
    random = np.random.default_rng(seed)
    return random.standard_normal((batch, channels, size, size)).astype(np.float32)
