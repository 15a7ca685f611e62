"""The golden checkpoints, and small networks of sparse layers."""

from __future__ import annotations

import runpy

from paths import GOLDEN

from masktools.checkpoint import Checkpoint, SparseWeight
from masktools.network.graph import Graph, Node, Value

MAKERS = runpy.run_path(str(GOLDEN / "make_golden.py"))["GOLDEN"]


def network(sparse: dict[str, SparseWeight], group: int = 1) -> Checkpoint:
    window = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "group": group}
    nodes, value = [], "x"
    for layer in sparse:
        nodes.append(Node(layer, "Conv", (value, f"{layer}.weight"), (f"{layer}.y",), window))
        value = f"{layer}.y"
    shape = (None, 4, 8, 8)
    return Checkpoint(Graph((Value("x", shape),), (Value(value, shape),), tuple(nodes)), sparse)
