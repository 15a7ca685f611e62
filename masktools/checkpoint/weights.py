"""The weights of a pruned layer as a checkpoint stores them: blocks, and a residual beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from masktools.checks import as_mask, index_array
from masktools.errors import MaskError
from masktools.layout import BlockLayout

FloatArray = NDArray[np.floating[Any]]

LAYOUT_ARRAYS = ("shape", "row_indices", "row_offsets", "column_indices", "column_offsets")
RESIDUAL_ARRAYS = ("residual_values", "residual_column_indices", "residual_row_offsets")
ARRAYS = ("values", *LAYOUT_ARRAYS, *RESIDUAL_ARRAYS)


@dataclass(frozen=True, eq=False)
class Residual:
    """Stored weights outside every block, as compressed sparse rows.

    Parameters
    ----------
    values : ndarray of float32 or float16, shape (kept,)
        Row after row.
    column_indices : ndarray of int32, shape (kept,)
        Strictly ascending within a row.
    row_offsets : ndarray of int64, shape (rows + 1,)
        Row r has ``values[row_offsets[r] : row_offsets[r + 1]]``.
    """

    values: FloatArray
    column_indices: NDArray[np.int32]
    row_offsets: NDArray[np.int64]

    @property
    def row_indices(self) -> NDArray[np.int64]:
        """Row of each value, shape (kept,)."""
        lengths = np.diff(self.row_offsets)
        return np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)


@dataclass(frozen=True, eq=False)
class SparseWeight:
    """The weights of one layer: dense blocks, and a residual where the file has one.

    Parameters
    ----------
    layout : BlockLayout
        Which rows and columns the blocks store.
    values : ndarray of float32 or float16, shape (layout.stored,)
        Block after block, each (rows, columns) row-major.
    residual : Residual, default None
        None where every stored weight lies in a block.

    Examples
    --------
    >>> weight = np.array([[1, 0, 2], [3, 0, 4], [0, 5, 0]], np.float32)
    >>> layout = BlockLayout.from_mask(weight != 0, min_rows=2)
    >>> sparse = SparseWeight.from_dense(weight, layout, residual=layout.residual(weight != 0))
    >>> sparse.values, sparse.residual.values
    (array([1., 2., 3., 4.], dtype=float32), array([5.], dtype=float32))
    >>> np.array_equal(sparse.to_dense(), weight)
    True
    """

    layout: BlockLayout
    values: FloatArray
    residual: Residual | None = None

    @property
    def stored(self) -> int:
        """Number of stored weights, residual included."""
        return self.values.size + (self.residual.values.size if self.residual else 0)

    @property
    def density(self) -> float:
        """Stored weights / all weights."""
        size = self.layout.rows * self.layout.columns
        return self.stored / size if size else 0.0

    @classmethod
    def from_dense(
        cls, weight: FloatArray, layout: BlockLayout, residual: ArrayLike | None = None
    ) -> SparseWeight:
        """Return the weights that the blocks, and the residual, store of `weight`.

        Parameters
        ----------
        weight : ndarray of float32 or float16, shape `layout.shape`
            Not changed.
        layout : BlockLayout
        residual : array_like of bool, shape `layout.shape`, default None
            Positions to store beside the blocks; None, or none at all, makes no residual.

        Raises
        ------
        MaskError
            If a shape differs, or a position of `residual` lies in a block.
        """
        if weight.shape != layout.shape:
            raise MaskError(f"expected weights of shape {layout.shape}, got {weight.shape}")
        matrix = weight.reshape(layout.rows, layout.columns)
        parts = [matrix[np.ix_(b.rows, b.columns)].ravel() for b in layout.blocks]
        values = np.concatenate([*parts, np.empty(0, weight.dtype)])
        kept = None if residual is None else as_mask(residual)
        if kept is None or not kept.any():
            return cls(layout, values)
        if kept.shape != layout.shape:
            raise MaskError(f"expected a residual of shape {layout.shape}, got {kept.shape}")
        rows, columns = np.nonzero(kept.reshape(matrix.shape))
        offsets = np.zeros(layout.rows + 1, np.int64)
        np.cumsum(np.bincount(rows, minlength=layout.rows), out=offsets[1:])
        csr = Residual(matrix[rows, columns], columns.astype(np.int32), offsets)
        sparse = cls(layout, values, csr)
        _check_apart(layout, csr)
        return sparse

    def to_dense(self) -> FloatArray:
        """Return the weight in the layer's own shape, zero where nothing is stored."""
        layout = self.layout
        matrix = np.zeros((layout.rows, layout.columns), self.values.dtype)
        start = 0
        for block in layout.blocks:
            part = self.values[start : start + block.size]
            matrix[np.ix_(block.rows, block.columns)] = part.reshape(len(block.rows), -1)
            start += block.size
        if self.residual:
            matrix[self.residual.row_indices, self.residual.column_indices] = self.residual.values
        return matrix.reshape(layout.shape)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the tensors of docs/format.md, section 4, without the layer's name."""
        arrays: dict[str, NDArray[Any]] = {"values": self.values, **self.layout.to_arrays()}
        if self.residual:
            parts = (self.residual.values, self.residual.column_indices, self.residual.row_offsets)
            arrays.update(zip(RESIDUAL_ARRAYS, parts, strict=True))
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], groups: int = 1) -> SparseWeight:
        """Return the weights that `to_arrays` wrote, after every check of docs/format.md.

        Linear in the size of the arrays, whatever shape they claim.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            Kept, not copied, where they are values.
        groups : int, default 1
            Convolution groups of the nodes that read the weight.

        Raises
        ------
        MaskError
            Naming the array and the value.
        """
        _check_shape(index_array(arrays, "shape", np.int64))
        values = _values(arrays, "values")
        stored = _stored(arrays)
        if stored != values.size:
            raise MaskError(f"values: the blocks store {stored}, got {values.size}")
        layout = BlockLayout.from_arrays(arrays, groups)
        if not any(name in arrays for name in RESIDUAL_ARRAYS):
            return cls(layout, values)
        residual = _residual(arrays, layout)
        if residual.values.dtype != values.dtype:
            raise MaskError(
                f"residual_values must have the dtype of values, {values.dtype}, "
                f"got {residual.values.dtype}"
            )
        _check_apart(layout, residual)
        return cls(layout, values, residual)


def check_values(name: str, array: NDArray[Any]) -> None:
    """Raise `MaskError` unless an array holds finite float32 or float16.

    Parameters
    ----------
    name : str
        For the message.
    array : ndarray
    """
    if array.dtype not in (np.float32, np.float16):
        raise MaskError(f"{name}: dtype must be float32 or float16, got {array.dtype}")
    if not np.isfinite(array).all():
        at = int(np.argmin(np.isfinite(array.ravel())))
        raise MaskError(f"{name}: values must be finite, got {array.flat[at]} at {at}")


def _values(arrays: Mapping[str, NDArray[Any]], name: str) -> FloatArray:
    if name not in arrays:
        raise MaskError(f"array {name!r} is missing")
    check_values(name, arrays[name])
    if arrays[name].ndim != 1:
        raise MaskError(f"{name} must have one dimension, got {arrays[name].ndim}")
    return arrays[name]


def _check_shape(shape: NDArray[np.int64]) -> None:
    sizes: list[int] = shape.tolist()
    columns = 1
    for size in sizes[1:]:
        columns *= size
    if len(sizes) not in (2, 3, 4) or min(sizes) < 1 or max(sizes[0], columns) >= 2**31:
        raise MaskError(f"shape: {tuple(sizes)} is not the shape of a weight")


def _stored(arrays: Mapping[str, NDArray[Any]]) -> int:
    """Return the number of weights in the blocks, which `values` must hold.

    Counted before any block is looked at: what follows costs no more than the values do.
    """
    lengths = []
    for name in ("row", "column"):
        offsets = index_array(arrays, f"{name}_offsets", np.int64)
        indices = index_array(arrays, f"{name}_indices", np.int32)
        length = np.diff(offsets)
        if (
            not offsets.size
            or offsets[0] != 0
            or offsets[-1] != indices.size
            or (length <= 0).any()
            or (offsets < 0).any()
        ):
            raise MaskError(
                f"{name}_offsets must rise from 0 to {indices.size}, the number of {name}_indices"
            )
        lengths.append(length)
    if len(lengths[0]) != len(lengths[1]):
        raise MaskError(
            f"row_offsets tell {len(lengths[0])} blocks, column_offsets {len(lengths[1])}"
        )
    # Python's integers: the product of two claimed lengths may pass 64 bits when summed.
    return sum(r * c for r, c in zip(lengths[0].tolist(), lengths[1].tolist(), strict=True))


def _residual(arrays: Mapping[str, NDArray[Any]], layout: BlockLayout) -> Residual:
    values = _values(arrays, "residual_values")
    columns = index_array(arrays, "residual_column_indices", np.int32)
    offsets = index_array(arrays, "residual_row_offsets", np.int64)
    if columns.size != values.size:
        raise MaskError(f"residual: {values.size} values, {columns.size} columns")
    if (
        len(offsets) != layout.rows + 1
        or offsets[0] != 0
        or offsets[-1] != values.size
        or (np.diff(offsets) < 0).any()
        or (offsets < 0).any()
    ):
        raise MaskError(
            f"residual_row_offsets must rise from 0 to {values.size} in {layout.rows + 1} entries"
        )
    if columns.size and (columns.min() < 0 or columns.max() >= layout.columns):
        wrong = columns[(columns < 0) | (columns >= layout.columns)][0]
        raise MaskError(f"residual: column {wrong}, but there are {layout.columns}")
    falls = np.diff(columns) <= 0
    inner = offsets[1:-1]
    falls[inner[(inner > 0) & (inner < columns.size)] - 1] = False
    if falls.any():
        row = int(np.searchsorted(offsets, int(np.argmax(falls)), side="right")) - 1
        raise MaskError(f"residual: columns of row {row} must be strictly ascending")
    return Residual(values, columns, offsets)


def _check_apart(layout: BlockLayout, residual: Residual) -> None:
    """Raise unless no residual weight lies in a block.

    Lists the stored positions of the rows that have a residual: as much work as there are values,
    whatever shape the layer claims and however many blocks share a row.
    """
    arrays = layout.to_arrays()
    heights = np.diff(arrays["row_offsets"])
    rows = arrays["row_indices"].astype(np.int64)
    width = np.repeat(np.diff(arrays["column_offsets"]), heights)
    begin = np.repeat(arrays["column_offsets"][:-1], heights)
    shared = residual.row_offsets[rows] < residual.row_offsets[rows + 1]
    rows, width, begin = rows[shared], width[shared], begin[shared]
    at = np.arange(width.sum()) + np.repeat(begin - (np.cumsum(width) - width), width)
    stored = np.repeat(rows * layout.columns, width) + arrays["column_indices"][at]
    kept = residual.row_indices * layout.columns + residual.column_indices
    place = np.searchsorted(kept, stored)
    twice = kept[np.minimum(place, kept.size - 1)] == stored if kept.size else stored < 0
    if twice.any():
        row, column = divmod(int(stored[np.argmax(twice)]), layout.columns)
        raise MaskError(f"residual: row {row}, column {column} is stored by a block too")
