"""Configurations: which kernel computes a layer, and how the layer is cut for it.

Nothing here knows the kernels' source or how they are launched: `runtime.cuda.candidates` makes
configurations, `runtime.cuda.kernel_source` writes them as C++ types, the backend packs and
launches by them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from masktools.forks import unlocked_property

Type = Literal["float32", "tf32", "float16"]

# Rows of a remainder tile: what the remainder kernel is compiled for.
REMAINDER_ROWS = (1, 4, 8, 16, 24)


@dataclass(frozen=True)
class Limits:
    """The limits of a device that kernels have to keep to.

    Parameters
    ----------
    capability : int
        Its architecture: 75, 80, 86, 89, 90 ...
    processors : int
        Streaming multiprocessors.
    shared_per_block, shared_per_processor : int
        Bytes of shared memory, the first as a kernel may ask for at most.
    registers_per_processor, threads_per_processor : int
    """

    capability: int
    processors: int
    shared_per_block: int
    shared_per_processor: int
    registers_per_processor: int = 65536
    threads_per_processor: int = 1024


@dataclass(frozen=True)
class Problem:
    """Those properties of a layer that the choice of its kernel depends on.

    Parameters
    ----------
    dtype : str
        float32, tf32 or float16.
    positions : int
        Pixels of the output times lanes.
    lanes : int
        Numbers that a pixel holds; see `lanes`.
    blocks : tuple of (int, int)
        Rows and columns of each dense block; rows of their own count as blocks of one row.
    activation : str
        The operator that ends the layer, as `runtime.plan.steps.Activation.op`; none if empty.
    """

    dtype: Type
    positions: int
    lanes: int
    blocks: tuple[tuple[int, int], ...]
    activation: str = ""


def lanes(batch: int) -> int:
    """Return how many numbers a pixel of `batch` samples takes.

    From 8 samples on a multiple of 8, so that 16 bytes are copied at once whatever the type. Fewer
    are stored as they are: half a pixel of zeros would cost more than copies of one number.

    Examples
    --------
    >>> [lanes(batch) for batch in (1, 7, 8, 9, 64)]
    [1, 7, 8, 16, 64]
    """
    return batch if batch < 8 else -(-batch // 8) * 8


@dataclass(frozen=True)
class Configuration:
    """A kernel for layers with weights, and how a layer is cut for it.

    Parameters
    ----------
    dtype : str
    rows, positions : int
        Of a block tile.
    depth : int
        Columns that are brought to shared memory together.
    stages : int
        Chunks that are in shared memory at once: 2 if they come through registers, else 3 or more,
        by asynchronous copies.
    warp_rows, warp_positions : int
        The share of a warp.
    copy_bytes : int
        Bytes of input that lie together: 16, or one number.
    remainder_positions : int
        That a thread of the remainder kernel sums; 0 if the lanes of a warp share columns,
        which then takes all rows.
    whole_from : int
        A remainder of this many rows or more is padded to a block tile.
    activation : str
        As of `Problem`.
    split : int
        Columns that a tile sums at most; 0 for any number.
    """

    dtype: Type
    rows: int
    positions: int
    depth: int
    stages: int
    warp_rows: int
    warp_positions: int
    copy_bytes: int
    remainder_positions: int
    whole_from: int
    activation: str = ""
    split: int = 0

    @property
    def itemsize(self) -> int:
        """Bytes of a number of the input."""
        return 2 if self.dtype == "float16" else 4

    @property
    def asynchronous(self) -> bool:
        """Whether input is copied to shared memory without passing through registers."""
        return self.stages > 2

    @property
    def aligned(self) -> bool:
        """Whether 16 bytes of input always belong to one pixel."""
        return self.copy_bytes == 16

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * (self.rows // self.warp_rows) * (self.positions // self.warp_positions)

    @property
    def sums(self) -> int:
        """Sums that a thread of a block tile keeps in registers."""
        return self.warp_rows * self.warp_positions // 32

    @property
    def registers(self) -> int:
        """Registers that a thread may take: the fewest with which compilers did not spill.

        Its sums and operands, and input that passes through registers. Two warps a block copy
        more each, and copies of single numbers are more; the quarters of a processor share its
        registers by whole warps, so that there is nothing between 128 and 168.
        """
        if not self.asynchronous:
            return 168 if self.sums <= 64 else 255
        many = self.threads == 64 or (not self.aligned and self.sums == 64)
        return 168 if self.sums > 64 or many else 128

    @property
    def blocks_per_processor(self) -> int:
        """Blocks that fit the registers of a processor: what launch bounds promise."""
        return max(1, 65536 // (self.threads * self.registers))

    @property
    def remainder_span(self) -> int:
        """Positions of a block of the remainder kernel."""
        return self.threads * self.remainder_positions or self.threads // 32

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        pitch = self.positions + (8 if self.dtype == "tf32" else 0)
        stage = self.depth * (self.rows + pitch) * self.itemsize
        cached = max((rows + 1) * 4 * min(4096 // rows, 512) for rows in REMAINDER_ROWS)
        return max(self.stages * stage, cached if self.remainder_positions else 0)

    @property
    def name(self) -> str:
        """The kernel's name: type, tile, warp, stages, copies, remainder."""
        return (
            f"convolution_{self.dtype}_{self.rows}x{self.positions}x{self.depth}"
            f"_w{self.warp_rows}x{self.warp_positions}_s{self.stages}_c{self.copy_bytes}"
            f"_r{self.remainder_positions}" + f"_{self.activation}" * bool(self.activation)
        )

    def grid(self, block_tiles: int, remainder_tiles: int, positions: int) -> tuple[int, int, int]:
        """Return the blocks of a launch."""
        blocks = block_tiles * -(-positions // self.positions)
        return (blocks + remainder_tiles * -(-positions // self.remainder_span), 1, 1)

    def split_rows(self, rows: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the rows of each block tile and of each remainder tile of a block.

        Examples
        --------
        >>> from runtime.cuda.candidates import choose
        >>> configuration = choose(
        ...     Problem("float32", 4096, 64, ((70, 400),)), Limits(90, 132, 232448, 233472)
        ... )
        >>> configuration.rows, configuration.split_rows(70)
        (32, ((32, 32), (6,)))
        """
        few = self.remainder_positions == 0
        whole, rest = (0, rows) if few else divmod(rows, self.rows)
        block_rows = (self.rows,) * whole
        if rest >= self.whole_from and not few:
            return (*block_rows, rest), ()
        most = REMAINDER_ROWS[-1]
        tail = (rest % most,) if rest % most else ()
        return block_rows, (most,) * (rest // most) + tail

    def split_depth(self, columns: int) -> tuple[tuple[int, int], ...]:
        """Split a number of columns among tiles: the first of each, and the one after its last."""
        if not self.split or columns <= self.split:
            return ((0, columns),)
        parts = -(-columns // self.split)
        chunks = -(-columns // self.depth)
        bounds = [min(columns, chunks * part // parts * self.depth) for part in range(parts + 1)]
        return tuple(pairwise(bounds))

    @unlocked_property
    def weight_order(self) -> NDArray[np.int64]:
        """Where each packed weight of a chunk comes from, in the chunk as [column][row].

        The ordinary units read a column's rows side by side. The lanes of a warp read what they
        hold of a product of 16 rows by 8 (tf32) or 16 (float16) columns: 16 bytes each.
        """
        chunk = np.arange(self.depth * self.rows).reshape(self.depth, self.rows)
        if self.dtype == "float32":
            return chunk.reshape(-1)
        # Lane 4 g + t holds rows g and g + 8; of tf32 columns t and t + 4, of float16 columns
        # 2t, 2t + 1, 2t + 8 and 2t + 9. Rows vary faster than columns, but for the pair.
        pair = 2 if self.dtype == "float16" else 1
        parts = chunk.reshape(-1, 2, 4, pair, self.rows // 16, 2, 8)
        # [product][half][t][pair][rows][lower][g] -> [product][rows][g][t][half][lower][pair]
        return parts.transpose(0, 4, 6, 2, 1, 5, 3).reshape(-1)
