"""The house keeps its order: who may import whom, and what an import loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Each floor: its modules, and the floors that they may import besides their own.
FLOORS = {
    "errors": (
        [
            "masktools.errors",
            "masktools.arguments",
            "masktools.files",
            "masktools.limits",
            "masktools.forks",
            "masktools.version",
        ],
        [],
    ),
    "layout": (["masktools.arrays", "masktools.layout"], ["errors"]),
    "refill": (["masktools.refill"], ["layout"]),
    "hypergraph": (["masktools.hypergraph"], ["layout"]),
    "partition": (
        ["masktools.partition", "masktools.spectral", "masktools.search", "masktools.budget"],
        ["hypergraph"],
    ),
    "regroup": (["masktools.regroup", "masktools.grouping", "masktools.thresholds"], ["partition"]),
    "graph": (
        [
            "masktools.graph",
            "masktools.operators",
            "masktools.normal_form",
            "masktools.shapes",
        ],
        ["errors"],
    ),
    "network": (
        ["masktools.layers", "masktools.channels", "masktools.onnx_"],
        ["graph", "layout"],
    ),
    "importers": (["masktools.importers"], ["layout", "network"]),
    "convert": (
        [
            "masktools.convert",
            "masktools.methods",
            "masktools.selection",
            "masktools.rows",
            "masktools.pool",
            "masktools.finished",
            "masktools.summary",
            "masktools.result",
        ],
        ["network", "refill", "regroup", "importers"],
    ),
    "checkpoint": (["masktools.checkpoint", "masktools.sparse"], ["layout", "graph"]),
    "export": (["masktools.export"], ["checkpoint", "network"]),
    "runtime": (["runtime"], ["checkpoint"]),
    # Backends do not know each other, and the rest of the runtime loads them by name alone.
    "reference": (["runtime.reference"], ["runtime"]),
    "cpu": (["runtime.cpu_"], ["runtime"]),
    "cuda": (["runtime.cuda_"], ["runtime"]),
    "commands": (
        [
            "masktools.__main__",
            "masktools.tables",
            "masktools.inventory",
            "masktools.export.command",
            "masktools.export.verification",
        ],
        ["convert", "export", "runtime"],
    ),
}
HEAVY = ("scipy", "networkx", "kahypar", "mtkahypar", "loky", "threadpoolctl", "torch", "onnx")
HEAVY += (
    "onnxruntime",
    "h5py",
    "rich",
    "typer",
    "cupy",
    "matplotlib",
    "concurrent.futures.process",
)


def sources():
    """Yield the name and the syntax tree of every module."""
    for package in ("masktools", "runtime"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def floor_of(module):
    """Return the floor of a module: the one whose entry is the longest beginning of its name."""
    entries = [(entry, floor) for floor, (modules, _) in FLOORS.items() for entry in modules]
    fitting = [
        (entry, floor)
        for entry, floor in entries
        if module == entry
        or module.startswith(f"{entry}.")
        or (entry.endswith("_") and module.startswith(entry))
    ]
    return max(fitting, key=lambda pair: len(pair[0]))[1] if fitting else None


def reachable(floor):
    """Return the floors that a floor may import, by way of others too."""
    found = {floor}
    for below in FLOORS[floor][1]:
        found |= reachable(below)
    return found


def imported(tree, known):
    """Return which of our modules a syntax tree imports, also inside functions."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in inner]
        else:
            names = []
        found |= {name for name in names if name.split(".")[0] in ("masktools", "runtime")}
    return found - {"masktools"}


def test_every_module_imports_from_its_own_floor_or_below():
    trees = dict(sources())
    wrong = []
    for name, tree in trees.items():
        if name == "masktools":
            continue
        floor = floor_of(name)
        assert floor, f"{name} stands on no floor: place it in FLOORS, and in the design"
        wrong += [
            f"{name} imports {target}"
            for target in sorted(imported(tree, trees))
            if floor_of(target) not in reachable(floor)
        ]
    assert wrong == []


def test_the_rule_sees_an_import_that_breaks_it():
    known = dict(sources())
    tree = ast.parse("def f():\n    from masktools import convert\n    import runtime.model\n")
    assert imported(tree, known) == {"masktools.convert", "runtime.model"}
    assert floor_of("masktools.convert") not in reachable("refill")
    assert floor_of("masktools.partition") not in reachable("runtime")
    assert floor_of("masktools.onnx_reader") == "network"
    assert floor_of("masktools.unheard_of") is None
    assert floor_of("runtime.cpu_backend") not in reachable("cuda") | reachable("runtime")


def python(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout.split()


def test_importing_loads_nothing_heavy():
    loaded = python("import sys, masktools, runtime; print(*sys.modules)")
    assert "masktools" in loaded
    assert [name for name in HEAVY if name in loaded] == []


@pytest.mark.parametrize("first", ["masktools.convert", "masktools.refill", "masktools.regroup"])
def test_functions_keep_the_names_of_their_modules(first):
    code = f"""
import sys, masktools, {first}
print(*(callable(getattr(masktools, name)) for name in ("refill", "regroup", "convert")))
print(sys.modules[{first!r}].__name__)
"""
    assert python(code) == ["True", "True", "True", first]


def test_every_public_name_is_there():
    import masktools

    for name in masktools.__all__:
        assert getattr(masktools, name) is not None
    assert set(masktools.__all__) <= set(dir(masktools))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = masktools.nothing


def test_no_test_measures_time():
    clocks = {"time", "timeit", "pytest_benchmark"}
    for path in sorted((ROOT / "tests").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        named |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert not named & clocks, f"{path.name} imports {named & clocks}"
