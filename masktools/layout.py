"""Dense blocks: which rows and columns of a layer's weights are stored, and nothing else.

A layout is pure structure. It holds no weights, so that one layout can be applied to the trained,
the rewound and the retrained weights of a layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from masktools.checks import (
    BoolArray,
    IndexArray,
    as_array,
    as_mask,
    as_saliency,
    check_count,
    check_groups,
    index_array,
)
from masktools.errors import MaskError
from masktools.forks import unlocked_property
from masktools.row_patterns import find_patterns


@dataclass(frozen=True, eq=False)
class DenseBlock:
    """Rows x columns of a layer that are stored densely.

    Parameters
    ----------
    rows : array_like of int, shape (r,)
        Output channels, strictly ascending.
    columns : array_like of int, shape (c,)
        Flattened (input channel within its convolution group, y, x), strictly ascending.
        Both are kept as read-only int32 copies.
    """

    rows: IndexArray
    columns: IndexArray

    def __init__(self, rows: ArrayLike, columns: ArrayLike) -> None:
        for name, given in (("rows", rows), ("columns", columns)):
            array = as_array(given, f"a block's {name}")
            if array.size and array.dtype.kind not in "iu":
                raise TypeError(f"a block's {name} must be whole numbers, got {array.dtype}")
            if (
                array.ndim != 1
                or array.size == 0
                or array[0] < 0
                or array[-1] > np.iinfo(np.int32).max
                or (array[1:] <= array[:-1]).any()
            ):
                raise MaskError(
                    f"a block's {name} must be a non-empty, strictly ascending list of indices"
                )
            index = array.astype(np.int32)
            index.flags.writeable = False
            object.__setattr__(self, name, index)

    @property
    def size(self) -> int:
        """Number of stored weights."""
        return len(self.rows) * len(self.columns)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, DenseBlock)
            and np.array_equal(self.rows, other.rows)
            and np.array_equal(self.columns, other.columns)
        )

    def __hash__(self) -> int:
        return hash((self.rows.tobytes(), self.columns.tobytes()))

    def __repr__(self) -> str:
        return f"DenseBlock({len(self.rows)} rows x {len(self.columns)} columns)"


@dataclass(frozen=True)
class BlockLayout:
    """The dense blocks of one layer; together they never store a position twice.

    Parameters
    ----------
    shape : tuple of int
        The weight's own shape: (out, in / groups, kh, kw), (out, in / groups, k) or (out, in).
    blocks : sequence of DenseBlock
        In the order in which a file stores them.
    groups : int, default 1
        Convolution groups; the rows of a block lie in one of them.

    Raises
    ------
    TypeError
        If `groups` is no whole number.
    MaskError
        If `shape` is no layer's shape, `groups` does not divide the rows, or `check` fails.

    Examples
    --------
    >>> layout = BlockLayout((4, 3), [DenseBlock([0, 2], [0, 1])])
    >>> layout.to_mask().astype(int)
    array([[1, 1, 0],
           [0, 0, 0],
           [1, 1, 0],
           [0, 0, 0]])
    >>> layout.stored, layout
    (4, BlockLayout((4, 3), 1 block, density 0.333))
    """

    shape: tuple[int, ...]
    blocks: tuple[DenseBlock, ...] = ()
    groups: int = 1

    def __init__(
        self, shape: Sequence[int], blocks: Iterable[DenseBlock] = (), groups: int = 1
    ) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in shape))
        object.__setattr__(self, "blocks", tuple(blocks))
        if len(self.shape) not in (2, 3, 4) or min(self.shape) < 0:
            raise MaskError(f"{self.shape} is not the shape of a weight")
        if max(self.rows, self.columns) > np.iinfo(np.int32).max:
            raise MaskError(f"{self.shape} is larger than 32-bit indices reach")
        check_groups(self.shape, groups)
        object.__setattr__(self, "groups", int(groups))
        self.check()

    def __repr__(self) -> str:
        groups = f", groups={self.groups}" if self.groups > 1 else ""
        blocks = f"{len(self.blocks)} block{'s' * (len(self.blocks) != 1)}"
        return f"BlockLayout({self.shape}, {blocks}, density {self.density:.3f}{groups})"

    @property
    def rows(self) -> int:
        """Output channels."""
        return self.shape[0]

    @property
    def columns(self) -> int:
        """Flattened (input channel within its group, y, x)."""
        return prod(self.shape[1:])

    @unlocked_property
    def stored(self) -> int:
        """Number of stored weights."""
        return sum(block.size for block in self.blocks)

    @property
    def density(self) -> float:
        """Stored weights / all weights; 0 for a layer without weights."""
        size = self.rows * self.columns
        return self.stored / size if size else 0.0

    @classmethod
    def from_mask(
        cls, mask: ArrayLike, min_rows: int = 1, groups: int = 1, whole: bool = False
    ) -> BlockLayout:
        """Return the blocks of rows that keep the same columns.

        Exact and without a partitioner: any mask that regrouping or refilling made is recovered
        block by block, however it was saved in between. O(size of the mask).

        Parameters
        ----------
        mask : array_like of bool
            Of any shape that `as_mask` takes. Not changed.
        min_rows : int, default 1
            A set of columns that fewer rows share makes no block: its weights are the `residual`.
            Above 1, a row that would be residual belongs to a block all the same if it keeps all
            but a few of the block's columns (at most 1 in 16, or one of 8 to 31): kept weights that
            are zero by accident do not break a block. What the row lacks is `fill`.
        groups : int, default 1
            Convolution groups: only rows of one group share a block.
        whole : bool, default False
            Rows that keep all columns, or all but a few, make a block however few they are.

        Returns
        -------
        BlockLayout
            Blocks in the order of their first rows. With ``min_rows=1``,
            ``from_mask(m).to_mask()`` equals `m`.

        Raises
        ------
        TypeError, MaskError
            As `as_mask`; also if `min_rows` is below 1 or `groups` does not divide the rows.

        Notes
        -----
        Not in the paper, whose code stores the blocks beside the mask. Rows that lie in several
        blocks of Algorithm 3 come back as more blocks that cover the same positions.

        Examples
        --------
        >>> BlockLayout.from_mask([[1, 1, 0], [0, 0, 0], [1, 1, 0]]).blocks
        (DenseBlock(2 rows x 2 columns),)
        """
        keep = as_mask(mask)
        check_count("min_rows", min_rows, 1)
        check_groups(keep.shape, groups)
        matrix = keep.reshape(keep.shape[0], prod(keep.shape[1:]))
        rows_per_group = len(matrix) // groups
        blocks = [
            DenseBlock(np.array(pattern.rows) + first, np.flatnonzero(pattern.columns))
            for first in range(0, len(matrix), rows_per_group or 1)
            for pattern in find_patterns(matrix[first : first + rows_per_group], min_rows, whole)
        ]
        return cls(keep.shape, blocks, groups)

    def to_mask(self) -> BoolArray:
        """Return the bool mask, in the weight's own shape, that is True where a block stores."""
        matrix = np.zeros((self.rows, self.columns), np.bool_)
        for block in self.blocks:
            matrix[np.ix_(block.rows, block.columns)] = True
        return matrix.reshape(self.shape)

    def retained(self, saliency: ArrayLike) -> float:
        """Return the share of the saliency that lies inside the blocks.

        Parameters
        ----------
        saliency : array_like of float, shape `shape`
            Weights, of which the magnitude counts, or any saliency; zero where the mask pruned.

        Returns
        -------
        float
            Between 0 and 1; 1 where there is no saliency at all.
        """
        values = as_saliency(saliency, self.shape)
        total = float(values.sum(dtype=np.float64))
        if total == 0:
            return 1.0
        inside = sum(
            float(values[np.ix_(b.rows, b.columns)].sum(dtype=np.float64)) for b in self.blocks
        )
        return min(inside / total, 1.0)

    def fill(self, mask: ArrayLike) -> int:
        """Return the number of stored positions that `mask` had pruned."""
        keep = self._fitting(mask)
        return int(np.count_nonzero(self.to_mask() & ~keep))

    def residual(self, mask: ArrayLike) -> BoolArray:
        """Return the positions that `mask` keeps and no block stores, in the mask's shape."""
        return self._fitting(mask) & ~self.to_mask()

    def check(self, full: bool = False) -> None:
        """Raise `MaskError` unless the layout is sound.

        Parameters
        ----------
        full : bool, default False
            Always checked: indices in range, rows of a block in one convolution group, stored
            weights no more than there are. In full, also that no position is stored twice;
            O(indices) where no row lies in two blocks.

        Raises
        ------
        MaskError
            Naming the block and the value.
        """
        rows_per_group = max(self.rows // self.groups, 1)
        for number, block in enumerate(self.blocks):
            for name, index, end in (
                ("row", block.rows, self.rows),
                ("column", block.columns, self.columns),
            ):
                if index[-1] >= end:
                    raise MaskError(f"block {number}: {name} {index[-1]}, but there are {end}")
            if block.rows[0] // rows_per_group != block.rows[-1] // rows_per_group:
                raise MaskError(
                    f"block {number}: rows {block.rows[0]} and {block.rows[-1]} lie in different "
                    f"convolution groups of {rows_per_group} rows"
                )
        if self.stored > self.rows * self.columns:
            raise MaskError(f"{self.stored} stored weights, but there are {self.shape}")
        if full:
            self._check_disjoint()

    def _check_disjoint(self) -> None:
        blocks_of_row: dict[int, list[int]] = {}
        for number, block in enumerate(self.blocks):
            for row in block.rows.tolist():
                blocks_of_row.setdefault(row, []).append(number)
        # Rows that share their blocks share the verdict; most rows lie in one block alone.
        row_of_blocks = {tuple(numbers): row for row, numbers in blocks_of_row.items()}
        for numbers, row in row_of_blocks.items():
            if len(numbers) == 1:
                continue
            columns = np.sort(np.concatenate([self.blocks[n].columns for n in numbers]))
            twice = columns[1:][columns[1:] == columns[:-1]]
            if twice.size:
                column = twice[0]
                last = max(n for n in numbers if column in self.blocks[n].columns)
                raise MaskError(
                    f"block {last}: row {row}, column {column} is stored by an earlier block too"
                )

    def _fitting(self, mask: ArrayLike) -> BoolArray:
        keep = as_mask(mask)
        if keep.shape != self.shape:
            raise MaskError(f"expected a mask of shape {self.shape}, got {keep.shape}")
        return keep

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the index arrays of the checkpoint format (docs/format.md).

        Returns
        -------
        dict
            ``shape`` int64; ``row_indices``, ``column_indices`` int32, block after block;
            ``row_offsets``, ``column_offsets`` int64 of blocks + 1 entries.
        """
        arrays: dict[str, NDArray[Any]] = {"shape": np.array(self.shape, np.int64)}
        for name, lists in (
            ("row", [b.rows for b in self.blocks]),
            ("column", [b.columns for b in self.blocks]),
        ):
            arrays[f"{name}_indices"] = np.concatenate([*lists, np.empty(0, np.int32)])
            lengths = np.array([0, *map(len, lists)], np.int64)
            arrays[f"{name}_offsets"] = np.cumsum(lengths, dtype=np.int64)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], groups: int = 1) -> BlockLayout:
        """Return the layout that `to_arrays` wrote, after a full check.

        Raises
        ------
        MaskError
            If an array is missing, of another dtype, or its offsets are not monotone from 0 to
            the number of indices; and as `check`.
        """
        shape = index_array(arrays, "shape", np.int64)
        lists = {}
        for name in ("row", "column"):
            indices = index_array(arrays, f"{name}_indices", np.int32)
            offsets = index_array(arrays, f"{name}_offsets", np.int64)
            if (
                not offsets.size
                or offsets[0] != 0
                or offsets[-1] != indices.size
                or (np.diff(offsets) <= 0).any()
            ):
                raise MaskError(f"{name}_offsets must rise from 0 to {indices.size}")
            lists[name] = [indices[a:b] for a, b in pairwise(offsets.tolist())]
        if len(lists["row"]) != len(lists["column"]):
            raise MaskError(
                f"{len(lists['row'])} blocks by row_offsets, {len(lists['column'])} by "
                "column_offsets"
            )
        blocks = [DenseBlock(r, c) for r, c in zip(lists["row"], lists["column"], strict=True)]
        layout = cls(shape.tolist(), blocks, groups)
        layout.check(full=True)
        return layout
