"""Row groups of a layer: which rows share columns, and the saliency of each (group, column)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from masktools.checks import (
    BoolArray,
    FloatArray,
    IndexArray,
    as_mask,
    as_saliency,
    check_count,
    check_groups,
)
from masktools.errors import MaskError
from masktools.layout import BlockLayout, DenseBlock
from masktools.partition.budget import choose
from masktools.partition.partitioners import candidates, group_heights, partition
from masktools.partition.search import group_sums, refine

GROUP_ROWS = {"cpu": 8, "cuda": 32, "cuda-tensor": 64}

# The most nonzeros of a layer that a partitioner sees where the search follows. All of them cost
# KaHyPar a second for 512 x 4608 at density 0.2, and change nothing that the search retains.
START_NONZEROS = 100_000
START_NONZEROS_PER_ROW = 200


@dataclass(frozen=True, eq=False)
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
        """Return the gain and the cost of each (group, column), group after group.

        Returns
        -------
        gain : ndarray of float32, shape (k * columns,)
            Saliency that the pair retains.
        cost : ndarray of int64, shape (k * columns,)
            Height of the group x cost of the column.
        """
        return self.sums.ravel(), (self.heights[:, None] * self.column_cost).ravel()

    def retained(self, budget: int) -> float:
        """Return the saliency that the best columns within a budget retain."""
        gain, cost = self.candidates()
        return float(gain[choose(gain, cost, budget)].sum(dtype=np.float64))

    def layout(self, chosen: BoolArray) -> BlockLayout:
        """Return the blocks of chosen candidates: one per group that has any.

        Parameters
        ----------
        chosen : ndarray of bool, shape (k * columns,)
            As `masktools.partition.budget.choose` returns it. Not changed.
        """
        columns = chosen.reshape(self.sums.shape)
        blocks = [
            DenseBlock(np.flatnonzero(self.labels == group), np.flatnonzero(columns[group]))
            for group in np.flatnonzero(columns.any(axis=1)).tolist()
        ]
        return BlockLayout(self.shape, blocks, self.groups)


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
    """Divide the rows of a layer into groups that share columns.

    Parameters
    ----------
    mask, weight, groups, group_rows, target, partitioner, refine, seed
        As in `masktools.regroup`. Not changed.
    budget : int, optional
        What the layer's blocks may cost together; the mask's own cost by default. The groups are
        refined for it, but hold for other budgets too.
    column_cost : array_like of int, shape (columns,), optional
        What a weight of each column costs: 1 by default, or its multiplications.

    Returns
    -------
    RowGroups
        Groups of `group_rows` rows in each convolution group, the rest of the rows one more.

    Raises
    ------
    TypeError, MaskError, PartitionError
        As `masktools.regroup`; MaskError also for a negative budget, or costs that do not fit.

    Examples
    --------
    >>> mask = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1]])
    >>> found = row_groups(mask, group_rows=2, partitioner="spectral")
    >>> found.layout(choose(*found.candidates(), budget=8)).to_mask().astype(int).tolist()
    [[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1]]
    """
    saliency, shape = as_layer(mask, weight, groups)
    height = as_group_rows(group_rows, target)
    names = candidates(partitioner)
    cost = _as_cost(column_cost, saliency.shape[1])
    if budget is None:
        budget = int(np.count_nonzero(np.asarray(mask).reshape(saliency.shape), axis=0) @ cost)
    check_count("budget", budget, 0)
    check_count("seed", seed, 0)

    best: RowGroups | None = None
    for name in names:
        labels, how = _divide(saliency, groups, height, cost, int(budget), name, refine, int(seed))
        sums = group_sums(saliency, labels)
        found = RowGroups(shape, groups, labels, sums, cost, name, how)
        if best is None or found.retained(budget) > best.retained(budget):
            best = found
    assert best is not None  # `candidates` names at least one
    return best


def as_layer(
    mask: ArrayLike, weight: ArrayLike | None, groups: int
) -> tuple[FloatArray, tuple[int, ...]]:
    """Return the saliency, a matrix that is 0 where the mask prunes, and the layer's shape."""
    keep = as_mask(mask)
    check_groups(keep.shape, groups)
    saliency = as_saliency(keep if weight is None else weight, keep.shape)
    return np.where(keep.reshape(saliency.shape), saliency, np.float32(0)), keep.shape


def as_group_rows(group_rows: int | None, target: str) -> int:
    """Return the height of a row group: as given, or the target's default."""
    if target not in GROUP_ROWS:
        raise MaskError(f"target {target!r}: expected one of {', '.join(GROUP_ROWS)}")
    if group_rows is None:
        return GROUP_ROWS[target]
    check_count("group_rows", group_rows, 1)
    return int(group_rows)


def _as_cost(column_cost: ArrayLike | None, columns: int) -> NDArray[np.int64]:
    if column_cost is None:
        return np.ones(columns, np.int64)
    cost = np.asarray(column_cost)
    if cost.dtype.kind not in "iu":
        raise TypeError(f"expected column costs of int, got dtype {cost.dtype}")
    if cost.shape != (columns,) or (cost < 0).any():
        raise MaskError(
            f"expected {columns} column costs that are not negative, got shape {cost.shape}"
        )
    return cost.astype(np.int64)


def _divide(
    saliency: FloatArray,
    groups: int,
    height: int,
    cost: NDArray[np.int64],
    budget: int,
    name: str,
    wanted: bool,
    seed: int,
) -> tuple[IndexArray, str]:
    """Divide each convolution group alone; refine it for its share of the layer's budget."""
    parts = np.split(saliency, groups)
    heights = group_heights(len(parts[0]), height)
    offsets = np.arange(groups, dtype=np.int32) * len(heights)
    labels = [
        partition(_strongest(part) if wanted else part, heights, name, seed) for part in parts
    ]
    if not wanted:
        return np.concatenate(list(map(np.add, labels, offsets))), "none"
    sums = group_sums(saliency, np.concatenate(list(map(np.add, labels, offsets))))
    costs = np.tile(heights, groups)[:, None] * cost
    chosen = choose(sums.ravel(), costs.ravel(), budget).reshape(costs.shape)
    shares = (costs * chosen).reshape(groups, -1).sum(axis=1)
    shares += (budget - shares.sum()) // groups
    refined = [
        refine(part, label, heights, cost, int(share), seed, parts=groups)
        for part, label, share in zip(parts, labels, shares, strict=True)
    ]
    ways = {way for _, way in refined}
    how = next(way for way in ("swaps", "assignment", "none") if way in ways)
    together = np.concatenate([label + at for (label, _), at in zip(refined, offsets, strict=True)])
    return together, how


def _strongest(saliency: FloatArray) -> FloatArray:
    """Return the columns of most saliency, few enough for a partitioner to start the search."""
    kept = np.count_nonzero(saliency, axis=0)
    room = max(START_NONZEROS, START_NONZEROS_PER_ROW * len(saliency))
    if kept.sum() <= room:
        return saliency
    order = np.argsort(-saliency.sum(axis=0, dtype=np.float64), kind="stable")
    return saliency[:, np.sort(order[np.cumsum(kept[order]) <= room])]
