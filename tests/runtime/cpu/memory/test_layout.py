"""Views, forms and the arena: what lies where, and that nothing lies on another's place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.cpu.memory.arena import Buffers
from runtime.cpu.memory.layout import (
    Form,
    View,
    as_image,
    contiguous,
    padded_batch,
    reshaped_strides,
)

SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


def seen(view, buffer):
    return np.lib.stride_tricks.as_strided(
        buffer[view.offset :], view.shape, [buffer.itemsize * s for s in view.strides]
    )


def forms():
    return st.builds(
        lambda b, c, h, w, v, halo: Form(b, c, h, w, padded_batch(b, v), halo if v > b else 0),
        st.integers(1, 20), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9),
        st.sampled_from([4, 8, 16]), st.integers(0, 2),
    )  # fmt: skip


@given(form=forms())
def test_elements_of_a_form_are_distinct_and_inside(form):
    view = View.of_form(0, form, (form.batch, form.channels, form.height, form.width))
    found = seen(view, np.arange(form.elements + 64)).ravel()
    assert len(np.unique(found)) == found.size
    assert found.max() < form.elements


@given(form=forms())
def test_halos_lie_beside_every_row_and_hold_nothing(form):
    """`halo` pixels before and after each row belong to no value."""
    shape = (form.lanes, form.channels, form.height, form.width)
    view = View.of_form(0, form, shape)
    mine = set(seen(view, np.arange(form.elements + 64)).ravel().tolist())
    lanes = form.halo * form.lanes
    image = as_image(view)
    for plane in range(form.channels):
        for row in range(form.height):
            start = view.offset + plane * image.plane + row * image.row
            end = start + form.width * form.lanes
            beside = {*range(start - lanes, start), *range(end, end + lanes)}
            assert not beside & mine
            assert min(beside, default=0) >= 0
            assert max(beside, default=0) < form.elements


@given(form=forms())
def test_planes_fall_on_all_sets_of_the_cache(form):
    assert form.plane < 16 or form.plane // 16 % 2 == 1
    assert form.plane < 16 or (form.plane % 16, form.lead % 16) == (0, 0)


@pytest.mark.parametrize(
    ("batch", "vector", "lanes"),
    [(1, 16, 1), (15, 16, 16), (14, 16, 14), (16, 16, 16), (17, 16, 17), (65, 4, 68), (31, 8, 32)],
)
def test_batches_are_padded_where_little_is_lost(batch, vector, lanes):
    assert padded_batch(batch, vector) == lanes


@given(shape=SIZES, data=st.data())
def test_reshaped_strides_are_those_of_numpy(shape, data):
    perm = data.draw(st.permutations(range(len(shape))))
    array = np.arange(np.prod(shape)).reshape(shape).transpose(perm)
    size, wanted = array.size, []
    while size > 1 and len(wanted) < 3:
        wanted.append(data.draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0])))
        size //= wanted[-1]
    wanted.append(size)
    strides = tuple(s // array.itemsize for s in array.strides)
    found = reshaped_strides(array.shape, strides, tuple(wanted))
    reshaped = array.reshape(wanted)
    if found is None:
        assert not np.shares_memory(reshaped, array)
        return
    flat = np.arange(array.size)
    np.testing.assert_array_equal(seen(View(0, 0, tuple(wanted), found, 1), flat), reshaped)


def test_views_cut_and_turn_as_arrays_do():
    buffer = np.arange(2000)
    form = Form(3, 4, 5, 6, 3, 1)
    view = View.of_form(0, form, (3, 4, 5, 6))
    array = seen(view, buffer)
    part = view.sliced(1, 1, 3)
    np.testing.assert_array_equal(seen(part, buffer), array[:, 1:3])
    assert part.halo == 1
    cut = view.sliced(2, 0, 5, 2)
    np.testing.assert_array_equal(seen(cut, buffer), array[:, :, ::2])
    assert cut.halo == 0
    turned = view.transposed((0, 2, 3, 1))
    np.testing.assert_array_equal(seen(turned, buffer), array.transpose(0, 2, 3, 1))
    wide = View.plain(0, (4, 1, 1)).broadcast((3, 4, 5, 6))
    np.testing.assert_array_equal(
        seen(wide, buffer), np.broadcast_to(buffer[:4, None, None], (3, 4, 5, 6))
    )


def test_what_is_no_image_is_told():
    assert as_image(View.plain(0, (2, 3, 4, 5))) is None
    assert as_image(View.plain(0, (1, 3, 4, 5))) is not None
    assert as_image(View.plain(0, (1, 2, 3, 4, 5))) is None


@given(
    spans=st.lists(
        st.tuples(st.integers(1, 400), st.integers(0, 9), st.integers(0, 5)), max_size=20
    )
)
def test_buffers_that_live_together_lie_apart(spans):
    buffers = Buffers()
    for elements, first, length in spans:
        buffers.touch(buffers.add(elements, first), first + length)
    offsets, total = buffers.arranged()
    owner = np.full((16, total), -1)
    for number, (elements, first, length) in enumerate(spans):
        place = owner[first : first + length + 1, offsets[number] : offsets[number] + elements]
        assert place.shape[1] == elements
        assert (place == -1).all()
        place[...] = number
        assert offsets[number] % 16 == 0


def test_buffers_one_after_the_other_share_memory():
    buffers = Buffers()
    for at in range(30):
        buffers.touch(buffers.add(160, at), at + 1)
    assert buffers.arranged()[1] == 2 * 160


def test_contiguous_strides():
    assert contiguous((2, 3, 4)) == (12, 4, 1)
    assert contiguous(()) == ()
