"""The zeros beside a value's rows, whoever writes it; and the debug mode that shows their lack.

Values joined along any axis, products of several axes and their like come before convolutions that
read beyond the rows. Results are those of the reference, in a first call and after one of NaN.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from cpu_native import module, variants
from drawn_layers import grouped_mask
from hypothesis import given, settings
from hypothesis import strategies as st

from masktools.checkpoint import Checkpoint, SparseWeight
from masktools.layout import BlockLayout
from masktools.network.graph import Graph, Node, Value
from masktools.network.shapes import infer_shapes
from runtime.cpu.backend import CpuBackend
from runtime.cpu.calls import Calls
from runtime.cpu.memory.layout import Form, View
from runtime.cpu.poison import POISON
from runtime.model import Model
from runtime.plan import plan
from runtime.reference.backend import ReferenceBackend

CHANNELS, SIZES = 4, (5, 6)
BATCHES = [1, 2, 3, 16, 64]
# Strides, dilations, groups: of one group, of as many as there are channels, of two.
KINDS = {
    "plain": (1, 1, 1),
    "strided": (2, 1, 1),
    "dilated": (1, 2, 1),
    "depthwise": (1, 1, 0),
    "grouped": (1, 1, 2),
}


class Network:
    """A network of one input.

    Its first axis is the batch, or of one size: then values may be joined along it.
    """

    def __init__(self, shape, seed, batch=None):
        self.shape, self.batch = shape, batch
        self.random = np.random.default_rng(seed)
        self.nodes, self.constants, self.sparse = [], {}, {}

    def whole(self, *outputs):
        values = tuple(Value(name, ()) for name in outputs)
        return Graph(
            (Value("x", (self.batch, *self.shape)),), values, tuple(self.nodes), self.constants
        )

    def shape_of(self, name):
        weights = {f"{layer}.weight": w.layout.shape for layer, w in self.sparse.items()}
        return infer_shapes(self.whole(), {"x": (self.batch or 2, *self.shape)}, weights)[name]

    def add(self, op, *inputs, **attributes):
        name = f"t{len(self.nodes)}"
        self.nodes.append(Node(f"n{name}", op, inputs, (name,), attributes))
        return name

    def stored(self, layer, shape, groups, form):
        """Add a weight: dense, or two thirds of it in blocks with some entries beside them."""
        dense = self.random.standard_normal(shape).astype(np.float32)
        if form == "dense":
            self.constants[f"{layer}.weight"] = dense
        else:
            mask = grouped_mask(self.random, shape, groups, 0.6)
            layout = BlockLayout.from_mask(mask, 2, groups)
            self.sparse[layer] = SparseWeight.from_dense(dense, layout, layout.residual(mask))
        return f"{layer}.weight"

    def conv(self, x, kind, form, rows=6):
        """Add a padded convolution of three taps along each axis of an image or a row."""
        stride, dilation, groups = KINDS[kind]
        channels, *sizes = self.shape_of(x)[1:]
        groups = groups or channels
        axes = len(sizes)
        rows = rows if groups < channels else channels
        shape = (rows, channels // groups, *(3,) * axes)
        weight = self.stored(f"l{len(self.nodes)}", shape, groups, form)
        return self.add(
            "Conv", x, weight, strides=(stride,) * axes, dilations=(dilation,) * axes,
            pads=(dilation,) * (2 * axes), group=groups,
        )  # fmt: skip

    def product(self, x, features, form):
        weight = self.stored(f"l{len(self.nodes)}", (features, self.shape_of(x)[-1]), 1, form)
        return self.add("Gemm", x, weight, transB=1)

    def plan(self, output):
        batch, *shape = self.shape_of(output)
        outputs = (Value(output, (self.batch and batch, *shape)),)
        made = Checkpoint(replace(self.whole(), outputs=outputs), self.sparse)
        made.check()
        return plan.build(made)


def joined(case):
    """Return a plan that joins values of several sources along an axis before a convolution."""
    fixed = case["batch"] if case["axis"] == 0 else None
    net = Network((CHANNELS, *SIZES[: case["rank"] - 2]), case["seed"], fixed)
    sources = {
        "input": lambda: "x",
        "activation": lambda: net.add("Sigmoid", "x"),
        "convolution": lambda: net.conv("x", "plain", case["form"], CHANNELS),
    }
    value = net.add("Concat", *(sources[name]() for name in case["sources"]), axis=case["axis"])
    return net.plan(net.conv(value, case["kind"], case["form"]))


def multiplied(case):
    """Return a plan that multiplies the last of several axes before a convolution."""
    net = Network((CHANNELS, *SIZES[: case["rank"] - 2]), case["seed"])
    value = net.product(net.add("Sigmoid", "x"), 7, case["form"])
    if case["rank"] == 4 and case["flat"]:
        value = net.add("Reshape", value, shape=(0, -1, 7))
    return net.plan(net.conv(value, case["kind"], case["form"]))


def differences(model, made, batch):
    """Return how far from the reference a first call is, and one after a call of NaN."""
    shape = (batch, *made.inputs[0].shape[1:])
    x = np.random.default_rng(batch).standard_normal(shape).astype(np.float32)
    exact = Model(made, ReferenceBackend(), "float64")(x)
    first = model(x)
    model(np.full_like(x, np.nan))
    return [np.abs(got - exact).max() / max(np.abs(exact).max(), 1) for got in (first, model(x))]


COMMON = {
    "rank": st.sampled_from([3, 4]),
    "kind": st.sampled_from(list(KINDS)),
    "form": st.sampled_from(["dense", "blocks"]),
    "batch": st.sampled_from(BATCHES),
    "poison": st.sampled_from(["0", "1"]),
    "seed": st.integers(0, 99),
}
SOURCES = st.lists(st.sampled_from(["input", "activation", "convolution"]), min_size=2, max_size=3)


def check(case, made):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(POISON, case["poison"])
        found = differences(Model(made, CpuBackend(), threads=1), made, case["batch"])
    assert max(found) <= 1e-5  # and so no NaN


@pytest.mark.parametrize("variant", variants())
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@settings(max_examples=40)
@given(case=st.fixed_dictionaries({**COMMON, "sources": SOURCES}))
def test_values_joined_along_any_axis(variant, axis, case):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASKTOOLS_CPU_ISA", variant)
        case = {**case, "axis": axis, "rank": 4 if axis == 3 else case["rank"]}
        check(case, joined(case))


@pytest.mark.parametrize("variant", variants())
@settings(max_examples=40)
@given(case=st.fixed_dictionaries({**COMMON, "flat": st.booleans()}))
def test_products_of_several_axes(variant, case):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASKTOOLS_CPU_ISA", variant)
        check(case, multiplied(case))


def test_margins_are_zeroed_once_and_in_each_slice_anew():
    """Buffers of one slice share their memory with those of the slice before."""
    form = Form(3, 2, 2, 4, lanes=3, halo=1)
    placement = SimpleNamespace(forms={0: form, 1: form}, of_slice=lambda buffer: buffer == 1)
    calls = Calls(placement)
    for part in (0, 1, None):
        calls.begin(part)
        for buffer in (0, 0) if part is None else (0, 1, 1):
            view = View.of_form(buffer, form, (3, 2, 2, 4))
            calls.add("fill", 0, {"y": view, "value": 2.0})
    zeroed = [(next(c.views()).buffer, c.part) for c in calls.made if c.fields["value"] == 0.0]
    assert zeroed == [(0, 0), (1, 0), (1, 1)]


def test_what_nothing_has_written_cannot_be_read():
    form = Form(3, 2, 2, 4, lanes=3)
    calls = Calls(SimpleNamespace(forms={0: form, 1: form}, of_slice=lambda _: False))
    x, y = (View.of_form(buffer, form, (3, 2, 2, 4)) for buffer in (0, 1))
    with pytest.raises(AssertionError, match="nothing has written"):
        calls.add("copy", 0, {"x": x, "y": y})


def test_rows_without_zeros_of_their_own_claim_no_halo():
    form = Form(3, 2, 4, 4, lanes=3, halo=1)
    calls = Calls(SimpleNamespace(forms={0: form}, of_slice=lambda _: False))
    rows = View.of_form(0, form, (3, 2, 4, 4)).sliced(3, 0, 2)
    calls.add("fill", 0, {"y": rows, "value": 2.0})
    with pytest.raises(AssertionError):
        calls.add("fill", 0, {"y": replace(rows, halo=1), "value": 2.0})


# --- the debug mode ----------------------------------------------------------------------------

PLANTED = {
    "rank": 4, "axis": 2, "kind": "plain", "form": "dense", "seed": 0, "batch": 1,
    "sources": ["activation", "activation"],
}  # fmt: skip


@pytest.mark.parametrize("poison", ["0", "1"])
def test_the_debug_mode_shows_a_halo_that_nobody_zeroes(poison, monkeypatch):
    """A fault that a fresh arena hides: its zeros stand in for those that are not written."""
    made = joined(PLANTED)
    monkeypatch.setenv(POISON, poison)
    monkeypatch.setattr(Calls, "_zero_margins", lambda *_: None)
    first, _ = differences(Model(made, CpuBackend(), threads=1), made, PLANTED["batch"])
    assert np.isnan(first) == (poison == "1")


@pytest.mark.parametrize("variant", variants())
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_run_of_a_poisoned_program_begins_as_nan(variant, dtype):
    whole, part = (0, (8,), (1,)), (0, (3,), (1,))
    for poison in (False, True):
        program = module(variant).Program(8, 1, dtype)
        if poison:
            program.poison()
        program.copy_out(-1, x=whole, index=0)
        program.fill(-1, y=part, value=1.0)
        program.copy_out(-1, x=whole, index=1)
        before, after = np.empty((2, 2, 8), np.float32)
        for call in range(2):
            program.run([], [before[call], after[call]], None)
            assert (after[call, :3] == 1).all()
        assert np.isnan(before).all() == poison
        assert np.isnan(after[:, 3:]).all() == poison
        with pytest.raises(RuntimeError, match="cannot be poisoned"):
            program.poison()
