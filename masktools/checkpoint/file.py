"""The file that holds a network ready to run; docs/format.md specifies it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.checkpoint.metadata import FORMAT, check_origin, from_json, to_json
from masktools.checkpoint.weights import (
    ARRAYS,
    RESIDUAL_ARRAYS,
    Residual,
    SparseWeight,
    check_values,
)
from masktools.errors import FormatError, GraphError, MaskError
from masktools.files import check_source, whole_file
from masktools.network.graph import Graph, where
from masktools.network.normal_form import check_graph
from masktools.tensor_file import TensorFile
from masktools.version import __version__

__all__ = ["Checkpoint", "Residual", "SparseWeight", "read", "write"]

_WEIGHT = ".weight"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A network: its graph, dense constants and sparse weights.

    Parameters
    ----------
    graph : Graph
        In the normal form of docs/format.md; its constants are the dense tensors.
    sparse : mapping of str to SparseWeight
        By layer: a node reads the weight of layer L as its input ``L.weight``.
    producer : str
        The program that made the network.
    seed : int, default None
        What the conversion used.
    source : str, default None
        ``sha256:`` and the hash of the file that was exported.
    """

    graph: Graph
    sparse: Mapping[str, SparseWeight] = field(default_factory=dict)
    producer: str = f"masktools {__version__}"
    seed: int | None = None
    source: str | None = None

    def check(self) -> None:
        """Raise unless the network can be written.

        Raises
        ------
        GraphError
            Naming the node, the operator, and what is wrong.
        MaskError
            Naming the layer or the tensor, and the value.
        FormatError
            If a name in the graph could be read in two ways, or the seed or source is malformed.
        """
        check_graph(self.graph, {name + _WEIGHT: w.layout.shape for name, w in self.sparse.items()})
        check_origin(self.producer, self.seed, self.source)
        groups = _groups(self.graph)
        for name, array in self.graph.constants.items():
            check_values(f"constant {name!r}", array)
        for layer, weight in self.sparse.items():
            taken = [a for a in ARRAYS if f"{layer}.{a}" in self.graph.constants]
            if taken:
                raise FormatError(
                    f"constant '{layer}.{taken[0]}' has the name of an array of the sparse "
                    f"layer {layer!r}"
                )
            _sparse(layer, weight.to_arrays(), groups)


def write(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Write a checkpoint.

    The same checkpoint gives the same bytes. The file appears whole or not at all: it is written
    beside its place and renamed.

    Parameters
    ----------
    path : path-like
        Replaced where it exists.
    checkpoint : Checkpoint
        Checked first; not changed.

    Raises
    ------
    GraphError, MaskError, FormatError
        As `Checkpoint.check`.
    """
    checkpoint.check()
    data = to_bytes(checkpoint)
    with whole_file(path) as beside:
        beside.write_bytes(data)


def to_bytes(checkpoint: Checkpoint) -> bytes:
    """Return the bytes of a checkpoint that was checked."""
    from safetensors.numpy import save

    tensors = dict(checkpoint.graph.constants)
    for layer, weight in checkpoint.sparse.items():
        tensors.update({f"{layer}.{name}": a for name, a in weight.to_arrays().items()})
    # asarray, since ascontiguousarray would give a scalar an axis.
    ordered = {name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}
    origin = (checkpoint.producer, checkpoint.seed, checkpoint.source)
    return save(ordered, {FORMAT: to_json(checkpoint.graph, *origin)})


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint, and check all of it.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    Checkpoint

    Raises
    ------
    FormatError
        If the file is no regular file, no checkpoint, of a version that is not known, or breaks a
        rule of docs/format.md: naming the file, the layer or node, and the value.
    OSError
        If the file cannot be opened.
    """
    from safetensors import SafetensorError

    check_source(path)
    with Path(path).open("rb"):
        pass  # A missing file is an OSError of its own kind, not a damaged one.
    try:
        with TensorFile(path) as file:
            return _read(file)
    except SafetensorError as error:
        raise FormatError(f"{path}: not a safetensors file: {error}") from error
    except RecursionError as error:
        raise FormatError(f"{path}: metadata: it is nested too deeply") from error
    except (FormatError, GraphError, MaskError) as error:
        raise FormatError(f"{path}: {error}") from error


def _read(file: TensorFile) -> Checkpoint:
    header = from_json(file.metadata)
    names = file.dtypes.keys()
    graph = header["graph"]
    made = {v.name for v in graph.inputs} | {o for node in graph.nodes for o in node.outputs}
    read = {name for node in graph.nodes for name in node.inputs} - made
    groups = _groups(graph)
    constants, sparse = {}, {}
    used: set[str] = set()
    for name in sorted(read):
        if name in names:
            constants[name] = _load(file, name)
            used.add(name)
            continue
        layer = name.removesuffix(_WEIGHT)
        if layer == name or f"{layer}.values" not in names:
            raise FormatError(f"constant {name!r} is missing")
        present = [f"{layer}.{array}" for array in ARRAYS if f"{layer}.{array}" in names]
        sparse[layer] = present
        used.update(present)
    unused = sorted(names - used)
    if unused:
        raise FormatError(f"tensor {unused[0]!r} is not used by the graph")
    both = sorted({a for present in sparse.values() for a in present} & constants.keys())
    if both:
        raise FormatError(f"constant {both[0]!r} has the name of an array of a sparse layer")
    weights = {
        layer: _sparse(
            layer, {n.removeprefix(f"{layer}."): _load(file, n) for n in present}, groups
        )
        for layer, present in sparse.items()
    }
    whole = Graph(graph.inputs, graph.outputs, graph.nodes, constants)
    check_graph(whole, {layer + _WEIGHT: w.layout.shape for layer, w in weights.items()})
    for name, array in constants.items():
        check_values(f"constant {name!r}", array)
    return Checkpoint(whole, weights, header["producer"], header["seed"], header["source"])


def _load(file: TensorFile, name: str) -> NDArray[Any]:
    dtype = file.dtypes[name]
    if dtype not in ("F32", "F16", "I32", "I64"):
        raise FormatError(f"tensor {name!r}: dtype {dtype} is not supported")
    return file.read(name)


def _groups(graph: Graph) -> dict[str, int]:
    """Return the convolution groups by which each weight's rows are read."""
    groups: dict[str, int] = {}
    for node in graph.nodes:
        if node.op in ("Conv", "Gemm") and len(node.inputs) > 1:
            group = node.attributes.get("group", 1)
            # JSON's true is no number; the check of the graph refuses it.
            count = group if type(group) is int else 1
            if groups.setdefault(node.inputs[1], count) != count:
                raise FormatError(
                    f"{where(node)}: attribute group={group}, but another node "
                    f"reads weight {node.inputs[1]!r} with group={groups[node.inputs[1]]}"
                )
    return groups


def _sparse(
    layer: str, arrays: Mapping[str, NDArray[Any]], groups: Mapping[str, int]
) -> SparseWeight:
    try:
        some = [name for name in RESIDUAL_ARRAYS if name in arrays]
        if some and len(some) < len(RESIDUAL_ARRAYS):
            missing = next(name for name in RESIDUAL_ARRAYS if name not in arrays)
            raise MaskError(f"array {missing!r} is missing")  # noqa: TRY301 - named below
        return SparseWeight.from_arrays(arrays, groups.get(layer + _WEIGHT, 1))
    except MaskError as error:
        raise MaskError(f"layer {layer!r}: {error}") from error
