"""Slices of a batch: which steps are cut, and that nothing of it shows in the results."""

from __future__ import annotations

from dataclasses import replace

import cpu_interpreter
import numpy as np
import pytest
from builder import Builder
from cpu_native import variants
from network_cases import NETWORKS, images, outputs, window
from skip_networks import NETWORKS as SKIPPED

from masktools.checkpoint import Checkpoint, SparseWeight
from masktools.layout import BlockLayout
from masktools.network.graph import Graph, Value
from runtime.cpu import native
from runtime.cpu.backend import CpuBackend, PackedWeights
from runtime.cpu.choice.choose import choose_ways
from runtime.cpu.choice.kernels import KERNELS
from runtime.cpu.compiler import Compiler
from runtime.cpu.kernels import windows
from runtime.cpu.machine import Machine
from runtime.cpu.memory import slices
from runtime.cpu.memory.slices import Slices
from runtime.model import Model
from runtime.plan import plan
from runtime.reference.backend import ReferenceBackend

MACHINE = Machine(16, 1)


def kept_network(b):
    """Values that are read after the last slice: pooled ones, parts of a whole, and results."""
    a = b.act("Relu", b.conv("x", 4))
    p = b.add("MaxPool", [b.conv(a, 5)], 5, 3, **window(2, 2))
    c = b.concat(a, b.conv(a, 4))
    d = b.conv(b.add_skip(b.conv(c, 8), c), 3)
    flat = b.add("Reshape", [d], 1, shape=(0, -1))
    return p, flat, b.conv(p, 4), b.conv(b.concat(c, d), 2), a


def strided_network(b):
    a = b.act("Relu", b.conv("x", 8))
    c = b.add("Conv", [a, b.constant("w", 6, 8, 3, 3)], 6, 3, strides=(2, 2), dilations=(1, 1),
              pads=(1, 1, 1, 1), group=1)  # fmt: skip
    e = b.add("Conv", [a, b.constant("v", 6, 8, 1, 1)], 6, 3, strides=(2, 2), dilations=(1, 1),
              pads=(0, 0, 0, 0), group=1)  # fmt: skip
    return b.fc(b.act("Relu", b.add_skip(c, e)), 5)


def moved_network(b):
    """What is seen of values that slices made: parts, other orders, and the whole as a skip."""
    a = b.conv(b.act("Relu", b.conv("x", 8)), 8)
    part = b.add("Slice", [a], 4, axes=(1,), starts=(2,), ends=(6,), steps=(1,))
    every = b.add("Slice", [a], 8, 3, axes=(2, 3), starts=(0, 1), ends=(6, 6), steps=(2, 2))
    last = b.add("Transpose", [a], 6, perm=(0, 2, 3, 1))
    flat = b.add("Reshape", [last], 1, shape=(0, -1))
    same = b.add("Slice", [a], 8, axes=(1,), starts=(0,), ends=(8,), steps=(1,))
    added = b.add_skip(b.conv(part, 8), same)
    return added, b.conv(every, 3), flat, b.conv(a, 4)


def changed_network(b):
    """What is seen of a value that slices made is not written over while others read the value."""
    a = b.conv(b.act("Relu", b.conv("x", 8)), 8)
    flat = b.act("HardSwish", b.add("Reshape", [a], 8, shape=(0, 8, -1)))
    return flat, b.conv(a, 4)


ALL = (
    *NETWORKS, *(lambda b, n=n: n(b)[0] for n in SKIPPED), kept_network, strided_network,
    moved_network, changed_network,
)  # fmt: skip


@pytest.fixture
def small(monkeypatch):
    """Maps and batches of the networks here are large enough."""
    monkeypatch.setattr(slices, "LEAST_SLICES", 2)
    monkeypatch.setattr(slices, "LEAST_PIXELS", 9)
    monkeypatch.setattr(slices, "LEAST_VECTORS", 1)


def planned(network):
    b = Builder()
    made = network(b)
    return plan.build(Checkpoint(b.graph(*(made if isinstance(made, tuple) else (made,)))))


def choice_of(made, batch, machine=MACHINE, dtype="float32"):
    """Return what is chosen for a plan, by the kernels of float32 whatever the type."""
    shapes = {name: made.shape(name, batch) for name in made.shapes}
    ways = choose_ways(made, shapes, machine, KERNELS)
    compiler = Compiler(cpu_interpreter, machine, dtype, PackedWeights(), tuned=False)
    return compiler.choose(made, shapes, ways)


def chosen(network, batch, machine=MACHINE):
    return choice_of(planned(network), batch, machine).slices


def compare(made, batches, channels=3):
    """Compare outputs with the reference's, by the largest number of each."""
    ours = Model(made, CpuBackend(), threads=2)
    exact = Model(made, ReferenceBackend(), "float64")
    for batch in batches:
        x = images(batch, channels, seed=batch)
        for a, b in zip(outputs(ours, x), outputs(exact, x), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("network", ALL)
@pytest.mark.parametrize("vector", [4, 16])
def test_networks_in_slices(network, vector, small, monkeypatch):
    monkeypatch.setattr(native, "load", lambda: cpu_interpreter)
    monkeypatch.setattr(cpu_interpreter, "lanes", vector)
    compare(planned(network), [32])


@pytest.mark.parametrize("variant", variants())
@pytest.mark.parametrize("network", ALL)
def test_values_are_those_of_the_reference(variant, network, small, monkeypatch):
    monkeypatch.setenv("MASKTOOLS_CPU_ISA", variant)
    compare(planned(network), [16, 32, 48, 50])


def thinned(network, height):
    """Return the plan of a network of which each layer keeps a third: blocks, or rows if 0."""
    b = Builder()
    made = network(b)
    graph = b.graph(*(made if isinstance(made, tuple) else (made,)))
    constants, sparse = dict(graph.constants), {}
    for node in graph.nodes:
        name = node.inputs[1].removesuffix(".weight") if node.op == "Conv" else ""
        if node.attributes.get("group") != 1 or f"{name}.weight" not in constants:
            continue
        dense = constants.pop(f"{name}.weight")
        mask = b.rng.random(dense.shape) < 0.35
        for first in range(0, len(mask), max(height, 1)):
            mask[first : first + height] = mask[first]
        layout = BlockLayout.from_mask(mask, 2, 1) if height else BlockLayout(dense.shape, ())
        sparse[name] = SparseWeight.from_dense(dense * mask, layout, layout.residual(mask))
    assert sparse
    return plan.build(Checkpoint(replace(graph, constants=constants), sparse))


@pytest.mark.parametrize("variant", variants())
@pytest.mark.parametrize("kind", ["blocks", "rows", "windows"])
@pytest.mark.parametrize("network", ALL)
def test_thinned_networks(variant, kind, network, small, monkeypatch):
    """Layers by blocks, by rows, and by rows over windows, whatever the cost model would take."""
    monkeypatch.setenv("MASKTOOLS_CPU_ISA", variant)

    def cost(_, problem, machine):
        taken = kind == "windows" and problem.is_rows and problem.stored and problem.window
        return 0.0 if taken else float("inf")

    monkeypatch.setattr(windows.Windows, "cost", cost)
    compare(thinned(network, 4 if kind == "blocks" else 0), [32, 64])


@pytest.mark.parametrize("variant", variants())
@pytest.mark.parametrize("kind", ["rows", "dense"])
@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool"])
def test_the_last_slices_are_pooled_into_pixels_of_all_samples(
    variant, kind, pool, small, monkeypatch
):
    monkeypatch.setenv("MASKTOOLS_CPU_ISA", variant)
    monkeypatch.setattr(slices, "LEAST_PIXELS", 36)
    b = Builder(channels=32)
    a = b.conv(b.conv("x", 64, layer="a"), 48, layer="b")
    counted = {"count_include_pad": 0} if pool == "AveragePool" else {}
    graph = b.graph(b.conv(b.add(pool, [a], 48, 3, **window(2, 2), **counted), 4))
    constants, sparse = dict(graph.constants), {}
    if kind == "rows":
        for name in "ab":
            dense = constants.pop(f"{name}.weight")
            mask = b.rng.random(dense.shape) < 0.2
            sparse[name] = SparseWeight.from_dense(dense * mask, BlockLayout(dense.shape, ()), mask)
    made = plan.build(Checkpoint(replace(graph, constants=constants), sparse))
    choice = choice_of(made, 64)
    assert (choice.ways[1].kernel.name == "windows") == (kind == "rows")
    assert choice.slices.steps == 2
    compare(made, [64, 80], 32)
    if kind == "rows":
        assert 1 in choice.pooled
        # A pooling window of four pixels of all taps does not fit: the convolution is alone.
        monkeypatch.setattr(windows, "_most_bytes", lambda machine: 4 * 9 * 4 * machine.vector - 1)
        assert choice_of(made, 64).pooled == {}


def test_what_is_seen_of_slices_is_seen_of_all_samples(small):
    assert chosen(moved_network, 32).steps == 2


def test_slices_end_where_maps_are_small_or_samples_meet(small):
    assert chosen(kept_network, 48).samples == 16
    assert chosen(kept_network, 48).parts == 3
    made = planned(kept_network)
    steps = chosen(kept_network, 48).steps
    assert 1 < steps < len(made.steps)
    assert made.steps[steps].operator == "Reshape"


@pytest.mark.parametrize("op", ["Add", "Where"])
@pytest.mark.parametrize("samples", [1, 32])
def test_a_constant_for_each_sample_ends_the_slices(op, samples, small):
    b = Builder()
    a = b.act("Relu", b.conv(b.conv("x", 4), 4))
    c = b.constant("c", samples, 4, 6, 6)
    made = b.conv(b.add(op, [a, c, a] if op == "Where" else [a, c], 4), 4)
    x, y = Value("x", (32, 3, 6, 6)), Value(made, (32, 4, 6, 6))
    network = plan.build(Checkpoint(Graph((x,), (y,), tuple(b.nodes), b.constants)))
    assert choice_of(network, 32).slices.steps == (2 if samples > 1 else len(network.steps))
    compare(network, [32])


@pytest.mark.parametrize("batch", [1, 16, 40, 63])
def test_batches_that_are_no_whole_slices_are_left_alone(batch, small):
    assert chosen(kept_network, batch) == Slices()


def test_small_maps_bfloat16_and_many_threads_are_left_alone(monkeypatch):
    assert chosen(kept_network, 64) == Slices()
    monkeypatch.setattr(slices, "LEAST_PIXELS", 9)
    assert chosen(kept_network, 64).parts == 4
    assert chosen(kept_network, 64, MACHINE._replace(threads=8)) == Slices()
    monkeypatch.setattr(cpu_interpreter, "bfloat16_kernels", lambda: ["amx"], raising=False)
    assert choice_of(planned(kept_network), 64, dtype="bfloat16").slices == Slices()


def test_layers_of_many_weights_are_not_sliced(small, monkeypatch):
    steps = chosen(kept_network, 64).steps
    monkeypatch.setattr(slices, "MOST_WEIGHTS", 4 * 8 * 8 * 9 - 1)
    assert 1 < chosen(kept_network, 64).steps < steps


def test_slices_share_their_memory(small, monkeypatch):
    monkeypatch.setattr(native, "load", lambda: cpu_interpreter)
    b = Builder(channels=4)
    name = "x"
    for _ in range(6):
        name = b.conv(name, 4)
    model = Model(plan.build(Checkpoint(b.graph(name))), CpuBackend())
    x = images(64, 4)
    model(x)
    elements = model._executable({"x": x.shape}).program.elements
    # The input, the output, and two values of a slice.
    assert elements <= (2 + 2 / 4) * x.size * 1.1
