"""The kernels for layers with weights, under emulation, against NumPy.

Threads run in four orders, copies land early or late, shared memory starts as NaNs; what lies
beyond the batch is NaN, and what lies around the output must stay as it was.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from cuda_convolutions import (
    LIMITS,
    OPS,
    Data,
    Layer,
    blocks_of,
    check,
    compare,
    expected,
    finish_alone,
    run,
    tolerance,
    with_,
)
from cuda_emulation import COMPILER, FLAGS, SCHEDULES, build, render
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import ROOT

from runtime.cuda.candidates import candidates
from runtime.cuda.configuration import Problem

pytestmark = pytest.mark.skipif(COMPILER is None, reason="the emulation needs a C++ compiler")

BLOCKS = blocks_of(75, 54, (64, 5), (33, 17))
LAYER = Layer(6, (5, 6), 75, BLOCKS, activation="Relu", skip=True)


def kernels(dtype, capability, lanes):
    """Return every kernel for a type, a device and a number of lanes."""
    problem = Problem(dtype, 5 * 6 * lanes, lanes, ((64, 33),), "Relu")
    return {c.name: c for c in candidates(problem, LIMITS[capability])}.values()


DTYPES = ["float32", "tf32", "float16"]
TYPES = [(d, c) for d in DTYPES for c in (75, 80) if (d, c) != ("tf32", 75)]


def every_kernel():
    """Yield all kernels; each type, device and kind of batch has one that is not slow."""
    cases = [(*kind, lanes) for kind in TYPES for lanes in (8, 3)]
    for turn, (dtype, capability, lanes) in enumerate(cases):
        found = kernels(dtype, capability, lanes)
        for i, c in enumerate(found):
            marks = () if i == turn % len(found) else pytest.mark.slow
            name = f"{c.name}-sm_{capability}"
            yield pytest.param(c, capability, lanes, id=name, marks=marks)


def kernel(layer, dtype, capability=90, rows=32, positions=64, **changes):
    """Return a small kernel for a layer, without a split unless asked for."""
    found = candidates(layer.problem(dtype), LIMITS[capability])
    base = next(c for c in found if (c.rows, c.positions, c.split) == (rows, positions, 0))
    if base.remainder_positions:  # one kernel for images of all sizes
        changes = {"remainder_positions": 4, **changes}
    return replace(base, **changes)


@pytest.mark.parametrize(("c", "capability", "batch"), list(every_kernel()))
def test_every_kernel_in_every_schedule(c, capability, batch):
    layer = with_(LAYER, batch=batch)
    data = Data.of(layer, c.dtype)
    module = build(render([c]), capability)
    outputs = [run(layer, c, capability, s, data, module)[0] for s in SCHEDULES]
    compare(layer, c.dtype, outputs[0], data)
    # Nothing depends on the order in which threads happen to run: not one bit.
    assert all(np.array_equal(outputs[0], y) for y in outputs[1:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [32, 64, 96])
@pytest.mark.parametrize("beside", [-1, 0, 1])
def test_rows_around_the_height_of_a_tile(dtype, rows, beside):
    layer = Layer(4, (4, 4), 200, blocks_of(200, 36, (rows + beside, 2), (20, 7)))
    for c in kernels(dtype, 90, 8):
        if c.rows == rows and c.positions == 128:
            check(layer, replace(c, activation=""), schedule=1)
            return
    pytest.fail(f"no kernel of {rows} rows and 128 positions")


@pytest.mark.sanitized
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("remainder", range(1, 32))
def test_every_remainder(dtype, remainder):
    layer = Layer(4, (3, 4), 40 + remainder, blocks_of(72, 36, (32 + remainder,), (19,)))
    layer = with_(layer, rows=72)
    check(layer, kernel(layer, dtype), schedule=remainder % 4)


@pytest.mark.sanitized
@pytest.mark.parametrize(("dtype", "capability"), TYPES)
@pytest.mark.parametrize("chunks", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("beside", [-1, 0, 1])
def test_columns_around_the_depth_of_a_chunk(dtype, capability, chunks, beside):
    layer = Layer(20, (3, 3), 37, ())
    depth = kernel(layer, dtype, capability).depth
    columns = chunks * depth + beside
    layer = with_(layer, blocks=blocks_of(37, 180, (32, 5), (columns, columns)))
    check(layer, kernel(layer, dtype, capability), capability, schedule=chunks % 4)


@pytest.mark.sanitized
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("depth", [1, 169, 170, 171, 255, 256, 257, 511, 512, 513])
def test_remainders_of_more_columns_than_are_cached(dtype, depth):
    heights = (1, 4, 7, 14, 24)
    layer = Layer(70, (2, 2), sum(heights), blocks_of(50, 630, heights, (depth,) * 5), batch=16)
    check(layer, kernel(layer, dtype, whole_from=33), schedule=depth % 4)


GEOMETRIES = {
    "one by one": {"kernel": (1, 1), "pads": (0, 0, 0, 0)},
    "one by one, strided": {"kernel": (1, 1), "pads": (0, 0, 0, 0), "strides": (2, 2)},
    "strided": {"strides": (2, 2)},
    "strided unevenly": {"strides": (1, 3)},
    "dilated": {"dilations": (2, 2), "pads": (2, 2, 2, 2)},
    "dilated and strided": {"dilations": (2, 1), "strides": (2, 2)},
    "large": {"kernel": (7, 7), "pads": (3, 3, 3, 3), "strides": (2, 2)},
    "a row": {"kernel": (1, 5), "pads": (0, 2, 0, 2)},
    "a column": {"kernel": (4, 1), "pads": (2, 0, 1, 0)},
    "padded on one side": {"pads": (0, 2, 1, 0)},
    "not padded": {"pads": (0, 0, 0, 0)},
    "in a wider halo": {"extra_halo": 2},
}


@pytest.mark.sanitized
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [8, 3])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_geometry(dtype, batch, geometry):
    changes = GEOMETRIES[geometry]
    taps = int(np.prod(changes.get("kernel", (3, 3))))
    blocks = blocks_of(41, 5 * taps, (32, 7), (5 * taps // 2, 5 * taps))
    layer = Layer(5, (7, 8), 41, blocks, batch=batch, skip=True, **changes)
    check(layer, kernel(layer, dtype), schedule=batch % 4)


@pytest.mark.sanitized
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [*range(1, 10), 15, 16, 17, 31, 33, 64, 65])
def test_batches(dtype, batch):
    layer = Layer(4, (3, 3), 45, blocks_of(45, 36, (32, 6), (30, 11)), batch=batch, skip=True)
    check(layer, kernel(layer, dtype), schedule=batch % 4)


@pytest.mark.sanitized
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [1, 2, 7, 8, 16])
def test_few_positions_are_shared_by_lanes(dtype, batch):
    layer = Layer(100, (1, 1), 70, blocks_of(70, 100, (40, 25), (100, 33)), kernel=(1, 1))
    layer = with_(layer, pads=(0, 0, 0, 0), batch=batch, activation="Sigmoid")
    c = kernel(layer, dtype)
    assert c.remainder_positions == 0
    check(layer, c, schedule=batch % 4)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("split", [0, 16])
def test_activations(dtype, op, split):
    layer = Layer(4, (3, 3), 42, blocks_of(42, 36, (32, 5), (36, 20)), activation=op, skip=True)
    c = kernel(layer, dtype)
    check(layer, replace(c, split=split and 2 * c.depth))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [8, 1])
def test_convolution_groups(dtype, batch):
    # Rows 0..33 read channels 0..3, rows 34..67 channels 4..7.
    one, other = (blocks_of(34, 36, (33,), (20,), seed) for seed in (1, 2))
    blocks = (*one, *((rows + 34, columns) for rows, columns in other))
    layer = Layer(8, (4, 3), 68, blocks, groups=2, batch=batch)
    check(layer, kernel(layer, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "stride"), [(8, 1), (8, 2), (5, 1)])
def test_depthwise(dtype, batch, stride):
    blocks = tuple((np.array([row]), np.arange(9)) for row in range(7))
    layer = Layer(7, (5, 6), 7, blocks, groups=7, batch=batch, strides=(stride, stride))
    check(layer, kernel(layer, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [8, 3])
def test_blocks_that_share_rows_add_up(dtype, batch):
    first = blocks_of(70, 36, (40,), (30,), seed=1)
    second = blocks_of(70, 36, (34, 3), (17, 9), seed=2)
    alone = tuple((np.array([row]), np.arange(row % 5, 36, 3)) for row in range(0, 70, 9))
    layer = Layer(4, (3, 4), 70, (*first, *second, *alone), activation="Relu", batch=batch)
    layer = with_(layer, skip=True)
    check(layer, kernel(layer, dtype), schedule=2)


@pytest.mark.sanitized
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_columns_split_among_tiles(dtype, chunks):
    blocks = blocks_of(50, 180, (40, 6), (170, 100))
    layer = Layer(20, (3, 3), 50, blocks, activation="Relu", skip=True)
    c = kernel(layer, dtype)
    check(layer, replace(c, split=chunks * c.depth), schedule=3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_without_blocks(dtype):
    layer = Layer(3, (4, 4), 60, (), activation="LeakyRelu", skip=True)
    check(layer, kernel(layer, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_what_a_block_does_not_read_does_not_reach_it(dtype, value):
    # Channel 0 is read by nobody; padded columns, rows and positions must not read it either.
    blocks = tuple((rows, 9 + columns) for rows, columns in blocks_of(40, 27, (33, 3), (7, 5)))
    layer = Layer(4, (3, 3), 40, blocks)
    data = Data.of(layer, dtype)
    data.x[:, 0] = value
    y, _ = run(layer, kernel(layer, dtype), data=data)
    compare(layer, dtype, y, data)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_nan_comes_through(dtype, op):
    layer = Layer(2, (3, 3), 34, blocks_of(34, 18, (32, 2), (18, 18)), activation=op)
    data = Data.of(layer, dtype)
    data.x[3, 1, 1, 1] = np.nan
    y, _ = run(layer, kernel(layer, dtype), data=data)
    assert np.all(np.isnan(y[3]))
    assert not np.any(np.isnan(np.delete(y, 3, axis=0)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_comparison_sees_one_wrong_weight(dtype):
    layer = Layer(4, (3, 3), 40, blocks_of(40, 36, (33,), (20,)))
    data = Data.of(layer, dtype)
    y, _ = run(layer, kernel(layer, dtype), data=data)
    compare(layer, dtype, y, data)
    data.weights[0][7, 11] += 0.05
    with pytest.raises(AssertionError, match="off by"):
        compare(layer, dtype, y, data)


@st.composite
def layers(draw):
    """Draw a layer of blocks that may share rows, on a small image."""
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (2, 3), (5, 1)]))
    dilations = draw(st.sampled_from([(1, 1), (2, 1)]))
    reach = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
    pads = tuple(draw(st.integers(0, r)) for r in (*reach, *reach))
    size = tuple(r + draw(st.integers(1, 5)) for r in reach)
    channels, rows = draw(st.integers(1, 5)), draw(st.integers(1, 80))
    columns = channels * kernel[0] * kernel[1]
    seeds = draw(st.lists(st.integers(0, 2**16), max_size=3))
    blocks = []
    for seed in seeds:
        height, depth = draw(st.integers(1, rows)), draw(st.integers(1, columns))
        blocks += blocks_of(rows, columns, (height,), (depth,), seed)
    return Layer(
        channels,
        size,
        rows,
        tuple(blocks),
        kernel,
        draw(st.sampled_from([(1, 1), (2, 2), (1, 2)])),
        dilations,
        pads,
        draw(st.sampled_from([1, 2, 4, 5, 8, 11])),
        skip=draw(st.booleans()),
        extra_halo=draw(st.integers(0, 1)),
    )


@given(layers(), st.sampled_from(DTYPES), st.sampled_from(SCHEDULES), st.booleans())
@settings(max_examples=40)
def test_any_layer(layer, dtype, schedule, split):
    c = kernel(layer, dtype)
    check(layer, replace(c, split=c.depth * split), schedule=schedule)


BEYOND = """
import cuda_emulation
source = cuda_emulation.expand("geometry.cuh") + cuda_emulation.expand("device.cuh") + (
    'extern "C" __global__ void touch(int at) { masktools::dynamic_shared()[at] = 1; }'
)
module = cuda_emulation.build(source)
module.launch("touch", (1,), (1,), (AT,), shared_mem=20)
"""


@pytest.mark.sanitized
@pytest.mark.skipif("address" not in "".join(FLAGS), reason="make sanitize-cuda")
@pytest.mark.parametrize("at", [19, 20])
def test_a_sanitizer_sees_the_first_byte_beyond_shared_memory(at):
    done = subprocess.run(
        [sys.executable, "-c", BEYOND.replace("AT", str(at))],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ("heap-buffer-overflow" in done.stderr) == (at == 20)
    assert (done.returncode == 0) == (at < 20)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("batch", [8, 3])
def test_finish_adds_any_number_of_partial_sums(dtype, batch):
    layer = Layer(1, (3, 4), 3, (), pads=(1, 1, 1, 1), batch=batch, skip=True, activation="Clip")
    data = Data.of(layer, dtype)
    y = finish_alone(layer, dtype, data, slots=[[], [2], [0, 1, 2]])
    partial = np.array([1.0, 2.0, 4.0])  # of slot 0, 1 and 2
    data.bias += [0, partial[2], partial.sum()]
    wanted, sizes = expected(layer, data)
    assert np.all(abs(y - wanted) <= tolerance(layer, dtype, wanted, sizes))
