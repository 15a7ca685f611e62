"""Files with something changed at random: refused by name, or run; never another kind of error."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save

import runtime
from masktools.checkpoint import Checkpoint, SparseWeight, write
from masktools.errors import FormatError
from masktools.layout import BlockLayout
from masktools.network.graph import Graph, Node, Value

WINDOW = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}
RESIZE = {"mode": "nearest", "nearest_mode": "floor"}
# A chain of one node for each kind of attribute: operator, attributes, constants.
CHAIN: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("Conv", {**WINDOW, "group": 2}, ("c.weight", "c.bias")),
    ("BatchNormalization", {"epsilon": 1e-5}, ("scale", "shift", "mean", "var")),
    ("LeakyRelu", {"alpha": 0.1}, ()),
    ("MaxPool", {**WINDOW, "kernel_shape": (3, 3), "ceil_mode": 0}, ()),
    (
        "Resize",
        {"axes": (2, 3), "scales": (2.0, 0.5), "coordinate_transformation_mode": "half_pixel"}
        | RESIZE,
        (),
    ),
    (
        "Resize",
        {
            "axes": (2, 3),
            "sizes": (12, 7),
            "coordinate_transformation_mode": "align_corners",
            "mode": "cubic",
            "cubic_coeff_a": -0.75,
            "exclude_outside": 1,
        },
        (),
    ),
    ("Pad", {"mode": "reflect", "pads": (0, 0, 1, 1, 0, 0, 1, 1), "value": 0.0}, ()),
    ("Slice", {"starts": (1, -1), "ends": (9, 0), "axes": (2, 3), "steps": (1, -1)}, ()),
    ("AveragePool", {**WINDOW, "kernel_shape": (2, 2), "ceil_mode": 1, "count_include_pad": 1}, ()),
    ("Clip", {"min": -1.0, "max": 1.0}, ()),
    ("Transpose", {"perm": (0, 1, 3, 2)}, ()),
    ("Softmax", {"axis": 1}, ()),
    ("Unsqueeze", {"axes": (1,)}, ()),
    ("Squeeze", {"axes": (1,)}, ()),
    ("Reshape", {"shape": (0, 4, -1)}, ()),
    ("Concat", {"axis": 1}, ()),
    ("ReduceMean", {"axes": (2,), "keepdims": 0}, ()),
    ("Flatten", {"axis": 1}, ()),
    ("Gemm", {"transB": 1}, ("f.weight",)),
]
VALUES = [0, 1, -1, 2, 7, 2**31 - 1, 2**31, 2**63 - 1, -(2**63), 2**64, 0.0, 1.5, -1.0, 1e308]
VALUES += [
    "",
    "x",
    "Relu",
    "Conv",
    "wrap",
    "align_corners",
    "c.weight",
    None,
    True,
    [],
    [1],
    [0, 0],
]
VALUES += [{}, [2, 2], [1, 1, 1, 1]]


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tensors and the metadata of a network of many operators."""
    weight = np.random.default_rng(0).standard_normal((4, 2, 3, 3)).astype(np.float32)
    layout = BlockLayout.from_mask(weight > 0, groups=2)
    constants = {name: np.ones(4, np.float32) for name in ("c.bias", *CHAIN[1][2])}
    constants["f.weight"] = np.ones((3, 4), np.float32)
    nodes = tuple(
        Node(f"n{i}", op, (f"v{i}" if i else "x", *names), (f"v{i + 1}",), attributes)
        for i, (op, attributes, names) in enumerate(CHAIN)
    )
    shape = (None, 4, 8, 8)
    graph = Graph((Value("x", shape),), (Value(f"v{len(CHAIN)}", (None, 3)),), nodes, constants)
    path = tmp_path_factory.mktemp("whole") / "net.safetensors"
    write(path, Checkpoint(graph, {"c": SparseWeight.from_dense(weight, layout)}))
    assert runtime.load(path)(np.ones((2, 4, 8, 8), np.float32)).shape == (2, 3)
    with safe_open(str(path), framework="np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["masktools"])


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) inside a JSON value."""
    keys = value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    return [place for key in keys for place in [(value, key), *places(value[key])]]


def mutate(header: dict[str, Any], choose: random.Random) -> None:
    container, key = choose.choice(places(header["graph"]))
    how = choose.random()
    value = json.loads(json.dumps(choose.choice(VALUES)))
    if how < 0.1:
        del container[key]
    elif how < 0.2 and isinstance(container, list):
        container.insert(key, value)
    elif how < 0.4 and isinstance(container[key], str):
        container[key] = f"v{choose.randrange(len(CHAIN))}"
    else:
        container[key] = value


def run(path: Path) -> str:
    try:
        model = runtime.load(path)
    except (FormatError, runtime.PlanError):
        return "refused"
    inputs = {v.name: np.ones([n or 2 for n in v.shape], np.float32) for v in model.inputs}
    got = model(inputs)
    got = got if isinstance(got, dict) else {model.outputs[0].name: got}
    for value in model.outputs:
        assert got[value.name].shape == tuple(n or 2 for n in value.shape)
    return "ran"


@pytest.mark.parametrize("seed", range(4))
def test_a_mutated_graph_is_refused_or_runs(parts, seed, tmp_path):
    tensors, header = parts
    choose = random.Random(seed)
    counts: Counter[str] = Counter()
    for _ in range(300):
        changed = json.loads(json.dumps(header))
        for _ in range(choose.choice([1, 1, 2])):
            mutate(changed, choose)
        path = tmp_path / "mutated.safetensors"
        path.write_bytes(save(tensors, {"masktools": json.dumps(changed)}))
        counts[run(path)] += 1
    assert min(counts["refused"], counts["ran"]) > 3, counts
