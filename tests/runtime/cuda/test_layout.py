"""Where values lie on the device: addresses, halos, and memory that is never shared too early."""

from __future__ import annotations

from itertools import combinations
from math import prod

import numpy as np
import pytest
from builder import Builder
from hypothesis import given
from hypothesis import strategies as st

from masktools.checkpoint import Checkpoint
from masktools.network.graph import Graph, Node, Value
from runtime.cuda.arena import ALIGNMENT, Arena, arena
from runtime.cuda.layout import LARGEST, NO_HALO, Layout, image, layouts, shares
from runtime.errors import PlanError
from runtime.plan import plan as plans
from runtime.plan.steps import Reshape


def eights(n):
    return -(-n // 8) * 8


def addresses(layout):
    """Return the address of every element of a value, in the value's own shape."""
    at = np.indices(layout.shape).reshape(len(layout.shape), -1)
    return (layout.origin + np.array(layout.strides) @ at).reshape(layout.shape)


def built(builder, *outputs):
    return plans.build(Checkpoint(builder.graph(*outputs)))


def network():
    """A padded stack, a skip add, a flatten: halos of two sizes and values without."""
    b = Builder(channels=4)
    a = b.act("Relu", b.conv("x", 8))
    c = b.add_skip(b.conv(a, 8, k=5), a)
    return built(b, b.fc(b.act("Sigmoid", c), 5))


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=6).map(tuple),
    halo=st.tuples(*[st.integers(0, 3)] * 4),
    spare=st.integers(0, 7),
)
def test_every_element_has_a_place_of_its_own_and_halos_none(shape, halo, spare):
    if len(shape) < 4:
        halo = (0, halo[1], 0, halo[3]) if len(shape) == 3 else NO_HALO
    layout = Layout(shape, shape[0] + spare, halo)
    at = addresses(layout)
    assert len(np.unique(at)) == prod(shape)
    assert at.min() >= 0
    assert at.max() < layout.size
    if len(shape) > 1:
        memory = np.full(layout.size, np.nan)
        memory[at] = 1
        whole = memory.reshape(*layout.padded, layout.lanes)[..., : shape[0]]
        top, left, bottom, right = halo
        pads = {3: [(left, right)], 4: [(top, bottom), (left, right)]}.get(min(len(shape), 4), [])
        inner = [slice(None)] * (len(shape) - 1 - len(pads))
        inner += [
            slice(a, n - b)
            for (a, b), n in zip(pads, whole.shape[-3:][-1 - len(pads) : -1], strict=True)
        ]
        assert (whole[tuple(inner)] == 1).all()
        assert np.nansum(whole) == prod(shape)


def test_the_batch_lies_innermost_and_a_pixel_is_one_run():
    layout = Layout((3, 2, 4, 5), 8, (1, 2, 3, 4))
    assert layout.padded == (2, 8, 11)
    assert layout.strides == (1, 8 * 11 * 8, 11 * 8, 8)
    assert layout.origin == (1 * 11 + 2) * 8
    assert layout.plane * 2 == layout.size == 2 * 8 * 11 * 8


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [((3, 7), (7, 1, 1)), ((3, 7, 4), (7, 1, 4)), ((3, 7, 5, 4), (7, 5, 4))],
)
def test_an_image_addresses_what_the_layout_does(shape, wanted):
    halo = {2: NO_HALO, 3: (0, 1, 0, 2), 4: (1, 2, 3, 4)}[len(shape)]
    layout = Layout(shape, 8, halo)
    view = image(layout)
    assert (view.channels, view.height, view.width) == wanted
    c, y, x = np.indices(wanted)
    at = view.origin + c * view.channel + y * view.y + x * view.x
    whole = addresses(layout)[0].reshape(wanted)
    np.testing.assert_array_equal(at, whole)


# --- halos ---------------------------------------------------------------------------------------


def test_a_value_has_the_widest_halo_of_its_readers_and_others_none():
    made = layouts(network(), 3, eights)
    halos = sorted(layout.halo for layout in made.values())
    assert halos.count((1, 1, 1, 1)) == 1
    assert halos.count((2, 2, 2, 2)) == 1
    assert halos.count(NO_HALO) == len(halos) - 2


def windowed(size, **attributes):
    window = {"strides": (1, 1), "dilations": (1, 1), "pads": (0,) * 4, "group": 1, **attributes}
    node = Node("n", "Conv", ("x", "w"), ("y",), window)
    constants = {"w": np.ones((2, 3, 3, 3), np.float32)}
    reach = [2 * d + 1 for d in window["dilations"]]
    out = [
        (size + window["pads"][a] + window["pads"][a + 2] - reach[a]) // window["strides"][a] + 1
        for a in (0, 1)
    ]
    graph = Graph(
        (Value("x", (None, 3, size, size)),), (Value("y", (None, 2, *out)),), (node,), constants
    )
    return plans.build(Checkpoint(graph))


@pytest.mark.parametrize(
    ("attributes", "halo"),
    [
        ({"pads": (1, 2, 3, 0)}, (1, 2, 3, 0)),
        ({"pads": (1, 1, 1, 1), "strides": (2, 2)}, (1, 1, 0, 0)),  # The last pad is not reached.
        ({"pads": (1, 1, 1, 1), "strides": (4, 3)}, (1, 1, 0, 0)),
        ({"pads": (2, 2, 2, 2), "dilations": (2, 2)}, (2, 2, 2, 2)),
        ({}, NO_HALO),
    ],
)
def test_a_halo_is_as_wide_as_is_read(attributes, halo):
    assert layouts(windowed(6, **attributes), 1, eights)["x"].halo == halo


def test_every_tap_of_a_padded_convolution_reads_inside_the_memory():
    network = windowed(5, pads=(1, 2, 2, 1), strides=(2, 3), dilations=(1, 2))
    made = layouts(network, 2, eights)
    step, x, y = network.steps[0], image(made["x"]), image(made["y"])
    at = [
        x.origin + (oy * 2 - 1 + ky) * x.y + (ox * 3 - 2 + 2 * kx) * x.x
        for oy in range(y.height)
        for ox in range(y.width)
        for ky in range(step.kernel[0])
        for kx in range(step.kernel[1])
    ]
    assert min(at) >= 0
    assert max(at) + 2 * x.channel < made["x"].size


def test_a_value_that_32_bits_cannot_count_is_refused():
    network = windowed(6)
    assert layouts(network, (LARGEST // (3 * 36)) // 8 * 8, eights)
    with pytest.raises(PlanError, match=r"value 'x' of shape .* run a smaller batch"):
        layouts(network, LARGEST // (3 * 36) + 8, eights)


# --- the arena -----------------------------------------------------------------------------------


def lifetimes(plan, values):
    """Return, for each value, the steps from which to which it is alive, by brute force."""
    alive = {v.name: [-1, -1] for v in plan.inputs}
    for index, step in enumerate(plan.steps):
        alive[step.output] = [index, index]
        for value in step.inputs:
            alive[value][1] = index
    for value in plan.results.values():
        alive[value][1] = len(plan.steps)
    return alive


def assert_apart(plan, values, made: Arena, scratch):
    alive = lifetimes(plan, values)
    sizes = {name: values[name].size for name in values}
    for index, size in scratch.items():
        alive[f"scratch:{index}"] = [index, index]
        sizes[f"scratch:{index}"] = size
    shared = {
        (step.inputs[0], step.output)
        for step in plan.steps
        if isinstance(step, Reshape) and shares(step, values)
    }
    for a, b in combinations(alive, 2):
        together = alive[a][0] <= alive[b][1] and alive[b][0] <= alive[a][1]
        overlap = max(made.offsets[a], made.offsets[b]) < min(
            made.offsets[a] + sizes[a], made.offsets[b] + sizes[b]
        )
        if (a, b) in shared:
            assert made.offsets[a] == made.offsets[b]
        else:
            assert not (together and overlap), f"{a} and {b} share memory"
    assert max(made.offsets[v] + sizes[v] for v in alive) <= made.elements


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_what_is_alive_at_once_lies_apart(batch):
    plan = network()
    values = layouts(plan, batch, eights)
    scratch = {0: 1000, 2: 50}
    assert_apart(plan, values, arena(plan, values, scratch), scratch)


def test_the_check_sees_memory_that_is_shared_too_early():
    plan = network()
    values = layouts(plan, 2, eights)
    made = arena(plan, values, {})
    first = plan.steps[0]
    made.offsets[first.output] = made.offsets[first.inputs[0]] + 8
    with pytest.raises(AssertionError, match="share memory"):
        assert_apart(plan, values, made, {})


def test_memory_is_handed_on():
    b = Builder(channels=4)
    x = "x"
    for _ in range(12):
        x = b.conv(x, 8)
    plan = built(b, b.act("Sigmoid", x))
    values = layouts(plan, 8, eights)
    made = arena(plan, values, {})
    most = max(layout.size for layout in values.values())
    assert made.elements <= 4 * most
    assert_apart(plan, values, made, {})


def test_halos_are_never_written_by_what_lies_there_before_or_after():
    """Interiors are overwritten in the order of the steps; every halo is still zero at the end."""
    plan = network()
    values = layouts(plan, 3, eights)
    made = arena(plan, values, {1: 999})
    memory = np.full(made.elements, np.nan)
    for start, end in made.zeroed:
        memory[start:end] = 0
    for value in [v.name for v in plan.inputs] + [step.output for step in plan.steps]:
        layout = values[value]
        lanes = Layout((layout.lanes, *layout.shape[1:]), layout.lanes, layout.halo)
        part = memory[made.offsets[value] :][: layout.size]
        real = np.zeros(layout.size, bool)
        real[addresses(lanes)] = True
        part[real] = np.nan
        assert (part[~real] == 0).all()


@given(
    halos=st.lists(st.sampled_from([0, 1, 2]), min_size=2, max_size=8),
    channels=st.lists(st.integers(1, 40), min_size=8, max_size=8),
    batch=st.sampled_from([1, 3, 8, 65]),
)
def test_any_chain_is_placed_apart_and_aligned(halos, channels, batch):
    b = Builder(channels=3)
    x = "x"
    for halo, rows in zip(halos, channels, strict=False):
        x = b.conv(x, rows, k=2 * halo + 1)
    plan = built(b, b.act("Sigmoid", x))
    values = layouts(plan, batch, eights)
    scratch = {0: 123}
    made = arena(plan, values, scratch)
    assert_apart(plan, values, made, scratch)
    assert all(at % 8 == 0 for at in made.offsets.values())
    assert all(
        at % ALIGNMENT == 0
        for v, at in made.offsets.items()
        if v in values and values[v].halo == NO_HALO
    )


def test_a_flatten_moves_nothing_unless_there_is_a_halo_or_another_batch():
    values = {
        "a": Layout((4, 2, 3, 3), 8), "flat": Layout((4, 18), 8), "one": Layout((1, 72), 8),
        "haloed": Layout((4, 2, 3, 3), 8, (1, 1, 1, 1)),
    }  # fmt: skip

    def reshape(source, target):
        return shares(Reshape(name="r", inputs=(source,), output=target), values)

    assert reshape("a", "flat")
    assert not reshape("haloed", "flat")
    assert not reshape("a", "one")
