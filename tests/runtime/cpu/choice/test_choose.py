"""The cost model and how work is cut: pure functions, so their laws can be stated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masktools.checkpoint import SparseWeight
from masktools.layout import BlockLayout
from runtime.cpu.choice.choose import MORE_BYTES, MORE_SHARE, choose_kernels
from runtime.cpu.choice.kernels import GROUPED, KERNELS
from runtime.cpu.kernels.items import cut, whole
from runtime.cpu.kernels.narrow import Narrow, scheme_of_lanes
from runtime.cpu.kernels.pixel_runs import pixel_runs
from runtime.cpu.kernels.problem import Problem
from runtime.cpu.kernels.runs import plane_runs
from runtime.cpu.kernels.schemes import choose_scheme
from runtime.cpu.kernels.winograd import Winograd
from runtime.cpu.machine import Machine
from runtime.cpu.memory.layout import Form, View, as_image
from runtime.cpu.memory.window import Pooling, Window
from runtime.cpu.weights.pack import pack
from runtime.cpu.weights.row_groups import Scheme, Shape, shape_of

MACHINE = Machine(vector=16, threads=2)
SCHEMES = (Scheme("blocks"), Scheme("rows", 1), Scheme("rows", 1, 8), Scheme("dense"))


def sparse(shape, density, height, seed=0, min_rows=4):
    """Return a weight of which groups of so many rows keep the same share of their columns."""
    random = np.random.default_rng(seed)
    columns = int(np.prod(shape[1:]))
    mask = np.zeros((shape[0], columns), bool)
    for first in range(0, shape[0], height):
        kept = random.permutation(columns)[: round(density * columns)]
        mask[first : first + height, kept] = True
    mask = mask.reshape(shape)
    layout = BlockLayout.from_mask(mask, min_rows)
    return SparseWeight.from_dense(mask.astype(np.float32), layout, layout.residual(mask))


@pytest.mark.parametrize(
    ("density", "height", "form"),
    [
        (0.2, 16, "blocks"),
        (0.2, 4, "blocks"),
        (0.1, 1, "blocks"),
        (1.0, 16, "dense"),
        (0.95, 1, "dense"),
    ],
)
def test_the_scheme_follows_density_and_structure(density, height, form):
    assert choose_scheme(sparse((64, 32, 3, 3), density, height), MACHINE)[0].form == form


def test_a_sparser_weight_never_costs_more():
    costs = [choose_scheme(sparse((64, 64, 3, 3), d / 20, 8), MACHINE)[1] for d in range(1, 21)]
    assert costs == sorted(costs)


def test_taller_groups_never_cost_more():
    costs = [choose_scheme(sparse((64, 64, 3, 3), 0.2, h), MACHINE)[1] for h in (1, 2, 4, 8)]
    assert costs == sorted(costs, reverse=True)


def problem(weight, height, width, lanes, pads=(1, 1), strides=(1, 1)):
    """Return a layer whose output is as large as its input."""
    window = Window(weight_shape(weight)[2:], strides, pads=pads)
    return Problem(weight, shape_of(weight), height, width, lanes, (height, width), window)


def weight_shape(weight):
    return weight.shape if isinstance(weight, np.ndarray) else weight.layout.shape


def chosen(*given, **named):
    """Return the name of the kernel that a layer by itself is computed by."""
    (kernel,) = choose_kernels([problem(*given, **named)], MACHINE, KERNELS)
    return kernel.name


def test_rows_are_lanes_where_few_pixels_fill_no_vectors():
    for weight in (np.ones((64, 64, 3, 3), np.float32), sparse((64, 64, 3, 3), 0.2, 32)):
        for size, lanes in ((1, 1), (2, 1), (4, 1), (4, 3), (7, 1), (8, 1)):
            assert chosen(weight, size, size, lanes) == "narrow", (size, lanes)
        for size, lanes in ((1, 16), (8, 64), (56, 1), (14, 8)):
            assert chosen(weight, size, size, lanes) != "narrow", (size, lanes)
    rows = sparse((64, 64, 3, 3), 0.1, 1)
    assert Narrow(GROUPED).cost(problem(rows, 2, 2, 1), MACHINE) < float("inf")
    assert Narrow(GROUPED).cost(problem(rows, 4, 4, 1), MACHINE) == float("inf")


@pytest.mark.parametrize(
    ("rows", "channels", "size", "lanes", "filtered"),
    [(96, 96, 52, 1, True), (64, 64, 32, 1, True), (64, 64, 32, 64, True), (128, 128, 16, 4, True),
     (128, 128, 28, 1, True), (256, 256, 14, 4, True), (96, 96, 26, 1, True),
     (24, 24, 104, 1, True), (64, 64, 16, 1, True), (256, 256, 14, 1, True),
     # Rows are computed in sixteens, tiles in whole vectors; taking them apart takes its time too,
     # and weights four times as large come from behind the cache.
     (17, 17, 40, 1, False), (16, 16, 28, 1, False), (512, 512, 7, 1, False),
     (17, 17, 26, 4, False)],
)  # fmt: skip
def test_minimal_filtering_pays_for_what_it_computes(rows, channels, size, lanes, filtered):
    weight = np.ones((rows, channels, 3, 3), np.float32)
    assert (chosen(weight, size, size, lanes) == "winograd") == filtered


def test_minimal_filtering_computes_and_stores_rows_in_sixteens():
    few, many = (problem(np.ones((rows, 64, 3, 3), np.float32), 32, 32, 64) for rows in (17, 32))
    kernel = Winograd()
    assert kernel.weight_bytes(few, MACHINE) == kernel.weight_bytes(many, MACHINE)
    assert kernel.cost(few, MACHINE) == pytest.approx(kernel.cost(many, MACHINE), rel=0.02)


@pytest.mark.parametrize(
    ("density", "group_rows", "size", "lanes", "form"),
    [(0.2, 1, 1, 1, "dense"), (0.2, 1, 1, 7, "dense"), (0.2, 1, 2, 2, "dense"),
     (0.1, 1, 1, 1, "blocks"), (0.2, 8, 1, 1, "blocks"), (0.2, 1, 3, 1, None)],
)  # fmt: skip
def test_nonzeros_that_are_many_are_multiplied_densely_on_few_lanes(
    density, group_rows, size, lanes, form
):
    weight = sparse((512, 512, 1, 1), density, group_rows)
    scheme = scheme_of_lanes(problem(weight, size, size, lanes, pads=(0, 0)), MACHINE)
    assert (None if scheme is None else scheme.form) == form


@pytest.mark.parametrize(("rows", "height"), [(64, 32), (512, 32), (32, 16), (96, 16), (10, 16)])
def test_groups_of_lanes_are_as_high_as_leaves_no_thread_idle(rows, height):
    weight = np.ones((rows, 64, 3, 3), np.float32)
    scheme = scheme_of_lanes(problem(weight, 4, 4, 1), MACHINE)
    assert scheme == Scheme("dense", height, unit=16)


def test_dense_windows_of_three_take_fewer_multiplications():
    assert chosen(np.ones((64, 64, 3, 3), np.float32), 32, 32, 64) == "winograd"
    sparse_one = sparse((64, 64, 3, 3), 0.1, 16)
    assert chosen(sparse_one, 32, 32, 64) == "grouped"
    assert GROUPED.scheme(problem(sparse_one, 32, 32, 64), MACHINE) == Scheme("blocks")


def test_rows_of_nonzeros_go_over_windows():
    assert chosen(sparse((64, 64, 3, 3), 0.2, 1), 32, 32, 64) == "windows"


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ((64, 64, 3, 3), (2, 2)), ((64, 64, 1, 1), (1, 1)), ((64, 64, 5, 5), (1, 1)),
        ((64, 3, 3, 3), (1, 1)),
    ],
)  # fmt: skip
def test_other_windows_are_computed_directly(shape, strides):
    assert chosen(np.ones(shape, np.float32), 32, 32, 64, strides=strides) == "grouped"


def test_memory_bounds_what_larger_weights_may_add():
    """The layers that gain most for a byte get it: large maps before small ones."""
    weights = [np.ones((512, 512, 3, 3), np.float32) for _ in range(6)]
    layers = [problem(w, 4 * (i + 1), 4 * (i + 1), 64) for i, w in enumerate(weights)]
    names = [kernel.name for kernel in choose_kernels(layers, MACHINE, KERNELS)]
    taken = [i for i, name in enumerate(names) if name == "winograd"]
    more = len(taken) * 27 * 512 * 512 * 4
    stored = sum(w.nbytes for w in weights)
    assert 0 < more <= MORE_BYTES + MORE_SHARE * stored
    assert taken == list(range(6 - len(taken), 6))


class Priced:
    """A kernel of which only costs and bytes are known."""

    def __init__(self, cost, weight_bytes):
        self.cost = lambda problem, machine: cost
        self.weight_bytes = lambda problem, machine: weight_bytes


@pytest.mark.parametrize(
    ("kernels", "taken"),
    [
        ([(3.0, 1), (2.0, 1), (2.0, 1)], 1),  # of equals the first
        ([(float("inf"), 1), (9.0, 1)], 1),
        ([(1.0, 1 << 30), (2.0, 1)], 1),  # beyond the memory
        ([(1.0, 1 << 20), (2.0, 1)], 0),
        ([(1.5, 1 << 20), (1.0, 1 << 30), (2.0, 1)], 0),  # the best of those that fit
    ],
)
def test_the_cheapest_kernel_within_the_memory_is_taken(kernels, taken):
    priced = [Priced(*given) for given in kernels]
    made = problem(np.ones((4, 4, 3, 3), np.float32), 8, 8, 16)
    assert choose_kernels([made], MACHINE, priced) == [priced[taken]]


def test_grouped_layers_are_costed_by_group():
    weight = np.ones((8, 4, 3, 3), np.float32)
    assert choose_scheme(weight, MACHINE, 4)[1] > choose_scheme(weight, MACHINE, 1)[1]


# --- items ---------------------------------------------------------------------------------------


def image(height, width, lanes, halo=0):
    form = Form(lanes, 1, height, width, lanes, halo)
    return as_image(View.of_form(0, form, (lanes, 1, height, width)))


@given(
    size=st.integers(1, 9), lanes=st.sampled_from([1, 8, 16, 64]),
    height=st.sampled_from([1, 4, 16]), density=st.sampled_from([0.0, 0.1, 1.0]),
    threads=st.sampled_from([1, 2, 7]), scheme=st.sampled_from(SCHEMES),
    pooled=st.booleans(), near=st.sampled_from([1 << 12, 1 << 20]),
)  # fmt: skip
def test_items_hold_everything_once(size, lanes, height, density, threads, scheme, pooled, near):
    weight = sparse((48, 32, 3, 3), density, height)
    packed = pack(weight, scheme, shape_of(weight))
    window = Window((3, 3), pads=(1, 1))
    machine = Machine(16, threads, near=near, clock=3e4)
    if lanes % 16:
        x = y = image(size, size, lanes, 1)
        runs = plane_runs(x, y, window, 16)
    else:
        x = y = image(size, size, lanes)
        pooling = Pooling((2, 2), largest=True) if pooled and size > 1 else None
        y = image(size // 2, size // 2, lanes) if pooling else y
        runs = pixel_runs(x, y, window, 16, pooling)
    made = cut(packed, runs, machine, 32)
    for starts, end in (
        (made.chunk_starts, len(made.runs.table)),
        (made.panel_starts, packed.groups),
        (made.part_starts, len(made.panel_starts) - 1),
    ):
        assert starts[0] == 0
        assert starts[-1] == end
        assert (np.diff(starts) > 0).all()
    assert made.runs.lanes.sum() == runs.lanes.sum()
    assert set(made.chunk_starts) <= set(made.runs.units)
    # All groups of a row lie in one part.
    part = np.searchsorted(made.panel_starts[made.part_starts], np.arange(packed.groups), "right")
    of_row = np.repeat(part, packed.heights)
    for row in range(48):
        assert len(set(of_row[packed.rows == row])) == 1
    assert made.items <= max(threads * 8, 1)
    assert threads > 1 or made.items == 1


def test_layers_of_few_lanes_are_parted_by_rows():
    weight = sparse((512, 512), 0.3, 8)
    packed = pack(weight, Scheme("blocks"), shape_of(weight))
    runs = pixel_runs(image(1, 1, 1), image(1, 1, 1), Window((1, 1)), 16)
    made = whole(packed, runs, Machine(16, 2, clock=3e4))
    assert len(made.chunk_starts) == 2
    assert len(made.part_starts) > 2
    work = np.add.reduceat(packed.heights * packed.widths, made.panel_starts[:-1])
    assert work.max() < 1.5 * work.mean()


def test_little_work_is_one_item():
    weight = sparse((16, 16, 3, 3), 0.3, 8)
    packed = pack(weight, Scheme("blocks"), shape_of(weight))
    runs = pixel_runs(image(2, 2, 16), image(2, 2, 16), Window((3, 3), pads=(1, 1)), 16)
    assert cut(packed, runs, MACHINE, 16).items == 1


def test_shapes_count_channels_of_groups():
    assert shape_of(np.ones((8, 2, 3, 3), np.float32), 4) == Shape(8, 8, 9, 4)


def test_rows_alone_are_cut_into_panels_of_channels_where_they_are_long_and_lanes_are_many():
    weight = sparse((256, 256, 3, 3), 0.2, 1)
    assert GROUPED.scheme(problem(weight, 8, 8, 64), MACHINE) == Scheme("rows", 1, 16)
    assert GROUPED.scheme(problem(weight, 4, 4, 1), MACHINE).channels == 0
    blocks = sparse((256, 256, 3, 3), 0.2, 16)
    assert GROUPED.scheme(problem(blocks, 8, 8, 64), MACHINE) == Scheme("blocks")
