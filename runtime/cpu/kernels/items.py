"""How a layer's work is cut into items that threads take: chunks of lanes, parts of the groups.

The weights of a panel stay in the second level of the cache while it goes over all lanes of its
chunk. Parts of the groups read the input again, chunks of the lanes read the weights again: of all
ways to make items enough for the threads, the one that moves least is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.cpu.calibration import LEAST_ITEM
from runtime.cpu.kernels.problem import DEFAULT, Configuration
from runtime.cpu.kernels.runs import Runs, split
from runtime.cpu.machine import Machine
from runtime.cpu.weights.row_groups import Int64, Packed

# Runs are cut at multiples of so many vectors: every kernel's width divides it.
CUT = 24


@dataclass(frozen=True, eq=False)
class Cut:
    """How a layer's work is cut into items; see cpu/layer.h.

    Parameters
    ----------
    runs : Runs
        Cut to the length of the chunks.
    chunk_starts, panel_starts, part_starts : ndarray of int64
    parts_first : bool
    configuration : Configuration
    """

    runs: Runs
    chunk_starts: Int64
    panel_starts: Int64
    part_starts: Int64
    parts_first: bool
    configuration: Configuration

    @property
    def items(self) -> int:
        """Pieces of work."""
        return (len(self.chunk_starts) - 1) * (len(self.part_starts) - 1)


def cut(
    packed: Packed,
    runs: Runs,
    machine: Machine,
    channels: int,
    configuration: Configuration = DEFAULT,
) -> Cut:
    """Return how to cut a layer's work.

    Parameters
    ----------
    packed : Packed
    runs : Runs
    machine : Machine
    channels : int
        Of the input.
    configuration : Configuration, default `DEFAULT`
    """
    work = packed.heights * packed.widths
    panels = _panels(packed, int(configuration.panel_share * machine.near))
    lanes = int(runs.lanes.sum())
    wanted = _wanted(work, lanes, machine, configuration)
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
    weight = pieces.lanes * np.maximum(pieces.taps[pieces.table["tap_set"]], 1)
    return Cut(
        pieces,
        np.concatenate([[0], _even(weight, pieces.units[1:], chunks)]),
        panel_starts,
        part_starts.astype(np.int64),
        bytes_in > bytes_weights,
        configuration,
    )


def whole(
    packed: Packed, runs: Runs, machine: Machine, configuration: Configuration = DEFAULT
) -> Cut:
    """Return how to cut a layer of few lanes: its groups among the threads, no lanes."""
    work = packed.heights * packed.widths
    wanted = _wanted(work, int(runs.lanes.sum()), machine, configuration)
    starts = np.concatenate([[0], _even(work, packed.part_ends, wanted)])
    chunk = np.array([0, len(runs.table)])
    return Cut(runs, chunk, starts, np.arange(len(starts)), False, configuration)


def _wanted(work: Int64, lanes: int, machine: Machine, configuration: Configuration) -> int:
    """Return how many items there should be: several a thread, none of them too small."""
    if machine.threads == 1:
        return 1
    seconds = float(work.sum()) * lanes / machine.rate
    return int(min(machine.threads * configuration.items, max(seconds / LEAST_ITEM, 1)))


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
