"""First lines of docstrings are plain: no riddle that only its author can read."""

from __future__ import annotations

import ast
import re

from paths import ROOT

# Phrases that point at something the reader has not been told, and sentences without a subject.
RIDDLES = (
    r"\bas told\b",
    r"\bso many\b",
    r"\ball else\b",
    r"\bwhat is told\b",
    r"^What\b",
    r"\b[Ww]hat\b.*\bis\b",
)
NAMED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def riddles(text):
    """Return the lines and first sentences of a module's docstrings that break the rule."""
    found = []
    for node in ast.walk(ast.parse(text)):
        said = ast.get_docstring(node) if isinstance(node, NAMED) else None
        first = " ".join((said or "").split("\n\n")[0].split())
        if any(re.search(riddle, first) for riddle in RIDDLES):
            found.append((getattr(node, "lineno", 1), first))
    return found


def test_first_lines_are_plain():
    found = {
        path.relative_to(ROOT).as_posix(): lines
        for folder in ("masktools", "runtime", "benchmarks", "examples", "experiments")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if (lines := riddles(path.read_text(encoding="utf-8")))
    }
    assert found == {}


def test_riddles_are_seen():
    said = (
        "Run one step, cut as told.",
        "Return the grid of so many threads.",
        "Return weights; all else stays.",
        "What a launch is.",
        "Return what each layer of a plan\n    is to the cost model.",
    )
    for text in said:
        assert len(riddles(f'"""{text}"""')) == len(riddles(f'def f():\n    """{text}"""')) == 1
    assert riddles('"""Return a layer.\n\nWhat so many need."""') == []
