"""Choose the columns that a block stores: those without which the outputs change most."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from masktools.calibration.linear import Float64
from masktools.calibration.moments import Observed, Rows
from masktools.layout import BlockLayout, DenseBlock

# A block's columns are chosen in at most so many steps: columns of one step do not know of each
# other, and a step takes time. On a ticket for digits the mean error of eight settings was 0.126
# with 8 steps, 0.109 with 32, and 0.104 with one step a column.
STEPS = 64
# Multiplications for a layer, half a minute of work: where it takes more, its columns stay.
MOST = 10**12


def choosable(layout: BlockLayout) -> bool:
    """Return whether other columns can stand in a layout: no row in two blocks, a column out."""
    rows = np.concatenate([np.empty(0, np.int32), *(block.rows for block in layout.blocks)])
    alone = len(np.unique(rows)) == len(rows)
    return alone and any(len(block.columns) < layout.columns for block in layout.blocks)


def multiplications(layout: BlockLayout) -> int:
    """Return about how many multiplications a choice of its columns takes."""
    return sum(layout.columns * len(block.columns) ** 2 for block in layout.blocks)


def choose_columns(
    seen: Observed, wanted: Float64, gain: Float64, layout: BlockLayout, ridge: float
) -> BlockLayout:
    """Return the layout with other columns in its blocks: those that explain most of the outputs.

    Parameters
    ----------
    seen : Observed
        Inputs and wanted outputs of the layer.
    wanted : ndarray of float64, shape (rows, columns)
        The values that the fit is held to: of the source, without any column dropped.
    gain : ndarray of float64, shape (rows,)
        What the outputs of each row are multiplied with before they count.
    layout : BlockLayout
        See `choosable`. Each of its blocks keeps its rows, and its number of columns.
    ridge : float
        Above 0; as `masktools.calibration.least_squares.fits`.

    Returns
    -------
    BlockLayout

    Notes
    -----
    For the rows R of a block, columns are added that lessen most the least of ``mean |g (y_R -
    W x)|^2 + ridge v |g (W - wanted_R)|^2``, g the gain, W zero in all columns that are not
    chosen: orthogonal least squares, with the values as they were as a prior. The factor of the
    columns that are chosen grows with them: the whole costs columns x chosen^2 multiplications.

    References
    ----------
    Chen, Billings, Luo, "Orthogonal least squares methods and their application to non-linear
    system identification", International Journal of Control 50 (1989).

    Examples
    --------
    Of three columns, two are the same, and together they tell most:

    >>> from masktools.calibration.moments import Gram
    >>> x = np.random.default_rng(0).standard_normal((1, 100, 3))
    >>> x[..., 1] = x[..., 0]
    >>> wanted = np.array([[1.0, 1.0, 1.5]])
    >>> seen = Gram(1, 3, 1)
    >>> seen.add(x.copy(), x @ wanted.T)
    >>> layout = BlockLayout((1, 3), [DenseBlock([0], [1, 2])])
    >>> choose_columns(seen, wanted, np.ones(1), layout, 1e-3).blocks[0].columns.tolist()
    [0, 2]
    """
    from loky import cpu_count

    height = layout.rows // layout.groups

    def chosen(block: DenseBlock) -> DenseBlock:
        group = int(block.rows[0]) // height
        damping = ridge * seen.variance_x(group)
        if len(block.columns) == layout.columns or not damping:
            return block
        rows = block.rows.astype(np.intp) - group * height
        common = (seen.common(group, rows) + damping * wanted[block.rows].T) * gain[block.rows]
        return DenseBlock(block.rows, _best(seen, group, common, damping, len(block.columns)))

    # Blocks do not know of each other: the same columns, however many are chosen at once.
    with ThreadPoolExecutor(cpu_count()) as pool:
        return BlockLayout(layout.shape, pool.map(chosen, layout.blocks), layout.groups)


def _best(seen: Observed, group: int, common: Float64, damping: float, count: int) -> Rows:
    """Return the columns that explain most of some rows, in order.

    Parameters
    ----------
    seen : Observed
    group : int
    common : ndarray of float64, shape (columns, rows)
        Of each column with each row.
    damping : float
    count : int
        How many columns.
    """
    # The ridge keeps systems so well conditioned that float32 tells the columns apart.
    scale = damping**-0.5
    left = ((seen.variances_x(group) + damping) * scale**2).astype(np.float32)
    common = (common * scale**2).astype(np.float32)
    chosen: NDArray[np.intp] = np.empty(0, np.intp)
    factor = np.empty((count, len(left)), np.float32)
    free = np.ones(len(left), np.bool_)
    width = -(-count // STEPS)
    while len(chosen) < count:
        # What a column alone would explain of all that is left.
        worth = np.where(free, np.square(common).sum(axis=1) / left, -1.0)
        step = np.argsort(-worth, kind="stable")[: min(width, count - len(chosen))]
        lines = (seen.products(group, step) * scale**2).astype(np.float32)
        lines[:, step] += np.eye(len(step), dtype=np.float32)
        before = factor[: len(chosen)]
        lines -= before[:, step].T @ before
        root = np.linalg.cholesky(lines[:, step])
        lines = np.linalg.solve(root, lines)
        common -= lines.T @ np.linalg.solve(root, common[step])
        left = np.maximum(left - np.square(lines).sum(axis=0), 1)
        factor[len(chosen) : len(chosen) + len(step)] = lines
        free[step] = False
        chosen = np.concatenate([chosen, step])
    return np.sort(chosen)
