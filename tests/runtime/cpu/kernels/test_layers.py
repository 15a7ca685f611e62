"""Layers as large as networks have them: many columns, high groups, panels, odd images, skips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from cpu_variants import VARIANTS
from network_cases import compare

from masktools.checkpoint import Checkpoint, SparseWeight
from masktools.layout import BlockLayout
from masktools.network.graph import Graph, Node, Value
from masktools.network.shapes import infer_shapes
from runtime.cpu import native
from runtime.plan import plan

BATCHES = (1, 3, 8, 16, 33, 65)


@dataclass(frozen=True)
class Layer:
    """A convolution of an odd image, whose rows share their columns in groups of a height.

    Parameters
    ----------
    rows, channels : int
        Of a convolution group.
    size : (int, int)
        Of the input.
    kernel, stride, dilation : int
        Along both axes; padding keeps the size where the stride is 1, unless there is none.
    groups : int
    height : int
        Rows that have the same columns; 0: a dense layer.
    density, lonely : float
        Share of the columns that the rows of a group have, and of the others that each row has.
    skip : bool
    activation : str
    """

    rows: int
    channels: int
    size: tuple[int, int]
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    height: int = 0
    density: float = 1.0
    lonely: float = 0.0
    skip: bool = False
    activation: str = ""


LAYERS = {
    "first": Layer(40, 3, (23, 17), kernel=7, stride=2, activation="Relu"),
    "dense": Layer(70, 130, (5, 7), skip=True, activation="HardSwish"),
    "few lanes": Layer(130, 200, (2, 1), kernel=1, activation="Sigmoid"),
    "blocks of 8": Layer(30, 64, (9, 11), kernel=1, height=8, density=0.3, skip=True),
    "blocks of 16": Layer(48, 40, (15, 13), height=16, density=0.2, activation="Relu"),
    "blocks of 12 and rows": Layer(60, 24, (7, 9), height=12, density=0.2, lonely=0.05, skip=True),
    "blocks, strided": Layer(64, 32, (14, 9), stride=2, height=32, density=0.2),
    "rows": Layer(80, 40, (11, 6), height=1, density=0.2, skip=True, activation="LeakyRelu"),
    "rows, strided": Layer(50, 30, (13, 9), stride=2, height=1, density=0.15, activation="Relu"),
    "rows, dilated": Layer(24, 24, (12, 10), dilation=2, height=1, density=0.3),
    "dilated": Layer(20, 33, (10, 12), dilation=2, activation="Clip"),
    "wide window": Layer(33, 18, (8, 19), kernel=5, height=16, density=0.4),
    "depthwise": Layer(1, 1, (15, 11), groups=45, activation="Relu"),
    "depthwise, strided": Layer(1, 1, (12, 13), stride=2, groups=33, activation="HardSwish"),
    "depthwise, 5x5": Layer(1, 1, (9, 14), kernel=5, groups=17),
    "grouped": Layer(12, 10, (9, 8), groups=4, height=4, density=0.5, skip=True),
}


def weight_of(layer, random):
    """Return the weight, sparse unless the layer is dense; outputs are about as large as inputs."""
    shape = (layer.rows * layer.groups, layer.channels, layer.kernel, layer.kernel)
    dense = random.standard_normal(shape, dtype=np.float32) / np.float32(np.prod(shape[1:]) ** 0.5)
    if layer.height == 0:
        return dense
    mask = random.random(shape) < layer.lonely
    for first in range(0, shape[0], layer.height):
        mask[first : first + layer.height] |= random.random(shape[1:]) < layer.density
    layout = BlockLayout.from_mask(mask, max(layer.height, 2), layer.groups)
    return SparseWeight.from_dense(dense * mask, layout, layout.residual(mask))


def planned(layer):
    """Return the plan of a layer, and the shapes of its inputs without the batch."""
    random = np.random.default_rng(0)
    weight = weight_of(layer, random)
    pad = layer.dilation * (layer.kernel // 2)
    attributes = {
        "strides": (layer.stride,) * 2, "dilations": (layer.dilation,) * 2, "pads": (pad,) * 4,
        "group": layer.groups,
    }  # fmt: skip
    rows = layer.rows * layer.groups
    constants = {"l.bias": random.standard_normal(rows).astype(np.float32)}
    sparse = {}
    if isinstance(weight, np.ndarray):
        constants["l.weight"] = weight
    else:
        sparse["l"] = weight
    nodes = [Node("l", "Conv", ("x", "l.weight", "l.bias"), ("t0",), attributes)]
    inputs = {"x": (layer.channels * layer.groups, *layer.size)}
    values = (Value("x", (None, *inputs["x"])),)
    whole = (rows, layer.channels, layer.kernel, layer.kernel)
    shapes = infer_shapes(
        Graph(values, (), tuple(nodes), constants), {"x": (1, *inputs["x"])}, {"l.weight": whole}
    )
    output = shapes["t0"][1:]
    if layer.skip:
        inputs["skip"] = output
        nodes.append(Node("add", "Add", ("t0", "skip"), ("t1",), {}))
    if layer.activation:
        limits = {"Clip": {"min": -0.5, "max": 1.5}, "LeakyRelu": {"alpha": 0.1}}
        given = limits.get(layer.activation, {})
        nodes.append(Node("act", layer.activation, (f"t{len(nodes) - 1}",), ("t2",), given))
    last = nodes[-1].outputs[0]
    values = tuple(Value(name, (None, *shape)) for name, shape in inputs.items())
    graph = Graph(values, (Value(last, (None, *output)),), tuple(nodes), constants)
    return plan.build(Checkpoint(graph, sparse)), inputs


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_as_large_as_in_networks(variant, name, monkeypatch):
    monkeypatch.setenv(native.VARIABLE, variant)
    made, inputs = planned(LAYERS[name])
    for batch in BATCHES:
        random = np.random.default_rng(batch)
        x = {
            key: random.standard_normal((batch, *shape), dtype=np.float32)
            for key, shape in inputs.items()
        }
        compare(made, x if len(x) > 1 else x["x"], threads=1 + batch % 2)
