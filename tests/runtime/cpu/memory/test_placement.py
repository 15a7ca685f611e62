"""Where values lie: which are written over what their step reads."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from builder import SIZE, Builder
from cpu_native import variants
from skip_networks import ELEMENTWISE, NETWORKS

from masktools.checkpoint import Checkpoint
from runtime.cpu.backend import CpuBackend
from runtime.cpu.memory.placement import Placement
from runtime.model import Model
from runtime.plan import plan
from runtime.plan.steps import Arithmetic
from runtime.reference.backend import ReferenceBackend


def planned(network):
    b = Builder()
    made, over = network(b)
    return plan.build(Checkpoint(b.graph(*(made if isinstance(made, tuple) else (made,))))), over


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_a_skip_branch_is_written_over_where_nothing_reads_it_again(network, batch):
    made, over = planned(network)
    placement = Placement(made, {name: made.shape(name, batch) for name in made.shapes}, 16)
    adding = [step for step in made.steps if len(step.inputs) == 2 and hasattr(step, "weight")]
    assert adding
    views = placement.views
    assert (views[adding[-1].inputs[1]] == views[adding[-1].output]) is over


@pytest.mark.parametrize("network", ELEMENTWISE)
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_an_operand_is_written_over_where_nothing_reads_it_again(network, batch):
    made, over = planned(network)
    placement = Placement(made, {name: made.shape(name, batch) for name in made.shapes}, 16)
    views = placement.views
    step = next(step for step in made.steps if isinstance(step, Arithmetic))
    assert (views[step.output] in [views[name] for name in step.inputs]) is over


@pytest.mark.parametrize("variant", variants())
@pytest.mark.parametrize("network", NETWORKS + ELEMENTWISE)
def test_values_are_those_of_the_reference(variant, network, monkeypatch):
    monkeypatch.setenv("MASKTOOLS_CPU_ISA", variant)
    made, _ = planned(network)
    ours = Model(made, CpuBackend(), threads=2)
    exact = Model(made, ReferenceBackend(), "float64")
    for batch in (1, 3, 16):
        x = np.random.default_rng(batch).standard_normal((batch, 3, SIZE, SIZE), np.float32)
        for _ in range(2):
            got, want = ours(x), exact(x)
            pairs = zip(*(r.values() if isinstance(r, dict) else [r] for r in (got, want)),
                        strict=True)  # fmt: skip
            for a, b in pairs:
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def calls_to_place(steps):
    """Return how many functions are called to place a chain of so many steps."""
    b = Builder()
    x = "x"
    for _ in range(steps):
        x = b.act("Sigmoid", x)
    made = plan.build(Checkpoint(b.graph(x)))
    shapes = {name: made.shape(name, 1) for name in made.shapes}
    called = 0

    def count(frame, event, argument):
        nonlocal called
        called += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        Placement(made, shapes, 16)
    finally:
        sys.setprofile(None)
    return called


def test_placing_a_long_chain_looks_at_no_value_for_each_other():
    """All of them lie in one buffer, each written over the one before."""
    assert calls_to_place(400) < 2.2 * calls_to_place(200)
