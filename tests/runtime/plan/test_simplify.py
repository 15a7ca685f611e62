"""Steps that a plan takes out, or takes into others."""

from __future__ import annotations

import numpy as np
import pytest
from plan_nodes import SHAPE, build, conv, node, operators

from masktools.network.graph import Node
from runtime.plan.plan import Plan
from runtime.plan.steps import ScaleShift, Slice

# --- slices that are put together again ---------------------------------------------------------


def split_and_joined(
    joined: tuple[str, ...], split: tuple[int, ...] = (1, 3), axis: int = 1
) -> Plan:
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
    # The last of each step is the last channel, so that it ends where the value does.
    third = {"starts": (0,), "ends": (4,), "axes": (1,), "steps": (3,)}
    made = build(
        node("Slice", "a", "x", **third),
        node("Concat", "y", "a", "x", axis=1),
        outputs={"y": (None, 6, 6, 6)},
    )
    assert made.steps[-1].inputs == ("a", "x")


def test_slices_of_two_values_are_no_whole():
    cut = {"axes": (1,), "steps": (1,)}
    made = build(
        node("Relu", "z", "x"),
        node("Slice", "a", "x", starts=(0,), ends=(2,), **cut),
        node("Slice", "b", "z", starts=(2,), ends=(4,), **cut),
        node("Concat", "y", "a", "b", "z", axis=1),
        outputs={"y": (None, 8, 6, 6)},
    )
    assert made.steps[-1].inputs == ("a", "b", "z")


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
