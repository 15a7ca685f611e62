"""What the CUDA kernels read: values and tables in memory.

The tables are packed here once more, apart from the backend's packing: a misreading of their
format that both shared would go unseen.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from runtime.cuda import configuration

PLACE = np.dtype([("plane", "i4"), ("down", "i4"), ("across", "i4")])
ACTIVATION = np.dtype([("op", "i4"), ("alpha", "f4"), ("beta", "f4")])
GEOMETRY = np.dtype(
    [(name, "i4") for name in ("positions", "lanes", "width", "block_tiles", "remainder_tiles")]
    + [(name, PLACE) for name in ("x", "y", "skip")]
    + [("activation", ACTIVATION)]
)


@dataclass
class Memory:
    """A value (N, C, H, W) on the device: [C][H + halo][W + halo][lanes]."""

    array: np.ndarray
    halo: tuple[int, int, int, int]
    place: tuple[int, int, int]
    origin: int

    @classmethod
    def of(cls, x, lanes, halo, dtype, beyond=np.nan, around=0.0):
        batch, channels, height, width = x.shape
        top, left, bottom, right = halo
        shape = (channels, height + top + bottom, width + left + right, lanes)
        array = np.full(shape, around, np.float32)
        inner = array[:, top : top + height, left : left + width]
        inner[...] = beyond
        inner[..., :batch] = x.transpose(1, 2, 3, 0)
        array = aligned(array.astype(np.float16 if dtype == "float16" else np.float32))
        across, down = lanes, shape[2] * lanes
        origin = top * down + left * across
        return cls(array, halo, (shape[1] * down, down, across), origin)

    def interior(self, batch):
        top, left, bottom, right = self.halo
        _, height, width, _ = self.array.shape
        inner = self.array[:, top : height - bottom, left : width - right, :batch]
        return inner.transpose(3, 0, 1, 2).astype(np.float64)

    def from_(self, element):
        return self.array.reshape(-1)[element:]


def aligned(array):
    """Return a copy whose memory starts at a multiple of 128 bytes."""
    raw = np.empty(array.nbytes + 128, np.uint8)
    start = -raw.ctypes.data % 128
    out = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    out[...] = array
    return out


@dataclass
class Tables:
    """A layer as the kernels read it."""

    block_tiles: list[tuple[int, ...]] = field(default_factory=list)
    remainder_tiles: list[tuple[int, ...]] = field(default_factory=list)
    weights: list[np.ndarray] = field(default_factory=list)
    remainder_weights: list[np.ndarray] = field(default_factory=list)
    columns: list[np.ndarray] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    slots: dict[int, list[int]] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=lambda: {"w": 0, "r": 0, "c": 0})

    def put(self, table, key, values):
        table.append(values.reshape(-1))
        self.ends[key] += values.size
        return self.ends[key] - values.size


def pack(layer, data, c, place):
    """Return the tables of a layer, as of `cuda_convolutions`, cut as the configuration says."""
    tables = Tables()
    pieces = []
    for (rows, columns), weights in zip(layer.blocks, data.weights, strict=True):
        blocks, remainders = c.split_rows(len(rows))
        for first, end in c.split_depth(len(columns)):
            at = 0
            for count, whole in [(n, True) for n in blocks] + [(n, False) for n in remainders]:
                part = slice(at, at + count)
                pieces.append((whole, rows[part], columns[first:end], weights[part, first:end]))
                at += count
            assert at == len(rows)
    touched = np.zeros(layer.rows, int)
    for _, rows, _, _ in pieces:
        touched[rows] += 1
    unblocked = np.flatnonzero(touched == 0)
    most = configuration.REMAINDER_ROWS[-1]
    for first in range(0, len(unblocked), most):
        rows = unblocked[first : first + most]
        pieces.append((False, rows, np.zeros(0, int), np.zeros((len(rows), 0))))
    next_slot = 0
    for whole, rows, columns, weights in pieces:
        targets = []
        for row in rows:
            if touched[row] > 1:
                tables.slots.setdefault(int(row), []).append(next_slot)
                targets.append(-2 - next_slot)
                next_slot += 1
            else:
                targets.append(int(row))
        add_tile(tables, layer, c, place, whole, rows, columns, weights, targets)
    return tables


def add_tile(tables, layer, c, place, whole, rows, columns, weights, targets):
    """Append one tile of rows that share columns."""
    depth = len(columns)
    if whole:
        height, padded = c.rows, -(-depth // c.depth) * c.depth
    else:
        height, padded = min(h for h in configuration.REMAINDER_ROWS if h >= len(rows)), depth
    full = np.zeros((padded, height))
    full[:depth, : len(rows)] = weights.T
    offsets = column_offsets(layer, place, rows[0], columns)
    if padded > depth:
        offsets = np.append(offsets, np.repeat(offsets[-1], padded - depth))
    slots = len(tables.targets)
    tables.targets += targets + [-1] * (height - len(rows))
    column = tables.put(tables.columns, "c", offsets.astype(np.int32))
    if whole:
        chunks = full.reshape(-1, c.depth * c.rows)[:, c.weight_order]
        number = np.float16 if c.dtype == "float16" else np.float32
        at = tables.put(tables.weights, "w", chunks.astype(number))
        tables.block_tiles.append((at, column, padded, slots, height))
    else:
        full = np.append(full, np.zeros(-full.size % 4))
        at = tables.put(tables.remainder_weights, "r", full.astype(np.float32))
        tables.remainder_tiles.append((at, column, depth, slots, height))


def column_offsets(layer, place, row, columns):
    """Return how far each column reads from where the first output starts to."""
    plane, down, across = place
    channels = layer.channels // layer.groups
    c, y, x = np.unravel_index(columns, (channels, *layer.kernel))
    c = c + row // (layer.rows // layer.groups) * channels
    return c * plane + y * layer.dilations[0] * down + x * layer.dilations[1] * across


def joined(parts, dtype):
    """Return one table, of at least a few numbers so that it is never empty."""
    return aligned(np.concatenate([*parts, np.zeros(4)]).astype(dtype))
