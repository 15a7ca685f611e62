"""Group-wise masks: Algorithm 3 of the paper, and its form for a budget of stored weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from masktools.checks import BoolArray, FloatArray, as_mask, check_count, check_share
from masktools.layout import BlockLayout, DenseBlock
from masktools.partition.budget import choose
from masktools.partition.partitioners import candidates
from masktools.partition.row_groups import as_group_rows, as_layer
from masktools.partition.row_groups import row_groups as divide_rows
from masktools.transform.algorithm3 import Thresholds, find_blocks
from masktools.transform.forms import form_of
from masktools.transform.released import released_blocks


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
    preset: str | None = None,
    partitioner: str = "kahypar",
    refine: bool = True,
    seed: int = 0,
) -> BlockLayout:
    """Return dense blocks for an unstructured mask: rows that share columns, stored together.

    With a threshold (`row_groups`, `min_rows`, `min_columns`, `min_column_nonzeros`), Algorithm 3
    of the paper; with ``preset="released"``, as the code that was released with it does. Otherwise
    the budgeted form: groups of equal height, whose columns are chosen over all groups to retain
    the most saliency within `density`.

    Parameters
    ----------
    mask : array_like of bool
        Of any shape that `as_mask` takes. Not changed.
    weight : array_like of float, the mask's shape, optional
        Its magnitude where the mask keeps is the saliency. By default every kept weight counts
        the same. Not changed.
    density : float, optional
        Share of the weights that may be stored, 0 to 1; the mask's own by default.
    groups : int, default 1
        Convolution groups; each is partitioned alone, the budget is spent over all of them.
    group_rows : int, optional
        Height of a row group; by default the target's: 8, 32 or 64.
    target : {"cpu", "cuda", "cuda-tensor"}
        What the blocks are for.
    row_groups, min_column_nonzeros, min_rows, min_columns : int, optional
        The paper's t1, t2, b1 and b2, each 1 or more: row groups a pass (in each convolution
        group); nonzeros that a column needs in a group; rows and columns that a block needs. What
        is left out does not restrict: as many groups of `group_rows` rows as there are, and 1.
    passes : int, optional
        With thresholds, the most passes; until a pass finds no block by default.
    preset : {"released"}, optional
        Regroup as the released code does: in one pass, eight parts of the rows, not all equal; as
        many columns for each as a rule of its own says, more than the mask keeps; parts of 16
        rows and fewer dropped. See `masktools.transform.released.released_blocks`.
    partitioner : {"kahypar", "mtkahypar", "spectral", "best"}
        "best" runs all that are installed and keeps the one that retains most.
    refine : bool, default True
        In the budgeted form, exchange rows between groups for what they retain together.
    seed : int, default 0
        The same arguments and seed give the same layout.

    Returns
    -------
    BlockLayout
        Stores no position twice; in the budgeted form at most ``density`` of the weights. With
        thresholds or a preset it may have no block.

    Raises
    ------
    TypeError
        If `density` or, with no threshold, `passes` stands beside the other form's arguments, or
        one of these or `group_rows` beside a preset; if `mask` or `weight` is no array of
        numbers, or another argument is of another kind.
    MaskError
        If shapes or values do not fit, or `weight` is NaN or infinite.
    PartitionError
        If the partitioner is not installed, or fails.

    Notes
    -----
    Algorithm 3, with these departures: a column is eligible for a group only if none of its rows
    already stores it, where the paper lets blocks overlap; groups are multiples of `group_rows`
    where the rows allow. A row may lie in blocks of several passes.

    The budgeted form is not in the paper. Group heights are equal because a taller group cannot
    retain more than the groups that it could be cut into; how many columns each group keeps is
    free, and the budget alone decides it. With `refine`, the partitioner divides the rows of a
    layer of many nonzeros by its strongest columns, and the search goes on with all of them;
    without, it sees the whole mask. `passes` does not apply: one block per group, so that
    `BlockLayout.from_mask` finds the same blocks in the mask.

    References
    ----------
    Chen, Chen, Ma, Wang, Wang, "Coarsening the Granularity: Towards Structurally Sparse Lottery
    Tickets", ICML 2022, Algorithm 3.

    Examples
    --------
    Figure 2 of the paper: columns with at least two nonzeros in kernels 1 to 3.

    >>> mask = np.zeros((3, 12), bool)
    >>> for row, columns in enumerate([[1, 2, 3, 5, 6], [1, 3, 6, 8, 10, 11], [3, 6, 11]]):
    ...     mask[row, columns] = True
    >>> layout = regroup(mask, row_groups=1, min_column_nonzeros=2, passes=1)
    >>> layout.blocks[0].rows.tolist(), layout.blocks[0].columns.tolist()
    ([0, 1, 2], [1, 3, 6, 11])
    """
    thresholds = Thresholds(row_groups, min_column_nonzeros, min_rows, min_columns, passes)
    form = form_of(thresholds, preset, density, group_rows)
    height = as_group_rows(group_rows, target)
    if form == "released":
        return _in_each_group(mask, weight, groups, released_blocks, partitioner, seed)
    if form == "thresholds":
        find = partial(find_blocks, group_rows=height, thresholds=thresholds)
        return _in_each_group(mask, weight, groups, find, partitioner, seed)
    if density is not None:
        check_share("density", density)
    keep = as_mask(mask)
    budget = int(np.count_nonzero(keep)) if density is None else int(density * keep.size)
    found = divide_rows(
        keep, weight, budget=budget, groups=groups, group_rows=height, partitioner=partitioner,
        refine=refine, seed=seed,
    )  # fmt: skip
    return found.layout(choose(*found.candidates(), budget))


def _in_each_group(
    mask: ArrayLike,
    weight: ArrayLike | None,
    groups: int,
    find: Callable[[BoolArray, FloatArray, str, int], list[DenseBlock]],
    partitioner: str,
    seed: int,
) -> BlockLayout:
    """Find the blocks of each convolution group; keep the partitioner that retains most."""
    check_count("seed", seed, 0)
    saliency, shape = as_layer(mask, weight, groups)
    keep = as_mask(mask).reshape(saliency.shape)
    layouts = []
    for name in candidates(partitioner):
        blocks = []
        for rows in np.split(np.arange(len(keep)), groups):
            found = find(keep[rows], saliency[rows], name, int(seed))
            blocks += [DenseBlock(rows[block.rows], block.columns) for block in found]
        layouts.append(BlockLayout(shape, blocks, groups))
    return max(layouts, key=lambda layout: layout.retained(saliency.reshape(shape)))
