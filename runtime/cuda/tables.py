"""Pack a layer's weights into tables: tiles, their columns, and where each row's sum goes.

A piece of r rows is cut as the paper cuts it: the
32 * floor(r / 32) rows that fill tiles go to the kernel that caches input and output in shared
memory, the r mod 32 rows left to the one that caches weights and outputs. A row that lies in one
tile is written by it, epilogue and all; the sums of a row that lies in several, or in none, are
added up afterwards, always in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.cuda.pieces import Floats, Indices, Piece

Range = tuple[int, int]

# A row slot that stands for no row: padding of a tile.
NO_ROW = -1
# Row slots from here down name a partial sum: slot 0 is -2, slot 1 is -3.
FIRST_PARTIAL = -2


class Cutting(Protocol):
    """The part of a kernel's configuration that packing depends on."""

    @property
    def dtype(self) -> str:
        """float32, tf32 or float16."""

    @property
    def rows(self) -> int:
        """Rows of a GEMM tile."""

    @property
    def depth(self) -> int:
        """Columns of a chunk of weights."""

    @property
    def weight_order(self) -> NDArray[np.int64]:
        """For each place in a packed chunk, the place in [column][row] that it takes."""

    def split_rows(self, rows: int) -> tuple[Sequence[int], Sequence[int]]:
        """Return the rows of each GEMM tile of a piece, and of each remainder tile."""

    def split_depth(self, columns: int) -> Sequence[Range]:
        """Return the ranges of columns that a piece is cut into."""


@dataclass(frozen=True, eq=False)
class Tables:
    """The tables of a layer, for one launch; offsets count elements.

    Parameters
    ----------
    tiles : ndarray of int32, shape (T, 5)
        Of each tile: where its weights, its columns start, how many columns, where its row slots
        start, how many. The GEMM tiles come first.
    block_tiles : int
        How many of them are GEMM tiles.
    weights : ndarray of float32 or float16
        Of the GEMM tiles, in the kernel's order.
    remainder_weights : ndarray of float32
        Of the others, [column][row].
    columns : ndarray of int32
        Element that each column reads, relative to what tap (0, 0) of channel 0 does.
    targets : ndarray of int32
        A row slot's output row, `NO_ROW`, or a partial sum from `FIRST_PARTIAL` down.
    partials : int
        Partial sums.
    finish_rows, finish_starts, finish_slots : ndarray of int32, shapes (F,), (F + 1,), (S,)
        Rows that are sums of partial ones, and which, in the order in which they are added.
    """

    tiles: Indices
    block_tiles: int
    weights: Floats
    remainder_weights: NDArray[np.float32]
    columns: Indices
    targets: Indices
    partials: int
    finish_rows: Indices
    finish_starts: Indices
    finish_slots: Indices


class Cut(NamedTuple):
    """Rows of a piece, and a range of its columns, for one tile; `rows` is what a tile pads to."""

    piece: int
    first: int
    last: int
    columns: Range
    height: int


def pack(
    parts: Sequence[Piece],
    rows: int,
    cutting: Cutting,
    heights: Sequence[int],
    offsets: Callable[[Indices], Indices],
) -> Tables:
    """Return the tables of a layer.

    Parameters
    ----------
    parts : sequence of Piece
    rows : int
        Of the layer. Those that no piece holds become tiles without columns: they have bias, skip
        add and activation all the same.
    cutting : Cutting
        The configuration of the kernel.
    heights : sequence of int
        Rows of a remainder tile, ascending: one is padded to the least that holds it.
    offsets : function of columns to element offsets

    Raises
    ------
    OverflowError
        If a table is longer than 32 bits count.
    """
    whole = [*parts, _uncovered(parts, rows)]
    gemm: list[Cut] = []
    rest: list[Cut] = []
    for number, piece in enumerate(whole):
        count, depth = len(piece.rows), len(piece.columns)
        tall, short = cutting.split_rows(count) if depth else ((), _portions(count, heights[-1]))
        edges = [0, *np.cumsum([*tall, *short], dtype=int).tolist()]
        for columns in cutting.split_depth(depth) if depth else [(0, 0)]:
            for first, last in pairwise(edges):
                if last <= sum(tall):
                    gemm.append(Cut(number, first, last, columns, cutting.rows))
                else:
                    height = next(h for h in heights if h >= last - first)
                    rest.append(Cut(number, first, last, columns, height))
    return _tables(whole, gemm, rest, rows, cutting, offsets)


def _portions(count: int, most: int) -> list[int]:
    return [min(most, count - first) for first in range(0, count, most)]


def _uncovered(parts: Sequence[Piece], rows: int) -> Piece:
    covered = np.zeros(rows, bool)
    for piece in parts:
        covered[piece.rows] = True
    left = np.flatnonzero(~covered).astype(np.int32)
    return Piece(left, np.empty(0, np.int32), np.empty((len(left), 0), np.float32))


def _tables(
    parts: Sequence[Piece],
    gemm: Sequence[Cut],
    rest: Sequence[Cut],
    rows: int,
    cutting: Cutting,
    offsets: Callable[[Indices], Indices],
) -> Tables:
    cuts = [*gemm, *rest]
    targets, finish = _targets(parts, cuts, rows)
    columns, column_starts = _columns(parts, gemm, rest, cutting.depth, offsets)
    order = cutting.weight_order
    weights, weight_starts = _joined(_gemm_weights(parts[c.piece], c, cutting, order) for c in gemm)
    others, other_starts = _joined(_remainder_weights(parts[c.piece], c) for c in rest)
    slot_starts = np.cumsum([0, *(cut.height for cut in cuts)])[:-1]
    depths = [cut.columns[1] - cut.columns[0] for cut in cuts]
    depths[: len(gemm)] = [_padded(depth, cutting.depth) for depth in depths[: len(gemm)]]
    table = [
        [*weight_starts, *other_starts],
        [column_starts[cut.piece, cut.columns] for cut in cuts],
        depths,
        slot_starts,
        [cut.height for cut in cuts],
    ]
    return Tables(
        tiles=_int32(np.array(table, np.int64).T.reshape(-1, 5)),
        block_tiles=len(gemm),
        weights=weights.astype(np.float16 if cutting.dtype == "float16" else np.float32),
        remainder_weights=others.astype(np.float32),
        columns=columns,
        targets=targets,
        partials=sum(len(slots) for slots in finish.values()),
        finish_rows=_int32(list(finish)),
        finish_starts=_int32(np.cumsum([0, *map(len, finish.values())])),
        finish_slots=_int32([slot for slots in finish.values() for slot in slots]),
    )


def _targets(
    parts: Sequence[Piece], cuts: Sequence[Cut], rows: int
) -> tuple[Indices, dict[int, list[int]]]:
    """Return where each row slot's sum goes, and the partial sums of each row that has several."""
    held = [parts[cut.piece].rows[cut.first : cut.last] for cut in cuts]
    times = np.bincount(np.concatenate([*held, np.empty(0, np.int32)]), minlength=rows)
    finish: dict[int, list[int]] = {int(row): [] for row in np.flatnonzero(times > 1)}
    partials = 0
    targets = np.full(sum(cut.height for cut in cuts), NO_ROW, np.int64)
    start = 0
    for cut, its_rows in zip(cuts, held, strict=True):
        places = its_rows.astype(np.int64)
        for slot in np.flatnonzero(times[its_rows] > 1):
            finish[int(its_rows[slot])].append(partials)
            places[slot] = FIRST_PARTIAL - partials
            partials += 1
        targets[start : start + len(places)] = places
        start += cut.height
    return _int32(targets), finish


def _columns(
    parts: Sequence[Piece],
    gemm: Sequence[Cut],
    rest: Sequence[Cut],
    depth: int,
    offsets: Callable[[Indices], Indices],
) -> tuple[Indices, dict[tuple[int, Range], int]]:
    """Return the columns that tiles read, shared by the tiles of a piece, and where each start."""
    needed = dict.fromkeys([(c.piece, c.columns) for c in rest], 1)
    needed.update(dict.fromkeys([(c.piece, c.columns) for c in gemm], depth))
    tables, starts, end = [np.empty(0, np.int32)], {}, 0
    for (number, columns), multiple in sorted(needed.items()):
        at = offsets(parts[number].columns[slice(*columns)])
        # Padding repeats the last column: any other might hold an infinity, and 0 * inf is NaN.
        table = np.pad(at, (0, _padded(len(at), multiple) - len(at)), "edge") if len(at) else at
        starts[number, columns] = end
        tables.append(table)
        end += len(table)
    return _int32(np.concatenate(tables)), starts


def _gemm_weights(piece: Piece, cut: Cut, cutting: Cutting, order: NDArray[np.int64]) -> Floats:
    """Return a tile's weights, chunk after chunk of `depth` columns, in the kernel's order."""
    values = piece.values[cut.first : cut.last, slice(*cut.columns)]
    whole = np.zeros((_padded(values.shape[1], cutting.depth), cutting.rows), np.float32)
    whole[: values.shape[1], : values.shape[0]] = values.T
    chunks = whole.reshape(-1, cutting.depth * cutting.rows)[:, order]
    if cutting.dtype == "tf32":
        return rounded_to_tf32(chunks.ravel())
    return chunks.ravel()


def _remainder_weights(piece: Piece, cut: Cut) -> Floats:
    """Return a tile's weights as [column][row], up to a multiple of four numbers."""
    values = piece.values[cut.first : cut.last, slice(*cut.columns)]
    size = values.shape[1] * cut.height
    packed = np.zeros(_padded(size, 4), np.float32)
    packed[:size].reshape(-1, cut.height)[:, : len(values)] = values.T
    return packed


def rounded_to_tf32(values: Floats) -> NDArray[np.float32]:
    """Return float32 with ten bits of mantissa, the nearest; halves go away from zero.

    Examples
    --------
    >>> rounded_to_tf32(np.float32([1 + 2**-11, 1 + 2**-12])) - 1
    array([0.00097656, 0.        ], dtype=float32)
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def _joined(arrays: Iterator[Floats]) -> tuple[Floats, list[int]]:
    """Return arrays one after another, and where each starts."""
    parts = [np.empty(0, np.float32), *arrays]
    return np.concatenate(parts), np.cumsum([0, *map(len, parts)])[1:-1].tolist()


def _padded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _int32(values: Any) -> Indices:  # noqa: ANN401 - what NumPy makes an array of
    array = np.asarray(values, np.int64)
    if array.size and np.abs(array).max() > np.iinfo(np.int32).max:
        raise OverflowError("the layer's tables are longer than 32 bits count")
    return array.astype(np.int32)
