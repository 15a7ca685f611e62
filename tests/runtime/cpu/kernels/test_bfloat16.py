"""Networks in bfloat16: what is rounded, how often, and where that is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builder import Builder
from cpu_native import image
from drawn_layers import CASES, convolved, drawn, layer
from hypothesis import given, settings
from hypothesis import strategies as st
from network_cases import BATCHES, NETWORKS, images, outputs, planned, window

from masktools.checkpoint import SparseWeight
from masktools.layout import BlockLayout, DenseBlock
from runtime.cpu import native
from runtime.cpu.backend import CpuBackend
from runtime.cpu.choice import kernels as chosen_kernels
from runtime.cpu.kernels.bfloat16 import (
    TILE_COLUMNS,
    TILE_ROWS,
    choose_scheme,
    group_cost,
    pack_tiles,
    product_kernel,
    rounded,
)
from runtime.cpu.kernels.runs import empty_runs
from runtime.cpu.weights.row_groups import Scheme, shape_of
from runtime.errors import BackendUnavailable, PlanError
from runtime.model import Model
from runtime.plan import plan, steps
from runtime.reference import steps as reference_steps
from runtime.reference.backend import ReferenceBackend

HALF_ULP = 2.0**-8  # the largest relative error of rounding a normal number
EPS = float(np.finfo(np.float32).eps)


def kernels():
    try:
        return native.load().bfloat16_kernels()
    except BackendUnavailable:
        return []


KERNELS = [
    pytest.param(name, marks=pytest.mark.skipif(name not in kernels(), reason=f"no {name} here"))
    for name in ("amx", "avx512_bf16")
]
here = pytest.mark.skipif(not kernels(), reason="no product of bfloat16 here")


@pytest.fixture(params=KERNELS)
def kernel(request, monkeypatch):
    monkeypatch.setattr(chosen_kernels, "product_kernel", lambda module: request.param)
    return request.param


def widened(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def nearest(values):
    """Return values as they are once stored."""
    return widened(rounded(np.asarray(values, np.float32)))


def model(made, threads=2):
    return Model(made, CpuBackend(), "bfloat16", threads)


# --- rounding ----------------------------------------------------------------------------------


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1))
def test_rounding_is_to_the_nearest(values):
    x = np.array(values, np.float32)
    bits = rounded(x)
    with np.errstate(over="ignore", invalid="ignore"):
        chosen = np.abs(widened(bits).astype(np.float64) - x)
        for other in (bits - np.uint16(1), bits + np.uint16(1)):
            # Beyond zero and infinity lie numbers of the other sign and NaN: no neighbours.
            neighbour = widened(other).astype(np.float64)
            real = np.isfinite(neighbour) & np.isfinite(widened(bits)) & (bits & 0x7FFF != 0)
            assert (chosen[real] <= np.abs(neighbour - x)[real]).all()


def test_rounding_ties_go_to_even_and_nothing_that_is_no_number_becomes_one():
    x = np.array([0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x7F800001, 0xFFFFFFFF], np.uint32)
    bits = rounded(x.view(np.float32))
    assert bits[:3].tolist() == [0x3F80, 0x3F82, 0x7F80]
    assert np.isnan(widened(bits)).tolist() == [False, False, False, True, True]


@here
def test_values_are_stored_as_weights_are_rounded():
    """An identity: what goes through the arena comes out as `rounded` has it."""
    b = Builder(channels=1)
    b.constants["one"] = np.ones((1, 1, 1, 1), np.float32)
    made = plan.build(layer(b.constants["one"], np.zeros((1, 1, 6, 6), np.float32), {
        "strides": (1, 1), "dilations": (1, 1), "pads": (0, 0, 0, 0), "group": 1,
    })[0])  # fmt: skip
    random = np.random.default_rng(0)
    x = random.standard_normal((17, 1, 6, 6)) * 10.0 ** random.integers(-30, 30, (17, 1, 6, 6))
    x = x.astype(np.float32)
    np.testing.assert_array_equal(model(made)(x), nearest(x))


# --- packing -----------------------------------------------------------------------------------


def unpacked(packed, shape):
    """Return the dense weight that tiles hold, rounded."""
    dense = np.zeros((shape.rows, shape.taps * shape.channels), np.float32)
    for g, (rows, columns) in enumerate(zip(packed.heights, packed.widths, strict=True)):
        at = packed.weight_starts[g]
        first = packed.column_starts[g]
        listed = packed.columns[first : first + columns]
        members = packed.rows[packed.row_starts[g] : packed.row_starts[g + 1]]
        if rows == 1:
            dense[members[0], listed] += packed.weights[at : at + 2 * columns].view(np.float32)
            continue
        down, along = -(-rows // TILE_ROWS), -(-columns // TILE_COLUMNS)
        tiles = packed.weights[at : at + down * along * TILE_ROWS * TILE_COLUMNS]
        tiles = tiles.reshape(down, along, TILE_ROWS, TILE_COLUMNS).swapaxes(1, 2)
        whole = widened(tiles.reshape(down * TILE_ROWS, along * TILE_COLUMNS))
        assert not whole[rows:].any()
        assert not whole[:, columns:].any()
        dense[np.ix_(members, listed)] += whole[:rows, :columns]
    by_tap = dense.reshape(shape.rows, shape.taps, shape.channels)
    return by_tap.swapaxes(1, 2)


@pytest.mark.parametrize("form", ["dense", "blocks", "rows"])
@pytest.mark.parametrize("height", [16, 40, 128])
def test_tiles_hold_every_weight_once(form, height):
    random = np.random.default_rng(height)
    mask = random.random((70, 9, 3, 3)) < 0.2
    mask[:33] = mask[0]
    mask[33:35] = mask[33]
    layout = BlockLayout.from_mask(mask, 2)
    dense = np.where(mask, random.standard_normal(mask.shape), 0).astype(np.float32)
    weight = SparseWeight.from_dense(dense, layout, layout.residual(mask))
    shape = shape_of(weight)
    packed = pack_tiles(weight, Scheme(form, height), shape)
    assert packed.weights.ctypes.data % 64 == 0
    assert (packed.weight_starts % 32 == 0).all()
    got = unpacked(packed, shape).reshape(dense.shape)
    np.testing.assert_array_equal(got, nearest(dense))


# --- which scheme ------------------------------------------------------------------------------


def stored(rows, columns, density, height):
    """Return a weight whose rows share their columns in groups of a height; 1: no two do."""
    random = np.random.default_rng(0)
    count = int(density * columns)
    chosen = [np.sort(random.permutation(columns)[:count]) for _ in range(rows // height)]
    blocks = tuple(
        DenseBlock(np.arange(i * height, (i + 1) * height, dtype=np.int32), c.astype(np.int32))
        for i, c in enumerate(chosen)
    )
    if height > 1:
        layout = BlockLayout((rows, columns), blocks)
        return SparseWeight(layout, np.ones(rows * count, np.float32), None)
    mask = np.zeros((rows, columns), np.bool_)
    for row, at in enumerate(chosen):
        mask[row, at] = True
    layout = BlockLayout((rows, columns), ())
    return SparseWeight.from_dense(mask.astype(np.float32), layout, layout.residual(mask))


@pytest.mark.parametrize(
    ("kernel", "density", "height", "form"),
    [
        ("amx", 0.2, 16, "blocks"),
        ("amx", 0.2, 1, "dense"),
        ("amx", 0.02, 1, "rows"),
        ("amx", 0.9, 16, "dense"),
        ("avx512_bf16", 0.2, 16, "blocks"),
        ("avx512_bf16", 0.2, 1, "rows"),
    ],
)
def test_the_scheme_that_takes_least_is_chosen(kernel, density, height, form):
    assert choose_scheme(stored(256, 2304, density, height), 1, kernel)[0].form == form


def test_what_a_group_takes_grows_with_its_tiles():
    for kernel in ("amx", "avx512_bf16"):
        assert group_cost(16, 32, kernel) < group_cost(16, 33, kernel)
        assert group_cost(16, 64, kernel) < group_cost(33, 64, kernel)
    assert group_cost(9, 64, "amx") + 70 == pytest.approx(group_cost(16, 64, "amx"))


# --- layers and networks -----------------------------------------------------------------------


def bound(x, dense, attributes, wanted):
    """Return how far one layer may be from exact arithmetic on rounded operands.

    The result is rounded once; sums of k products are off by k * eps * sum |w x| at most. Products
    below the smallest normal number may be lost.
    """
    terms = int(np.prod(dense.shape[1:])) + 3
    sums = convolved(np.abs(x), np.abs(dense), attributes)
    return HALF_ULP * np.abs(wanted) + 1.01 * terms * EPS * sums + 1e-30


@pytest.mark.parametrize("name", KERNELS)
@settings(max_examples=40)
@given(case=CASES, batch=st.sampled_from(BATCHES), rows=st.sampled_from([1, 6, 16, 18, 33]))
def test_layers_of_every_kind(name, case, batch, rows):
    x, sparse, dense, attributes = drawn({**case, "batch": batch, "rows": rows})
    x, dense = nearest(x), nearest(dense)
    bias = np.arange(len(dense), dtype=np.float32)
    wanted = convolved(x.astype(np.float64), dense.astype(np.float64), attributes)
    wanted = wanted + bias.reshape(-1, *[1] * (x.ndim - 2))
    most = bound(x, dense, attributes, wanted) + (len(bias) + 2) * EPS * np.abs(wanted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chosen_kernels, "product_kernel", lambda module: name)
        for weight in (sparse, dense):
            got = model(plan.build(layer(weight, x, attributes, bias)[0]))(x)
            assert (np.abs(got - wanted) <= most).all()


def test_a_weight_that_is_wrong_shows(kernel):
    """The bound is tight enough to see one weight off by two units in the last place."""
    x, _, dense, attributes = drawn(
        {"spatial": 2, "groups": 1, "rows": 18, "channels": 3, "batch": 16, "density": 1.0,
         "min_rows": 1, "seed": 3}
    )  # fmt: skip
    x, dense = nearest(x), nearest(dense)
    wanted = convolved(x.astype(np.float64), dense.astype(np.float64), attributes)
    most = bound(x, dense, attributes, wanted)
    wrong = dense.copy()
    wrong[7, 1, 0, 0] *= 1.5
    for weight, right in ((dense, True), (wrong, False)):
        got = model(plan.build(layer(weight, x, attributes)[0]))(x)
        assert bool((np.abs(got - wanted) <= most).all()) == right


def stored_as_bfloat16(made, x):
    """Return the outputs of a plan whose weights and values are rounded, all else in float64."""
    values = {"x": nearest(x).astype(np.float64)}
    for step in made.steps:
        if isinstance(step, steps.Weighted):
            dense = step.weight if isinstance(step.weight, np.ndarray) else step.weight.to_dense()
            step = replace(step, weight=nearest(dense).astype(np.float64))
        kernel = reference_steps.KERNELS[type(step)]
        found = kernel(step, made.shape(step.output, len(x)), [values[v] for v in step.inputs])
        values[step.output] = nearest(found).astype(np.float64)
    return [values[made.results[value.name]] for value in made.outputs]


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_at_every_batch(kernel, network):
    """Errors are those of storing each value: no step rounds more often than that."""
    made = planned(network)
    exact = Model(made, ReferenceBackend(), "float64")
    ours = model(made)
    for batch in BATCHES:
        x = images(batch)
        expected = stored_as_bfloat16(made, x)
        for a, b, c in zip(outputs(ours, x), expected, outputs(exact, x), strict=True):
            assert a.dtype == np.float32
            assert np.abs(a - c).max() <= 1.5 * np.abs(b - c).max() + HALF_ULP * np.abs(c).max()


def test_values_that_are_no_numbers_stay(kernel):
    for activation in ("Relu", "HardSwish"):

        def network(b, op=activation):
            a = b.act(op, b.conv("x", 4, 1))
            return b.add("MaxPool", [a], 4, 3, **window(2, 2)), a

        made = planned(network)
        for batch in (1, 16, 64):
            x = images(batch)
            x[0, 1, 2, 3] = np.nan
            with np.errstate(all="ignore"):
                want = outputs(Model(made, ReferenceBackend()), x)
            for a, b in zip(outputs(model(made), x), want, strict=True):
                np.testing.assert_array_equal(np.isnan(a), np.isnan(b))


def test_one_image_never_reaches_another(kernel):
    ours = model(planned(NETWORKS[0]))
    for batch in (2, 3, 16, 17):
        x = images(batch)
        clean = ours(x)
        x[1] = np.nan
        got = ours(x)
        np.testing.assert_array_equal(np.delete(got, 1, 0), np.delete(clean, 1, 0))
        assert np.isnan(got[1]).any()


def test_the_same_input_gives_the_same_bits_whatever_the_threads(kernel):
    made = planned(NETWORKS[0])
    for batch in (1, 16):
        x = images(batch)
        results = [model(made, threads)(x) for threads in (1, 2, 3) for _ in range(2)]
        for other in results[1:]:
            np.testing.assert_array_equal(results[0], other)


@here
def test_both_types_of_one_plan_live_side_by_side():
    backend, made, x = CpuBackend(), planned(NETWORKS[0]), images(4)
    ours, plain = Model(made, backend, "bfloat16"), Model(made, backend, "float32")
    first = ours(x)
    assert np.abs(plain(x) - Model(made, ReferenceBackend())(x)).max() < 1e-4
    np.testing.assert_array_equal(ours(x), first)


# --- refusals ----------------------------------------------------------------------------------


class Lacking:
    isa = "portable"

    @staticmethod
    def bfloat16_kernels():
        return []


def test_a_processor_without_products_of_bfloat16_is_refused():
    with pytest.raises(PlanError, match=r"AMX-BF16 or AVX512-BF16 alone.*variant is portable"):
        product_kernel(Lacking)


@here
@pytest.mark.parametrize("variant", ["avx2", "portable"])
def test_a_variant_without_products_of_bfloat16_is_refused(variant, monkeypatch):
    monkeypatch.setenv(native.VARIABLE, variant)
    with pytest.raises(PlanError, match=f"here the variant is {variant}"):
        Model(planned(NETWORKS[0]), CpuBackend(), "bfloat16")


def one_run(**fields):
    """Return a run of a vector."""
    made = empty_runs(1)
    made["lanes"] = made["input_step"] = made["output_step"] = 16
    for name, value in fields.items():
        made[name] = value
    return made


def arrays(rows=20, columns=40):
    """Return a layer of one group, one tap and one run, as the kernels take it."""
    tiles = np.zeros(2 * 2 * TILE_ROWS * TILE_COLUMNS + 32, np.uint16)
    first = -tiles.ctypes.data % 64 // 2
    int64 = {
        "row_starts": [0, rows], "offset_starts": [0], "weight_starts": [0],
        "tap_set_starts": [0, 1], "chunk_starts": [0, 1], "part_starts": [0, 1],
        "panel_starts": [0, 1],
    }  # fmt: skip
    made = {name: np.array(values, np.int64) for name, values in int64.items()}
    return {
        **made,
        "rows": np.arange(rows, dtype=np.int32),
        "offsets": np.zeros(columns + 64, np.int32),
        "tap_starts": np.array([[0, columns]], np.int32),
        "weights": tiles[first : first + 2 * 2 * TILE_ROWS * TILE_COLUMNS],
        "flags": np.array([3], np.int32),
        "bias": np.empty(0, np.float32),
        "runs": one_run(),
        "tap_sets": np.array([0, 1], np.int32),
        "masks": np.empty(0, np.int32),
    }


def add(given, dtype="bfloat16", kernel=None):
    program = native.load().Program(4096, 1, dtype)
    kernel = kernels()[0] if kernel is None else kernel
    program.convolution_bfloat16(
        0,
        x=image(0, 40, 16, (1, 1), 16, 1, 0),
        y=image(1024, 20, 16, (1, 1), 16, 1, 0),
        **{"skip": None, "activation": None, "scale": 1.0},
        **{"tile_vectors": 0, "prefetch": 0, "parts_first": False, "product": kernel},
        **given,
    )


@here
def test_a_layer_that_fits_is_taken():
    add(arrays())


WRONG = {
    "too few tiles": lambda a: {"weights": a["weights"][:-32]},
    "tiles between cache lines": lambda a: {"weights": np.roll(a["weights"], 0)[1:]},
    "a group between cache lines": lambda a: {"weight_starts": np.array([8])},
    "too many rows": lambda a: {"row_starts": np.array([0, 21])},
    "a read beyond the arena": lambda a: {"offsets": a["offsets"] + np.int32(4200)},
    "a write beyond the arena": lambda a: {"runs": one_run(output=4000)},
    "pooled sums": lambda a: {"runs": one_run(combine=native.numbers("combine")["add"])},
    "runs of another type": lambda a: {"runs": a["runs"].view(np.int64)},
    "weights of another type": lambda a: {"weights": a["weights"].astype(np.float32)},
}


@here
@pytest.mark.parametrize("case", WRONG)
def test_a_layer_that_does_not_fit_is_refused(case):
    given = arrays()
    given.update(WRONG[case](given))
    with pytest.raises((ValueError, TypeError)):
        add(given)


@here
def test_an_arena_of_another_type_or_an_unknown_kernel_is_refused():
    with pytest.raises(ValueError, match="needs an arena of bfloat16"):
        add(arrays(), dtype="float32")
    with pytest.raises(ValueError, match="there is no kernel 'neon'"):
        add(arrays(), kernel="neon")
