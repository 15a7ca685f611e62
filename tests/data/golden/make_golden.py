"""Write the golden checkpoints beside this script: run it only when the format's version changes.

docs/format.md shows the bytes of minimal.safetensors; the tests compare both with what is written.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from masktools.checkpoint import Checkpoint, SparseWeight, write
from masktools.layout import BlockLayout, DenseBlock
from masktools.network.graph import Graph, Node, Value

HERE = Path(__file__).parent


def minimal() -> Checkpoint:
    """Return one matrix product: a block of 2 x 2, one residual weight, a bias."""
    weight = np.array([[0, 1, 0, 2], [5, 0, 0, 0], [0, 3, 0, 4]], np.float32)
    layout = BlockLayout((3, 4), [DenseBlock([0, 2], [1, 3])])
    graph = Graph(
        (Value("x", (None, 4)),),
        (Value("y", (None, 3)),),
        (Node("fc", "Gemm", ("x", "fc.weight", "fc.bias"), ("y",), {"transB": 1}),),
        {"fc.bias": np.array([0.5, 0, -0.5], np.float32)},
    )
    sparse = SparseWeight.from_dense(weight, layout, layout.residual(weight != 0))
    return Checkpoint(graph, {"fc": sparse}, producer="masktools 0.1.0")


def halves() -> Checkpoint:
    """Return two convolutions that share float16 weights in two groups, and a dense scalar."""
    weight = np.arange(1, 25, dtype=np.float16).reshape(4, 2, 3)
    layout = BlockLayout((4, 2, 3), [DenseBlock([0, 1], [0, 2, 5]), DenseBlock([3], [1])], groups=2)
    window = {"strides": (1,), "pads": (1, 1), "dilations": (1,), "group": 2}
    graph = Graph(
        (Value("x", (None, 4, 5)),),
        (Value("y", (None, 4, 5)),),
        (
            Node("first", "Conv", ("x", "conv.weight"), ("a",), dict(window)),
            Node("clip", "Clip", ("a",), ("b",), {"max": 6.0}),
            Node("half", "Mul", ("b", "scale"), ("c",), {}),
            Node("second", "Conv", ("c", "conv.weight"), ("y",), dict(window)),
        ),
        {"scale": np.array(0.5, np.float32)},
    )
    return Checkpoint(
        graph,
        {"conv": SparseWeight.from_dense(weight, layout)},
        producer="masktools 0.1.0",
        seed=7,
        source="sha256:" + "0123456789abcdef" * 4,
    )


GOLDEN = {"minimal.safetensors": minimal, "halves.safetensors": halves}

if __name__ == "__main__":
    for name, make in GOLDEN.items():
        write(HERE / name, make())
