"""Plans as calls of the kernels, run by an interpreter of their interface, without any kernel.

The interpreter's arena is poisoned with NaN: what is read must have been written, halos too.
"""

from __future__ import annotations

from collections import Counter

import cpu_interpreter
import numpy as np
import pytest
from builder import Builder
from hypothesis import given
from hypothesis import strategies as st
from test_reference import CASES, drawn, layer

from masktools.checkpoint import Checkpoint
from runtime.cpu import native
from runtime.cpu.backend import CpuBackend
from runtime.model import Model
from runtime.plan import plan
from runtime.reference import ReferenceBackend


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
    return Counter(operation.__qualname__.split(".")[1] for _, operation in made_calls)


def window(kernel, stride, op="MaxPool", **more):
    return {
        "kernel_shape": (kernel, kernel), "strides": (stride, stride), "dilations": (1, 1),
        "pads": (0, 0, 0, 0), "ceil_mode": 0, **more,
    }  # fmt: skip


def images(batch, channels=3, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, channels, 6, 6)).astype(np.float32)


@given(case=CASES, vector=st.sampled_from([2, 4, 16]))
def test_layers_of_every_kind(case, vector):
    x, sparse, dense, attributes = drawn(case)
    bias = np.arange(len(dense), dtype=np.float32)
    for weight in (sparse, dense):
        compare(layer(weight, x, attributes, bias)[0], x, vector)


def residual_network(b):
    x = b.act("Relu", b.conv("x", 8))
    z = b.act("Relu", b.add_skip(b.conv(x, 8), x))
    g = b.gate(b.conv(z, 4, 1))
    return b.fc(b.add("MaxPool", [g], 4, 3, **window(2, 2)), 5)


def dense_network(b):
    a = b.conv("x", 4)
    c = b.concat("x", a)
    e = b.concat(c, b.conv(c, 4))
    return b.fc(b.concat(a, b.conv(e, 4), a), 7), b.conv(e, 4, 1), e


def pooled_network(b):
    p = b.add("MaxPool", [b.act("Relu", b.conv("x", 8))], 8, 3, **window(2, 2))
    q = b.add("AveragePool", [b.conv(p, 4)], 4, 1, **window(3, 3), count_include_pad=0)
    return b.fc(b.add("GlobalAveragePool", [b.conv(p, 6)], 6, 1), 6), q


def moving_network(b):
    a = b.conv("x", 8)
    part = b.add("Slice", [a], 4, axes=(1,), starts=(2,), ends=(6,), steps=(1,))
    every = b.add("Slice", [a], 8, 3, axes=(2, 3), starts=(0, 1), ends=(6, 6), steps=(2, 2))
    r = b.add("Reshape", [a], 0, shape=(0, 2, 4, 6, 6))
    r = b.add("Transpose", [r], 0, perm=(0, 2, 1, 3, 4))
    shuffled = b.add("Reshape", [r], 8, shape=(0, 8, 6, 6))
    last = b.add("Transpose", [a], 6, perm=(0, 2, 3, 1))
    b.constant("w", 5, 8)
    counted = {"count_include_pad": 1}
    many = b.add("Gemm", [last, "w"], 6, transB=1)
    return (
        b.conv(part, 4), b.conv(every, 4), b.conv(shuffled, 4), many,
        b.add("Softmax", [many], 6, axis=3),
        b.add("Pad", [a], 8, 9, pads=(0, 0, 1, -1, 0, 0, 2, 2), value=1.5, mode="constant"),
        b.add("AveragePool", [part], 4, 6, **window(3, 1) | {"pads": (1, 1, 1, 1), **counted}),
        b.concat(part, part, shuffled), b.add("Reshape", [last], 1, shape=(0, -1)),
    )  # fmt: skip


def stacked_network(b):
    """Halos under depthwise convolutions, skips, and constants of every shape."""
    a = b.depthwise(b.conv("x", 4))
    b.constant("whole", 4, 6, 6)
    b.constant("one")
    c = b.act("LeakyRelu", b.add("Sub", [a, "whole"], 4), alpha=0.1)
    d = b.add("Div", ["one", b.act("Sigmoid", c)], 4, 6)
    return b.conv(b.add_skip(d, a, "Mul"), 4), b.conv(b.add_skip(b.conv(c, 4), c), 3, 5)


NETWORKS = (residual_network, dense_network, pooled_network, moving_network, stacked_network)


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
        patch.setattr(cpu_interpreter.Program, "fill", lambda *_: None)
        with pytest.raises(AssertionError):
            compare(Checkpoint(graph), images(2), 16)
