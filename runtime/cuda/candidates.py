"""Which kernel runs a layer: a pure function of the problem and of the device's limits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from runtime.cuda.configuration import Configuration, Limits, Problem
from runtime.errors import PlanError

# The oldest architecture that computes in a type: asynchronous copies and tf32 came with 80.
NEEDED: dict[str, int] = {"float32": 70, "tf32": 80, "float16": 75}
ASYNCHRONOUS = 80

# (rows, positions) of a tile and of a warp, the widest first. The threads of a tile are a power of
# two, so that they share the copies of a chunk evenly.
Shape = tuple[int, int, int, int]
FLOAT32_SHAPES: tuple[Shape, ...] = (
    (96, 128, 48, 64),
    (64, 128, 32, 64),
    (32, 256, 32, 64),
    (32, 128, 32, 64),
    (64, 64, 32, 32),
    (32, 64, 16, 32),
)
TENSOR_SHAPES: tuple[Shape, ...] = (
    (96, 256, 48, 64),
    (96, 128, 48, 64),
    (64, 256, 32, 64),
    (64, 128, 32, 64),
    (32, 256, 32, 64),
    (32, 128, 32, 32),
    (32, 64, 16, 32),
)
# Rows and positions of the largest tile for batches below 8. Their input is copied one number at a
# time, and each copy keeps a register: larger tiles would spill.
LARGEST_OF_SMALL_BATCH = (64, 128)

# From here on all rows of so few positions go to the remainder kernel, whose lanes share columns.
FEW_POSITIONS = 16
# Bytes of shared memory that a block takes beside what it asks for.
RESERVED = 1024
# A tile sums no fewer columns than this: shorter ones are mostly prologue and epilogue.
FEWEST_COLUMNS = 128


def choose(problem: Problem, limits: Limits) -> Configuration:
    """Return the configuration that should be fastest; `candidates` has more to try.

    Raises
    ------
    PlanError
        If the device does not compute in the type.
    """
    return candidates(problem, limits)[0]


def candidates(problem: Problem, limits: Limits) -> tuple[Configuration, ...]:
    """Return the configurations that the device can run, the fastest by estimate first.

    Parameters
    ----------
    problem : Problem
    limits : Limits

    Raises
    ------
    PlanError
        If the device does not compute in the type.
    """
    if problem.dtype not in NEEDED:
        raise PlanError(f"backend 'cuda' computes in {', '.join(NEEDED)}, not {problem.dtype}")
    needed = NEEDED[problem.dtype]
    if limits.capability < needed:
        raise PlanError(
            f"backend 'cuda': {problem.dtype} needs a device of compute capability "
            f"{needed / 10:.1f}, this one has {limits.capability / 10:.1f}"
        )
    found = {
        split: None
        for base in _bases(problem, limits)
        for split in _splits(base, problem, limits)
        if split.shared_bytes <= limits.shared_per_block
    }
    return tuple(sorted(found, key=lambda c: estimate(c, problem, limits)))


def estimate(configuration: Configuration, problem: Problem, limits: Limits) -> float:
    """Return the time of a layer, in columns of 32 rows by 128 positions on one processor.

    A tile is bound by its multiplications or by the gathering of its input, whichever takes
    longer; its time is counted in rows. A device runs as many blocks at once as fit; the last of
    them leave some processors idle. What is left out (caches, latency) is the tuner's business.
    """
    gather = _GATHER[problem.dtype]
    spans = -(-problem.positions // configuration.positions)
    remainder_spans = -(-problem.positions // configuration.remainder_span)
    times: list[float] = []
    slots = 0
    for rows, columns in problem.blocks:
        block_rows, remainder_rows = configuration.split_rows(rows)
        parts = configuration.split_depth(columns)
        for first, end in parts:
            depth = end - first + _OVERHEAD
            block = _together(configuration.rows, gather) * configuration.positions
            times += [depth * block] * (len(block_rows) * spans)
            for r in remainder_rows:
                column = _together(r * _ORDINARY[problem.dtype], gather * 1.5)
                time = depth * column * max(configuration.remainder_span, 32)
                times += [time] * remainder_spans
        slots += len(parts) > 1 and rows * len(parts)
    resident = max(
        1,
        min(
            configuration.blocks_per_processor,
            limits.shared_per_processor // (configuration.shared_bytes + RESERVED),
            limits.threads_per_processor // configuration.threads,
        ),
    )
    if not times:
        return 0.0
    # A processor that holds too few warps cannot hide how long memory takes.
    warps = min(resident, -(-len(times) // limits.processors)) * configuration.threads / 32
    waiting = max(1.0, _WARPS_TO_HIDE / warps)
    waves = -(-len(times) // limits.processors) * limits.processors / len(times)
    total = sum(times) / limits.processors * max(1.0, waves) * waiting
    return (total + slots * problem.positions * _SLOT / limits.processors) / (32 * 128)


def _together(multiplying: float, gathering: float) -> float:
    """Return the time of multiplying and gathering, which overlap for the most part."""
    return max(multiplying, gathering) + 0.25 * min(multiplying, gathering)


# Time to gather a column, in rows that are multiplied meanwhile; a remainder's, whose input does
# not pass through shared memory, is half as much again.
_GATHER: dict[str, float] = {"float32": 16, "tf32": 48, "float16": 64}
# The remainder kernel multiplies on the ordinary units whatever the type.
_ORDINARY: dict[str, float] = {"float32": 1, "tf32": 6, "float16": 10}
_OVERHEAD = 48  # columns that a prologue and an epilogue take as long as
_SLOT = 64  # rows that are multiplied while a partial sum is written and read
_WARPS_TO_HIDE = 8


def _bases(problem: Problem, limits: Limits) -> Iterator[Configuration]:
    """Yield every shape of tile for the problem, without a split."""
    itemsize = 2 if problem.dtype == "float16" else 4
    aligned = problem.lanes * itemsize % 16 == 0
    copy_bytes = 16 if aligned else itemsize
    asynchronous = limits.capability >= ASYNCHRONOUS and copy_bytes >= 4
    few = problem.positions <= FEW_POSITIONS
    shapes = FLOAT32_SHAPES if problem.dtype == "float32" else TENSOR_SHAPES
    # As much as registers hold while they pass it on, or as is worth a barrier.
    depth = (16 if asynchronous else 8) * 4 // itemsize
    for rows, positions, warp_rows, warp_positions in shapes[-1:] if few else shapes:
        if not aligned and (
            rows > LARGEST_OF_SMALL_BATCH[0] or positions > LARGEST_OF_SMALL_BATCH[1]
        ):
            continue
        base = Configuration(
            problem.dtype,
            rows,
            positions,
            depth,
            4 if asynchronous else 2,
            warp_rows,
            warp_positions,
            copy_bytes,
            remainder_positions=4,
            whole_from=25 if problem.dtype == "float32" else 9,
            activation=problem.activation,
        )
        if few:
            yield replace(base, remainder_positions=0)
            continue
        # A remainder block should not be wider than the layer has positions.
        while base.remainder_positions > 1 and base.remainder_span >= 2 * problem.positions:
            base = replace(base, remainder_positions=base.remainder_positions // 2)
        # The fourth stage is worth having unless it keeps another block out.
        by_memory = limits.shared_per_processor // (base.shared_bytes + RESERVED)
        if asynchronous and by_memory < base.blocks_per_processor:
            base = replace(base, stages=3)
        yield base


def _splits(base: Configuration, problem: Problem, limits: Limits) -> Iterator[Configuration]:
    """Yield the configuration, and with columns split until the device is full."""
    yield base
    longest = max((columns for _, columns in problem.blocks), default=0)
    for parts in (2, 4, 8, 16):
        columns = -(-longest // parts)
        if columns < FEWEST_COLUMNS:
            return
        split = replace(base, split=-(-columns // base.depth) * base.depth)
        tiles = sum(
            len(split.split_depth(columns)) * sum(map(len, split.split_rows(rows)))
            for rows, columns in problem.blocks
        )
        yield split
        if tiles * -(-problem.positions // base.positions) >= 4 * limits.processors:
            return
