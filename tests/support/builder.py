"""Networks of the normal form, node by node."""

from __future__ import annotations

import dataclasses

import numpy as np

from masktools.network.graph import Graph, Node, Value
from masktools.network.shapes import infer_shapes

SIZE = 6


class Builder:
    """A network node by node; each method returns the name of the tensor that it makes."""

    def __init__(self, seed=0, channels=3):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.constants, self.channels = [], {}, {"x": channels}
        self.size = {"x": SIZE}

    def add(self, op, inputs, channels, size=None, **attributes):
        name = f"t{len(self.nodes)}"
        self.nodes.append(Node(f"n{len(self.nodes)}", op, tuple(inputs), (name,), attributes))
        self.channels[name] = channels
        self.size[name] = self.size[inputs[0]] if size is None else size
        return name

    def constant(self, name, *shape):
        self.constants[name] = self.rng.standard_normal(shape).astype(np.float32)
        return name

    def conv(self, x, rows, k=3, pad=None, groups=1, layer=None, bias=True):
        layer = layer or f"l{len(self.nodes)}"
        pad = k // 2 if pad is None else pad
        self.constant(f"{layer}.weight", rows, self.channels[x] // groups, k, k)
        inputs = [x, f"{layer}.weight"]
        if bias:
            inputs.append(self.constant(f"{layer}.bias", rows))
        return self.add(
            "Conv", inputs, rows, self.size[x] + 2 * pad - k + 1,
            strides=(1, 1), dilations=(1, 1), pads=(pad,) * 4, group=groups,
        )  # fmt: skip

    def depthwise(self, x, layer=None, pad=1):
        return self.conv(x, self.channels[x], groups=self.channels[x], layer=layer, pad=pad)

    def act(self, op, x, **attributes):
        return self.add(op, [x], self.channels[x], **attributes)

    def add_skip(self, a, b, op="Add"):
        return self.add(op, [a, b], self.channels[a])

    def concat(self, *parts):
        return self.add("Concat", parts, sum(self.channels[p] for p in parts), axis=1)

    def gate(self, x):
        pooled = self.add("GlobalAveragePool", [x], self.channels[x], 1)
        return self.add_skip(x, self.act("Sigmoid", self.conv(pooled, self.channels[x], 1)), "Mul")

    def fc(self, x, rows, layer="fc"):
        features = self.channels[x] * self.size[x] ** 2
        flat = self.add("Flatten", [x], features, 1, axis=1)
        self.constant(f"{layer}.weight", rows, features)
        self.constant(f"{layer}.bias", rows)
        return self.add("Gemm", [flat, f"{layer}.weight", f"{layer}.bias"], rows, transB=1)

    def graph(self, *outputs):
        whole = Graph(
            (Value("x", (None, self.channels["x"], SIZE, SIZE)),), (), tuple(self.nodes),
            self.constants,
        )  # fmt: skip
        shapes = infer_shapes(whole, {"x": (2, self.channels["x"], SIZE, SIZE)})
        values = tuple(Value(name, (None, *shapes[name][1:])) for name in outputs)
        return dataclasses.replace(whole, outputs=values)
