"""The metadata of a checkpoint: its graph as JSON."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from masktools.errors import FormatError
from masktools.network.fixing import open_sizes
from masktools.network.graph import Attribute, Graph, Node, Value, where
from masktools.network.operators import OPERATORS, version_of
from masktools.network.sizes import Size, evaluate, is_name, spelled

FORMAT = "masktools"
VERSION = 2  # the newest; files are written in the oldest that can hold them

# The first version that knows open sizes besides the batch.
OPEN_SIZES = 2
# ... and inputs and outputs of other types than float32.
DTYPES = 2


def to_json(graph: Graph, producer: str, seed: int | None, source: str | None) -> str:
    """Return the metadata of a checkpoint, written in one way."""
    sizes = open_sizes(graph.inputs)
    versions = [version_of(node) for node in graph.nodes]
    versions += [DTYPES for v in (*graph.inputs, *graph.outputs) if v.dtype != "float32"]
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
            "producer": producer,
            "seed": seed,
            "source": source,
        },
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
    )


def _spelled(attributes: Mapping[str, Attribute]) -> dict[str, object]:
    """Return attributes with each open size in them written out."""
    return {k: spelled(v) if isinstance(v, tuple) else v for k, v in attributes.items()}


def from_json(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return what the metadata of a file holds, by key; its graph as a `Graph` without constants.

    Raises
    ------
    FormatError
        If it breaks a rule of docs/format.md.
    """
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
    check_origin(header["producer"], header["seed"], header["source"])
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
    _check_version(header["graph"], version)
    return header


def _check_version(graph: Graph, version: int) -> None:
    """Refuse operators and types that are newer than the version of their file."""
    for value in (*graph.inputs, *graph.outputs):
        if value.dtype != "float32" and version < DTYPES:
            raise FormatError(
                f"metadata: {value.name!r}: dtype {value.dtype!r} came with version {DTYPES}, but "
                f"the file is of version {version}"
            )
    for node in graph.nodes:
        if node.op in OPERATORS and version_of(node) > version:
            raise FormatError(
                f"metadata: {where(node)}: the operator came with version {version_of(node)}, "
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


def check_origin(producer: object, seed: object, source: object) -> None:
    """Raise `FormatError` unless a checkpoint's producer, seed and source are well formed."""
    if not isinstance(producer, str):
        raise FormatError(f"metadata: producer must be a string, got {producer!r}")
    if seed is not None and type(seed) is not int:
        raise FormatError(f"metadata: seed must be an integer or null, got {seed!r}")
    if source is not None and not (
        isinstance(source, str) and re.fullmatch(r"sha256:[0-9a-f]{64}", source)
    ):
        raise FormatError(f"metadata: source must be 'sha256:' and 64 digits, got {source!r}")
