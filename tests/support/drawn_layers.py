"""Layers of every kind, drawn at random, and convolutions from their definition."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from masktools.checkpoint import Checkpoint, SparseWeight
from masktools.layout import BlockLayout
from masktools.network.graph import Graph, Node, Value
from masktools.network.shapes import infer_shapes


def convolved(x: Any, weight: Any, attributes: dict[str, Any]) -> Any:
    """Return a convolution in float64, from its definition, tap by tap."""
    spatial = x.ndim - 2
    strides, dilations, pads = (attributes[n] for n in ("strides", "dilations", "pads"))
    around = [(0, 0), (0, 0), *zip(pads[:spatial], pads[spatial:], strict=True)]
    padded = np.pad(x.astype(np.float64), around)
    sizes = [
        (padded.shape[2 + i] - dilations[i] * (weight.shape[2 + i] - 1) - 1) // strides[i] + 1
        for i in range(spatial)
    ]
    groups = attributes["group"]
    parts = []
    for image, rows in zip(
        np.split(padded, groups, axis=1), np.split(weight.astype(np.float64), groups), strict=True
    ):
        out = np.zeros((len(x), len(rows), *sizes))
        for tap in np.ndindex(*weight.shape[2:]):
            at = tuple(
                slice(t * d, t * d + s * (n - 1) + 1, s)
                for t, d, s, n in zip(tap, dilations, strides, sizes, strict=True)
            )
            seen = image[(slice(None), slice(None), *at)]
            out += np.einsum("rc,nc...->nr...", rows[(slice(None), slice(None), *tap)], seen)
        parts.append(out)
    return np.concatenate(parts, axis=1)


def layer(
    weight: Any, x: Any, attributes: dict[str, Any], bias: Any = None
) -> tuple[Checkpoint, str]:
    dense = weight if isinstance(weight, np.ndarray) else weight.to_dense()
    op = "Gemm" if dense.ndim == 2 else "Conv"
    constants = {} if bias is None else {"l.bias": bias}
    sparse = {} if isinstance(weight, np.ndarray) else {"l": weight}
    if not sparse:
        constants["l.weight"] = weight
    node = Node("l", op, ("x", "l.weight", *(["l.bias"] if bias is not None else [])), ("y",), attributes)  # fmt: skip # noqa: E501
    inputs = (Value("x", (None, *x.shape[1:])),)
    shapes = infer_shapes(
        Graph(inputs, (), (node,), constants), {"x": x.shape}, {"l.weight": dense.shape}
    )
    outputs = (Value("y", (None, *shapes["y"][1:])),)
    return Checkpoint(Graph(inputs, outputs, (node,), constants), sparse), "y"


def grouped_mask(random: Any, shape: tuple[int, ...], groups: int, density: float) -> Any:
    """Return a mask with shared and lonely row patterns in each convolution group."""
    mask = random.random(shape) < density
    rows = shape[0] // groups
    for first in range(0, shape[0], rows):
        for row in range(first + 1, first + rows):
            if random.random() < 0.6:
                mask[row] = mask[first]
    return mask


CASES = st.fixed_dictionaries(
    {
        "spatial": st.integers(1, 2),
        "groups": st.sampled_from([1, 1, 2, 4]),
        "rows": st.integers(1, 6),
        "channels": st.integers(1, 3),
        "batch": st.integers(1, 5),
        "density": st.sampled_from([0.0, 0.1, 0.5, 1.0]),
        "min_rows": st.integers(1, 4),
        "seed": st.integers(0, 2**16),
    }
)


def drawn(case: dict[str, Any]) -> tuple[Any, SparseWeight, Any, dict[str, Any]]:
    """Return an input, a sparse weight, its dense form and the attributes of a convolution."""
    random = np.random.default_rng(case["seed"])
    spatial, groups = case["spatial"], case["groups"]
    kernel = random.integers(1, 4, spatial)
    shape = (case["rows"] * groups, case["channels"], *kernel.tolist())
    mask = grouped_mask(random, shape, groups, case["density"])
    layout = BlockLayout.from_mask(mask, case["min_rows"], groups)
    weight = random.standard_normal(shape).astype(np.float32)
    sparse = SparseWeight.from_dense(weight, layout, layout.residual(mask))
    attributes = {
        "strides": tuple(random.integers(1, 4, spatial).tolist()),
        "dilations": tuple(random.integers(1, 3, spatial).tolist()),
        "pads": tuple(random.integers(0, 4, 2 * spatial).tolist()),
        "group": groups,
    }
    sizes = random.integers(5, 10, spatial).tolist()
    x = random.standard_normal((case["batch"], shape[1] * groups, *sizes)).astype(np.float32)
    return x, sparse, weight * mask, attributes
