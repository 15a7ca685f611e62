"""Plans: what is fused, what is removed, how long values live, what is counted."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from draws import RANDOM
from hypothesis import given
from hypothesis import strategies as st
from plan_nodes import SHAPE, build, conv, node, operators

from masktools.checkpoint import Checkpoint, SparseWeight, read, write
from masktools.layout import BlockLayout
from masktools.network.graph import Graph, Node, Value
from masktools.network.shapes import infer_shapes
from runtime.errors import PlanError
from runtime.plan import cost, plan
from runtime.plan.steps import Gather, Interpolate, Pool, Reshape, Slice

# --- what disappears, and what becomes of the rest ---------------------------------------------

NOTHING = {
    "Identity": {},
    "Clip": {},
    "Reshape": {"shape": (0, 4, 6, -1)},
    "Transpose": {"perm": (0, 1, 2, 3)},
    "Concat": {"axis": 1},
    "Split": {"axis": 1, "split": (4,)},
    "Slice": {"starts": (0,), "ends": (99,), "axes": (2,), "steps": (1,)},
    "Pad": {"mode": "constant", "pads": (0,) * 8, "value": 1.0},
    "Resize": {
        "axes": (2, 3),
        "sizes": (6, 6),
        "mode": "nearest",
        "coordinate_transformation_mode": "half_pixel",
        "nearest_mode": "floor",
    },
}


@pytest.mark.parametrize("op", NOTHING)
def test_a_node_that_changes_nothing_is_no_step(op):
    made = build(conv("a", "x"), node(op, "b", "a", **NOTHING[op]), node("Relu", "y", "b"))
    assert operators(made) == ["Conv+Relu"]
    alone = build(node(op, "y", "x", **NOTHING[op]))
    assert (alone.steps, alone.results) == ((), {"y": "x"})


def test_what_nothing_reads_is_not_computed():
    made = build(conv("a", "x"), conv("b", "x"), node("Relu", "c", "b"), outputs={"a": SHAPE})
    assert [step.name for step in made.steps] == ["a"]


def test_split_becomes_slices():
    split = Node("s", "Split", ("x",), ("a", "b"), {"axis": 1, "split": (1, 3)})
    shapes = {"a": (None, 1, 6, 6), "b": (None, 3, 6, 6)}
    steps = build(split, outputs=shapes).steps
    assert all(isinstance(step, Slice) for step in steps)
    assert [(step.starts, step.ends) for step in steps if isinstance(step, Slice)] == [
        ((0,), (1,)),
        ((1,), (4,)),
    ]


LINEAR = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}


@pytest.mark.parametrize(
    ("sizes", "axes"), [((8, 8), [3, 2]), ((2, 8), [2, 3]), ((8, 2), [3, 2]), ((6, 8), [3])]
)
def test_interpolation_is_a_step_for_each_axis_that_shrinks_most_first(sizes, axes):
    made = build(
        node("Resize", "y", "x", axes=(2, 3), sizes=sizes, **LINEAR),
        outputs={"y": (None, 4, *sizes)},
    )
    assert all(isinstance(step, Interpolate) for step in made.steps)
    assert [step.axis for step in made.steps if isinstance(step, Interpolate)] == axes


def test_interpolation_that_keeps_every_size_is_no_step():
    resize = node("Resize", "y", "x", axes=(2, 3), scales=(1.0, 1.0), **LINEAR)
    assert build(resize, outputs={"y": (None, 4, 6, 6)}).steps == ()


def test_slicing_backwards_becomes_a_gather():
    cut = {"starts": (-1, 1), "ends": (-(2**63), 5), "axes": (2, 3), "steps": (-2, 2)}
    (step,) = build(node("Slice", "y", "x", **cut), outputs={"y": (None, 4, 3, 2)}).steps
    assert isinstance(step, Gather)
    assert [at.tolist() for at in step.indices] == [[5, 3, 1], [1, 3]]


def test_a_mean_without_axes_is_a_mean_and_a_reshape():
    made = build(node("ReduceMean", "y", "x", axes=(2, 3), keepdims=0), outputs={"y": (None, 4)})
    assert operators(made) == ["GlobalAveragePool", "Reshape"]
    assert made.shape(made.steps[0].output, 3) == (3, 4, 1, 1)


def test_ceil_mode_becomes_padding_that_is_not_counted():
    window: dict[str, Any] = {"kernel_shape": (3, 3), "strides": (2, 2), "dilations": (1, 1)}
    window |= {"pads": (1, 0, 0, 0), "ceil_mode": 1, "count_include_pad": 1}
    made = build(node("AveragePool", "y", "x", **window), outputs={"y": (None, 4, 3, 3)})
    (step,) = made.steps
    assert isinstance(step, Pool)
    assert (step.pads, step.counted) == ((1, 0, 0, 1), (1, 0, 0, 0))


# --- lifetimes ---------------------------------------------------------------------------------

ACTIVATION = 4 * 6 * 6 * 4  # bytes of one sample


def test_a_chain_holds_two_activations():
    names = ["x", *(f"c{i}" for i in range(20))]
    made = build(*(conv(b, a) for a, b in pairwise(names)))
    assert made.peak_bytes(5) == 2 * 5 * ACTIVATION


def test_a_residual_network_holds_three():
    nodes, last = [], "x"
    for i in range(8):
        nodes += [conv(f"a{i}", last), node("Relu", f"b{i}", f"a{i}"), conv(f"c{i}", f"b{i}")]
        nodes += [node("Add", f"d{i}", f"c{i}", last), node("Relu", f"e{i}", f"d{i}")]
        last = f"e{i}"
    made = build(*nodes)
    assert len(made.steps) == 16
    assert made.peak_bytes(1) == 3 * ACTIVATION


def test_a_reshape_shares_memory_and_keeps_it_alive():
    nodes = (node("Reshape", "y", "x", shape=(0, 144)), node("Relu", "z", "x"))
    made = build(*nodes, outputs={"y": (None, 144), "z": SHAPE})
    assert made.dead_after == ((), ("x",))
    assert made.peak_bytes(1) == 2 * ACTIVATION
    chain = (*nodes[:1], node("Relu", "a", "y"), node("Relu", "b", "a"), node("Add", "c", "b", "a"))
    assert build(*chain, outputs={"c": (None, 144)}).peak_bytes(1) == 3 * ACTIVATION


@given(data=st.data())
def test_every_value_lives_from_its_step_to_its_last_reader(data):
    nodes, made_so_far = [], ["x"]
    for i in range(data.draw(st.integers(1, 12))):
        a, b = (data.draw(st.sampled_from(made_so_far)) for _ in range(2))
        kinds = [conv(f"v{i}", a), node("Relu", f"v{i}", a), node("Add", f"v{i}", a, b)]
        nodes.append(data.draw(st.sampled_from(kinds)))
        made_so_far.append(f"v{i}")
    kept = data.draw(st.sets(st.sampled_from(made_so_far[1:]), min_size=1))
    program = build(*nodes, outputs=dict.fromkeys(sorted(kept), SHAPE))
    live, peak = {"x"}, 1
    for step, dead in zip(program.steps, program.dead_after, strict=True):
        assert live.issuperset(step.inputs)
        live.add(step.output)
        peak = max(peak, len(live))
        assert live.issuperset(dead)
        live.difference_update(dead)
    assert live == set(program.results.values())
    assert program.peak_bytes(1) == peak * ACTIVATION
    assert sum(len(dead) for dead in program.dead_after) == len(program.steps) + 1 - len(live)


def test_a_plan_is_immutable_and_shares_the_checkpoints_arrays(tmp_path):
    weight = RANDOM.standard_normal((4, 4, 3, 3)).astype(np.float32)
    layout = BlockLayout.from_mask(weight > 0)
    graph = Graph((Value("x", SHAPE),), (Value("a", SHAPE),), (conv("a", "x"),))
    write(tmp_path / "a.safetensors", Checkpoint(graph, {"a": SparseWeight.from_dense(weight, layout)}))  # fmt: skip # noqa: E501
    checkpoint = read(tmp_path / "a.safetensors")
    made = plan.build(checkpoint)
    assert made.steps[0].weight is checkpoint.sparse["a"]  # type: ignore[attr-defined]
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.steps[0].name = "b"  # type: ignore[misc]


# --- what is refused ---------------------------------------------------------------------------


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(PlanError, match=r"node 'a' \(Conv\).*expected 4 channels"):
        build(conv("a", "x"), shape=(None, 5, 6, 6))
    with pytest.raises(PlanError, match=r"output 'a': expected shape .*6, 6.*4, 4"):
        build(conv("a", "x", pads=(0, 0, 0, 0)))


@pytest.mark.parametrize(
    ("op", "attributes", "shape"),
    [
        ("Flatten", {"axis": 2}, (None, 36)),
        ("Transpose", {"perm": (1, 0, 2, 3)}, (4, None, 6, 6)),
        ("Concat", {"axis": 0}, SHAPE),
        ("Reshape", {"shape": (-1, 2, 6, 6)}, (None, 2, 6, 6)),
    ],
)
def test_a_node_that_mixes_samples_is_refused(op, attributes, shape):
    inputs = ("x", "x") if op == "Concat" else ("x",)
    nodes = (node("Relu", "y", "z"), node(op, "z", *inputs, **attributes))[::-1]
    with pytest.raises((PlanError, ValueError), match=r"mixes the samples|must hold sizes"):
        build(*nodes, outputs={"y": shape})


@pytest.mark.parametrize(
    ("op", "attributes", "shape"),
    [
        ("Slice", {"starts": (0,), "ends": (1,), "axes": (0,), "steps": (1,)}, (1, 4, 6, 6)),
        ("Slice", {"starts": (-1,), "ends": (-9,), "axes": (0,), "steps": (-1,)}, SHAPE),
        ("Softmax", {"axis": 0}, SHAPE),
    ],
)
def test_a_node_that_works_across_an_open_batch_is_refused(op, attributes, shape):
    with pytest.raises(PlanError, match=rf"node 'y' \({op}\): it works across a batch"):
        build(node(op, "y", "x", **attributes), outputs={"y": shape})


def test_a_fixed_batch_may_be_cut():
    cut = {"starts": (0,), "ends": (1,), "axes": (0,), "steps": (1,)}
    made = build(node("Slice", "y", "x", **cut), outputs={"y": (1, 4)}, shape=(3, 4))
    assert operators(made) == ["Slice"]


def test_a_claim_of_a_huge_value_is_refused_before_anything_is_made():
    claim = {**NOTHING["Resize"], "sizes": (2**31 - 1, 2**31 - 1)}
    with pytest.raises(PlanError, match=r"value 'y'.*numbers in a sample"):
        build(node("Resize", "y", "x", **claim), outputs={"y": (None, 4, 2**31 - 1, 2**31 - 1)})


# --- counting ----------------------------------------------------------------------------------


def counted_by_hand(mask: Any, attributes: dict[str, Any], out: tuple[int, ...]) -> int:
    """Count the multiplications of one image whose input lies inside it, one by one."""
    (sy, sx), (dy, dx), (top, left) = (attributes[n][:2] for n in ("strides", "dilations", "pads"))
    return sum(
        int(mask[:, :, ky, kx].sum())
        for y, x in np.ndindex(*out[2:])
        for ky, kx in np.ndindex(3, 3)
        if 0 <= y * sy + ky * dy - top < 6 and 0 <= x * sx + kx * dx - left < 6
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_multiplications_count_taps_inside_the_image(stride, dilation):
    mask = RANDOM.random((4, 4, 3, 3)) < 0.4
    mask[2] = mask[0]
    layout = BlockLayout.from_mask(mask, min_rows=2)
    weight = SparseWeight.from_dense(mask.astype(np.float32), layout, layout.residual(mask))
    attributes = {"strides": (stride,) * 2, "dilations": (dilation,) * 2, "pads": (1, 2, 2, 2)}
    layer = conv("a", "x", **attributes)
    inputs = (Value("x", SHAPE),)
    out = infer_shapes(
        Graph(inputs, (), (layer,)), {"x": (1, *SHAPE[1:])}, {"a.weight": mask.shape}
    )["a"]
    graph = Graph(inputs, (Value("a", (None, *out[1:])),), (layer,))
    made = plan.build(Checkpoint(graph, {"a": weight}))
    expected = counted_by_hand(mask, attributes, out)
    assert cost.multiplications(made, made.steps[0], 3) == 3 * expected
    assert cost.density(made.steps[0]) == pytest.approx(mask.mean())


def test_a_product_counts_every_row_of_its_input():
    graph = Graph(
        (Value("x", (None, 5, 3)),),
        (Value("y", (None, 5, 2)),),
        (node("Gemm", "y", "x", "w", transB=1),),
        {"w": np.ones((2, 3), np.float32)},
    )
    made = plan.build(Checkpoint(graph))
    assert cost.multiplications(made, made.steps[0], 4) == 4 * 5 * 2 * 3
    reshaped = build(node("Reshape", "y", "x", shape=(0, -1)), outputs={"y": (None, 144)})
    assert isinstance(reshaped.steps[0], Reshape)
    assert cost.multiplications(reshaped, reshaped.steps[0], 4) == 0
    assert cost.density(reshaped.steps[0]) is None


def test_a_step_past_every_image_is_taken_as_one_that_is_just_past_it():
    window = {"kernel_shape": (1, 1), "pads": (0,) * 4, "strides": (2**63 - 1, 1), "ceil_mode": 0}
    pooled = node("MaxPool", "y", "x", dilations=(2**62, 1), **window)
    (step,) = build(pooled, outputs={"y": (None, 4, 1, 6)}).steps
    assert isinstance(step, Pool)
    assert (step.strides, step.dilations) == ((2**28, 1), (2**28, 1))
