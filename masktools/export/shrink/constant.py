"""Which channels of a network are constant, whatever its input, and their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.export.stored import Stored
from masktools.network.graph import Graph, Node, integer, ints, real
from masktools.network.operators import ARITHMETIC
from masktools.network.shapes import Shape, slices

# Of each channel: its value at every pixel, or NaN where it depends on the input or the pixel.
Values = NDArray[np.float64]


def constant_channels(
    graph: Graph, stored: Mapping[str, Stored], shapes: Mapping[str, Shape]
) -> dict[str, Values]:
    """Return the value of every channel that is the same at all pixels for all inputs.

    Parameters
    ----------
    graph : Graph
        In the normal form, without BatchNormalization.
    stored : mapping of str to Stored
        The weights by layer.
    shapes : mapping of str to tuple of int
        Of every tensor.

    Returns
    -------
    dict of str to ndarray of float64, shape (channels,)
        For each tensor of two or more axes; NaN where a channel is not constant.
    """
    values = {v.name: _live(shapes[v.name]) for v in graph.inputs}
    analysis = _Analysis(graph.constants, stored, shapes, values)
    for node in graph.nodes:
        with np.errstate(all="ignore"):
            made = analysis.outputs(node)
        for name, value in zip(node.outputs, made, strict=True):
            values[name] = np.where(np.isfinite(value), value, np.nan)
    return values


def _live(shape: Shape) -> Values:
    return np.full(shape[1] if len(shape) > 1 else 0, np.nan)


@dataclass(frozen=True, eq=False)
class _Analysis:
    constants: Mapping[str, NDArray[Any]]
    stored: Mapping[str, Stored]
    shapes: Mapping[str, Shape]
    values: Mapping[str, Values]

    def outputs(self, node: Node) -> list[Values]:
        rule = _RULES.get(node.op)
        made = None
        if rule is not None:
            made = rule(self, node)
        elif node.op in _FUNCTIONS:
            attributes = {name: real(node, name) for name in node.attributes}
            made = [_FUNCTIONS[node.op](self.values[node.inputs[0]], attributes)]
        sizes = [_live(self.shapes[name]) for name in node.outputs]
        if made is None or any(len(m) != len(s) for m, s in zip(made, sizes, strict=True)):
            return sizes
        return made

    def layer(self, node: Node) -> list[Values] | None:
        x, weight = self.values[node.inputs[0]], node.inputs[1]
        if node.op == "Gemm" and len(self.shapes[node.inputs[0]]) > 2:
            return None
        matrix = self.stored[weight.removesuffix(".weight")].weight
        groups = integer(node, "group", 1)
        rows, per_group = matrix.shape[:2]
        matrix = matrix.reshape(groups, rows // groups, per_group, -1)
        known = x.reshape(groups, 1, per_group)
        used = (matrix != 0).any(axis=3)
        # On padding a channel is 0: only there is a constant of another value not constant.
        varies = np.isnan(known) | ((known != 0) & padded(node))
        value = np.nan_to_num(known[:, 0])
        some = value.any(axis=0)  # Mostly none: a large matrix is not multiplied by zeros.
        total = np.einsum("grct,gc->gr", matrix[:, :, some], value[:, some], dtype=np.float64)
        bias = self.constants[node.inputs[2]] if len(node.inputs) > 2 else 0.0
        live = (used & varies).any(axis=2)
        return [np.where(live, np.nan, total).ravel() + bias]

    def arithmetic(self, node: Node) -> list[Values]:
        a, b = (self._operand(name, node) for name in node.inputs)
        if node.op == "Mul":
            return [np.where((a == 0) | (b == 0), 0.0, a * b)]
        return [{"Add": np.add, "Sub": np.subtract, "Div": np.divide}[node.op](a, b)]

    def _operand(self, name: str, node: Node) -> Values:
        shape = self.shapes[node.outputs[0]]
        if name not in self.constants:
            same = len(self.shapes[name]) == len(shape) and self.shapes[name][1] == shape[1]
            return self.values[name] if same else _live(shape)
        value = self.constants[name].astype(np.float64)
        value = value.reshape((1,) * (len(shape) - value.ndim) + value.shape)
        per_channel = np.broadcast_to(value, (value.shape[0], shape[1], *value.shape[2:]))
        flat = np.moveaxis(per_channel, 1, 0).reshape(shape[1], -1)
        return np.where((flat == flat[:, :1]).all(axis=1), flat[:, 0], np.nan)

    def same(self, node: Node) -> list[Values]:
        return [self.values[node.inputs[0]]]

    def average(self, node: Node) -> list[Values]:
        value = self.values[node.inputs[0]]
        if node.attributes["count_include_pad"] and padded(node):
            return [np.where(value == 0, 0.0, np.nan)]
        return [value]

    def pad(self, node: Node) -> list[Values] | None:
        value, pads = self.values[node.inputs[0]], ints(node, "pads")
        rank = len(pads) // 2
        if pads[1] or pads[1 + rank]:
            return None
        if node.attributes["mode"] == "constant":
            return [np.where(value == node.attributes["value"], value, np.nan)]
        return [value]

    def resize(self, node: Node) -> list[Values] | None:
        crop = node.attributes["coordinate_transformation_mode"] == "tf_crop_and_resize"
        return None if crop else self.same(node)

    def reshape(self, node: Node) -> list[Values] | None:
        before, after = self.shapes[node.inputs[0]], self.shapes[node.outputs[0]]
        value = self.values[node.inputs[0]]
        if len(after) < 2 or len(before) < 2 or before[0] != after[0]:
            return None
        if before[1] == after[1]:
            return [value]
        return [np.repeat(value, after[1] // before[1])] if len(after) == 2 else None

    def concat(self, node: Node) -> list[Values]:
        parts = [self.values[name] for name in node.inputs]
        if node.attributes["axis"] == 1:
            return [np.concatenate(parts)]
        equal = np.all([part == parts[0] for part in parts], axis=0)
        return [np.where(equal, parts[0], np.nan)]

    def split(self, node: Node) -> list[Values]:
        value = self.values[node.inputs[0]]
        if node.attributes["axis"] != 1:
            return [value] * len(node.outputs)
        return list(np.split(value, np.cumsum(ints(node, "split"))[:-1]))

    def slice(self, node: Node) -> list[Values]:
        return [self.values[node.inputs[0]][slices(node, self.shapes[node.inputs[0]])[1]]]


def padded(node: Node) -> bool:
    """Return whether a window may lie on padding."""
    return "pads" in node.attributes and any(ints(node, "pads"))


_RULES: Mapping[str, Callable[[_Analysis, Node], list[Values] | None]] = {
    "Conv": _Analysis.layer,
    "Gemm": _Analysis.layer,
    **dict.fromkeys(ARITHMETIC, _Analysis.arithmetic),
    **dict.fromkeys(("Identity", "MaxPool", "GlobalAveragePool", "ReduceMean"), _Analysis.same),
    "AveragePool": _Analysis.average,
    "Pad": _Analysis.pad,
    "Resize": _Analysis.resize,
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _Analysis.reshape),
    "Concat": _Analysis.concat,
    "Split": _Analysis.split,
    "Slice": _Analysis.slice,
}

_FUNCTIONS: Mapping[str, Callable[[Values, Mapping[str, float]], Any]] = {
    "Relu": lambda x, a: np.maximum(x, 0),
    "LeakyRelu": lambda x, a: np.where(x < 0, a["alpha"] * x, x),
    "Clip": lambda x, a: np.clip(x, a.get("min", -np.inf), a.get("max", np.inf)),
    "Sigmoid": lambda x, a: 1 / (1 + np.exp(-x)),
    "HardSigmoid": lambda x, a: np.clip(a["alpha"] * x + a["beta"], 0, 1),
    "HardSwish": lambda x, a: x * np.clip(x / 6 + 0.5, 0, 1),
}
