"""Checkpoints that must be refused: files that lie, are damaged, or are none."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import MAKERS, network
from paths import GOLDEN
from safetensors import safe_open
from safetensors.numpy import save

from masktools.checkpoint import Checkpoint, SparseWeight, read, write
from masktools.checkpoint.metadata import _object
from masktools.errors import FormatError, MaskError
from masktools.layout import BlockLayout, DenseBlock
from masktools.network.graph import Graph, Node

Tensors = dict[str, np.ndarray]
Header = dict[str, Any]


def tampered(tmp_path: Path, change: Callable[[Tensors, Header], object]) -> Path:
    """Write minimal.safetensors with something changed, around the writer's checks."""
    with safe_open(str(GOLDEN / "minimal.safetensors"), framework="np") as file:
        tensors = {name: file.get_tensor(name).copy() for name in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["masktools"])
    change(tensors, header)
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(save(tensors, {"masktools": json.dumps(header)}))
    return path


def put(name: str, values: object, dtype: object = None) -> Callable[[Tensors, Header], None]:
    def change(tensors: Tensors, header: Header) -> None:
        array = np.asarray(values)
        tensors[name] = array.astype(dtype or tensors[name].dtype)

    return change


def drop(*names: str) -> Callable[[Tensors, Header], None]:
    def change(tensors: Tensors, header: Header) -> None:
        for name in names:
            del tensors[name]

    return change


def node(**changes: object) -> Callable[[Tensors, Header], None]:
    return lambda tensors, header: header["graph"]["nodes"][0].update(changes)


def both(*changes: Callable[[Tensors, Header], object]) -> Callable[[Tensors, Header], None]:
    def change(tensors: Tensors, header: Header) -> None:
        for one in changes:
            one(tensors, header)

    return change


SPARSE = [f"fc.{name}" for name in MAKERS["minimal.safetensors"]().sparse["fc"].to_arrays()]

HOSTILE = {
    # section 4: tensors
    "unknown tensor": (put("spare", [1.0], np.float32), "tensor 'spare' is not used"),
    "values missing": (drop("fc.values"), "'fc.weight' is missing"),
    "bias missing": (drop("fc.bias"), "'fc.bias' is missing"),
    "offsets missing": (drop("fc.row_offsets"), "layer 'fc': array 'row_offsets' is missing"),
    "half a residual": (drop("fc.residual_values"), "'residual_values' is missing"),
    "double values": (put("fc.values", [1, 2, 3, 4], np.float64), "dtype F64"),
    "integer bias": (put("fc.bias", [1, 2, 3], np.int32), "'fc.bias'.*float32 or float16"),
    "values as a matrix": (put("fc.values", [[1, 2], [3, 4]]), "one dimension"),
    "offsets of 32 bits": (put("fc.row_offsets", [0, 2], np.int32), "row_offsets: dtype"),
    "residual of another dtype": (put("fc.residual_values", [5], np.float16), "residual_values"),
    "dense too": (put("fc.weight", np.ones((3, 4)), np.float32), "'fc.*' is not used"),
    # section 4: structure
    "shape of one axis": (put("fc.shape", [12]), r"shape: \(12,\)"),
    "shape of five axes": (put("fc.shape", [3, 4, 1, 1, 1]), "shape:"),
    "negative shape": (put("fc.shape", [3, -4]), r"shape: \(3, -4\)"),
    "shape past 64 bits": (put("fc.shape", [3, 2**62, 2**62]), "shape:"),
    "shape of another layer": (put("fc.shape", [2, 4]), "row 2, but there are 2"),
    "fewer columns": (put("fc.shape", [3, 3]), "column 3, but there are 3"),
    "offsets fall": (put("fc.row_offsets", [0, -1]), "row_offsets must rise from 0 to 2"),
    "offsets start late": (put("fc.row_offsets", [1, 2]), "row_offsets must rise"),
    "offsets end early": (put("fc.column_offsets", [0, 1]), "column_offsets must rise"),
    "offsets past 64 bits": (put("fc.row_offsets", [0, 2**63 - 1, 2]), "row_offsets must rise"),
    "no offsets": (put("fc.row_offsets", []), "row_offsets must rise"),
    "empty block": (put("fc.row_offsets", [0, 0, 2]), "row_offsets must rise"),
    "more row lists": (put("fc.row_offsets", [0, 1, 2]), "2 blocks, column_offsets 1"),
    "too few values": (put("fc.values", [1, 2, 3]), "blocks store 4, got 3"),
    "negative row": (put("fc.row_indices", [-1, 2]), "rows"),
    "row past the end": (put("fc.row_indices", [0, 3]), "row 3, but there are 3"),
    "rows not ascending": (put("fc.row_indices", [2, 0]), "ascending"),
    "column twice in a block": (put("fc.column_indices", [1, 1]), "ascending"),
    "NaN": (put("fc.values", [1, 2, np.nan, 4]), "values must be finite, got nan at 2"),
    "infinite bias": (put("fc.bias", [1, 2, np.inf]), "'fc.bias'.*finite"),
    "infinite residual": (put("fc.residual_values", [np.inf]), "residual_values.*finite"),
    "residual in a block": (put("fc.residual_row_offsets", [0, 0, 0, 1]), None),
    "residual stored twice": (
        both(put("fc.residual_row_offsets", [0, 0, 0, 1]), put("fc.residual_column_indices", [3])),
        "residual: row 2, column 3 is stored by a block too",
    ),
    "residual past the end": (put("fc.residual_column_indices", [4]), "column 4, but there are 4"),
    "residual negative": (put("fc.residual_column_indices", [-1]), "column -1"),
    "residual offsets fall": (put("fc.residual_row_offsets", [0, 1, 0, 1]), "residual_row_offsets"),
    "residual of fewer rows": (put("fc.residual_row_offsets", [0, 0, 1]), "in 4 entries"),
    "residual columns fall": (
        both(
            put("fc.residual_values", [5, 6]),
            put("fc.residual_column_indices", [1, 0]),
            put("fc.residual_row_offsets", [0, 0, 2, 2]),
        ),
        "columns of row 1 must be strictly ascending",
    ),
    "residual counts differ": (put("fc.residual_values", [5, 6]), "2 values, 1 columns"),
    "two blocks overlap": (
        both(
            put("fc.row_indices", [0, 2, 0]),
            put("fc.row_offsets", [0, 2, 3]),
            put("fc.column_indices", [1, 3, 3]),
            put("fc.column_offsets", [0, 2, 3]),
            put("fc.values", [1, 2, 3, 4, 5]),
        ),
        "row 0, column 3 is stored by an earlier block too",
    ),
    # section 3: the graph
    "unknown operator": (node(op="Loop"), r"node 'fc' \(Loop\): operator 'Loop' is not supported"),
    "unknown attribute": (node(attributes={"transB": 1, "alpha": 2.0}), "attribute alpha=2.0"),
    "attribute missing": (node(attributes={}), "attribute transB is missing"),
    "attribute of another type": (node(attributes={"transB": 1.0}), "transB must be one of 1"),
    "attribute true": (node(attributes={"transB": True}), "transB must be one of 1"),
    "group true": (
        lambda t, h: h["graph"]["nodes"][0].update(
            op="Conv",
            attributes={"strides": [1], "dilations": [1], "pads": [0, 0], "group": True},
        ),
        "attribute group must be",
    ),
    "too many axes": (
        lambda t, h: h["graph"]["inputs"][0].update(shape=[None, *[1] * 8]),
        "input 'x': 9 axes; 8 are supported",
    ),
    "attribute an object": (node(attributes={"transB": {"a": 1}}), "transB must be"),
    "attributes a list": (node(attributes=[1]), "attributes must be an object"),
    "input of nobody": (node(inputs=["z", "fc.weight", "fc.bias"]), "'z' is missing"),
    "own output": (node(inputs=["y", "fc.weight", "fc.bias"]), "'y' is made by nothing before"),
    "too many inputs": (node(inputs=["x", "fc.weight", "fc.bias", "x"]), "it has 4 inputs"),
    "sparse weight as input 0": (
        both(node(op="Add", attributes={}, inputs=["x", "fc.weight"]), drop("fc.bias")),
        "cannot read the sparse weight 'fc.weight'",
    ),
    "weight from a value": (
        both(node(inputs=["x", "x", "fc.bias"]), drop(*SPARSE)),
        "input 'x' must be a constant",
    ),
    "bias of another size": (put("fc.bias", [1, 2]), r"bias 'fc.bias' must have shape \(3,\)"),
    "output of nobody": (node(outputs=["z"]), "output 'y': no node makes it"),
    "two outputs": (node(outputs=["y", "z"]), "it has 2 outputs"),
    "output over the input": (node(outputs=["x"]), "output 'x' is empty or already made"),
    "nameless node": (node(name=""), "its name is empty"),
    "name no string": (node(name=3), "name of a node must be a string, got 3"),
    "a node too many": (
        lambda t, h: h["graph"]["nodes"].append(h["graph"]["nodes"][0]),
        "its name is empty or taken",
    ),
    "no inputs": (lambda t, h: h["graph"].update(inputs=[]), "constant 'x' is missing"),
    "no outputs": (lambda t, h: h["graph"].update(outputs=[]), "the graph has no output"),
    "integers flow": (
        lambda t, h: (h.update(version=2), h["graph"]["outputs"][0].update(dtype="int64")),
        "output '.*': dtype 'int64'",
    ),
    "no numbers flow": (
        lambda t, h: (h.update(version=2), h["graph"]["inputs"][0].update(dtype="object")),
        "input 'x': dtype 'object'",
    ),
    "half precision in version 1": (
        lambda t, h: h["graph"]["inputs"][0].update(dtype="float16"),
        "'x': dtype 'float16' came with version 2",
    ),
    "open channels": (lambda t, h: h["graph"]["inputs"][0].update(shape=[None, None]), "shape"),
    "shape of zero": (lambda t, h: h["graph"]["inputs"][0].update(shape=[0, 4]), "shape"),
    "shape of fractions": (lambda t, h: h["graph"]["inputs"][0].update(shape=[1.5]), "integers"),
    "value a list": (lambda t, h: h["graph"].update(inputs=[[1]]), "an input or output must have"),
    "value unnamed": (lambda t, h: h["graph"]["inputs"][0].update(name=["x"]), "string"),
    "nodes a string": (lambda t, h: h["graph"].update(nodes="fc"), "nodes must be a list"),
    "graph null": (lambda t, h: h.update(graph=None), "graph must have the keys"),
    # section 2: metadata
    "newer version": (lambda t, h: h.update(version=3), "version 3, but this reader knows 1 to 2"),
    "version 0": (lambda t, h: h.update(version=0), "version 0, but this reader knows 1 to 2"),
    "newer operator": (
        node(op="Softplus", inputs=["x"], attributes={}),
        r"node 'fc' \(Softplus\): the operator came with version 2, but the file is of version 1",
    ),
    "newer attribute": (
        node(op="Resize", inputs=["x"], attributes={"mode": "linear"}),
        r"node 'fc' \(Resize\): the operator came with version 2, but the file is of version 1",
    ),
    "version true": (lambda t, h: h.update(version=True), "version True"),
    "another format": (lambda t, h: h.update(format="onnx"), "format is not 'masktools'"),
    "unknown key": (lambda t, h: h.update(extra=1), "metadata must have the keys"),
    "seed a string": (lambda t, h: h.update(seed="1"), "seed must be an integer or null"),
    "producer missing": (lambda t, h: h.pop("producer"), "metadata must have the keys"),
    "source of no hash": (lambda t, h: h.update(source="file"), "source must be"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_file_is_refused(case, tmp_path):
    change, reason = HOSTILE[case]
    path = tampered(tmp_path, change)
    if reason is None:  # The neighbour of a hostile case: this one is sound.
        assert read(path)
        return
    with pytest.raises(FormatError, match=reason) as refused:
        read(path)
    assert str(refused.value).startswith(str(path))


def test_the_untampered_file_is_read(tmp_path):
    assert read(tampered(tmp_path, lambda tensors, header: None))


def test_shared_weights_need_one_group_and_blocks_lie_in_one(tmp_path):
    crossing = SparseWeight(
        BlockLayout((4, 2, 1, 1), [DenseBlock([1, 2], [0])]), np.ones(2, np.float32)
    )
    with pytest.raises(MaskError, match=r"layer 'a'.*rows 1 and 2 lie in different convolution"):
        write(tmp_path / "a.safetensors", network({"a": crossing}, group=2))
    good = MAKERS["halves.safetensors"]()
    first, *rest = good.graph.nodes
    other = Node(
        first.name, first.op, first.inputs, first.outputs, {**first.attributes, "group": 1}
    )
    graph = Graph(good.graph.inputs, good.graph.outputs, (other, *rest), good.graph.constants)
    with pytest.raises(FormatError, match=r"node 'second' .*group=2, but another node"):
        write(tmp_path / "b.safetensors", Checkpoint(graph, good.sparse))


METADATA = {
    "no JSON": ("{", "no JSON"),
    "a list": ("[]", "format is not"),
    "nested too deep": ("[" * 100_000, "no JSON"),
    "nested as deep as JSON goes": (
        '{"format":"masktools","version":1,"producer":"","seed":null,"source":null,"graph":'
        + "[" * 900
        + "]" * 900
        + "}",
        "metadata",
    ),
    "a key twice": ('{"version":1,"version":1}', "key 'version' is repeated"),
    "the last of many keys twice": (
        "{" + ",".join(f'"k{i}":0' for i in range(50_000)) + ',"k49999":0}',
        "key 'k49999' is repeated",
    ),
    "not a number": ('{"format":"masktools","version":NaN}', "NaN is no JSON number"),
    "a number of 5000 digits": ("9" * 5000, "metadata"),
}


@pytest.mark.parametrize("case", METADATA)
def test_malformed_metadata_is_refused(case, tmp_path):
    text, reason = METADATA[case]
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(save({"a": np.zeros(1, np.float32)}, {"masktools": text}))
    with pytest.raises(FormatError, match=reason):
        read(path)


@pytest.mark.parametrize("metadata", [None, {"pt": "1"}, {"masktools": "{}", "other": ""}])
def test_other_safetensors_files_are_refused(metadata, tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(save({"a": np.zeros(1, np.float32)}, metadata))
    with pytest.raises(FormatError, match="expected the one key 'masktools'"):
        read(path)


def test_broken_containers_are_refused(tmp_path):
    whole = (GOLDEN / "minimal.safetensors").read_bytes()
    path = tmp_path / "broken.safetensors"
    huge = struct.pack("<Q", 2**63) + whole[8:]
    for data in (b"", b"PK\x03\x04", whole[:7], whole[:600], whole[:-1], whole + b"\0", huge):
        path.write_bytes(data)
        with pytest.raises(FormatError, match="not a safetensors file"):
            read(path)


def test_every_flipped_header_byte_is_refused_or_read(tmp_path):
    """No damage to the header gets past as another kind of error."""
    whole = (GOLDEN / "minimal.safetensors").read_bytes()
    path = tmp_path / "flipped.safetensors"
    refused = 0
    for at in range(0, 1144, 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x08]) + whole[at + 1 :])
        try:
            read(path)
        except FormatError:
            refused += 1
    assert refused > 300


def test_a_large_claim_costs_nothing(tmp_path):
    """A layer may claim any shape: checking it takes what the file holds, not what it claims."""
    path = tampered(
        tmp_path,
        both(
            put("fc.shape", [3, 2**31 - 1]),
            put("fc.column_indices", [1, 2**31 - 2]),
        ),
    )
    assert read(path).sparse["fc"].layout.columns == 2**31 - 1


def test_a_repeated_key_is_found_without_comparing_all_pairs():
    compared = 0

    class Key(str):
        __hash__ = str.__hash__

        def __eq__(self, other):
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

    pairs = [(Key(f"k{i}"), 0) for i in range(1000)]
    with pytest.raises(FormatError, match="'k999' is repeated"):
        _object([*pairs, (Key("k999"), 0)])
    assert compared < 5000
