"""Choose the columns that a block stores: those without which the outputs change most."""

from __future__ import annotations

from functools import partial
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from masktools.calibration.linear import Float64, in_threads
from masktools.calibration.moments import MOST_COLUMNS, Observed, Rows
from masktools.layout import BlockLayout, DenseBlock

Float32 = NDArray[np.float32]

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
    height = layout.rows // layout.groups
    chosen: list[DenseBlock] = []
    for group, blocks in groupby(layout.blocks, lambda block: int(block.rows[0]) // height):
        damping = ridge * seen.variance_x(group)
        if damping:
            inputs = _Inputs(seen, group, damping, first_row=group * height)
            # Blocks do not know of each other.
            chosen += in_threads(partial(_chosen, inputs, wanted, gain), blocks)
        else:
            chosen += blocks
    return BlockLayout(layout.shape, chosen, layout.groups)


class _Inputs:
    """The inputs of one convolution group: products of their columns, in units of the damping.

    In these units, a ridge of 1 keeps systems so well conditioned that float32 tells columns apart.
    """

    def __init__(self, seen: Observed, group: int, damping: float, first_row: int) -> None:
        self._seen, self._group, self._damping = seen, group, damping
        self._first_row = first_row
        self.variances = (seen.variances_x(group) / damping).astype(np.float32)
        count = len(self.variances)
        # All blocks read them: they are made once, some at a time, where they take no more memory
        # than what is observed.
        self._all: Float32 | None = None
        if count <= MOST_COLUMNS:
            self._all = np.empty((count, count), np.float32)
            for begin in range(0, count, 512):
                part = np.arange(begin, min(begin + 512, count))
                np.divide(seen.products(group, part), damping, self._all[part[0] : part[-1] + 1])

    def products(self, columns: Rows) -> Float32:
        """Return the products of some columns with all."""
        if self._all is None:
            return (self._seen.products(self._group, columns) / self._damping).astype(np.float32)
        return np.asarray(self._all[columns])

    def common(self, rows: Rows, wanted: Float64) -> Float64:
        """Return the products of all columns with the outputs that are wanted, held to values."""
        common = self._seen.common(self._group, rows - self._first_row) / self._damping
        return np.asarray(common + wanted[rows].T)


def _chosen(inputs: _Inputs, wanted: Float64, gain: Float64, block: DenseBlock) -> DenseBlock:
    """Return a block with the columns that explain most of its rows."""
    count, total = len(block.columns), len(inputs.variances)
    if count == total:
        return block
    rows = block.rows.astype(np.intp)
    common = (inputs.common(rows, wanted) * gain[rows]).astype(np.float32)
    left = inputs.variances + np.float32(1)
    chosen: Rows = np.empty(0, np.intp)
    factor = np.empty((count, total), np.float32)
    free = np.ones(total, np.bool_)
    width = -(-count // STEPS)
    while len(chosen) < count:
        # What a column alone would explain of all that is left.
        worth = np.where(free, np.square(common).sum(axis=1) / left, np.float32(-1))
        step = np.argsort(-worth, kind="stable")[: min(width, count - len(chosen))]
        lines = inputs.products(step)
        lines[np.arange(len(step)), step] += 1
        before = factor[: len(chosen)]
        lines -= before[:, step].T @ before
        # A few columns: the inverse of their factor costs less than to solve for all the others.
        root = np.linalg.inv(np.linalg.cholesky(lines[:, step]))
        lines = root @ lines
        common -= lines.T @ (root @ common[step])
        left = np.maximum(left - np.square(lines).sum(axis=0), 1)
        factor[len(chosen) : len(chosen) + len(step)] = lines
        free[step] = False
        chosen = np.concatenate([chosen, step])
    return DenseBlock(block.rows, np.sort(chosen))
