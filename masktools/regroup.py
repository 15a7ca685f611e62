"""Group-wise masks: Algorithm 3 of the paper, and its form for a budget of stored weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from masktools.budget import choose
from masktools.errors import MaskError
from masktools.layout import (
    BlockLayout,
    BoolArray,
    DenseBlock,
    FloatArray,
    IndexArray,
    as_mask,
    as_saliency,
    check_groups,
)
from masktools.partition import candidates, group_heights, partition
from masktools.search import by_assignment, group_sums

GROUP_ROWS = {"cpu": 8, "cuda": 32, "cuda-tensor": 64}


@dataclass(frozen=True)
class RowGroups:
    """Row groups of a layer, and what each (group, column) would retain and cost.

    Holds no weights, so that it travels cheaply between processes.

    Parameters
    ----------
    shape : tuple of int
        The weight's own shape.
    groups : int
        Convolution groups.
    labels : ndarray of int32, shape (rows,)
        The group of each row; no group lies in two convolution groups.
    sums : ndarray of float32, shape (k, columns)
        Saliency of each (group, column).
    column_cost : ndarray of int64, shape (columns,)
        What a weight of each column costs.
    partitioner : str
        The partitioner that was used or, of several, kept.
    refinement : {"swaps", "assignment", "none"}
        What refined its groups.
    """

    shape: tuple[int, ...]
    groups: int
    labels: IndexArray
    sums: NDArray[np.float32]
    column_cost: NDArray[np.int64]
    partitioner: str
    refinement: str

    @property
    def heights(self) -> NDArray[np.int64]:
        """Rows of each group."""
        return np.bincount(self.labels, minlength=len(self.sums)).astype(np.int64)

    def candidates(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the gain and the cost of each (group, column), group after group."""
        return self.sums.ravel(), (self.heights[:, None] * self.column_cost).ravel()

    def layout(self, chosen: BoolArray) -> BlockLayout:
        """Return the blocks of the chosen candidates, a block per group that has any.

        Parameters
        ----------
        chosen : ndarray of bool, shape (k * columns,)
        """
        columns = chosen.reshape(self.sums.shape)
        return BlockLayout(
            self.shape,
            [
                DenseBlock(np.flatnonzero(self.labels == g), np.flatnonzero(columns[g]))
                for g in np.flatnonzero(columns.any(axis=1))
            ],
            self.groups,
        )


def row_groups(
    mask: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    budget: int | None = None,
    column_cost: ArrayLike | None = None,
    groups: int = 1,
    group_rows: int | None = None,
    target: str = "cpu",
    partitioner: str = "kahypar",
    refine: bool = True,
    seed: int = 0,
) -> RowGroups:
    """Divide the rows of a layer into groups that share columns."""
    keep = as_mask(mask)
    check_groups(keep.shape, groups)
    saliency = _saliency(keep, weight)
    if group_rows is None:
        group_rows = GROUP_ROWS[target]
    rows, columns = saliency.shape
    cost = np.ones(columns, np.int64) if column_cost is None else np.asarray(column_cost, np.int64)
    if budget is None:
        budget = int(np.count_nonzero(keep.reshape(saliency.shape), axis=0) @ cost)
    heights = group_heights(rows // groups, group_rows)
    labels = np.empty(rows, np.int32)
    (name,) = candidates(partitioner)
    for number, part in enumerate(np.split(saliency, groups)):
        found = partition(part, heights, name, seed)
        if refine:
            found = by_assignment(part, found, heights, cost, budget // groups)
        labels[number * len(part) : (number + 1) * len(part)] = found + number * len(heights)
    sums = group_sums(saliency, labels, groups * len(heights))
    return RowGroups(
        keep.shape, groups, labels, sums, cost, name, "assignment" if refine else "none"
    )


def regroup(
    mask: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    density: float | None = None,
    groups: int = 1,
    group_rows: int | None = None,
    target: str = "cpu",
    row_groups: int | None = None,
    min_rows: int | None = None,
    min_columns: int | None = None,
    min_column_nonzeros: int | None = None,
    passes: int | None = None,
    partitioner: str = "kahypar",
    refine: bool = True,
    seed: int = 0,
) -> BlockLayout:
    """Return dense blocks for an unstructured mask."""
    keep = as_mask(mask)
    budget = int(np.count_nonzero(keep)) if density is None else int(density * keep.size)
    found = globals()["row_groups"](
        mask, weight, budget=budget, groups=groups, group_rows=group_rows, target=target,
        partitioner=partitioner, refine=refine, seed=seed,
    )
    return found.layout(choose(*found.candidates(), budget))


def _saliency(keep: BoolArray, weight: ArrayLike | None) -> FloatArray:
    if weight is None:
        return as_saliency(keep, keep.shape)
    saliency = as_saliency(weight, keep.shape)
    return np.where(keep.reshape(saliency.shape), saliency, np.float32(0))
