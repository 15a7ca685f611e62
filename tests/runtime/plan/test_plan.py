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

from masktools.checkpoint import Checkpoint, SparseWeight, read, write
from masktools.layout import BlockLayout
from masktools.network.graph import Graph, Node, Value
from masktools.network.shapes import infer_shapes
from runtime.errors import PlanError
from runtime.plan import cost, plan
from runtime.plan.steps import Gather, Interpolate, Pool, Reshape, ScaleShift, Slice

SHAPE = (None, 4, 6, 6)


def conv(name: str, x: str, weight: str | None = None, **attributes: Any) -> Node:
    window = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "group": 1}
    return Node(name, "Conv", (x, weight or f"{name}.weight"), (name,), window | attributes)


def node(op: str, name: str, *inputs: str, **attributes: Any) -> Node:
    return Node(name, op, inputs, (name,), attributes)


def build(
    *nodes: Node,
    outputs: dict[str, tuple[int | None, ...]] | None = None,
    constants: dict[str, Any] | None = None,
    shape: tuple[int | None, ...] = SHAPE,
) -> plan.Plan:
    """Return the plan of nodes that read x and, unless told, end in y of x's shape."""
    arrays = {
        name: RANDOM.standard_normal((4, 4, 3, 3)).astype(np.float32)
        for n in nodes
        for name in n.inputs
        if name.endswith(".weight")
    }
    border = tuple(Value(n, s) for n, s in (outputs or {nodes[-1].outputs[0]: shape}).items())
    graph = Graph((Value("x", shape),), border, nodes, arrays | (constants or {}))
    checkpoint = Checkpoint(graph)
    checkpoint.check()
    return plan.build(checkpoint)


def operators(made: plan.Plan) -> list[str]:
    return [step.operator for step in made.steps]


# --- slices that are put together again ---------------------------------------------------------


def split_and_joined(
    joined: tuple[str, ...], split: tuple[int, ...] = (1, 3), axis: int = 1
) -> Any:
    """Return a plan that splits x, convolves the last part, and joins some of the three."""
    last = ("a", "b", "c")[len(split) - 1]
    nodes = [
        Node("s", "Split", ("x",), ("a", "b", "c")[: len(split)], {"axis": axis, "split": split}),
        node("Relu", "d", last),
        Node("j", "Concat", joined, ("y",), {"axis": axis}),
    ]
    sizes = dict(zip("abc", split, strict=False)) | {"d": split[-1]}
    shape = [None, 4, 6, 6]
    shape[axis] = sum(sizes[name] for name in joined)
    return build(*nodes, outputs={"y": tuple(shape)})


@pytest.mark.parametrize(
    ("joined", "split", "axis", "inputs"),
    [
        (("a", "b", "d"), (1, 3), 1, ("x", "d")),
        (("d", "a", "b"), (1, 3), 1, ("d", "x")),
        (("d", "a", "b", "c"), (1, 1, 2), 1, ("d", "x")),
        (("a", "b", "a", "b"), (2, 2), 1, ("x", "x")),
        (("a", "b", "d"), (2, 4), 2, ("x", "d")),
        (("b", "a", "d"), (2, 2), 1, ("b", "a", "d")),
        (("a", "d", "b"), (2, 2), 1, ("a", "d", "b")),
        (("a", "b", "d"), (1, 1, 2), 1, ("a", "b", "d")),
        (("b", "c", "d"), (1, 1, 2), 1, ("b", "c", "d")),
        (("a", "a", "d"), (2, 2), 1, ("a", "a", "d")),
        (("a", "b"), (2, 2), 1, ("a", "b")),
    ],
)
def test_a_concat_reads_a_value_of_which_it_reads_all_slices(joined, split, axis, inputs):
    made = split_and_joined(joined, split, axis)
    concat = next(step for step in made.steps if step.operator == "Concat")
    assert concat.inputs == inputs
    read = {name for step in made.steps for name in step.inputs}
    assert {step.output for step in made.steps if isinstance(step, Slice)} <= read


def test_slices_along_another_axis_or_in_steps_stay():
    cut = {"axes": (2,), "steps": (1,)}
    nodes = [
        node("Slice", "a", "x", starts=(0,), ends=(3,), **cut),
        node("Slice", "b", "x", starts=(3,), ends=(6,), **cut),
        node("Concat", "y", "a", "b", "a", axis=1),
    ]
    made = build(*nodes, outputs={"y": (None, 12, 3, 6)})
    assert operators(made) == ["Slice", "Slice", "Concat"]
    even = {"starts": (0,), "ends": (4,), "axes": (1,), "steps": (2,)}
    odd = even | {"starts": (1,)}
    made = build(
        node("Slice", "a", "x", **even),
        node("Slice", "b", "x", **odd),
        node("Concat", "y", "a", "b", "x", axis=1),
        outputs={"y": (None, 8, 6, 6)},
    )
    assert made.steps[-1].inputs == ("a", "b", "x")


# --- fusion ------------------------------------------------------------------------------------


def test_activation_and_skip_go_into_the_convolution():
    made = build(
        conv("a", "x"),
        node("Relu", "b", "a"),
        conv("c", "b"),
        node("Add", "d", "c", "x"),
        node("LeakyRelu", "y", "d", alpha=0.1),
    )
    assert operators(made) == ["Conv+Relu", "Conv+Add+LeakyRelu"]
    assert made.steps[1].inputs == ("b", "x")
    assert made.steps[1].output == "y"


def test_of_two_convolutions_the_later_takes_the_sum():
    """Everything that it reads is made by then, and its input dies no later than before."""
    made = build(conv("short", "x"), conv("long", "x"), node("Add", "y", "short", "long"))
    assert operators(made) == ["Conv", "Conv+Add"]
    assert [step.name for step in made.steps] == ["short", "long"]


def test_an_earlier_convolution_waits_for_its_skip():
    made = build(
        conv("early", "x"),
        node("Relu", "late", "x"),
        node("Add", "y", "early", "late"),
    )
    assert operators(made) == ["Relu", "Conv+Add"]
    assert made.steps[1].inputs == ("x", "late")


@pytest.mark.parametrize(
    "nodes",
    [
        # Someone else reads what lies between.
        (conv("a", "x"), node("Relu", "b", "a"), node("Add", "y", "a", "b")),
        # The activation comes before the addition.
        (
            conv("a", "x"),
            node("Relu", "b", "a"),
            node("Add", "c", "b", "x"),
            node("Sub", "y", "c", "b"),
        ),
        # Added to itself: there is no second value.
        (conv("a", "x"), node("Add", "y", "a", "a")),
    ],
)
def test_what_must_stay_apart_does(nodes):
    made = build(*nodes)
    assert "Conv+Add" not in "".join(operators(made))


def test_an_output_between_two_nodes_is_kept():
    made = build(conv("a", "x"), node("Relu", "y", "a"), outputs={"a": SHAPE, "y": SHAPE})
    assert operators(made) == ["Conv", "Relu"]


def test_a_skip_that_broadcasts_is_an_addition_of_its_own():
    made = build(conv("a", "x"), node("GlobalAveragePool", "b", "x"), node("Add", "y", "a", "b"))
    assert operators(made) == ["Conv", "GlobalAveragePool", "Add"]


def test_a_second_activation_is_a_step():
    made = build(conv("a", "x"), node("Relu", "b", "a"), node("Sigmoid", "y", "b"))
    assert operators(made) == ["Conv+Relu", "Sigmoid"]


def test_a_skip_after_a_skip_is_an_addition():
    made = build(conv("a", "x"), node("Add", "b", "a", "x"), node("Add", "y", "b", "x"))
    assert operators(made) == ["Conv+Add", "Add"]


def test_multiplication_and_addition_by_channel_are_one_step():
    constants = {"s": np.ones((4, 1, 1), np.float32), "b": np.full((1, 4, 1, 1), 2, np.float32)}
    nodes = (node("Mul", "a", "x", "s"), node("Sub", "c", "a", "b"), node("Relu", "y", "c"))
    made = build(*nodes, constants=constants)
    assert operators(made) == ["Mul+Add+Relu"]
    (step,) = made.steps
    assert isinstance(step, ScaleShift)
    assert step.shift is not None
    assert step.shift.tolist() == [-2] * 4


def test_a_constant_that_varies_over_the_image_stays_arithmetic():
    constants = {"s": np.ones((6, 6), np.float32)}
    made = build(node("Mul", "a", "x", "s"), node("Add", "y", "a", "s"), constants=constants)
    assert operators(made) == ["Mul", "Add"]


def test_batch_normalization_becomes_scale_and_shift():
    constants = {name: np.array([1, 2, 3, 4], np.float32) for name in "sbmv"}
    nodes = (node("BatchNormalization", "y", "x", "s", "b", "m", "v", epsilon=0.5),)
    (step,) = build(*nodes, constants=constants).steps
    assert isinstance(step, ScaleShift)
    assert step.scale is not None
    np.testing.assert_allclose(step.scale, [n / np.sqrt(n + 0.5) for n in (1, 2, 3, 4)])


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
