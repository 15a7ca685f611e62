"""The house keeps its order: which folder may import which, and what an import loads."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest
from paths import ROOT, TESTS

# Each folder, or module beside the folders, and those that it may import besides its own modules.
# What these may import, it may too.
FOLDERS = {
    # masktools: a mask in, a checkpoint out
    "masktools.errors": [],
    "masktools.version": [],
    "masktools.limits": [],
    "masktools.forks": [],
    "masktools.files": ["masktools.errors", "masktools.limits"],
    "masktools.tensor_file": ["masktools.files"],
    "masktools.checks": ["masktools.errors"],
    "masktools.names": ["masktools.errors"],
    "masktools.named_layers": ["masktools.checks"],
    "masktools.row_patterns": [],
    "masktools.shares": [],
    "masktools.progress": [],
    "masktools.layout": [
        "masktools.checks",
        "masktools.files",
        "masktools.forks",
        "masktools.row_patterns",
    ],
    "masktools.network": ["masktools.layout"],
    "masktools.roles": ["masktools.named_layers", "masktools.names", "masktools.network"],
    "masktools.prune": ["masktools.roles", "masktools.shares"],
    "masktools.importers": ["masktools.network", "masktools.tensor_file"],
    "masktools.partition": ["masktools.layout"],
    "masktools.transform": ["masktools.partition"],
    "masktools.conversion": [
        "masktools.transform",
        "masktools.calibration",
        "masktools.progress",
        "masktools.roles",
        "masktools.shares",
    ],
    "masktools.tickets": ["masktools.conversion", "masktools.prune"],
    "masktools.checkpoint": ["masktools.network", "masktools.tensor_file", "masktools.version"],
    "masktools.calibration": [
        "masktools.checkpoint",
        "masktools.importers",
        "masktools.named_layers",
    ],
    "masktools.export": ["masktools.calibration", "masktools.names"],
    "masktools.cli": [
        "masktools.conversion",
        "masktools.export",
        "masktools.prune",
        "runtime.model",
    ],
    "masktools.__main__": ["masktools.cli"],
    # runtime: a checkpoint in, outputs out
    "runtime.errors": ["masktools.errors", "masktools.forks"],
    "runtime.plan": ["runtime.errors", "masktools.checkpoint"],
    "runtime.backend": ["runtime.plan"],
    "runtime.tuning": ["runtime.plan"],
    "runtime.reference": ["runtime.backend"],
    # Backends do not know each other, and the rest of the runtime loads them by name alone.
    "runtime.cpu": ["runtime.backend", "runtime.tuning", "runtime.cpu.choice", "runtime.cpu.steps"],
    # Of the CPU: what lies below the kernels does not ask which of them computes a layer.
    "runtime.cpu.calibration": [],
    "runtime.cpu.processor": [],
    "runtime.cpu.machine": ["runtime.cpu.calibration", "runtime.cpu.processor"],
    "runtime.cpu.native": ["runtime.errors"],
    "runtime.cpu.weights": ["runtime.cpu.native", "runtime.plan"],
    "runtime.cpu.memory": ["runtime.cpu.machine", "runtime.plan"],
    "runtime.cpu.calls": ["runtime.cpu.memory"],
    "runtime.cpu.poison": ["runtime.cpu.calls"],
    "runtime.cpu.program": ["runtime.cpu.poison", "runtime.cpu.weights"],
    "runtime.cpu.kernels": ["runtime.cpu.kernels.problem"],
    "runtime.cpu.steps": ["runtime.cpu.kernels.problem"],
    "runtime.cpu.kernels.problem": ["runtime.cpu.program"],
    "runtime.cpu.choice": ["runtime.cpu.kernels"],
    "runtime.cuda": ["runtime.backend", "runtime.tuning"],
    "runtime.model": ["runtime.backend"],
    "runtime.engines": ["runtime.cpu", "masktools.version"],
    # beside both: data, training, tables and pictures around masktools.tickets
    "experiments": ["masktools.tickets"],
    "runtime.__main__": ["runtime.model", "runtime.engines", "masktools.version"],
}
# The folders of `cpu/`, and those whose headers each may include besides its own.
CPU = {
    "simd": [],
    "program": ["simd"],
    "kernels": ["program", "simd"],
    "steps": ["program", "simd"],
    "binding": ["kernels", "steps", "program", "simd"],
}
# The faces of the packages: names that are loaded when they are first used.
FACES = ("masktools", "runtime", "experiments")
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
    for package in FACES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def folder_of(module):
    """Return the entry of FOLDERS that a module belongs to, the longest that fits."""
    fitting = [name for name in FOLDERS if module == name or module.startswith(f"{name}.")]
    return max(fitting, key=len, default=None)


def reachable(folder):
    """Return the folders that a folder may import, by way of others too."""
    found = {folder}
    for below in FOLDERS[folder]:
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
        found |= {name for name in names if name.split(".")[0] in FACES}
    return found - set(FACES)


class _TypesOut(ast.NodeTransformer):
    def visit_If(self, node):
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else node


def loaded(tree, known):
    """Return which of our modules are imported when code runs, not for the types alone."""
    return imported(_TypesOut().visit(tree), known)


def test_every_module_imports_from_its_own_folder_or_below():
    trees = dict(sources())
    wrong = []
    for name, tree in trees.items():
        if name in FACES:
            continue
        folder = folder_of(name)
        assert folder, f"{name} is in no folder of FOLDERS: place it there, and in the documents"
        wrong += [
            f"{name} imports {target}"
            for target in sorted(imported(tree, trees))
            if folder_of(target) not in reachable(folder)
        ]
    assert wrong == []


def test_no_folder_imports_in_a_circle():
    assert list(TopologicalSorter(FOLDERS).static_order())


def test_no_module_imports_in_a_circle():
    """Also inside functions: a late import only hides a circle."""
    trees = dict(sources())
    arrows = {
        name: loaded(tree, trees) - {name} for name, tree in trees.items() if name not in FACES
    }
    assert list(TopologicalSorter(arrows).static_order())


def test_the_rules_see_an_import_that_breaks_them():
    known = dict(sources())
    tree = ast.parse("def f():\n    from masktools import export\n    import runtime.model\n")
    assert imported(tree, known) == {"masktools.export", "runtime.model"}
    assert folder_of("masktools.export.fold") not in reachable("masktools.transform")
    assert folder_of("masktools.partition.search") not in reachable("runtime.model")
    assert folder_of("runtime.cpu.backend") not in reachable("runtime.cuda")
    assert folder_of("runtime.cpu.backend") not in reachable("runtime.model")
    assert folder_of("runtime.cpu.kernels.winograd") not in reachable("runtime.cpu.memory")
    assert folder_of("runtime.cpu.kernels.winograd") not in reachable("runtime.cpu.steps")
    assert folder_of("masktools.unheard_of") is None
    assert folder_of("masktools.export") == "masktools.export"


def misplaced(folder, text):
    """Return what a C++ file in a folder of `cpu/` includes although it must not."""
    wrong = [
        header
        for header in re.findall(r'#include "([^"]+)"', text)
        if header.split("/")[0] not in (folder, *CPU[folder])
    ]
    if folder != "binding":
        wrong += re.findall(r"#include <(pybind11/[^>]+)>", text)
    return wrong


def test_cpp_includes_from_its_own_folder_or_below():
    files = [p for p in (ROOT / "cpu").rglob("*") if p.suffix in (".cpp", ".h")]
    assert {p.relative_to(ROOT / "cpu").parts[0] for p in files} == set(CPU)
    wrong = {
        str(p.relative_to(ROOT)): found
        for p in files
        if (found := misplaced(p.relative_to(ROOT / "cpu").parts[0], p.read_text(encoding="utf-8")))
    }
    assert wrong == {}


def test_the_rule_of_cpp_sees_what_breaks_it():
    text = '#include <pybind11/stl.h>\n#include "kernels/winograd.h"\n#include "simd/vector.h"\n'
    assert misplaced("program", text) == ["kernels/winograd.h", "pybind11/stl.h"]
    assert misplaced("steps", '#include "kernels/winograd.h"') == ["kernels/winograd.h"]
    assert misplaced("binding", text) == []


def test_every_folder_is_there():
    known = dict(sources())
    assert [name for name in FOLDERS if name not in known] == []


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


def test_masks_of_weights_alone_need_no_pytorch():
    loaded = python("import sys; from masktools.prune import magnitude; print(*sys.modules)")
    assert "masktools.prune.pruning" in loaded
    assert "torch" not in loaded


def test_no_module_bears_the_name_of_a_public_function():
    """Importing a module binds its name on the package, and would hide the function."""
    import masktools

    functions = {n for n in masktools.__all__ if not n.startswith("_")} - {
        "export",
        "prune",
        "tickets",
    }
    assert not functions & {name.split(".")[1] for name, _ in sources() if "." in name}


def test_every_public_name_is_there():
    import masktools

    for name in masktools.__all__:
        assert getattr(masktools, name) is not None
    assert set(masktools.__all__) <= set(dir(masktools))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = masktools.nothing


def test_no_test_measures_time():
    clocks = {"time", "timeit", "pytest_benchmark"}
    for path in sorted(TESTS.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        named |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert not named & clocks, f"{path.name} imports {named & clocks}"
