"""The documents: links lead somewhere, tables are what the records say, the first example runs."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from paths import ROOT

sys.path.append(str(ROOT))

from benchmarks import tables

DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(text):
    """Return what headings can be linked by, as GitHub makes it of them."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def broken(path, text):
    """Return the links of a document that lead nowhere in the repository."""
    found = []
    for link in LINK.findall(CODE.sub("", text)):
        target, _, anchor = link.partition("#")
        if re.match(r"\w+:", target):
            continue
        file = (path.parent / target).resolve() if target else path
        if not file.exists() or (
            anchor and anchor not in anchors(file.read_text(encoding="utf-8"))
        ):
            found.append(link)
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    assert broken(path, path.read_text(encoding="utf-8")) == []


def test_links_that_lead_nowhere_are_seen():
    text = "[a](nothing.md) [b](README.md#nothing) [c](README.md#start) [d](https://x.org/y)"
    assert broken(ROOT / "X.md", text) == ["nothing.md", "README.md#nothing"]


def test_every_document_is_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    decisions = (ROOT / "docs" / "decisions" / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "docs").glob("**/*.md"):
        name = path.relative_to(ROOT / "docs").as_posix()
        if name.startswith("decisions/"):
            assert name == "decisions/README.md" or f"({path.name})" in decisions, name
        else:
            assert name == "index.md" or f"({name})" in index, name


def test_tables_are_what_the_records_say():
    assert tables.stale() == [], "run: python -m benchmarks.tables"


def test_a_stale_table_is_seen():
    for name in tables.DOCUMENTS:
        text = (ROOT / name).read_text(encoding="utf-8")
        wrong, changed = re.subn(r"(<!-- table:.*?\d)\.\d", r"\1.", text, count=1, flags=re.DOTALL)
        assert changed, name
        assert tables.rendered(wrong) == text, name


def test_every_table_stands_in_a_document():
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in tables.DOCUMENTS]
    marked = [found[2] for text in texts for found in tables.MARKED.finditer(text)]
    assert sorted(marked) == sorted(tables.TABLES)


def test_the_readme_is_two_screens():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 90


def test_the_first_example_of_the_readme_runs(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len([line for line in example.splitlines() if line]) <= 12
    code = example.replace("build/", f"{(tmp_path / 'build').as_posix()}/")
    code += "assert logits.shape == (360, 10)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert (tmp_path / "build" / "blocks" / "masks.safetensors").is_file()
