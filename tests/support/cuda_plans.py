"""Small networks for the tests of the CUDA backend, and what they are given."""

from __future__ import annotations

import numpy as np
from builder import Builder
from draws import RANDOM

from masktools.checkpoint import Checkpoint
from runtime.plan import plan as plans


def normal(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def pointwise():
    """A network without layers: nothing of it takes long to emulate."""
    b = Builder()
    return plans.build(Checkpoint(b.graph(b.act("Sigmoid", b.act("Relu", "x")))))


def layered(rows=40):
    b = Builder()
    return plans.build(Checkpoint(b.graph(b.fc(b.act("Relu", b.conv("x", rows)), 5))))


def residual_network():
    """Convolutions of several halos, a skip add, a gate, a concatenation, a classifier."""
    b = Builder(channels=4)
    a = b.act("Relu", b.conv("x", 34))
    c = b.act(
        "Relu", b.add_skip(b.conv(b.act("Relu", b.conv(a, 8, k=1)), 34), b.conv("x", 34, k=5))
    )
    d = b.concat(b.gate(b.depthwise(c)), b.conv(c, 6, k=1))
    pooled = b.add("GlobalAveragePool", [d], 40, 1)
    graph = b.graph(b.fc(b.act("HardSwish", pooled), 10), c)
    # Numbers stay near 1 from layer to layer: a gate of large ones would magnify what is rounded.
    for array in graph.constants.values():
        array /= np.sqrt(array[0].size)
    return graph


def failing(error):
    def call(*_):
        raise error

    return call
