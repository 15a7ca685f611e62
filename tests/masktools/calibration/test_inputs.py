"""Inputs to calibrate on: files that fit, files that do not, and files that lie."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from masktools import limits
from masktools.calibration.inputs import read_inputs, read_labels
from masktools.calibration.sample_files import Stacked
from masktools.errors import CalibrationError, FormatError
from masktools.network.graph import Graph, Value

IMAGE = Value("image", (None, 3, 4, 5))
ONE = Graph((IMAGE,), (), ())
TWO = Graph((Value("a", (None, 2)), Value("b", (None, 3), "int64")), (), ())


def images(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, *IMAGE.shape[1:]), np.float32)


def saved(path, array):
    np.save(path, array)
    return path


def header(shape, dtype="<f4", order=False):
    """Return an array's header in .npy format, whatever it claims."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': {order}, 'shape': {shape!r}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


# Files that fit


def test_a_npy_file_is_mapped(tmp_path):
    x = images(7)
    found = read_inputs(saved(tmp_path / "x.npy", x), ONE)
    assert list(found) == ["image"]
    assert isinstance(found["image"], np.memmap)
    assert np.array_equal(found["image"], x)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_file_is_read_by_the_names_of_inputs(tmp_path, save):
    a, b = images(6)[:, 0, 0, :2], np.arange(18).reshape(6, 3)
    save(tmp_path / "x.npz", b=b, a=a)
    found = read_inputs(tmp_path / "x.npz", TWO)
    assert list(found) == ["a", "b"]
    assert np.array_equal(found["a"], a)
    assert np.array_equal(found["b"], b)


def test_one_array_without_a_name_is_for_the_only_input(tmp_path):
    x = images(3)
    np.savez(tmp_path / "x.npz", x)
    assert np.array_equal(read_inputs(tmp_path / "x.npz", ONE)["image"], x)
    np.savez(tmp_path / "y.npz", image=x)
    assert np.array_equal(read_inputs(tmp_path / "y.npz", ONE)["image"], x)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_folder_is_joined_in_the_order_of_names(tmp_path, order):
    parts = {"b.npy": images(4, 1), "a.npy": images(3, 0), "d.npy": images(1, 3)}
    for name, x in parts.items():
        np.save(tmp_path / name, np.asarray(x, order=order))
    np.savez(tmp_path / "c.npz", image=images(2, 2))
    (tmp_path / ".DS_Store").write_bytes(b"anything")
    found = read_inputs(tmp_path, ONE)["image"]
    whole = np.concatenate([images(3, 0), images(4, 1), images(2, 2), images(1, 3)])
    assert isinstance(found, Stacked)
    assert (len(found), found.ndim, found.shape, found.dtype) == (10, 4, whole.shape, whole.dtype)
    assert np.array_equal(np.asarray(found), whole)
    assert np.array_equal(found[2:8], whole[2:8])
    assert np.array_equal(found[::-3], whole[::-3])
    some = np.array([9, 0, 3, 3, 6])
    assert np.array_equal(found[some], whole[some])
    assert found[np.array([], int)].shape == (0, 3, 4, 5)
    assert np.asarray(found, np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="by copying"):
        found.__array__(copy=False)


def test_a_folder_of_named_inputs(tmp_path):
    for name, seed in (("2.npz", 2), ("1.npz", 1)):
        np.savez(tmp_path / name, a=images(4, seed)[:, 0, 0, :2], b=np.full((4, 3), seed))
    found = read_inputs(tmp_path, TWO)
    assert np.asarray(found["b"])[:, 0].tolist() == [1] * 4 + [2] * 4
    assert np.array_equal(found["a"][4:], images(4, 2)[:, 0, 0, :2])


def test_many_files_are_not_open_at_once(tmp_path):
    resource = pytest.importorskip("resource")
    for number in range(60):
        np.save(tmp_path / f"{number:02}.npy", images(1, number))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 32  # noqa: PTH112, PTH208
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
    try:
        found = np.asarray(read_inputs(tmp_path, ONE)["image"])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert np.array_equal(found[59], images(1, 59)[0])


def test_open_sizes_are_those_of_the_first_file(tmp_path):
    graph = Graph((Value("image", (None, 3, None, None)),), (), ())
    saved(tmp_path / "a.npy", images(2))
    assert read_inputs(tmp_path, graph)["image"].shape == (2, 3, 4, 5)
    saved(tmp_path / "b.npy", images(2).transpose(0, 1, 3, 2))
    with pytest.raises(
        CalibrationError, match=r"b\.npy: holds .*\(2, 3, 5, 4\), but .*a\.npy.*\(2, 3, 4, 5\)"
    ):
        read_inputs(tmp_path, graph)


def test_one_input_of_several_may_be_the_same_for_all_samples(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones((4, 2), np.float32), b=np.arange(12).reshape(4, 3))
    assert (read_inputs(tmp_path / "x.npz", TWO)["a"] == 1).all()


# Files that do not fit


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (
            np.zeros((9, 4, 5, 3), np.uint8),
            r"x\.npy: holds uint8 of shape \(9, 4, 5, 3\), .* input 'image' takes float32 of shape "
            r"\(N, 3, 4, 5\); .*x\.astype\(numpy\.float32\) / 255.*; .*moveaxis\(x, -1, 1\)",
        ),
        (np.zeros((9, 3, 4, 5), np.uint8), r"holds uint8 .*/ 255, less its mean[^;]*$"),
        (np.zeros((9, 3, 4, 5), np.float64), r"holds float64 .*; convert it by x\.astype"),
        (np.zeros((9, 3, 4, 5), ">f4"), r"holds >f4 .*; convert it by x\.astype"),
        (np.zeros((9, 3, 4, 5), np.complex64), r"holds complex64 .*takes float32"),
        (images(9)[:, :, :, :4], r"holds float32 of shape \(9, 3, 4, 4\), [^;]*$"),
        (images(9).transpose(0, 2, 3, 1), r"; bring the channels to the front"),
        (images(1)[0], r"shape \(3, 4, 5\), .*x\[None\]"),
        (np.float32(1), r"holds float32 of shape \(\), "),
        (np.zeros((1,) * 20, np.float32), r"holds float32 of 20 axes, "),
        (images(0), r"x\.npy: its shape is \(0, 3, 4, 5\): it holds no samples"),
        (np.ones((9, 3, 4, 5), np.float32), r"x\.npy: all samples are the same, .*that differ"),
        (images(1).repeat(9, axis=0), r"x\.npy: all samples are the same"),
    ],
)
def test_another_array_is_refused(tmp_path, array, match):
    with pytest.raises(CalibrationError, match=match):
        read_inputs(saved(tmp_path / "x.npy", array), ONE)


def test_images_without_an_axis_of_channels_are_told_to_add_it(tmp_path):
    graph = Graph((Value("image", (None, 1, 4, 5)),), (), ())
    with pytest.raises(CalibrationError, match=r"; give it an axis of channels by x\[:, None\]"):
        read_inputs(saved(tmp_path / "x.npy", images(9)[:, 0]), graph)


def test_wrong_whole_numbers_are_not_told_to_become_floats(tmp_path):
    np.savez(tmp_path / "x.npz", a=images(4)[:, 0, 0, :2], b=np.zeros((4, 3), np.int32))
    with pytest.raises(
        CalibrationError, match=r"array 'b': holds int32 .*'b' takes int64 of .*\)$"
    ):
        read_inputs(tmp_path / "x.npz", TWO)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_number_that_is_not_finite_is_named(tmp_path, bad, monkeypatch):
    monkeypatch.setattr("masktools.calibration.inputs.PIECE", 3 * 60)
    x = images(8)
    x[5, 2, 0, 3] = bad
    x[7] = np.nan
    said = rf"y\.npy: the number at \(5, 2, 0, 3\) is {bad}; leave out"
    saved(tmp_path / "x.npy", images(8))
    with pytest.raises(CalibrationError, match=said):
        read_inputs(saved(tmp_path / "y.npy", x), ONE)
    with pytest.raises(CalibrationError, match=said):
        read_inputs(tmp_path, ONE)


def test_an_input_is_looked_at_although_another_varies(tmp_path):
    a = images(4)[:, 0, 0, :2]
    graph = Graph((Value("a", (None, 2)), Value("b", (None, 2))), (), ())
    np.savez(tmp_path / "x.npz", a=a, b=np.where(np.arange(4)[:, None] == 2, np.nan, a))
    with pytest.raises(CalibrationError, match=r"array 'b': the number at \(2, 0\) is nan"):
        read_inputs(tmp_path / "x.npz", graph)


@pytest.mark.parametrize("differs", [0, 1, 2])
def test_a_sample_of_any_piece_may_be_the_one_that_differs(tmp_path, monkeypatch, differs):
    monkeypatch.setattr("masktools.calibration.inputs.PIECE", 60)
    x = np.zeros((3, 3, 4, 5), np.float32)
    x[differs, -1, -1, -1] = 1
    assert np.array_equal(read_inputs(saved(tmp_path / "x.npy", x), ONE)["image"], x)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({}, r"x\.npz: the network takes 'a' \(N, 2\), 'b' \(N, 3\), but the file holds no arrays"),
        ({"a": np.ones((4, 2), np.float32)}, r"holds 'a'; save an \.npz file with an array for"),
        ({"arr_0": np.ones((4, 2))}, "holds one array without a name; "),
        (
            {"a": np.zeros((4, 2), np.float32), "b": np.zeros((5, 3), np.int64)},
            r"same number of samples, but .*'a' has 4, .*'b' has 5",
        ),
        ({"a": np.array(["x"]), "b": np.zeros((5, 3))}, r"array 'a': expected numbers, got dtype"),
    ],
)
def test_other_inputs_are_refused(tmp_path, arrays, match):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(CalibrationError, match=match):
        read_inputs(tmp_path / "x.npz", TWO)


def test_a_npy_file_is_refused_for_several_inputs(tmp_path):
    with pytest.raises(CalibrationError, match=r"x\.npy: .* holds one array without a name"):
        read_inputs(saved(tmp_path / "x.npy", images(3)), TWO)


def test_inputs_of_another_number_in_one_file_are_refused_though_the_sums_agree(tmp_path):
    for name, a, b in (("1.npz", 3, 4), ("2.npz", 4, 3)):
        np.savez(tmp_path / name, a=images(a)[:, 0, 0, :2], b=np.zeros((b, 3), int))
    with pytest.raises(CalibrationError, match=r"1\.npz: array 'a' has 3, .*'b' has 4"):
        read_inputs(tmp_path, TWO)


@pytest.mark.parametrize(
    ("name", "match"),
    [("labels.txt", r"labels\.txt: neither \.npy nor \.npz"), (None, "holds no .npy or .npz file")],
)
def test_a_folder_of_anything_else_is_refused(tmp_path, name, match):
    if name:
        saved(tmp_path / "x.npy", images(2))
        (tmp_path / name).write_text("1")
    with pytest.raises(CalibrationError, match=match):
        read_inputs(tmp_path, ONE)


# Files that lie


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "it is empty; save arrays with"),
        (b"\x89PNG\r\n\x1a\n", r"neither \.npy nor \.npz; save arrays with"),
        (b"\x93NUMPY", "EOF"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "EOF"),
        (b"\x93NUMPY\x09\x00" + header((1,))[8:], "version"),
        (header((2, 3, 4, 5)) + bytes(479), "claims 480 bytes, but it holds 479"),
        (header((2, 3, 4, 5)) + bytes(481), "claims 480 bytes, but it holds 481"),
        (header((2**62, 3, 4, 5)) + bytes(240), "claims .* bytes, but it holds 240"),
        (header((2**64, 3, 4, 5)) + bytes(240), "claims .* bytes, but it holds 240"),
        (header((-1, -3, 4, 5)) + bytes(240), r"shape \(-1, -3, 4, 5\) claims 240 bytes"),
        (header((2, 3, 4, 5), "|O") + bytes(960), "could run code"),
        (header((1,) * 40) + bytes(4), None),
        (header((2**40, 3, 4, 5), "|V0"), None),
        (header((2, 3, 4, 5), "nonsense"), "descr"),
        (header(("a",)), "shape"),
        (b"\x93NUMPY\x01\x00\x40\x00" + b"(" * 63 + b"\n", ""),
        (b"\x93NUMPY\x01\x00\x00\x40" + b"[" * (2**14 - 1) + b"\n", ""),
        (b"PK\x03\x04 and no more", "damaged file"),
    ],
)
@pytest.mark.parametrize("read", [lambda path: read_inputs(path, ONE), lambda p: read_labels(p, 2)])
def test_a_hostile_file_is_refused_before_memory_is_taken(tmp_path, content, match, read):
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    kinds = CalibrationError if match is None else FormatError
    with pytest.raises(kinds, match=rf"x\.npy: .*{match or ''}"):
        read(path)


class Code:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("packed", [False, True])
def test_no_pickle_is_executed(tmp_path, monkeypatch, packed):
    monkeypatch.chdir(tmp_path)
    payload = header((1,), "|O") + pickle.dumps(Code())
    if packed:
        with zipfile.ZipFile("x.npz", "w") as archive:
            archive.writestr("image.npy", payload)
    else:
        (tmp_path / "x.npz").write_bytes(payload)
    with pytest.raises(FormatError, match=r"x\.npz.*could run code"):
        read_inputs("x.npz", ONE)
    assert not (tmp_path / "executed").exists()


def test_a_damaged_member_is_named(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, image=images(4))
    content = bytearray(path.read_bytes())
    content[400] ^= 255
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"x\.npz: a damaged file: .*CRC"):
        read_inputs(path, ONE)


def test_many_small_files_cannot_claim_more_than_one(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "FREE_BYTES", 2**20)
    for number in range(4):
        np.savez_compressed(
            tmp_path / f"{number}.npz", image=np.zeros((2**11, 3, 4, 5), np.float32)
        )
    read = []
    monkeypatch.setattr("masktools.calibration.sample_files.read_npz", read.append)
    with pytest.raises(
        FormatError, match=r"claims 1966\d+ bytes of arrays, but .*save \.npy files"
    ):
        read_inputs(tmp_path, ONE)
    assert read == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.npy")
    for path in (tmp_path, tmp_path / "x.npy"):
        with pytest.raises(FormatError, match=r"x\.npy: it is no regular file"):
            read_inputs(path, ONE)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        read_inputs(tmp_path / "none.npy", ONE)


# Labels


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64])
def test_labels_become_int64(tmp_path, dtype):
    labels = np.array([3, 0, 9, 1], dtype)
    found = read_labels(saved(tmp_path / "y.npy", labels), 4)
    assert found.dtype == np.int64
    assert found.tolist() == [3, 0, 9, 1]
    np.savez(tmp_path / "y.npz", anything=labels)
    assert read_labels(tmp_path / "y.npz", 4).tolist() == [3, 0, 9, 1]
    assert read_labels(tmp_path, 8).tolist() == [3, 0, 9, 1] * 2


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (np.zeros(5, int), r": 5 labels for 4 samples; give one for each"),
        (
            np.zeros((4, 10), int),
            r"got int64 of shape \(4, 10\); of scores by class take x\.argmax",
        ),
        (np.zeros(4), r"got float64 of shape \(4,\); convert them by x\.astype\(numpy\.int64\)"),
        (np.zeros(4, bool), r"got bool of shape \(4,\)$"),
        (np.zeros((), int), r"got int64 of shape \(\)$"),
        (np.zeros(0, int), r"got int64 of shape \(0,\)$"),
        (np.array([1, 2, -1, -2]), r": the label at 2 is -1; classes count from 0"),
        (np.array([1, 2**63, 1, 1], np.uint64), r"the label at 1 is 9223372036854775808"),
    ],
)
def test_other_labels_are_refused(tmp_path, labels, match):
    with pytest.raises(CalibrationError, match=rf"y\.npy.*{match}"):
        read_labels(saved(tmp_path / "y.npy", labels), 4)


def test_labels_beside_other_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "y.npz", labels=np.zeros(4, int), images=images(4))
    with pytest.raises(CalibrationError, match=r"one array of labels, got 'labels', 'images'"):
        read_labels(tmp_path / "y.npz", 4)
