"""How each layer is executed: a pure function of its weights, its runs and the machine.

A cost model in seconds, from a few measured figures. Nothing here knows an arena, a file or a
clock; the tuner measures what this proposes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from masktools.checkpoint import SparseWeight
from runtime.cpu_packing import LARGEST_HEIGHT, Packed, Scheme, balanced
from runtime.cpu_runs import Runs, split
from runtime.steps import Weight

Int64 = NDArray[np.int64]


class Machine(NamedTuple):
    """What the cost model knows of a processor.

    Parameters
    ----------
    vector : int
        float32 elements of a vector.
    threads : int
    level2 : int
        Bytes of a core's second-level cache.
    rate : float
        Multiplications a second of one thread, from registers.
    """

    vector: int
    threads: int
    level2: int = 1 << 20
    rate: float = 50e9


# Share of the peak that groups of 1, 2, ... rows reach: a column is loaded once for all of them.
EFFICIENCY = (0.0, 0.70, 0.82, 0.86, 0.90, 0.90, 0.92, 0.92, 0.95)
# Vectors that one call of a kernel runs over, at most: its call costs as much as so many columns.
CALL_COLUMNS = 4
# Share of the second-level cache that the weights of a panel may fill.
PANEL_SHARE = 0.5
# Runs are cut at multiples of so many vectors: every kernel's width divides it.
CUT = 24
# Seconds of work below which an item is not worth handing out.
LEAST_ITEM = 10e-6
# Items for each thread, so that all end at about the same time.
ITEMS = 4


@dataclass(frozen=True, eq=False)
class Cut:
    """How a layer's work is cut into items; see cpu/layer.h.

    Parameters
    ----------
    runs : Runs
        Cut to the length of the chunks.
    chunk_starts, panel_starts, part_starts : ndarray of int64
    parts_first : bool
    tile_vectors, prefetch : int
    """

    runs: Runs
    chunk_starts: Int64
    panel_starts: Int64
    part_starts: Int64
    parts_first: bool = False
    tile_vectors: int = 0
    prefetch: int = 8

    @property
    def items(self) -> int:
        """Pieces of work."""
        return (len(self.chunk_starts) - 1) * (len(self.part_starts) - 1)


def choose_scheme(weight: Weight, groups: int = 1) -> Scheme:
    """Return how a weight is cut into groups: by blocks, by rows, or densely.

    Parameters
    ----------
    weight : ndarray or SparseWeight
    groups : int, default 1
        Convolution groups.

    Returns
    -------
    Scheme
        The one that takes least time by the cost model.
    """
    rows = weight.shape[0] if isinstance(weight, np.ndarray) else weight.layout.rows
    if isinstance(weight, np.ndarray):
        return Scheme("dense")
    costs = {
        Scheme("blocks"): _blocks_cost(weight),
        Scheme("dense"): _dense_cost(rows, weight.layout.columns, groups),
    }
    if weight.layout.blocks:
        costs[Scheme("rows", 1)] = weight.stored / EFFICIENCY[1] + rows * CALL_COLUMNS
    return min(costs, key=lambda scheme: costs[scheme])


def _dense_cost(rows: int, columns: int, groups: int) -> float:
    heights = balanced(rows // groups, LARGEST_HEIGHT)
    return groups * sum(_group_cost(height, columns) for height in heights)


def _blocks_cost(weight: SparseWeight) -> float:
    cost = sum(
        _group_cost(height, len(block.columns))
        for block in weight.layout.blocks
        for height in balanced(len(block.rows), LARGEST_HEIGHT)
    )
    if weight.residual is not None:
        kept = np.count_nonzero(np.diff(weight.residual.row_offsets))
        cost += weight.residual.values.size / EFFICIENCY[1] + kept * CALL_COLUMNS
    return cost


def _group_cost(height: int, columns: int) -> float:
    """Return the cost of a group, in multiplications at peak."""
    return height * columns / EFFICIENCY[height] + height * CALL_COLUMNS


def cut(packed: Packed, runs: Runs, machine: Machine, channels: int) -> Cut:
    """Return how to cut a layer's work.

    Parameters
    ----------
    packed : Packed
    runs : Runs
    machine : Machine
    channels : int
        Of the input.

    Notes
    -----
    The weights of a panel stay in the second level of the cache while it goes over all lanes of
    its chunk. Parts of the groups read the input again, chunks of the lanes read the weights
    again: of all ways to make items enough for the threads, the one that moves least is taken.
    """
    work = packed.heights * packed.widths
    panels = _panels(packed, int(PANEL_SHARE * machine.level2))
    lanes = int(runs.lanes.sum())
    seconds = float(work.sum()) * lanes / machine.rate
    wanted = int(min(machine.threads * ITEMS, max(seconds / LEAST_ITEM, 1)))
    if machine.threads == 1:
        wanted = 1
    most_chunks = max(1, lanes // (machine.vector * 4))
    best, least = (1, 1), float("inf")
    bytes_in, bytes_weights = 4 * lanes * channels, packed.weights.nbytes + packed.columns.nbytes
    for parts in sorted({1, 2, 4, 8, 16, machine.threads, 2 * machine.threads, wanted}):
        if parts > min(len(packed.part_ends), wanted):
            continue
        chunks = min(-(-wanted // parts), most_chunks)
        moved = parts * bytes_in + chunks * bytes_weights
        short = max(wanted / (parts * chunks), 1.0)
        if moved * short < least:
            best, least = (chunks, parts), moved * short
    chunks, parts = best
    ends = _even(work, packed.part_ends, parts)
    panel_starts = np.unique(np.concatenate([[0], panels, ends]))
    part_starts = np.searchsorted(panel_starts, np.concatenate([[0], ends]))
    pieces = split(runs, _length(runs, lanes, chunks, machine.vector))
    weight = pieces.lanes * np.maximum(pieces.taps[pieces.table[:, 3]], 1)
    return Cut(
        pieces,
        np.concatenate([[0], _even(weight, pieces.units[1:], chunks)]),
        panel_starts,
        part_starts.astype(np.int64),
        parts_first=bytes_in > bytes_weights,
    )


def whole(packed: Packed, runs: Runs, machine: Machine) -> Cut:
    """Return how to cut a layer of few lanes: its groups among the threads, its lanes not at all."""
    work = packed.heights * packed.widths
    seconds = float(work.sum()) * int(runs.lanes.sum()) / machine.rate
    wanted = int(min(machine.threads * ITEMS, max(seconds / LEAST_ITEM, 1)))
    ends = _even(work, packed.part_ends, wanted if machine.threads > 1 else 1)
    starts = np.concatenate([[0], ends])
    return Cut(runs, np.array([0, len(runs.table)]), starts, np.arange(len(starts)))


def _length(runs: Runs, lanes: int, chunks: int, vector: int) -> int:
    """Return the longest run: short enough that chunks come out even."""
    unit = CUT * vector
    return max(lanes // (chunks * 4) // unit, 1) * unit if chunks > 1 else max(lanes, unit)


def _panels(packed: Packed, most: int) -> Int64:
    """Return where panels end whose weights take about `most` bytes, and where they have to."""
    sizes = packed.heights * packed.widths * 4 + packed.widths * 4
    end = np.cumsum(sizes)
    number = (end - sizes) // most
    cuts = np.flatnonzero(np.diff(number)) + 1
    return np.unique(np.concatenate([cuts, packed.panel_ends]))


def _even(work: Int64, allowed: Int64, parts: int) -> Int64:
    """Return ends of at most `parts` pieces of about equal work, all of them among `allowed`.

    Examples
    --------
    >>> _even(np.array([4, 1, 1, 2, 4]), np.array([1, 2, 3, 4, 5]), 3).tolist()
    [1, 4, 5]
    """
    done = np.cumsum(work)[allowed - 1]
    wanted = np.arange(1, parts) * (done[-1] / parts)
    after = np.searchsorted(done, wanted)
    before = np.maximum(after - 1, 0)
    nearer = np.where(wanted - done[before] < done[after] - wanted, before, after)
    return np.unique(np.concatenate([allowed[nearer], allowed[-1:]])).astype(np.int64)


def retuned(cut_: Cut, tile_vectors: int, prefetch: int) -> Cut:
    """Return a cut with other settings of its kernels."""
    return replace(cut_, tile_vectors=tile_vectors, prefetch=prefetch)
