"""Sizes that know their formula: equal to plain arithmetic at any other open sizes."""

from __future__ import annotations

import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masktools.errors import GraphError
from masktools.network.graph import Value
from masktools.network.operators.movement import _length
from masktools.network.operators.resizing import _scaled
from masktools.network.sizes import (
    LONGEST,
    Size,
    broadcast,
    evaluate,
    is_name,
    largest,
    least,
    same,
    spelled,
)

OPERATIONS = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "//": operator.floordiv,
    "%": operator.mod, "max": largest, "min": least,
}  # fmt: skip
EXAMPLES = {"h": 17, "w": 23}
STEPS = st.lists(
    st.tuples(st.sampled_from(sorted(OPERATIONS)), st.integers(0, 9), st.integers(-4, 9)),
    min_size=1,
    max_size=6,
)


def computed(steps, open_):
    """Return what a list of operations makes; each reads one result, and one or a number."""
    values = list(open_)
    for name, first, second in steps:
        other = values[second % len(values)] if second % 2 else second
        made = OPERATIONS[name](values[first % len(values)], other)
        values.append(made)
    return values[-1]


@given(STEPS, st.integers(1, 70), st.integers(1, 70))
def test_a_formula_is_what_plain_numbers_give(steps, height, width):
    try:
        size = computed(steps, [Size.open(n, v) for n, v in EXAMPLES.items()])
        number = computed(steps, [height, width])
        assert int(size) == computed(steps, EXAMPLES.values())
    except ZeroDivisionError:
        return
    if isinstance(size, Size):
        assert evaluate(repr(size), {"h": height, "w": width}) == number
        again = evaluate(repr(size), {n: Size.open(n, v) for n, v in EXAMPLES.items()})
        assert same(again, size)


@given(
    st.integers(1, 60), st.integers(1, 60), st.integers(-9, 70),
    st.integers(-9, 70) | st.none() | st.just(2**63 - 1), st.integers(1, 5),
)  # fmt: skip
def test_the_length_of_a_slice(example, size, start, stop, step):
    found = _length(Size.open("n", example), slice(start, stop, step))
    assert int(found) == len(range(example)[start:stop:step])
    length = len(range(size)[start:stop:step])
    if isinstance(found, Size) and length:  # An empty one is refused at that size.
        assert evaluate(repr(found), {"n": size}) == length


@pytest.mark.parametrize("scale", [2.0, 0.5, 1.5, 0.25, 3.0, 0.3, 1 / 3])
def test_the_size_of_what_is_scaled(scale):
    found = _scaled(Size.open("n", 30), scale)
    assert int(found) == int(_scaled(30, scale))
    for size in range(1, 200):
        if isinstance(found, Size):
            assert evaluate(repr(found), {"n": size}) == _scaled(size, scale)


def test_formulas_are_short_and_read_well():
    size = Size.open("height", 224)
    for _ in range(5):
        size = (size + 2 - 2 - 1) // 2 + 1
    assert repr(size) == "(height + 31)//32"
    width = Size.open("width", 10)
    assert spelled([2 * size * width // width, 3, width - width]) == [
        "2*((height + 31)//32)", 3, 0,
    ]  # fmt: skip
    assert repr((width + 31) // 32 * 32 - width) == "32*((width + 31)//32) - width"
    assert Value("x", (None, 3, size)).shape_text == "(N, 3, (height + 31)//32)"


def test_a_formula_that_grows_too_long_is_given_up():
    size = Size.open("height", 224)
    for count in range(2, 12):
        longest, size = size, size * size // count % 1000 + count
        if not isinstance(size, Size):
            break
    assert type(size) is int
    assert 100 < len(repr(longest)) <= LONGEST


def test_broadcasting_keeps_formulas():
    height = Size.open("height", 8)
    assert spelled(broadcast((2, 1, height), (height, 1))) == [2, "height", "height"]
    assert spelled(broadcast((8,), (height,))) == [8]
    with pytest.raises(ValueError, match="broadcast"):
        broadcast((3,), (height,))


@pytest.mark.parametrize(
    "text",
    [
        "", "h +", "h.real", "h[0]", "h**9", "h/2", "h % 2", "len(h)", "max(h)", "max(h, 1, 2)",
        "1.5", "'h'", "True", "z", "h if h else 1", "(lambda: 1)()", "max(h, key=1)",
        "-" * 900,        "(" * 300 + "h" + ")" * 300, "__import__('os')",
    ],
)  # fmt: skip
def test_what_is_no_formula_is_refused(text):
    with pytest.raises(GraphError, match="is no formula of h"):
        assert evaluate(text, {"h": 3}) == "never"


def test_a_formula_has_limits():
    with pytest.raises(GraphError, match="characters"):
        evaluate("h" + "+1" * LONGEST, {"h": 3})
    with pytest.raises(GraphError, match=r"'1//\(h - 3\)' divides by 0 where h = 3"):
        evaluate("1//(h - 3)", {"h": 3})


def test_factors_may_be_larger_than_any_float():
    height = Size.open("height", 8)
    assert spelled([largest(10**400 * height, height)]) == [f"{10**400}*height"]


def test_names_of_open_sizes():
    assert all(map(is_name, ("height", "s_2", "H")))
    assert not any(map(is_name, ("", "2h", "a b", "max", "N", "if", "é", "h.2")))
