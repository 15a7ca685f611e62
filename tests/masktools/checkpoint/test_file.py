"""The file format: golden bytes, round trips, and what must not be written."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import MAKERS, network
from hypothesis import given
from hypothesis import strategies as st
from paths import GOLDEN, ROOT

from masktools.checkpoint import Checkpoint, Residual, SparseWeight, read, write
from masktools.errors import FormatError, GraphError, MaskError
from masktools.layout import BlockLayout, DenseBlock
from masktools.network.graph import Graph, Node, Value


def same(one: Checkpoint, other: Checkpoint) -> bool:
    return (
        (one.graph.inputs, one.graph.outputs, one.graph.nodes)
        == (other.graph.inputs, other.graph.outputs, other.graph.nodes)
        and (one.producer, one.seed, one.source) == (other.producer, other.seed, other.source)
        and equal(one.graph.constants, other.graph.constants)
        and one.sparse.keys() == other.sparse.keys()
        and all(
            equal(one.sparse[name].to_arrays(), other.sparse[name].to_arrays())
            for name in one.sparse
        )
    )


def equal(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(
        one[k].dtype == other[k].dtype
        and one[k].shape == other[k].shape
        and np.array_equal(one[k], other[k])
        for k in one
    )


@pytest.mark.parametrize(("op", "version"), [("Relu", 1), ("Softplus", 2)])
def test_a_file_is_of_the_lowest_version_that_holds_the_network(op, version, tmp_path):
    values = (Value("x", (None, 3)),), (Value("y", (None, 3)),)
    network = Checkpoint(Graph(*values, (Node("n", op, ("x",), ("y",)),)))
    write(tmp_path / "net", network)
    assert f'"version\\":{version}}}'.encode() in (tmp_path / "net").read_bytes()
    assert same(read(tmp_path / "net"), network)


@pytest.mark.parametrize(("axes", "version"), [((2, 3), 1), ((3,), 2), ((1, 2), 2)])
def test_a_mean_over_other_axes_than_the_image_is_of_version_2(axes, version, tmp_path):
    shape = tuple(1 if axis in axes else n for axis, n in enumerate((None, 3, 4, 5)))
    mean = Node("n", "ReduceMean", ("x",), ("y",), {"axes": axes, "keepdims": 1})
    network = Checkpoint(Graph((Value("x", (None, 3, 4, 5)),), (Value("y", shape),), (mean,)))
    write(tmp_path / "net", network)
    written = (tmp_path / "net").read_bytes()
    assert f'"version\\":{version}}}'.encode() in written
    assert same(read(tmp_path / "net"), network)
    if version == 2:
        (tmp_path / "net").write_bytes(written.replace(b'"version\\":2', b'"version\\":1'))
        with pytest.raises(FormatError, match="came with version 2, but the file is of version 1"):
            read(tmp_path / "net")


# --- golden bytes ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_written_bytes_are_golden(name, tmp_path):
    write(tmp_path / name, MAKERS[name]())
    assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes()


@pytest.mark.parametrize("name", MAKERS)
def test_golden_file_reads_back(name):
    assert same(read(GOLDEN / name), MAKERS[name]())


def test_golden_weights():
    weight = read(GOLDEN / "minimal.safetensors").sparse["fc"]
    assert weight.to_dense().tolist() == [[0, 1, 0, 2], [5, 0, 0, 0], [0, 3, 0, 4]]
    assert (weight.stored, weight.density) == (5, 5 / 12)
    halves = read(GOLDEN / "halves.safetensors").sparse["conv"]
    assert halves.values.dtype == np.float16
    assert halves.to_dense()[1].tolist() == [[7, 0, 9], [0, 0, 12]]


def test_the_document_shows_the_golden_bytes():
    """A reader written from docs/format.md alone can be tried on its example."""
    text = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    example = text[text.index("## 6.") :]
    shown = re.search(r"```text\n(.*?)```", example, re.DOTALL)
    assert shown
    header = shown[1].replace("\n", "").encode()
    header += b" " * (-len(header) % 8)
    data = "".join(re.findall(r"^\| \d+ \| `[^`]+` \| `([0-9a-f ]+)`", example, re.MULTILINE))
    bytes_ = struct.pack("<Q", len(header)) + header + bytes.fromhex(data)
    assert bytes_ == (GOLDEN / "minimal.safetensors").read_bytes()


# --- round trips -------------------------------------------------------------------------------


@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    density=st.floats(0, 1),
    min_rows=st.integers(1, 4),
    dtype=st.sampled_from([np.float32, np.float16]),
    seed=st.integers(0, 2**16),
)
def test_sparse_weight_round_trip(rows, columns, density, min_rows, dtype, seed):
    random = np.random.default_rng(seed)
    weight = random.standard_normal((rows, columns)).astype(dtype)
    mask = random.random((rows, columns)) < density
    mask[rows // 2 :] = mask[0]
    layout = BlockLayout.from_mask(mask, min_rows)
    sparse = SparseWeight.from_dense(weight, layout, layout.residual(mask))
    assert sparse.stored == mask.sum()
    again = SparseWeight.from_arrays(sparse.to_arrays())
    assert equal(again.to_arrays(), sparse.to_arrays())
    assert np.array_equal(again.to_dense(), weight * mask)


def test_layers_without_blocks_and_without_residual(tmp_path):
    """Nothing stored at all is a network too: every row is its bias."""
    empty = SparseWeight(BlockLayout((4, 4, 1, 1)), np.empty(0, np.float32))
    checkpoint = network({"a": empty, "b": empty})
    write(tmp_path / "empty.safetensors", checkpoint)
    assert same(read(tmp_path / "empty.safetensors"), checkpoint)


def test_non_contiguous_and_read_only_arrays_are_written(tmp_path):
    checkpoint = MAKERS["halves.safetensors"]()
    weight = checkpoint.sparse["conv"]
    doubled = np.repeat(weight.values, 2)
    doubled.flags.writeable = False
    strided = SparseWeight(weight.layout, doubled[::2])
    again = Checkpoint(
        checkpoint.graph, {"conv": strided}, checkpoint.producer, checkpoint.seed, checkpoint.source
    )
    write(tmp_path / "strided.safetensors", again)
    written = (tmp_path / "strided.safetensors").read_bytes()
    assert written == (GOLDEN / "halves.safetensors").read_bytes()


def test_size_is_that_of_values_and_indices(tmp_path):
    random = np.random.default_rng(0)
    sparse = {}
    for layer in "abcd":
        mask = np.repeat(random.random((32, 64 * 9)) < 0.2, 8, axis=0).reshape(256, 64, 3, 3)
        mask[0, 0, 0] ^= True
        layout = BlockLayout.from_mask(mask, 4)
        weight = random.standard_normal(mask.shape).astype(np.float32)
        sparse[layer] = SparseWeight.from_dense(weight, layout, layout.residual(mask))
    write(tmp_path / "net.safetensors", network(sparse))
    needed = 0
    for weight in sparse.values():
        assert weight.residual is not None
        needed += weight.values.nbytes + 8 * weight.residual.values.size
        needed += 4 * sum(len(b.rows) + len(b.columns) for b in weight.layout.blocks)
    assert (tmp_path / "net.safetensors").stat().st_size < 1.03 * needed


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write(path, MAKERS["minimal.safetensors"]())
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]
    assert path.read_bytes() == b"old"


# --- what must not be written ------------------------------------------------------------------


def test_write_refuses_what_read_would():
    good = MAKERS["minimal.safetensors"]()
    weight = good.sparse["fc"]
    with pytest.raises(MaskError, match=r"layer 'fc'.*blocks store 4, got 3"):
        Checkpoint(good.graph, {"fc": SparseWeight(weight.layout, weight.values[:3])}).check()
    wide = SparseWeight(weight.layout, weight.values.astype(np.float64))
    with pytest.raises(MaskError, match=r"layer 'fc'.*float64"):
        Checkpoint(good.graph, {"fc": wide}).check()
    with pytest.raises(GraphError, match=r"'fc.weight' is made by nothing"):
        Checkpoint(good.graph, {}).check()
    with pytest.raises(GraphError, match=r"'gc.weight'"):
        Checkpoint(good.graph, {**good.sparse, "gc": weight}).check()
    for seed in (1.5, True):
        with pytest.raises(FormatError, match="seed"):
            Checkpoint(good.graph, good.sparse, seed=seed).check()  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="source"):
        Checkpoint(good.graph, good.sparse, source="md5:00").check()


def test_from_dense_refuses():
    layout = BlockLayout((2, 2), [DenseBlock([0], [0])])
    weight = np.ones((2, 2), np.float32)
    with pytest.raises(MaskError, match=r"expected weights of shape \(2, 2\), got \(2, 3\)"):
        SparseWeight.from_dense(np.ones((2, 3), np.float32), layout)
    with pytest.raises(MaskError, match="row 0, column 0 is stored by a block too"):
        SparseWeight.from_dense(weight, layout, np.ones((2, 2), bool))
    with pytest.raises(MaskError, match=r"expected a residual of shape"):
        SparseWeight.from_dense(weight, layout, np.ones((2, 3), bool))


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.safetensors")


def test_residual_rows():
    residual = Residual(
        np.ones(3, np.float32), np.array([0, 1, 0], np.int32), np.array([0, 2, 2, 3], np.int64)
    )
    assert residual.row_indices.tolist() == [0, 0, 2]
