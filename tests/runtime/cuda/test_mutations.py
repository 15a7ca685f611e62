"""Mistakes put into the kernels on purpose: the emulation must see each of them."""

from __future__ import annotations

from dataclasses import replace

import cuda_emulation
import pytest
from cuda_convolutions import LIMITS, Layer, blocks_of, check
from cuda_emulation import COMPILER, SCHEDULES, DeviceFault, build

from runtime.cuda.candidates import candidates

pytestmark = pytest.mark.skipif(COMPILER is None, reason="the emulation needs a C++ compiler")

FEED_ASYNC = "      __syncthreads();\n      start("
READ_HALF = "stage + Stage<C>::input(column + lane % 16, position + lane / 16 * 8)"
UNSWIZZLED = (
    "stage + Stage<C>::WEIGHTS + (column + lane % 16) * Stage<C>::PITCH + position + lane / 16 * 8"
)

# What is changed, into what, and the type, the architecture and the batch that it shows with.
MUTATIONS = {
    "no barrier before a stage is read": (FEED_ASYNC, "      start(", "float32", 90, 8),
    "copies start before the barrier": (
        "      __syncthreads();\n      start(chunk + C::STAGES - 1, next);\n",
        "      start(chunk + C::STAGES - 1, next);\n      __syncthreads();\n",
        "float32",
        90,
        8,
    ),
    "one group too few is waited for": (
        "wait_groups<C::STAGES - 2>()",
        "wait_groups<C::STAGES - 1>()",
        "float32",
        90,
        8,
    ),
    "a group is not closed": (
        "next);\n      close_group();\n",
        "next);\n",
        "tf32",
        90,
        8,
    ),
    "a stage is filled that is read": (
        "start(chunk + C::STAGES - 1, next)",
        "start(chunk + C::STAGES - 1, stage)",
        "tf32",
        90,
        8,
    ),
    "no barrier after the first chunk is put": (
        "    put(0, 0);\n    __syncthreads();\n",
        "    put(0, 0);\n",
        "float32",
        75,
        8,
    ),
    "no barrier after a chunk is put": (
        "(chunk + 1) & 1);\n      __syncthreads();\n",
        "(chunk + 1) & 1);\n",
        "float32",
        75,
        8,
    ),
    "a chunk is put over the one that is read": (
        "put(chunk + 1, (chunk + 1) & 1)",
        "put(chunk + 1, chunk & 1)",
        "float32",
        75,
        8,
    ),
    "no barrier before weights are replaced": (
        "__syncthreads();  // Everyone is done with what was there.\n",
        "",
        "float32",
        90,
        8,
    ),
    "no barrier after weights are cached": (
        "  __syncthreads();\n}\n",
        "}\n",
        "float32",
        90,
        8,
    ),
    "rows are read as if they were not swizzled": (READ_HALF, UNSWIZZLED, "float16", 90, 8),
    "the swizzle leaves its row": ("(column & 7) * 8", "(column & 15) * 8", "float16", 90, 8),
    "input is gathered beyond the last position": (
        "position < geometry.positions ? position : 0",
        "position",
        "float32",
        90,
        8,
    ),
    "the columns of the chunk before are taken": (
        "look_up(chunk + 1);",
        "look_up(chunk);",
        "float32",
        90,
        8,
    ),
    "one column too many is summed": (
        "column < count; column++",
        "column <= count; column++",
        "float32",
        90,
        8,
    ),
    "rows of a product change places": (
        "lower * 8 + lane / 4",
        "lane / 4 * 2 + lower",
        "tf32",
        90,
        8,
    ),
    "positions are not those of the product": (
        "position + lane / 4 * 4",
        "position + lane % 4 * 4",
        "tf32",
        90,
        8,
    ),
    "a lane's sum is left out": ("apart > 0", "apart > 1", "float32", 90, 1),
    "some lanes do not take part": (
        "sums[row] += __shfl_xor_sync",
        "if (lane) sums[row] += __shfl_xor_sync",
        "float32",
        90,
        1,
    ),
    "a warp leaves before its barrier": (
        "  float sums[ROWS] = {};\n",
        "  float sums[ROWS] = {};\n  __syncthreads();\n",
        "float32",
        90,
        1,
    ),
    "all positions are stored, beyond the last one too": (
        "left < 0 ? 0 : left < COUNT ? left : COUNT",
        "COUNT",
        "float32",
        90,
        3,
    ),
    "bias is added to partial sums": (
        "    float* to = output.partial +",
        "    const_cast<Vector<float, COUNT>&>(sums).at[0] += output.bias[0];\n"
        "    float* to = output.partial +",
        "float32",
        90,
        8,
    ),
    "the skip add is taken from the output's place": (
        "skip + span.skip[0]",
        "skip + span.y[0]",
        "float32",
        90,
        8,
    ),
    "an unaligned copy": ("x_[p] + columns_ahead_[turn])", "x_[p] + 1)", "float32", 90, 8),
}


def layer_of(batch):
    """Return a layer in which each of the mistakes shows."""
    if batch == 1:  # few positions: lanes share columns
        return Layer(12, (2, 3), 20, blocks_of(20, 108, (12, 3), (100, 70)), batch=1)
    blocks = (
        *blocks_of(50, 630, (34, 7), (600, 560), seed=1),
        *blocks_of(50, 630, (34,), (100,), seed=2),
    )
    return Layer(70, (3, 5), 50, blocks, batch=batch, skip=True)


def outcome(source_of, dtype, capability, batch):
    """Return what is seen of a mistake: None if nothing is."""
    layer = layer_of(batch)
    found = candidates(layer.problem(dtype), LIMITS[capability])
    c = next(c for c in found if (c.rows, c.positions, c.split) == (32, 64, 0))
    if batch == 1:
        assert c.remainder_positions == 0
    c = replace(c, remainder_positions=min(c.remainder_positions, 1))
    module = build(source_of(c), capability)
    seen = (seen_in(schedule, layer, c, capability, module) for schedule in SCHEDULES)
    return next((one for one in seen if one is not None), None)


def seen_in(schedule, *case):
    """Return what fails in a schedule, if anything does."""
    layer, c, capability, module = case
    try:
        check(layer, c, capability, schedule, module)
    except (AssertionError, DeviceFault) as seen:
        return seen
    return None


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_mistake_is_seen(mutation):
    before, after, *case = MUTATIONS[mutation]

    def mutated(c):
        source = cuda_emulation.render([c])
        assert before in source, "the kernels no longer hold what is to be changed"
        return source.replace(before, after)

    assert outcome(mutated, *case) is not None


@pytest.mark.parametrize("case", sorted({tuple(case) for _, _, *case in MUTATIONS.values()}))
def test_nothing_is_seen_where_there_is_no_mistake(case):
    assert outcome(lambda c: cuda_emulation.render([c]), *case) is None


def test_a_tile_of_an_unknown_height_stops_the_kernel():
    seen = outcome(
        lambda c: cuda_emulation.render([c]).replace("MASKTOOLS_REMAINDER(8)\n", ""),
        "float32",
        90,
        8,
    )
    assert "a trap" in str(seen)


def test_faults_say_where():
    seen = outcome(
        lambda c: cuda_emulation.render([c]).replace(
            "position < geometry.positions ? position : 0", "position"
        ),
        "float32",
        90,
        8,
    )
    assert isinstance(seen, DeviceFault)
    assert "a copy is outside of the memory given, block (" in str(seen)
