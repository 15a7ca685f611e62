# ruff: noqa: RUF001 - the multiplication sign is meant
"""Tables for the terminal: what they say, and how wide they are."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from masktools.cli.tables import conversion_table
from masktools.conversion.report import LayerReport, Report, total

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


def shown(report, width):
    console = Console(width=width, file=io.StringIO())
    console.print(conversion_table(report))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def report_of(*layers, by="weights"):
    converted = total(row for row in layers if not row.dense_because)
    return Report(layers, converted, total(layers), {"by": by})


def test_a_line_shows_the_figures_of_a_layer():
    half = replace(LAYER, layer="half", stored=2**18, multiplications_stored=2**19)
    lines = [line.split() for line in shown(report_of(LAYER, half, DENSE), 80)]
    figures = ["1,234", "0.500→0.250", "0.750", "66.7%", "0.500→0.375"]
    assert ["block2.project.0", "512", "×", "4608", *figures] in lines
    figures = ["1,234", "0.500→0.125", "0.750", "33.3%", "0.500→0.125"]
    assert ["half", "512", "×", "4608", *figures] in lines
    figures = ["dense", "0.500→1.000", "0.750", "0.500→0.375"]
    assert ["stem", "512", "×", "4608", *figures] in lines


def test_shares_of_the_budget_are_counted_as_the_budget_was():
    half = replace(LAYER, layer="half", stored=2**18)
    lines = shown(report_of(LAYER, half, by="multiplications"), 80)
    assert sum("50.0%" in line.split() for line in lines) == 2


def test_a_conversion_fits_a_terminal_of_80_columns():
    lines = shown(report_of(LAYER, DENSE), 200)
    assert max(map(len, lines)) <= 80
