"""Which planes an unfolded convolution reads: held to a convolution by its definition."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runtime.cpu.kernels.unfold import unfolding

PAIRS = st.tuples(st.integers(1, 4), st.integers(1, 4))


def value(image, y, x):
    """Return an entry of an image, 0 outside."""
    inside = 0 <= y < image.shape[0] and 0 <= x < image.shape[1]
    return image[y, x] if inside else 0.0


@given(
    kernel=PAIRS,
    strides=PAIRS,
    dilations=PAIRS,
    pads=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    flowing=st.booleans(),
)
def test_every_tap_finds_its_entry_in_a_plane(kernel, strides, dilations, pads, size, flowing):
    image = np.arange(1.0, size[0] * size[1] + 1).reshape(size)
    made = unfolding(kernel, strides, dilations, pads, flowing)
    rows, columns = 3, 4
    planes = [
        [
            [
                value(image, y0 + i * strides[0], x0 + k * strides[1])
                for k in range(columns + made.columns)
            ]
            for i in range(rows + beyond)
        ]
        for y0, x0, beyond in made.origins.tolist()
    ]
    for tap, (ky, kx) in enumerate(np.ndindex(*kernel)):
        plane, row, column = made.tap_planes[tap], made.tap_rows[tap], made.tap_columns[tap]
        for i, k in np.ndindex(rows, columns):
            y = i * strides[0] + ky * dilations[0] - pads[0]
            x = k * strides[1] + kx * dilations[1] - pads[1]
            assert planes[plane][row + i][column + k] == value(image, y, x)


def test_planes_are_as_few_as_phases():
    assert unfolding((3, 3), (1, 1), (1, 1), (1, 1)).planes == 1
    assert unfolding((3, 3), (2, 2), (1, 1), (1, 1)).planes == 4
    assert unfolding((1, 1), (2, 2), (1, 1), (0, 0)).planes == 1
    assert unfolding((7, 7), (2, 2), (1, 1), (3, 3)).planes == 4
    assert unfolding((3, 3), (2, 2), (2, 2), (2, 2)).planes == 1, "one phase alone"


def test_planes_that_flow_have_no_columns_beyond_the_output():
    made = unfolding((3, 3), (2, 2), (1, 1), (1, 1), flowing=True)
    assert (made.planes, made.columns) == (6, 0)
    assert unfolding((7, 7), (2, 2), (1, 1), (3, 3), flowing=True).planes == 14
    assert unfolding((7, 7), (2, 2), (1, 1), (3, 3)).columns == 3


def test_a_plane_has_rows_for_the_taps_that_share_it():
    made = unfolding((3, 3), (1, 1), (2, 2), (2, 2))
    assert made.origins[:, 2].tolist() == [4]
    assert made.plane_rows(10) == 14
