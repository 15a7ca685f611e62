"""Depthwise convolutions: the kernels by their definition, and when a plan is computed by them."""

from __future__ import annotations

import numpy as np
import pytest
from builder import Builder
from cpu_native import NO_ACTIVATION, activation, image, module, variants
from drawn_layers import convolved
from hypothesis import given, settings
from hypothesis import strategies as st

from masktools.checkpoint import Checkpoint
from runtime.cpu import native
from runtime.cpu.backend import CpuBackend
from runtime.cpu.choice.kernels import KERNELS
from runtime.cpu.kernels import depthwise
from runtime.cpu.kernels.problem import Problem
from runtime.cpu.machine import Machine
from runtime.cpu.memory.layout import Form, View, as_image
from runtime.cpu.memory.window import Window
from runtime.cpu.weights.row_groups import shape_of
from runtime.model import Model
from runtime.plan import plan
from runtime.reference.backend import ReferenceBackend

MACHINE = Machine(16, 1)
SLACK = 64  # elements that kernels may read beside an arena
ACTIVATIONS = {
    NO_ACTIVATION: lambda x: x,
    ("Relu", 0.0, 0.0): lambda x: np.maximum(x, 0),
    ("Clip", -0.5, 0.75): lambda x: np.clip(x, -0.5, 0.75),
    ("LeakyRelu", 0.1, 0.0): lambda x: np.where(x < 0, 0.1 * x, x),
    ("Sigmoid", 0.0, 0.0): lambda x: 1 / (1 + np.exp(-x)),
    ("HardSwish", 0.0, 0.0): lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
}


class Arena:
    """Values side by side in an arena of NaN, laid out as plans lay them out.

    Parameters
    ----------
    seed : int
    """

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.elements = SLACK
        self.values = []

    def add(self, lanes, channels, height, width, halo):
        """Return a view, (lanes, channels, height, width), of rows with `halo` pixels beside."""
        form = Form(lanes, channels, height, width, lanes, halo)
        view = View.of_form(0, form, (lanes, channels, height, width))
        view = (self.elements + view.offset, view.shape, view.strides)
        self.elements += form.elements
        return view

    def give(self, view, halo):
        """Fill a view with numbers, and what lies beside its rows with zeros."""
        lanes, channels, height, width = view[1]
        offset, shape, strides = view
        numbers = self.random.standard_normal(shape).astype(np.float32)
        beside = (channels, height, halo * lanes)
        self.values.append(((offset + width * lanes, beside, (*strides[1:3], 1)), 0))
        beside = (channels, halo * lanes)
        self.values.append(((offset - halo * lanes, beside, (strides[1], 1)), 0))
        self.values.append((view, numbers))
        return numbers

    def array(self):
        """Return the arena."""
        made = np.full(self.elements + SLACK, np.nan, np.float32)
        for view, numbers in self.values:
            seen(made, view)[...] = numbers
        return made


def seen(arena, view):
    offset, shape, strides = view
    return np.lib.stride_tricks.as_strided(arena[offset:], shape, [4 * s for s in strides])


def fields_of(view, halo):
    """Return a view as an image, as the kernels take it."""
    offset, (lanes, planes, *size), (_, plane, row, _) = view
    return image(offset, planes, plane, tuple(size), lanes, row // lanes, halo)


def executed(native, arena, add, threads, dtype):
    program = native.Program(arena.size, threads, dtype)
    whole = (0, (arena.size,), (1,))
    program.copy_in(-1, index=0, y=whole)
    add(program)
    program.copy_out(-1, x=whole, index=0)
    out = np.empty_like(arena)
    program.run([arena], [out], None)
    return out


def rounded(values):
    """Return the nearest numbers of bfloat16."""
    words = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((words + 0x7FFF + ((words >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def sizes(case, lanes, vector):
    """Return the size of the output and the halo that x needs, or None where there is no such."""
    (kh, kw), (sy, sx), (dy, dx), (top, left) = (
        case[n] for n in ("kernel", "strides", "dilations", "pads")
    )
    height = (case["height"] + top + case["below"] - dy * (kh - 1) - 1) // sy + 1
    width = (case["width"] + left + case["right"] - dx * (kw - 1) - 1) // sx + 1
    if height < 1 or width < 1:
        return None
    reach = max(left, (width - 1) * sx + (kw - 1) * dx - left - (case["width"] - 1), 0)
    if not depthwise.finds_pixels(sx, lanes, vector):
        return None
    return height, width, 0 if lanes % vector == 0 else reach


PAIR = st.tuples(st.integers(1, 3), st.integers(1, 2))
DEPTHWISE = st.fixed_dictionaries(
    {
        "lanes": st.sampled_from([1, 1, 2, 3, 4, 5, 7, 8, 8, 9, 16, 17, 32, 48]),
        "channels": st.integers(1, 5),
        "multiplier": st.sampled_from([1, 1, 2]),
        "height": st.integers(1, 19),
        "width": st.integers(1, 37),
        "kernel": st.sampled_from(
            [(3, 3), (3, 3), (5, 5), (5, 5), (7, 7), (1, 1), (3, 1), (1, 4), (2, 3)]
        ),
        "strides": st.sampled_from([(1, 1), (1, 1), (2, 2), (2, 2), (1, 2), (2, 1), (3, 3)]),
        "dilations": st.sampled_from([(1, 1), (1, 1), (1, 2), (2, 1), (2, 2)]),
        "pads": st.sampled_from([(1, 1), (1, 1), (0, 0), (2, 2), (0, 1), (3, 2), (3, 3)]),
        "below": st.integers(0, 3),
        "right": st.integers(0, 2),
        "halo": st.integers(0, 2),
        "skip": st.booleans(),
        "activation": st.sampled_from(list(ACTIVATIONS)),
        "strips": st.integers(1, 3),
        "parts": st.integers(1, 3),
        "seed": st.integers(0, 1 << 16),
    }
)


@pytest.mark.parametrize("variant", variants())
@settings(max_examples=150)
@given(case=DEPTHWISE, bfloat16=st.booleans())
def test_kernels_are_convolutions_by_definition(variant, case, bfloat16):
    native, lanes = module(variant), case["lanes"]
    fits = sizes(case, lanes, native.lanes)
    if fits is None:
        return
    height, width, reach = fits
    halo = 0 if lanes % native.lanes == 0 else case["halo"]
    rows = case["channels"] * case["multiplier"]
    arena = Arena(case["seed"])
    x = arena.add(lanes, case["channels"], case["height"], case["width"], reach)
    y = arena.add(lanes, rows, height, width, halo)
    skip = arena.add(lanes, rows, height, width, halo) if case["skip"] else None
    exact = rounded if bfloat16 else np.asarray
    pixels = exact(arena.give(x, reach))
    added = exact(arena.give(skip, halo)) if skip else 0
    weights = exact(arena.random.standard_normal((rows, *case["kernel"])).astype(np.float32))
    bias = arena.random.standard_normal(rows).astype(np.float32)
    before = exact(arena.array())
    window = Window(*(case[name] for name in ("kernel", "strides", "dilations", "pads")))
    after = executed(
        native,
        before,
        lambda program: program.depthwise(
            0, x=fields_of(x, 0), y=fields_of(y, halo), skip=skip and fields_of(skip, 0),
            window=window.fields, weights=weights.reshape(rows, -1), bias=bias,
            activation=activation(*case["activation"]),
            strips=case["strips"], parts=case["parts"],
        ),
        2,
        "bfloat16" if bfloat16 else "float32",
    )  # fmt: skip
    attributes = {
        "strides": case["strides"], "dilations": case["dilations"], "group": case["channels"],
        "pads": (*case["pads"], case["below"], case["right"]),
    }  # fmt: skip
    wanted = convolved(pixels, weights[:, None], attributes) + bias.reshape(-1, 1, 1) + added
    wanted = ACTIVATIONS[case["activation"]](wanted)
    tolerance = 5e-3 if bfloat16 else 2e-5
    np.testing.assert_allclose(seen(after, y), wanted, rtol=tolerance, atol=tolerance)
    # Zeros beside its rows, and all else as it was.
    expected = before.copy()
    mirror = Arena(0)
    mirror.give(y, halo)
    for view, _ in mirror.values:
        seen(expected, view)[...] = 0
    seen(after, y)[...] = 0
    np.testing.assert_array_equal(after, expected)


@pytest.mark.parametrize("variant", variants())
def test_a_wrong_weight_is_seen(variant):
    arena = Arena(0)
    x, y = arena.add(1, 2, 5, 5, 1), arena.add(1, 2, 5, 5, 1)
    pixels = arena.give(x, 1)
    weights = np.ones((2, 9), np.float32)
    wrong = weights.copy()
    wrong[1, 4] += 1
    fields = {
        **GOOD, "x": fields_of(x, 0), "y": fields_of(y, 1), "weights": wrong,
        "bias": np.empty(0, np.float32),
    }  # fmt: skip
    after = executed(
        module(variant),
        arena.array(),
        lambda p: p.depthwise(0, **fields),
        1,
        "float32",
    )
    attributes = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "group": 2}
    right = convolved(pixels, weights.reshape(2, 1, 3, 3), attributes)
    near = np.isclose(seen(after, y), right, atol=1e-4)
    assert near[:, 0].all()
    assert not near[:, 1].all()


def changed(name, **fields):
    """Return an image of the layer that fits, with other fields."""
    return {name: {**GOOD[name], **fields}}


def windowed(kernel=(3, 3), strides=(1, 1), dilations=(1, 1), pads=(1, 1)):
    return {"window": Window(kernel, strides, dilations, pads).fields}


GOOD = {
    "x": image(8, 2, 32, (4, 4), 1, 5, 0),
    "y": image(80, 2, 32, (4, 4), 1, 5, 1),
    "skip": None,
    **windowed(),
    "weights": np.ones((2, 9), np.float32),
    "bias": np.ones(2, np.float32),
    "activation": None,
    "strips": 1,
    "parts": 1,
}
BAD = {
    "x outside": (changed("x", offset=120), "of an arena of"),
    "x far from zeros": (changed("x", width=1 << 23, plane=0, row=0), "of an arena of"),
    "y outside": (changed("y", offset=130), "of an arena of"),
    "y overlaps itself": (changed("y", plane=4), "several indices"),
    "skip outside": ({"skip": {**GOOD["y"], "offset": 120}}, "of an arena of"),
    "skip of another shape": ({"skip": {**GOOD["y"], "width": 3}}, "differ"),
    "no room for the halo": (changed("y", halo=2), "no room"),
    "no room before": (changed("y", offset=0), "no room"),
    "channels": (changed("y", planes=1), "do not fit"),
    "lanes apart": (changed("x", lanes=2, height=2, width=2, plane=16, row=5), "do not fit"),
    "pixels apart": (changed("x", row=8, pixel=2), "side by side"),
    "stride": (windowed(strides=(1, 3)), "stride of 1 or 2"),
    "no stride": (windowed(strides=(0, 1)), "impossible window"),
    "negative pad": (windowed(pads=(-1, 1)), "impossible window"),
    "huge dilation": (windowed(dilations=(1, 1 << 40)), "impossible size"),
    "reads beyond the slack": (windowed(dilations=(1, 200)), "no zeros"),
    "reads before the slack": (windowed(pads=(1, 99)), "no zeros"),
    "weights": (windowed(kernel=(3, 2)), "weights of every tap"),
    "bias": ({"bias": np.ones(3, np.float32)}, "bias and y"),
    "strips": ({"strips": 0}, "strips"),
    "parts": ({"parts": -1}, "parts"),
}


@pytest.mark.parametrize("variant", variants())
def test_a_layer_that_fits_is_taken(variant):
    module(variant).Program(160, 1, "float32").depthwise(0, **GOOD)


@pytest.mark.parametrize("variant", variants())
@pytest.mark.parametrize("case", BAD)
def test_a_layer_that_does_not_fit_is_refused(variant, case):
    changes, message = BAD[case]
    program = module(variant).Program(160, 1, "float32")
    with pytest.raises(ValueError, match=message):
        program.depthwise(0, **{**GOOD, **changes})


# --- plans -------------------------------------------------------------------------------------


def separable(b):
    """Return a network of depthwise layers of every kind that the kernels take, and some they do
    not.
    """

    def depthwise(x, k, stride, pad, multiplier=1, dilation=1):
        rows = b.channels[x] * multiplier
        name = f"d{len(b.nodes)}"
        inputs = [x, b.constant(f"{name}.w", rows, 1, k, k), b.constant(f"{name}.b", rows)]
        size = (b.size[x] + 2 * pad - dilation * (k - 1) - 1) // stride + 1
        return b.add(
            "Conv", inputs, rows, size, strides=(stride, stride), dilations=(dilation,) * 2,
            pads=(pad,) * 4, group=b.channels[x],
        )  # fmt: skip

    a = b.act("Relu", depthwise("x", 3, 1, 1))
    c = b.act("HardSwish", b.add_skip(depthwise(a, 3, 1, 1), a))
    d = depthwise(c, 5, 1, 2, multiplier=2)
    e = b.act("Relu", depthwise(b.conv(d, 4, 1), 3, 2, 1))
    f = depthwise(b.concat(e, e), 3, 2, 1)
    return b.fc(e, 5), f, depthwise(d, 3, 1, 2, dilation=2), depthwise(a, 2, 3, 0)


@pytest.fixture(scope="module")
def network():
    b = Builder()
    return plan.build(Checkpoint(b.graph(*separable(b))))


@pytest.mark.parametrize("variant", variants())
@pytest.mark.parametrize("threads", [1, 2])
def test_networks_at_every_batch(variant, threads, network, monkeypatch):
    monkeypatch.setenv(native.VARIABLE, variant)
    ours = Model(network, CpuBackend(), threads=threads)
    exact = Model(network, ReferenceBackend(), "float64")
    for batch in (1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 64, 65):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 6, 6)).astype(np.float32)
        for a, b in zip(ours(x).values(), exact(x).values(), strict=True):
            assert np.abs(a - b).max() <= 1e-5 * max(np.abs(b).max(), 1)


def problem(groups, shape, lanes=16, stride=1, size=12):
    """Return a layer of `size` pixels squared, and wide images by strides."""
    weight = np.ones(shape, np.float32)
    kernel = shape[2:]
    window = Window(kernel, (1, stride), pads=(kernel[0] // 2, kernel[1] // 2))
    image = (size, size * stride)
    return Problem(weight, shape_of(weight, groups), size, size, lanes, image, window)


def can(made, machine=MACHINE):
    return KERNELS[0].cost(made, machine) < float("inf")


def test_one_input_channel_of_all_rows_is_no_depthwise_layer():
    assert KERNELS[0].name == "depthwise"
    assert can(problem(4, (4, 1, 3, 3)))
    assert can(problem(4, (8, 1, 3, 3)))
    assert not can(problem(1, (4, 1, 3, 3)))
    assert not can(problem(2, (4, 2, 3, 3)))


def test_pixels_are_found_in_place_or_another_kernel_is_taken():
    """Vectors along pixels take strides of 1 and 2, and zeros beside rows that are long enough."""
    layers = {(1, 1): True, (1, 2): True, (1, 3): False, (3, 2): False, (16, 3): True}
    for (lanes, stride), taken in layers.items():
        assert can(problem(4, (4, 1, 3, 3), lanes, stride)) == taken, (lanes, stride)
    # Zeros as wide as the image, but no wider.
    assert can(problem(4, (4, 1, 7, 7), lanes=1, size=3))
    assert not can(problem(4, (4, 1, 7, 7), lanes=1, size=2))
    assert can(problem(4, (4, 1, 7, 7), lanes=16, size=2))
    made = problem(4, (4, 1, 3, 3), lanes=1, stride=2)
    assert KERNELS[0].halo(made, MACHINE) == made.reach == 1


def test_weights_are_rounded_where_values_are():
    weight = np.array([1.0, 1.00390625, 1.01171875], np.float32).reshape(3, 1, 1, 1)
    assert (
        depthwise.weights_of(weight, as_bfloat16=False).ravel().tolist() == weight.ravel().tolist()
    )
    rounded_ = depthwise.weights_of(weight, as_bfloat16=True)
    assert rounded_.ravel().tolist() == [1.0, 1.0, 1.015625]


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("height", [1, 7, 112])
def test_every_thread_has_work_and_none_of_it_is_small(threads, height):
    view = View.of_form(0, Form(8, 64, height, 56, 8), (8, 64, height, 56))
    y = as_image(view)
    assert y is not None
    made = depthwise.configured(y, Machine(16, threads))
    assert made["strips"] <= min(threads, -(-height // 4))
    assert 1 <= made["strips"] * made["parts"] <= max(4 * threads, 1)
    if height == 112:
        assert made["strips"] == threads
