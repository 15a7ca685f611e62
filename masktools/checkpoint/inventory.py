"""List the layers of a checkpoint: shapes, blocks, residual and density of each."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from masktools.checkpoint.file import Checkpoint
from masktools.checkpoint.metadata import FORMAT
from masktools.checkpoint.weights import SparseWeight
from masktools.errors import FormatError
from masktools.files import check_source
from masktools.network.layers import Layer, layers


@dataclass(frozen=True)
class StoredLayer:
    """A layer of a checkpoint.

    Parameters
    ----------
    name : str
    shape : tuple of int
        The weight's own shape.
    groups : int
        Convolution groups.
    blocks, residual : int
        Dense blocks, and weights outside of them; both 0 where the weight is dense.
    stored, size : int
        Weights in the file, the residual ones among them, and all of them.
    dtype : str
        Of the values.
    multiplications, multiplications_stored : int
        For one sample, taps inside the image only: dense, and with what is stored.
    padded, padded_stored : int
        Those, and the ones by padding: what the paper counts as FLOPs.
    """

    name: str
    shape: tuple[int, ...]
    groups: int
    blocks: int
    residual: int
    stored: int
    size: int
    dtype: str
    multiplications: int
    multiplications_stored: int
    padded: int
    padded_stored: int

    @property
    def density(self) -> float:
        """Stored weights / all weights."""
        return self.stored / self.size


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Return whether a file says that it is a checkpoint; `masktools.checkpoint.read` checks it."""
    from safetensors import SafetensorError, safe_open

    try:
        check_source(path)
        with safe_open(path, "numpy") as file:
            header = json.loads((file.metadata() or {}).get(FORMAT, "null"))
    except (FormatError, SafetensorError, OSError, ValueError, RecursionError):
        return False
    return isinstance(header, dict) and header.get("format") == FORMAT


def inventory(checkpoint: Checkpoint) -> list[StoredLayer]:
    """Return the layers of a checkpoint in execution order.

    Raises
    ------
    GraphError
        If the shapes of its tensors do not fit together.
    """
    shapes = {f"{name}.weight": w.layout.shape for name, w in checkpoint.sparse.items()}
    return [_stored(layer, checkpoint) for layer in layers(checkpoint.graph, shapes).values()]


def _stored(layer: Layer, checkpoint: Checkpoint) -> StoredLayer:
    dense, size = layer.multiplications(), prod(layer.shape)
    weight = checkpoint.sparse.get(layer.weight.removesuffix(".weight"))
    if weight is None or layer.weight in checkpoint.graph.constants:
        blocks = residual = 0
        stored, multiplied = size, dense
        dtype = checkpoint.graph.constants[layer.weight].dtype
    else:
        blocks = len(weight.layout.blocks)
        residual = 0 if weight.residual is None else len(weight.residual.values)
        stored, multiplied = weight.layout.stored + residual, _multiplications(layer, weight)
        dtype = weight.values.dtype
    return StoredLayer(
        name=layer.name,
        shape=layer.shape,
        groups=layer.groups,
        blocks=blocks,
        residual=residual,
        stored=stored,
        size=size,
        dtype=str(dtype),
        multiplications=dense,
        multiplications_stored=multiplied,
        padded=size * layer.pixels,
        padded_stored=stored * layer.pixels,
    )


def _multiplications(layer: Layer, weight: SparseWeight) -> int:
    """Count the multiplications by tap, without a dense array: a layer may claim any width."""
    cost = layer.taps.ravel()

    def of(columns: NDArray[np.int32]) -> int:
        return int(cost[columns % cost.size].sum())

    inside = sum(len(b.rows) * of(b.columns) for b in weight.layout.blocks)
    return inside if weight.residual is None else inside + of(weight.residual.column_indices)
