"""How long values live, and that what lives at the same time lies apart."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from masktools.checkpoint import Checkpoint
from masktools.network.graph import Graph, Node, Value
from runtime.plan import lifetimes as module
from runtime.plan import plan
from runtime.plan.lifetimes import START, Span, lifetimes, most_at_once, pack

SPANS = st.lists(
    st.builds(
        lambda size, first, steps: Span(size, first, first + steps),
        st.integers(1, 50), st.integers(START, 8), st.integers(0, 5),
    ),
    max_size=20,
)  # fmt: skip


@given(SPANS, st.sampled_from((1, 8, 12)))
def test_what_is_needed_at_one_step_lies_apart(spans, grain):
    offsets, size = pack(spans, grain)
    assert all(offset % grain == 0 for offset in offsets)
    for at in range(START, 14):
        taken = np.zeros(size, int)
        for span, offset in zip(spans, offsets, strict=True):
            if span.first <= at <= span.last:
                assert offset + span.size <= size
                taken[offset : offset + span.size] += 1
        assert taken.max(initial=0) <= 1, at
    rounded = [-(-span.size // grain) * grain for span in spans]
    assert size <= sum(rounded)


@given(SPANS)
def test_the_most_at_once_is_that_of_the_worst_step(spans):
    by_step = [sum(s.size for s in spans if s.first <= at <= s.last) for at in range(START, 14)]
    assert most_at_once(spans) == max(by_step)
    assert pack(spans, 1)[1] >= most_at_once(spans)


def test_the_smallest_gap_is_taken():
    spans = [Span(50, 0, 0), Span(40, 0, 9), Span(30, 0, 0), Span(29, 0, 9), Span(25, 1, 1)]
    # When the last is placed, 50 are free before the second and 30 behind it.
    assert pack(spans, 1) == ([0, 50, 90, 120, 90], 149)


def test_memory_is_compared_with_what_is_needed_beside_it_alone(monkeypatch):
    compared = []
    gap = module._gap
    monkeypatch.setattr(module, "_gap", lambda *a: (compared.append(len(a[1])), gap(*a))[1])
    number = 1000
    offsets, size = pack([Span(64, at, at + 1) for at in range(number)], 16)
    assert sum(compared) <= 2 * number
    assert size == 128
    assert all(a != b for a, b in pairwise(offsets))


def network():
    """Return the plan of x -> Relu a -> Flatten b -> Softmax c, where z is read by nothing."""
    nodes = (
        Node("a", "Relu", ("x",), ("a",)),
        Node("b", "Flatten", ("a",), ("b",), {"axis": 1}),
        Node("c", "Softmax", ("b",), ("c",), {"axis": 1}),
        Node("d", "Softmax", ("a",), ("d",), {"axis": 1}),
    )
    inputs = tuple(Value(name, (None, 2, 3)) for name in "xz")
    outputs = (Value("c", (None, 6)), Value("d", (None, 2, 3)))
    return plan.build(Checkpoint(Graph(inputs, outputs, nodes)))


def test_a_reshape_lives_in_its_input_where_it_shares():
    made = network()
    assert [step.output for step in made.steps] == ["a", "b", "c", "d"]
    spans, owners = lifetimes(made, lambda value: 6, lambda step: True)
    assert owners == {"x": "x", "z": "z", "a": "a", "b": "a", "c": "c", "d": "d"}
    assert {name: (s.first, s.last) for name, s in spans.items()} == {
        "x": (START, 0), "z": (START, 0), "a": (0, 3), "c": (2, 4), "d": (3, 4),
    }  # fmt: skip
    assert made.peak_bytes(1) == 3 * 6 * 4
    spans, owners = lifetimes(made, lambda value: 6, lambda step: False)
    assert owners["b"] == "b"
    assert (spans["b"].first, spans["b"].last) == (1, 2)
    assert made.dead_after == (("x", "z"), (), ("b",), ("a",))
