"""Checkpoints with open sizes: how they are written, and which are refused."""

from __future__ import annotations

import json
import re

import pytest
from safetensors import safe_open
from safetensors.numpy import save

from masktools.checkpoint import Checkpoint, read, write
from masktools.errors import FormatError
from masktools.network.graph import Graph, Node, Value
from masktools.network.sizes import Size


def network():
    """A window of the image, joined with nothing: its end and the output follow from the width."""
    height, width = Size.open("height", 8), Size.open("width", 6)
    half = (width + 1) // 2
    cut = {"starts": (0,), "ends": (half,), "axes": (3,), "steps": (1,)}
    return Checkpoint(
        Graph(
            (Value("x", (None, 1, height, width)),),
            (Value("y", (None, 1, height, half)),),
            (Node("cut", "Slice", ("x",), ("y",), cut),),
        )
    )


@pytest.fixture
def tampered(tmp_path):
    """Return a function that writes the network with its metadata changed, and gives the path."""
    path = tmp_path / "net.safetensors"
    write(path, network())
    with safe_open(str(path), framework="np") as file:
        header = json.loads(file.metadata()["masktools"])

    def change(how):
        how(header)
        path.write_bytes(save({}, {"masktools": json.dumps(header)}))
        return path

    change.header = header
    return change


def test_how_open_sizes_are_written(tampered):
    header = tampered.header
    assert header["version"] == 2
    assert header["graph"]["sizes"] == {"height": 8, "width": 6}
    assert header["graph"]["inputs"][0]["shape"] == [None, 1, "height", "width"]
    assert header["graph"]["outputs"][0]["shape"] == [None, 1, "height", "(width + 1)//2"]
    assert header["graph"]["nodes"][0]["attributes"]["ends"] == ["(width + 1)//2"]
    graph = read(tampered(lambda header: None)).graph
    assert graph.nodes[0].attributes["ends"] == (3,)


def edit(*places, to):
    """Return a function that sets a value deep in the metadata."""

    def how(header):
        at = header["graph"]
        for place in places[:-1]:
            at = at[place]
        at[places[-1]] = to

    return how


INPUT, OUTPUT = ("inputs", 0, "shape"), ("outputs", 0, "shape")
ATTRIBUTES = ("nodes", 0, "attributes")
REFUSED = {
    "an older version": (lambda h: h.update(version=1), "graph must have the keys"),
    "no sizes": (edit("sizes", to={}), "sizes must be an object"),
    "a list of sizes": (edit("sizes", to=[8, 6]), "sizes must be an object"),
    "no names": (lambda h: h["graph"].pop("sizes"), "must hold integers"),
    "a size that no input has": (edit("sizes", "depth", to=3), "inputs must have the open sizes"),
    "a size of 0": (edit("sizes", "height", to=0), "at least 1, got 0"),
    "a size of 2^31": (edit("sizes", "height", to=2**31), "at least 1, got 2147483648"),
    "a size that is true": (edit("sizes", "height", to=True), "got True"),
    "a name that is no name": (edit("sizes", "2h", to=3), "sizes: '2h'"),
    "a name of a function": (edit("sizes", "max", to=3), "sizes: 'max'"),
    "a name that is not declared": (edit(*INPUT, 2, to="depth"), "'depth' is no formula of"),
    "a formula as an input's size": (edit(*INPUT, 2, to="height + 1"), "and no formulas"),
    "a number as text": (edit(*INPUT, 1, to="1"), "size '1' must be written as 1"),
    "a formula in another form": (
        edit(*OUTPUT, 3, to="(1 + width)//2"), r"must be written as \(width",
    ),
    "a formula that is a number": (edit(*OUTPUT, 2, to="height - height"), "must be written as 0"),
    "code": (edit(*ATTRIBUTES, "ends", to=["__import__('os')"]), "is no formula"),
    "a formula of products": (
        edit(*ATTRIBUTES, "ends", to=["*".join(["(height + width)"] * 50)]), "must be written as",
    ),
    "a formula that divides by 0": (
        edit(*ATTRIBUTES, "ends", to=["height//(width - 6)"]), "divides by 0 where",
    ),
    "a formula too long": (edit(*ATTRIBUTES, "ends", to=["width" + " + 1" * 999]), "characters"),
    "text among others": (edit(*ATTRIBUTES, "starts", to=["zero"]), "'zero' is no formula"),
    "a formula alone": (edit(*ATTRIBUTES, "ends", to="width"), "attribute ends must be ints"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_breaks_the_rules_is_refused(tampered, case):
    how, said = REFUSED[case]
    path = tampered(how)
    with pytest.raises(FormatError, match=f"^{re.escape(str(path))}: .*{said}"):
        read(path)
