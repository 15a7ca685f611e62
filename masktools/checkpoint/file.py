"""The file that holds a network ready to run; docs/format.md specifies it."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from masktools.checkpoint.weights import (
    ARRAYS,
    RESIDUAL_ARRAYS,
    Residual,
    SparseWeight,
    check_values,
)
from masktools.errors import FormatError, GraphError, MaskError
from masktools.files import check_source, whole_file
from masktools.network.fixing import open_sizes
from masktools.network.graph import Attribute, Graph, Node, Value, where
from masktools.network.normal_form import check_graph
from masktools.network.operators import OPERATORS, operator_of
from masktools.network.sizes import Size, evaluate, is_name, spelled
from masktools.version import __version__

__all__ = ["Checkpoint", "Residual", "SparseWeight", "read", "write"]

FORMAT = "masktools"
VERSION = 2  # the newest; files are written in the oldest that can hold them

# The first version that knows open sizes besides the batch.
OPEN_SIZES = 2

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
        _check_origin(self.producer, self.seed, self.source)
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
    return save(ordered, {FORMAT: _to_json(checkpoint)})


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
    from safetensors import SafetensorError, safe_open

    check_source(path)
    with Path(path).open("rb"):
        pass  # A missing file is an OSError of its own kind, not a damaged one.
    try:
        with safe_open(str(path), framework="np") as file:
            return _read(file)
    except SafetensorError as error:
        raise FormatError(f"{path}: not a safetensors file: {error}") from error
    except RecursionError as error:
        raise FormatError(f"{path}: metadata: it is nested too deeply") from error
    except (FormatError, GraphError, MaskError) as error:
        raise FormatError(f"{path}: {error}") from error


def _read(file: Any) -> Checkpoint:  # noqa: ANN401 - safetensors has no type for its handle
    header = _from_json(file.metadata() or {})
    names = set(file.keys())
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


def _load(file: Any, name: str) -> NDArray[Any]:  # noqa: ANN401
    dtype = file.get_slice(name).get_dtype()
    if dtype not in ("F32", "F16", "I32", "I64"):
        raise FormatError(f"tensor {name!r}: dtype {dtype} is not supported")
    array: NDArray[Any] = file.get_tensor(name)
    return array


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


def _check_origin(producer: object, seed: object, source: object) -> None:
    if not isinstance(producer, str):
        raise FormatError(f"metadata: producer must be a string, got {producer!r}")
    if seed is not None and type(seed) is not int:
        raise FormatError(f"metadata: seed must be an integer or null, got {seed!r}")
    if source is not None and not (
        isinstance(source, str) and re.fullmatch(r"sha256:[0-9a-f]{64}", source)
    ):
        raise FormatError(f"metadata: source must be 'sha256:' and 64 digits, got {source!r}")


# --- the metadata ------------------------------------------------------------------------------


def _to_json(checkpoint: Checkpoint) -> str:
    graph = checkpoint.graph
    sizes = open_sizes(graph.inputs)
    versions = [operator_of(node).version for node in graph.nodes]
    return json.dumps(
        {
            "format": FORMAT,
            "version": max([*versions, OPEN_SIZES if sizes else 1]),
            "graph": {
                "inputs": [vars(v) | {"shape": spelled(v.shape)} for v in graph.inputs],
                "outputs": [vars(v) | {"shape": spelled(v.shape)} for v in graph.outputs],
                "nodes": [
                    vars(node) | {"attributes": _spelled(node.attributes)} for node in graph.nodes
                ],
                **({"sizes": sizes} if sizes else {}),
            },
            "producer": checkpoint.producer,
            "seed": checkpoint.seed,
            "source": checkpoint.source,
        },
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
    )


def _spelled(attributes: Mapping[str, Attribute]) -> dict[str, object]:
    """Return attributes with each open size in them written out."""
    return {k: spelled(v) if isinstance(v, tuple) else v for k, v in attributes.items()}


def _from_json(metadata: Mapping[str, str]) -> dict[str, Any]:
    if set(metadata) != {FORMAT}:
        raise FormatError(
            f"metadata: expected the one key {FORMAT!r}, got {sorted(metadata) or 'none'}"
        )
    try:
        header = json.loads(
            metadata[FORMAT], object_pairs_hook=_object, parse_constant=_not_a_number
        )
    except (json.JSONDecodeError, RecursionError) as error:
        raise FormatError(f"metadata: no JSON: {error}") from error
    except ValueError as error:
        raise FormatError(f"metadata: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise FormatError("metadata: format is not 'masktools'")
    version = header.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise FormatError(f"metadata: version {version!r}, but this reader knows 1 to {VERSION}")
    _keys("metadata", header, ("format", "version", "graph", "producer", "seed", "source"))
    _check_origin(header["producer"], header["seed"], header["source"])
    graph = header["graph"]
    has_sizes = version >= OPEN_SIZES and isinstance(graph, dict) and "sizes" in graph
    _keys("graph", graph, ("inputs", "outputs", "nodes", *(["sizes"] if has_sizes else [])))
    sizes = _sizes(graph["sizes"]) if has_sizes else {}
    header["graph"] = Graph(
        tuple(_value(v, sizes) for v in _list("inputs", graph["inputs"])),
        tuple(_value(v, sizes) for v in _list("outputs", graph["outputs"])),
        tuple(_node(n, sizes) for n in _list("nodes", graph["nodes"])),
    )
    if open_sizes(header["graph"].inputs) != {name: int(size) for name, size in sizes.items()}:
        raise FormatError(
            f"metadata: the inputs must have the open sizes {', '.join(sizes)}, and no formulas"
        )
    _check_version(header["graph"].nodes, version)
    return header


def _check_version(nodes: Collection[Node], version: int) -> None:
    """Refuse operators that are newer than the version that a file says it has."""
    for node in nodes:
        known = OPERATORS.get(node.op)
        if known is not None and known.version > version:
            raise FormatError(
                f"metadata: {where(node)}: the operator came with version {known.version}, "
                f"but the file is of version {version}"
            )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise FormatError(f"key {counts.most_common(1)[0][0]!r} is repeated")
    return result


def _not_a_number(text: str) -> NoReturn:
    raise FormatError(f"{text} is no JSON number")


def _keys(where: str, given: object, expected: Collection[str]) -> dict[str, Any]:
    if not isinstance(given, dict) or given.keys() != set(expected):
        got = sorted(given) if isinstance(given, dict) else given
        raise FormatError(f"metadata: {where} must have the keys {sorted(expected)}, got {got!r}")
    return given


def _list(where: str, given: object) -> list[Any]:
    if not isinstance(given, list):
        raise FormatError(f"metadata: {where} must be a list, got {given!r}")
    return given


def _text(where: str, given: object) -> str:
    if not isinstance(given, str):
        raise FormatError(f"metadata: {where} must be a string, got {given!r}")
    return given


def _sizes(given: object) -> dict[str, Size]:
    """Return the open sizes of a graph by name."""
    if not isinstance(given, dict) or not given:
        raise FormatError(f"metadata: sizes must be an object of examples by name, got {given!r}")
    for name, size in given.items():
        if not is_name(name) or type(size) is not int or not 1 <= size < 2**31:
            raise FormatError(
                f"metadata: sizes: {name!r}: expected a name of letters, digits and _, and a size "
                f"of at least 1, got {size!r}"
            )
    return {name: Size.open(name, size) for name, size in given.items()}


def _size(text: str, sizes: Mapping[str, Size]) -> int:
    """Return the size that a formula says; refuse one that is not written as it is written here."""
    size = evaluate(text, sizes)
    if not isinstance(size, Size) or repr(size) != text:
        raise FormatError(f"metadata: size {text!r} must be written as {size!r}")
    return size


def _value(given: object, sizes: Mapping[str, Size]) -> Value:
    entry = _keys("an input or output", given, ("name", "shape", "dtype"))
    name = _text("the name of an input or output", entry["name"])
    shape = _list(f"the shape of {name!r}", entry["shape"])
    if any(n is not None and type(n) is not int and not (sizes and type(n) is str) for n in shape):
        raise FormatError(f"metadata: the shape of {name!r} must hold integers, got {shape!r}")
    whole = tuple(_size(n, sizes) if isinstance(n, str) else n for n in shape)
    return Value(name, whole, _text(f"the dtype of {name!r}", entry["dtype"]))


def _node(given: object, sizes: Mapping[str, Size]) -> Node:
    entry = _keys("a node", given, ("name", "op", "inputs", "outputs", "attributes"))
    name = _text("the name of a node", entry["name"])
    place = f"node {name!r}"
    tensors = [
        tuple(_text(f"{place}: a name", n) for n in _list(place, entry[side]))
        for side in ("inputs", "outputs")
    ]
    if not isinstance(entry["attributes"], dict):
        raise FormatError(f"metadata: {place}: attributes must be an object")
    op = _text(f"{place}: op", entry["op"])
    attributes: dict[str, Attribute] = {
        key: tuple(_entries(op, key, v, sizes)) if isinstance(v, list) else v
        for key, v in entry["attributes"].items()
    }
    return Node(name, op, tensors[0], tensors[1], attributes)


def _entries(op: str, attribute: str, given: list[Any], sizes: Mapping[str, Size]) -> list[Any]:
    """Return a list of an attribute, in which formulas may stand for integers."""
    kinds = OPERATORS[op].attributes if op in OPERATORS else {}
    if not sizes or attribute not in kinds or kinds[attribute].type is not int:
        return given
    return [_size(v, sizes) if isinstance(v, str) else v for v in given]
