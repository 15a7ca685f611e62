"""Plans as calls of the kernels, run by an interpreter of their interface, without any kernel.

The interpreter's arena is poisoned with NaN: what is read must have been written, halos too.
"""

from __future__ import annotations

from collections import Counter

import cpu_interpreter
import numpy as np
import pytest
from builder import Builder
from drawn_layers import CASES, drawn, layer
from hypothesis import given
from hypothesis import strategies as st
from network_cases import NETWORKS, pooled_network, window

from masktools.checkpoint import Checkpoint
from runtime.cpu import native
from runtime.cpu.backend import CpuBackend
from runtime.model import Model
from runtime.plan import plan
from runtime.reference.backend import ReferenceBackend


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    monkeypatch.setattr(native, "load", lambda: cpu_interpreter)


def outputs(model, x):
    found = model(x)
    return list(found.values()) if isinstance(found, dict) else [found]


def compare(checkpoint, x, vector=16):
    """Run a network by the interpreter and by the reference; return the calls that were made."""
    checkpoint.check()
    made = plan.build(checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_interpreter, "lanes", vector)
        model = Model(made, CpuBackend())
        got = outputs(model, x)
    for a, b in zip(got, outputs(Model(made, ReferenceBackend(), "float64"), x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    made_calls = model._executable({"x": x.shape}).program.operations
    return Counter(method for _, method, _ in made_calls)


def images(batch, channels=3, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, channels, 6, 6)).astype(np.float32)


@given(case=CASES, vector=st.sampled_from([2, 4, 16]))
def test_layers_of_every_kind(case, vector):
    x, sparse, dense, attributes = drawn(case)
    bias = np.arange(len(dense), dtype=np.float32)
    for weight in (sparse, dense):
        compare(layer(weight, x, attributes, bias)[0], x, vector)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("batch", [1, 2, 4, 5, 8])
def test_networks(network, batch):
    b = Builder()
    made = network(b)
    graph = b.graph(*(made if isinstance(made, tuple) else (made,)))
    for vector in (2, 4, 16):
        compare(Checkpoint(graph), images(batch), vector)


# --- what is not copied ------------------------------------------------------------------------


def calls(network, batch, vector):
    b = Builder()
    made = network(b)
    graph = b.graph(*(made if isinstance(made, tuple) else (made,)))
    return compare(Checkpoint(graph), images(batch), vector)


def test_concatenations_slices_and_flattenings_copy_nothing():
    """Three convolutions, of which the second joins its input; a slice; a product of an image."""

    def network(b):
        a = b.conv("x", 4)
        c = b.concat(a, b.conv(a, 4))
        part = b.add("Slice", [c], 4, axes=(1,), starts=(2,), ends=(6,), steps=(1,))
        return b.fc(b.conv(part, 3), 5)

    assert calls(network, 4, 4)["copy"] == 0
    assert calls(network, 1, 4)["copy"] == 0


def test_pooling_is_part_of_the_convolution_before_it():
    assert calls(pooled_network, 16, 4)["pool"] == calls(pooled_network, 16, 4)["mean"] == 0
    assert calls(pooled_network, 1, 4)["pool"] == 2


def test_a_pooled_value_that_is_read_is_stored():
    def network(b):
        a = b.conv("x", 4)
        return b.add("MaxPool", [a], 4, 3, **window(2, 2)), a

    assert calls(network, 16, 4)["pool"] == 1


def test_values_that_end_share_the_arena_with_those_that_begin():
    b = Builder(channels=4)
    name = "x"
    for _ in range(12):
        name = b.conv(name, 4)
    graph = b.graph(name)
    x = images(4, 4)
    model = Model(plan.build(Checkpoint(graph)), CpuBackend())
    model(x)
    program = model._executable({"x": x.shape}).program
    assert program.elements * 4 <= 2.5 * x.nbytes * 1.2


def test_what_is_read_before_it_is_written_shows():
    """The poison works: without the zeros of the halo the comparison fails."""
    b = Builder()
    graph = b.graph(b.conv("x", 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_interpreter.Program, "_fill", lambda *_, **__: None)
        with pytest.raises(AssertionError):
            compare(Checkpoint(graph), images(2), 16)
