# ruff: noqa: RUF001 - the multiplication sign is meant
"""Tables fit a terminal of 80 columns, and none of their figures is cut."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from paths import ROOT
from rich.console import Console

from masktools.checkpoint.inventory import StoredLayer
from masktools.cli import tables
from masktools.conversion.report import Figures, LayerReport, Report, total
from masktools.importers.load import LayerSummary, MaskFile

WIDTH = 80
NAMES = ("block1.conv1", "block2.project.0", "features.denseblock4.denselayer16.conv2.weight")
SHAPE = (2048, 2048, 3, 3)
SIZE = 2048 * 2048 * 9
# Of the largest networks that are pruned, with a figure in every place.
FIGURES = {
    "weights": SIZE, "kept": SIZE // 8, "stored": SIZE // 8, "fill": 1, "residual": 1,
    "saliency": 3.0, "saliency_stored": 2.0, "multiplications": 10**12,
    "multiplications_kept": 10**11, "multiplications_stored": 10**11, "blocks": 12345,
    "seconds": 1.0,
}  # fmt: skip


def shown(table, width=WIDTH):
    """Return the lines that a terminal of a width shows."""
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()


def converted():
    layers = [
        LayerReport(layer=name, shape=SHAPE, rows=2048, columns=2048 * 9, groups=1, **FIGURES)
        for name in NAMES
    ]
    return tables.conversion_table(
        Report(tuple(layers), converted=Figures(**FIGURES), total=Figures(**FIGURES))
    )


def masks():
    layers = tuple(LayerSummary(name, SHAPE, SIZE // 8, 0.125) for name in NAMES)
    return tables.masks_table(MaskFile("a.pt", "zip", "tool", layers, (), (), ""))


def pruned():
    layers = [LayerSummary(name, SHAPE, SIZE // 8, 0.125) for name in NAMES]
    return tables.pruning_table(layers, dict.fromkeys(NAMES, "") | {NAMES[0]: "the first layer"})


def checkpoint():
    figures = {"groups": 1, "blocks": 12345, "residual": 1234567, "stored": SIZE // 8}
    multiplications = {"multiplications": 10**9, "multiplications_stored": 10**9 // 8}
    multiplications |= {"padded": 10**9, "padded_stored": 10**9 // 8}
    return tables.checkpoint_table(
        [
            StoredLayer(name, SHAPE, size=SIZE, dtype="float32", **figures, **multiplications)
            for name in NAMES
        ]
    )


def demo(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "digits"))
    module = import_module("demo")
    row = {"checkpoint": Path("a"), "accuracy": 1.0, "stored": 12345678, "multiplications": 10**9}
    titles = ("dense", "ticket, unchanged", "its blocks, calibrated")
    rows = [module.Row(title, seconds=9.8765, **row) for title in titles]
    del sys.modules["demo"]
    return module.results(rows, "360 test images, backend 'reference'")


@pytest.mark.parametrize("kind", ["converted", "masks", "pruned", "checkpoint", "demo"])
def test_a_table_fits_80_columns_and_cuts_nothing(kind, monkeypatch):
    made = {"converted": converted, "masks": masks, "pruned": pruned, "checkpoint": checkpoint}
    table = made[kind]() if kind in made else demo(monkeypatch)
    lines = shown(table)
    assert max(map(len, lines)) <= WIDTH
    assert not any("…" in line for line in lines)
    for column in table.columns[1:]:
        for cell in filter(None, [*str(column.header).split("\n"), *map(str, column.cells)]):
            assert any(cell in line for line in lines), cell
    # Names are whole too, though perhaps on several lines.
    first = "".join(re.split(r" {2,}|(?<!all) (?=\d)", line)[0] for line in lines)
    for cell in table.columns[0].cells:
        assert str(cell) in first


@pytest.mark.parametrize("make", [converted, masks, pruned, checkpoint])
def test_a_name_takes_one_line_where_it_fits(make):
    lines = shown(make(), width=160)
    assert sum(line.startswith(NAMES[2]) for line in lines) == 1


LAYER = LayerReport(
    layer="block2.project.0",
    shape=(512, 512, 3, 3),
    rows=512,
    columns=4608,
    groups=1,
    weights=2**21,
    kept=2**20,
    stored=2**19,
    fill=0,
    residual=2**19,
    saliency=4.0,
    saliency_stored=3.0,
    multiplications=2**22,
    multiplications_kept=2**21,
    multiplications_stored=3 * 2**19,
    blocks=1234,
    seconds=1.0,
)
DENSE = replace(LAYER, layer="stem", stored=2**21, dense_because="the first layer")


def conversion_lines(*layers, by="weights"):
    converted = total(row for row in layers if not row.dense_because)
    return shown(tables.conversion_table(Report(layers, converted, total(layers), {"by": by})))


def test_a_line_shows_the_figures_of_a_layer():
    half = replace(LAYER, layer="half", stored=2**18, multiplications_stored=2**19)
    lines = [line.split() for line in conversion_lines(LAYER, half, DENSE)]
    figures = ["1,234", "0.500→0.250", "0.750", "66.7%", "0.500→0.375"]
    assert ["block2.project.0", "512", "×", "4608", *figures] in lines
    figures = ["1,234", "0.500→0.125", "0.750", "33.3%", "0.500→0.125"]
    assert ["half", "512", "×", "4608", *figures] in lines
    figures = ["dense", "0.500→1.000", "0.750", "0.500→0.375"]
    assert ["stem", "512", "×", "4608", *figures] in lines


def test_shares_of_the_budget_are_counted_as_the_budget_was():
    half = replace(LAYER, layer="half", stored=2**18)
    lines = conversion_lines(LAYER, half, by="multiplications")
    assert sum("50.0%" in line.split() for line in lines) == 2
