"""Random networks: what is drawn, and that every backend computes them; docs/format.md is the law.

More of them: ``make networks COUNT=10000``.
"""

from __future__ import annotations

from collections import Counter
from functools import cache

import fake_cupy
import pytest
from network_checks import Check, Way, cpu_ways
from random_networks import OPEN, draw
from recipes import FORMS, Network, Tensor
from shrinking import script, shrink

from masktools.network.graph import Node
from masktools.network.operators import ARITHMETIC, COORDINATES, OPERATORS, ROUNDINGS
from runtime.plan import plan, steps

COUNT, CHUNK = 300, 10
# Of these under the emulation, which compiles kernels of their own for some.
EMULATED, ON_DEVICE = 8, 150


def ways(seed):
    """Return the reference, and each variant and type of the CPU backend, on 1 to 3 threads."""
    return [Way("reference"), *cpu_ways(threads=(seed % 3 + 1,))]


def assert_computed(seeds, ways_of):
    for seed in seeds:
        check = Check(draw(seed))
        for way in ways_of(seed):
            failure = check.failure(way)
            if failure:
                pytest.fail(_told(seed, way, check.network, failure))


def _told(seed, way, network, failure):
    """Return what failed, and the smallest network that fails like it, as code."""
    small = shrink(network, failure, lambda check: check.failure(way))
    return f"seed {seed}: {way}: {failure.kind}: {failure.text}\n\n{script(small, way)}"


@pytest.mark.parametrize("first", range(0, COUNT, CHUNK))
def test_every_way_to_run_them_computes_what_the_reference_does(first):
    assert_computed(range(first, first + CHUNK), ways)


# What was found once, as small as it could be made, in networks drawn by other generators.
FOUND = {
    "rows far up in the padding": Network(
        {"x": (None, 1, 1, 5)},
        (
            Node(
                "n", "Conv", ("x", "c.weight"), ("y",),
                {"strides": (1, 1), "dilations": (1, 1), "pads": (0, 0, 4, 0), "group": 1},
            ),
        ),
        ("y",), {"c.weight": Tensor((1, 1, 1, 5), "ones")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_once_is_right(name):
    check = Check(FOUND[name])
    for way in cpu_ways():
        assert check.failure(way) is None


@pytest.fixture(params=fake_cupy.places())
def device(request, monkeypatch, tmp_path):
    for _ in fake_cupy.installed(request.param, monkeypatch, tmp_path):
        yield request.param


def test_the_device_computes_what_the_reference_does(device):
    def ways(seed):
        dtypes = ("float32", "tf32", "float16")
        return [Way("cuda", dtype=d) for d in (dtypes[seed % 3 :][:1] if emulated else dtypes)]

    emulated = device == "emulated"
    assert_computed(range(EMULATED if emulated else ON_DEVICE), ways)


# --- what is drawn -----------------------------------------------------------------------------


def test_a_seed_always_draws_the_same():
    for seed in range(20):
        one, other = draw(seed), draw(seed)
        assert one == other
        assert all(
            (a == b).all()
            for a, b in zip(one.numbers(3).values(), other.numbers(3).values(), strict=True)
        )
    assert len({draw(seed).code() for seed in range(50)}) == 50


def test_code_makes_the_same_network():
    for seed in range(50):
        network, names = draw(seed), {}
        exec(script(network, Way("reference")).rsplit("\n", 1)[0], names)
        assert names["network"] == network


@cache
def drawn():
    """Return the networks, and how often each thing about them was drawn."""
    networks = [draw(seed) for seed in range(COUNT)]
    seen = Counter()
    for network in networks:
        network.checkpoint().check()
        shapes = network.shapes(OPEN)
        made = {name for node in network.nodes for name in node.outputs}
        seen.update(("batch", n) for n in network.batches)
        seen["inputs", len(network.inputs)] += 1
        seen["outputs", min(3, len(network.outputs))] += 1
        seen["batches", len(network.batches)] += 1
        seen["open"] += network.is_open
        seen["fixed"] += not any(shape[0] is None for shape in network.inputs.values())
        read = Counter(name for node in network.nodes for name in node.inputs if name in shapes)
        seen["an output is read"] += bool(set(network.outputs) & read.keys())
        seen["an input is an output"] += bool(set(network.outputs) & network.inputs.keys())
        seen["read twice"] += any(read[name] > 1 for name in made)
        weights = [name for name, t in network.tensors.items() if t.kind == "weight"]
        seen["a weight is read twice"] += any(read[name] > 1 for name in weights)
        for tensor in network.tensors.values():
            seen["form", tensor.form] += 1
            seen["form of groups", tensor.form] += tensor.groups > 1
            seen["half", tensor.form == "dense"] += tensor.half
        for node in network.nodes:
            seen.update(_seen_of(node, shapes))
        for step in plan.build(network.checkpoint()).steps:
            seen["skip"] += isinstance(step, steps.Weighted) and len(step.inputs) == 2
    return networks, seen


def _seen_of(node, shapes):
    """Yield what is special about a node."""
    given = node.attributes
    rank = len(shapes[node.inputs[0]])
    yield node.op
    yield node.op, "rank", rank
    yield "rank", len(shapes[node.outputs[0]])
    for name in ("axis", "mode", "nearest_mode", "coordinate_transformation_mode", "ceil_mode"):
        yield node.op, name, given.get(name)
    yield node.op, "count_include_pad", given.get("count_include_pad")
    if node.op == "Conv":
        channels, rows = shapes[node.inputs[0]][1], shapes[node.outputs[0]][1]
        group = given["group"]
        kind = "one" if group == 1 else "some" if group < channels else "depthwise"
        yield "groups", kind if group < rows or group == 1 else f"{kind}, a row each"
        yield "strides", max(given["strides"])
        yield "dilations", max(given["dilations"])
        yield "pads", max(given["pads"])
        yield "rows", rows
    if node.op == "Slice":
        yield "a step back", min(given["steps"]) < 0
    if node.op == "Pad":
        yield "cut off", min(given["pads"]) < 0
    if node.op in ARITHMETIC:
        first, *others = (shapes[name] for name in node.inputs)
        yield "broadcast", all(other == first for other in others)
        constants = [at for at, name in enumerate(node.inputs) if name.startswith("c")]
        yield node.op, "constants", tuple(constants)


def test_everything_that_a_network_may_be_is_drawn():
    seen = drawn()[1]
    wanted = [
        *OPERATORS,
        *((op, "constants", at) for op in ARITHMETIC for at in ((), (1,))),
        *((op, "constants", (0,)) for op in ARITHMETIC if op != "PRelu"),
        *(("Where", "constants", at) for at in ((2,), (0, 1), (0, 2), (1, 2))),
        *(("form", form) for form in FORMS),
        *(("form of groups", form) for form in FORMS if form != "empty"),
        *(("rank", rank) for rank in range(2, 6)),
        *((op, "rank", n) for op in ("Concat", "Slice", "Reshape", "Gemm") for n in (2, 3, 4)),
        *((op, "rank", rank) for op in ("Conv", "MaxPool", "AveragePool") for rank in (3, 4)),
        *((op, "axis", axis) for op in ("Concat", "Split") for axis in range(4)),
        *(("Softmax", "axis", axis) for axis in (1, 2, 3)),
        *(("Resize", "nearest_mode", mode) for mode in ROUNDINGS),
        *(("Resize", "coordinate_transformation_mode", mode) for mode in COORDINATES),
        *(("Resize", "mode", mode) for mode in ("nearest", "linear", "cubic")),
        *(("Pad", "mode", mode) for mode in ("constant", "reflect", "edge", "wrap")),
        *((op, "ceil_mode", mode) for op in ("MaxPool", "AveragePool") for mode in (0, 1)),
        *(("AveragePool", "count_include_pad", n) for n in (0, 1)),
        *(("groups", kind) for kind in ("one", "some", "depthwise", "depthwise, a row each")),
        *((name, n) for name in ("strides", "dilations") for n in (1, 2, 3)),
        *(("pads", n) for n in (0, 1, 2, 6)),
        *(("rows", n) for n in (1, 3, 8, 16, 17, 32)),
        *(("batch", n) for n in (1, 2, 3, 5, 8, 16, 17, 33, 64, 80)),
        ("inputs", 2), ("outputs", 1), ("outputs", 2), ("outputs", 3), ("batches", 2),
        ("half", True), ("half", False), ("a step back", True), ("cut off", True),
        ("broadcast", True), ("broadcast", False), "open", "fixed", "skip", "read twice",
        "a weight is read twice", "an output is read", "an input is an output",
    ]  # fmt: skip
    assert not [what for what in wanted if not seen[what]]


def test_networks_give_numbers():
    """Of order one: else nothing could be told from them."""
    for network in drawn()[0][:100]:
        check = Check(network)
        assert check.is_finite()
        largest = max(abs(y).max() for y in check.right(network.batches[0]).values())
        assert largest < 1e4
