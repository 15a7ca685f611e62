"""The tables of the results page, written from the results."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MARKED = re.compile(r"(<!-- results: ([a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rendered(page: str, folder: Path) -> str:
    """Return a page with every marked table written anew from the results in a folder.

    Parameters
    ----------
    page : str
    folder : path
        Has ``<name>.json`` for each mark ``<!-- results: <name> -->``.
    """

    def written(found: re.Match[str]) -> str:
        path = folder / f"{found[2]}.json"
        if not path.exists():  # not run yet
            return found[0]
        results = json.loads(path.read_text(encoding="utf-8"))
        return found[1] + "\n".join(["", *table(results), "", ""]) + found[3]

    return MARKED.sub(written, page)


def table(results: Mapping[str, Any]) -> list[str]:
    """Return the lines of a table in Markdown: a row for each ticket, the dense network first."""
    tickets = results["tickets"]
    several = len({one["start"] for one in tickets}) > 1
    without = tickets[0].get("without_training", {})
    names = ["masks", *(["start"] if several else []), "density before", "after"]
    names += ["validation", "test", "wins", "within the spread", *without]
    dense = results["dense"]
    blank = [""] * (several + 2)
    rows = [["dense", *blank, _percent(dense["validation"]), _percent(dense["test"]), "", ""]]
    rows[0] += [""] * len(without)
    rows += [_row(one, several) for one in tickets]
    width = len(rows[0]) - 1
    lines = [names, ["---", *["---:"] * width], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _row(one: Mapping[str, Any], several: bool) -> list[str]:
    """Return the cells of a ticket."""
    cells = [one["arm"], *([one["start"]] if several else [])]
    cells += [f"{one['density_before']:.3f}", f"{one['density_after']:.3f}"]
    cells += [_percent(one["validation"]), _percent(one["test"])]
    cells += ["extreme" if one.get("extreme") else _yes_or_no(one.get("wins"))]
    cells += [_yes_or_no(one.get("within_spread"))]
    return cells + [_percent(values) for values in one.get("without_training", {}).values()]


def _yes_or_no(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "no"


def _percent(accuracies: list[float]) -> str:
    mean = f"{100 * statistics.fmean(accuracies):.2f}"
    if len(accuracies) < 2:
        return mean
    return f"{mean} ± {100 * statistics.stdev(accuracies):.2f}"
