"""Pickles that would crash, hang or fill the memory: told before they are unpickled."""

from __future__ import annotations

import argparse
import collections
import io
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from masktools import limits
from masktools.errors import FormatError
from masktools.importers import load_masks
from masktools.importers.containers import harmless
from masktools.importers.containers.harmless import ALLOWED
from masktools.importers.containers.pickle_cost import CostError, check_pickle

HEAD = b"\x80\x02"
NESTED = b")" + b"\x85" * 1_000_000  # a tuple in a tuple ...
# t0 = (), t1 = (t0, t0), t2 = (t1, t1) ...: sixty steps for 2**60 parts.
SHARED = b")q\x00" + b"".join(b"h%c\x86q%c" % (i, i + 1) for i in range(60))
WIDE = b"(" + b"K\x01" * limits.PICKLE_KEY_SIZE + b"t"
# A tuple of the deepest kind that is no key.
DEEP = b")" + b"\x85" * (limits.PICKLE_KEY_DEPTH)


def check(body, calls=("collections.OrderedDict", *ALLOWED, "_codecs.encode")):
    check_pickle(io.BytesIO(HEAD + body), calls)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"}" + NESTED + b"K\x01s.", "nested more than 32"),
        (b"}" + SHARED + b"K\x01s.", "more than 2097152 parts"),
        (b"}" + WIDE + b"K\x01s.", "a key is a tuple of 65 parts"),
        (b"}" + DEEP + b"K\x01s.", "5 deep"),
        (b"}(" + DEEP + b"K\x01u.", "5 deep"),
        (b"\x8f(" + DEEP + b"\x90.", "5 deep"),
        (b"(" + DEEP + b"\x91.", "5 deep"),
        (b"}((" + b"(K\x01" * 40 + b"\x91" * 40 + b"\x91K\x01u.", "deep"),
        # As the members that a call hashes.
        (b"ccollections\nOrderedDict\n](" + DEEP + b"K\x01\x86e\x85R.", "deep"),
        (b"ccollections\nOrderedDict\n](]" + DEEP + b"aK\x01ae\x85R.", "deep"),
        # ... also where the list is filled after the call's arguments were made.
        (b"ccollections\nOrderedDict\n]q\x00\x850h\x00" + DEEP + b"a0h\x00\x85R.", "deep"),
        (b"}(" + b"K\x01K\x02" * (limits.PICKLE_KEYS + 1) + b"u.", "16384 keys are no text"),
        (b"]r" + struct.pack("<I", 1 << 26) + b".", "memo number 67108864"),
        (b"]q\xff.", "memo number 255 after 3 steps"),
        (b"]p1000000000\n.", "opcode PUT"),
        (b"\x8b" + struct.pack("<i", 4) + b"\1\1\1\1.", "opcode LONG4"),
        (b"\x82\x01.", "opcode EXT1"),
        (b"(K\x01d.", "opcode DICT"),
        (b"N" * (limits.PICKLE_STEPS + 1) + b".", "2097152 steps"),
        # A long list as a call's argument, again and again.
        (
            b"]q\x00(" + b"U\x01a" * 30_000 + b"e" + b"ccollections\nOrderedDict\nh\x00\x85R" * 100
            + b".",
            "2097152 steps",
        ),
        (b"K\x01K\x01a.", "no list"),
        (b"K\x01K\x01K\x01s.", "no dict"),
        (b"]K\x01\x85R.", "no global"),
        (b"ccollections\nOrderedDict\n}b.", "did not make"),
    ],
)  # fmt: skip
def test_what_costs_too_much_is_told(body, message):
    with pytest.raises(CostError, match=message):
        check(body)


def test_text_that_is_encoded_again_and_again():
    text = b"a" * (1 << 20)
    body = b"X" + struct.pack("<I", len(text)) + text + b"q\x00"
    again = b"c_codecs\nencode\nh\x00\x85R0"
    # 1 GiB, and 32 MiB for the file.
    check(body + again * 1000 + b".")
    with pytest.raises(CostError, match="of the text that it holds"):
        check(body + again * 1100 + b".")


def test_what_may_not_be_called_is_named():
    with pytest.raises(pickle.UnpicklingError, match=r"GLOBAL builtins\.bytearray"):
        check(b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.")
    with pytest.raises(pickle.UnpicklingError, match=r"GLOBAL builtins\.bytearray"):
        check(b"c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R.")


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_picklers_write_for_arrays_passes(protocol):
    shared = np.eye(3, dtype=np.float32)
    tree = {
        "fc.weight": shared,
        "again": [shared, shared],
        "order": collections.OrderedDict([("a", 1), ("b", (2, (3, 4.5)))]),
        "by number": {i: {"step": i} for i in range(1000)},
        ("tuple", 1): frozenset(["x", "y"]),
        "set": {"a", "b"},
        "args": argparse.Namespace(lr=0.1),
        "scalar": np.float32(1.5),
        "nothing": None,
        "bytes": b"\x00\xff",
        "big": 10**30,
    }
    content = pickle.dumps(tree, protocol=protocol)
    calls = {*ALLOWED, "_codecs.encode", "collections.OrderedDict", "builtins.set"}
    check_pickle(io.BytesIO(content), calls | {"builtins.frozenset"})


def training_state():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    adam = torch.optim.Adam(network.parameters())
    network(torch.ones(1, 3, 5, 5)).sum().backward()
    adam.step()
    return {
        "state_dict": network.state_dict(),
        "optimizer": adam.state_dict(),
        "class": torch.optim.Adam,
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "rng": torch.get_rng_state(),
        "args": argparse.Namespace(lr=0.1, layers=[1, 2]),
        "counter": collections.Counter("abc"),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "device": torch.device("cpu"),
        "size": torch.Size([1, 2]),
        "set": {1, 2},
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_a_training_state_passes(tmp_path, zipped):
    path = tmp_path / "a.pt"
    state = training_state()
    with torch.no_grad():
        state["state_dict"]["0.weight"][:, 1] = 0
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    masks = load_masks(path)
    assert masks["0"].shape == (8, 3, 3, 3)
    assert not masks["0"][:, 1].any()


def with_data(path, body):
    """Write a torch archive whose pickle is another one."""
    torch.save({"a": torch.ones(2, 2)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, HEAD + body if name.endswith("/data.pkl") else data)


def legacy(path, body):
    torch.save({"a": torch.ones(2, 2)}, path, _use_new_zipfile_serialization=False)
    file = io.BytesIO(path.read_bytes())
    for _ in range(3):
        pickle.load(file)
    path.write_bytes(path.read_bytes()[: file.tell()] + HEAD + body)


def plain(path, body):
    path.write_bytes(HEAD + body)


LOAD = """
import sys, masktools
try:
    masktools.load_masks(sys.argv[1])
except masktools.errors.FormatError as error:
    print(error)
"""


@pytest.mark.parametrize("write", [with_data, legacy, plain])
@pytest.mark.parametrize("key", [NESTED, SHARED], ids=["nested", "shared"])
def test_a_key_does_not_crash_or_hang_the_reader(tmp_path, write, key):
    path = tmp_path / "a.pt"
    write(path, b"}" + key + b"K\x01s.")
    # In a process of its own: unguarded, it ends by a signal or never.
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(path)], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "a.pt: refused before it is unpickled: " in done.stdout


def test_torch_does_not_make_room_for_a_number(tmp_path):
    with_data(tmp_path / "a.pt", b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.")
    with pytest.raises(FormatError, match=r"names 'builtins\.bytearray'"):
        load_masks(tmp_path / "a.pt")


def test_a_pickle_cannot_change_the_stand_ins(tmp_path):
    functions = (harmless.rebuild_scalar, harmless.encode_latin1)
    before = [function.__defaults__ for function in functions]
    state = b"}U\x0c__defaults__)s\x86b."
    for name in (b"cnumpy.core.multiarray\nscalar\nN", b"c_codecs\nencode\nN"):
        (tmp_path / "a.pkl").write_bytes(HEAD + name + state)
        with pytest.raises(FormatError, match="did not make"):
            load_masks(tmp_path / "a.pkl")
    assert [function.__defaults__ for function in functions] == before


def test_many_arrays_of_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "FREE_BYTES", 1 << 20)
    path = tmp_path / "a.pkl"
    data = bytes(1 << 16)
    dtype = np.dtype(np.uint8)

    class Again:
        def __reduce__(self):
            state = (1, (256, 256), dtype, False, data)
            return np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), state

    def write(number):
        path.write_bytes(pickle.dumps([Again() for _ in range(number)], protocol=4))

    # 4 bytes for each number, of which a byte may become a weight.
    allowed = ((1 << 20) + 32 * (1 << 16)) // (4 << 16)
    write(allowed)
    assert len(load_masks(path, names=[f"l{i}" for i in range(allowed)])) == allowed
    write(allowed + 2)
    with pytest.raises(FormatError, match="claims"):
        load_masks(path, names=[f"l{i}" for i in range(allowed + 2)])


def test_one_array_under_many_names_counts_for_each(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "FREE_BYTES", 1 << 20)
    weight = torch.zeros(128, 128)
    torch.save({f"l{i}.weight": weight for i in range(100)}, tmp_path / "a.pt")
    with pytest.raises(FormatError, match="claims"):
        load_masks(tmp_path / "a.pt")
