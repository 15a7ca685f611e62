"""The cost model and how work is cut: pure functions, so their laws can be stated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masktools.checkpoint import SparseWeight
from masktools.layout import BlockLayout
from runtime.cpu.choice.choose import WINOGRAD_BYTES, WINOGRAD_SHARE, choose_methods
from runtime.cpu.choice.schemes import choose_scheme
from runtime.cpu.kernels.items import cut, whole
from runtime.cpu.kernels.pixel_runs import pixel_runs
from runtime.cpu.kernels.runs import Pooling, Window, plane_runs
from runtime.cpu.machine import Machine, Problem
from runtime.cpu.memory.layout import Form, View, as_image
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
    assert choose_scheme(sparse((64, 32, 3, 3), density, height))[0].form == form


def test_a_sparser_weight_never_costs_more():
    costs = [choose_scheme(sparse((64, 64, 3, 3), d / 20, 8))[1] for d in range(1, 21)]
    assert costs == sorted(costs)


def test_taller_groups_never_cost_more():
    costs = [choose_scheme(sparse((64, 64, 3, 3), 0.2, h))[1] for h in (1, 2, 4, 8)]
    assert costs == sorted(costs, reverse=True)


def problem(weight, height, width, lanes, kernel=(3, 3), plain=True):
    return Problem(shape_of(weight), kernel, height, width, lanes, plain=plain)


def method_of(weight, *given, **named):
    """Return how a layer is computed whose windows reach beyond its images by a pixel."""
    made = problem(weight, *given, **named)
    rows, columns = (1 - 2 / (3 * size) for size in (made.height, made.width))
    made = made._replace(inside=rows, covered=rows * columns)
    (method,) = choose_methods([(weight, made)], MACHINE)
    return method


def test_rows_are_lanes_where_few_pixels_fill_no_vectors():
    for weight in (np.ones((64, 64, 3, 3), np.float32), sparse((64, 64, 3, 3), 0.2, 32)):
        for size, lanes in ((1, 1), (2, 1), (4, 1), (4, 3), (7, 1), (8, 1)):
            assert method_of(weight, size, size, lanes).narrow, (size, lanes)
        for size, lanes in ((1, 16), (8, 64), (56, 1), (14, 8)):
            assert not method_of(weight, size, size, lanes).narrow, (size, lanes)
    rows = sparse((64, 64, 3, 3), 0.1, 1)
    assert method_of(rows, 2, 2, 1).narrow
    assert not method_of(rows, 4, 4, 1).narrow


@pytest.mark.parametrize(("rows", "height"), [(64, 32), (512, 32), (32, 16), (96, 16), (10, 16)])
def test_groups_of_lanes_are_as_high_as_leaves_no_thread_idle(rows, height):
    weight = np.ones((rows, 64, 3, 3), np.float32)
    assert method_of(weight, 4, 4, 1).scheme == Scheme("dense", height, unit=16)


def test_dense_windows_of_three_take_fewer_multiplications():
    weight = np.ones((64, 64, 3, 3), np.float32)
    (method,) = choose_methods([(weight, problem(weight, 32, 32, 64))], MACHINE)
    assert method.winograd
    sparse_one = sparse((64, 64, 3, 3), 0.1, 16)
    (method,) = choose_methods([(sparse_one, problem(sparse_one, 32, 32, 64))], MACHINE)
    assert not method.winograd
    assert method.scheme == Scheme("blocks")


@pytest.mark.parametrize(
    ("shape", "kernel", "size", "plain"),
    [
        ((64, 64, 3, 3), (3, 3), 32, False), ((64, 64, 1, 1), (1, 1), 32, True),
        ((64, 64, 5, 5), (5, 5), 32, True), ((64, 3, 3, 3), (3, 3), 32, True),
    ],
)  # fmt: skip
def test_other_windows_are_computed_directly(shape, kernel, size, plain):
    weight = np.ones(shape, np.float32)
    (method,) = choose_methods([(weight, problem(weight, size, size, 64, kernel, plain))], MACHINE)
    assert not method.winograd


def test_memory_bounds_what_winograd_may_add():
    """The layers that gain most for a byte get it: large maps before small ones."""
    weights = [np.ones((512, 512, 3, 3), np.float32) for _ in range(6)]
    layers = [(w, problem(w, 4 * (i + 1), 4 * (i + 1), 64)) for i, w in enumerate(weights)]
    methods = choose_methods(layers, MACHINE)
    more = sum(27 * 512 * 512 * 4 for method in methods if method.winograd)
    stored = sum(w.nbytes for w in weights)
    assert 0 < more <= WINOGRAD_BYTES + WINOGRAD_SHARE * stored
    taken = [i for i, method in enumerate(methods) if method.winograd]
    assert taken == list(range(6 - len(taken), 6))


def test_grouped_layers_are_costed_by_group():
    weight = np.ones((8, 4, 3, 3), np.float32)
    assert choose_scheme(weight, 4)[1] > choose_scheme(weight, 1)[1]


# --- items ---------------------------------------------------------------------------------------


def image(height, width, lanes, halo=0):
    form = Form(lanes, 1, height, width, lanes, halo)
    return as_image(View.of_form(0, form, (lanes, 1, height, width)))


@given(
    size=st.integers(1, 9), lanes=st.sampled_from([1, 8, 16, 64]),
    height=st.sampled_from([1, 4, 16]), density=st.sampled_from([0.0, 0.1, 1.0]),
    threads=st.sampled_from([1, 2, 7]), scheme=st.sampled_from(SCHEMES),
    pooled=st.booleans(), level2=st.sampled_from([1 << 12, 1 << 20]),
)  # fmt: skip
def test_items_hold_everything_once(size, lanes, height, density, threads, scheme, pooled, level2):
    weight = sparse((48, 32, 3, 3), density, height)
    packed = pack(weight, scheme, shape_of(weight))
    window = Window((3, 3), pads=(1, 1))
    machine = Machine(16, threads, level2, 1e6)
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
    made = whole(packed, runs, Machine(16, 2, 1 << 20, 1e6))
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
    (method,) = choose_methods([(weight, problem(weight, 8, 8, 64))], MACHINE)
    assert method.scheme == Scheme("rows", 1, 16)
    (method,) = choose_methods([(weight, problem(weight, 4, 4, 1))], MACHINE)
    assert method.scheme.channels == 0
    blocks = sparse((256, 256, 3, 3), 0.2, 16)
    (method,) = choose_methods([(blocks, problem(blocks, 8, 8, 64))], MACHINE)
    assert method.scheme == Scheme("blocks")
