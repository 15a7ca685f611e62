"""Sums over many inputs that a layer's values are fitted to, or the inputs where they are few."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from masktools.calibration.linear import Float64, Solution, inverse_diagonal, solve
from masktools.checks import BoolArray

# Beyond, products of all pairs of columns take more than half a gigabyte.
MOST_COLUMNS = 2**13

FloatArray = NDArray[np.floating[Any]]
Rows = NDArray[np.intp]


class Observed(Protocol):
    """The inputs and the wanted outputs of a layer, as far as a fit needs them.

    `x` is centred by its mean and so is `y`: the bias of a fit follows from the means.
    """

    @property
    def count(self) -> int:
        """Positions that were added."""

    @property
    def mean_x(self) -> Float64:
        """Means of the columns, shape (groups, columns)."""

    @property
    def mean_y(self) -> Float64:
        """Means of the wanted outputs, shape (groups, rows / groups)."""

    @property
    def variance_y(self) -> Float64:
        """Variances of the wanted outputs, shape (groups, rows / groups)."""

    def add(self, x: FloatArray, y: FloatArray) -> None:
        """Add some positions.

        Parameters
        ----------
        x : ndarray of float, shape (groups, positions, columns)
            Windows of the input. Overwritten.
        y : ndarray of float, shape (groups, positions, rows / groups)
            The outputs wanted there. Not changed.
        """

    def variance_x(self, group: int) -> float:
        """Return the mean variance of the columns of one convolution group."""

    def variances_x(self, group: int) -> Float64:
        """Return the variance of each column of one convolution group."""

    def products(self, group: int, columns: Rows) -> Float64:
        """Return the covariance of some columns with all: (len(columns), all columns)."""

    def common(self, group: int, rows: Rows) -> Float64:
        """Return the covariance of all columns with some wanted outputs: (columns, rows)."""

    def solve(
        self, group: int, rows: Rows, columns: Rows, start: Float64, dampings: list[float]
    ) -> list[Solution]:
        """Return, for each damping, the values that come closest to the wanted outputs.

        Parameters
        ----------
        group : int
        rows, columns : ndarray of int
            Of this convolution group.
        start : ndarray of float64, shape (rows, columns)
            What the values are held to.
        dampings : list of float
            Least is ``mean |y - w x|^2 + damping |w - start|^2``.

        Returns
        -------
        list of Solution
            Values of shape (columns, rows).
        """

    def missed(self, group: int, weight: Float64) -> Float64:
        """Return the variance of ``y - w x`` for each row of `weight`, (rows / groups, columns)."""

    def spread(self, group: int, weight: Float64) -> Float64:
        """Return the variance of ``w x`` for each row of `weight`, (rows / groups, columns)."""

    def unexplained(self, group: int, damping: float) -> Float64:
        """Return the part of each column's variance that the other columns cannot make up for.

        Parameters
        ----------
        group : int
        damping : float
            Above 0; added to the variance of every column.

        Returns
        -------
        ndarray of float64, shape (columns,)
            1 / [H^-1]_jj, H the covariance of the columns: the mean square that is left of column
            j less its best linear prediction from the others.
        """


class Gram:
    """The products of all pairs of columns, added up; the inputs are not kept.

    Parameters
    ----------
    groups, columns, rows : int
        Convolution groups; columns of one group; rows of all groups.

    Notes
    -----
    Memory is that of one float64 matrix (groups, columns, columns), however many inputs are added.
    Products are made in the inputs' own type, piece by piece, and added up in float64. What is
    summed are differences to the first piece's means, so that a large mean takes no digits from a
    small variance.
    """

    def __init__(self, groups: int, columns: int, rows: int) -> None:
        self.count = 0
        self._shift_x: FloatArray = np.zeros((groups, 1, columns))
        self._shift_y: FloatArray = np.zeros((groups, 1, rows // groups))
        self._x = np.zeros((groups, columns))
        self._y = np.zeros((groups, rows // groups))
        self._xx = np.zeros((groups, columns, columns))
        self._xy = np.zeros((groups, columns, rows // groups))
        self._yy = np.zeros((groups, rows // groups))

    def add(self, x: FloatArray, y: FloatArray) -> None:
        """Add some positions, as `Observed.add` says."""
        if not self.count:
            self._shift_x, self._shift_y = _mean(x), _mean(y)
        self.count += x.shape[1]
        x -= self._shift_x
        y = y - self._shift_y
        self._x += x.sum(axis=1, dtype=np.float64)
        self._y += y.sum(axis=1, dtype=np.float64)
        for xx, xy, part, wanted in zip(self._xx, self._xy, x, y, strict=True):
            # NumPy sees that the first product is symmetric, and does half of the work.
            xx += part.T @ part
            xy += part.T @ wanted
        self._yy += np.square(y, dtype=np.float64).sum(axis=1)

    @property
    def mean_x(self) -> Float64:
        """Means of the columns, shape (groups, columns)."""
        return np.asarray(self._shift_x[:, 0] + self._x / self.count)

    @property
    def mean_y(self) -> Float64:
        """Means of the wanted outputs, shape (groups, rows / groups)."""
        return np.asarray(self._shift_y[:, 0] + self._y / self.count)

    @property
    def variance_y(self) -> Float64:
        """Variances of the wanted outputs, shape (groups, rows / groups)."""
        return np.maximum(self._yy / self.count - np.square(self._y / self.count), 0)

    def variance_x(self, group: int) -> float:
        """Return the mean variance of the columns of one convolution group."""
        return float(self.variances_x(group).mean())

    def variances_x(self, group: int) -> Float64:
        """Return the variance of each column of one convolution group."""
        squares = np.diagonal(self._xx[group]) / self.count
        return np.asarray(np.maximum(squares - np.square(self._x[group] / self.count), 0))

    def products(self, group: int, columns: Rows) -> Float64:
        """Return the covariance of some columns with all."""
        mean = self._x[group] / self.count
        return np.asarray(self._xx[group][columns] / self.count - np.outer(mean[columns], mean))

    def common(self, group: int, rows: Rows) -> Float64:
        """Return the covariance of all columns with some wanted outputs."""
        means = np.outer(self._x[group] / self.count, self._y[group][rows] / self.count)
        return np.asarray(self._xy[group][:, rows] / self.count - means)

    def solve(
        self, group: int, rows: Rows, columns: Rows, start: Float64, dampings: list[float]
    ) -> list[Solution]:
        """Return the values that come closest, as `Observed.solve` says."""
        mean = self._x[group][columns] / self.count
        system = self._xx[group][np.ix_(columns, columns)] / self.count
        system -= np.outer(mean, mean)
        right = self._xy[group][np.ix_(columns, rows)] / self.count
        right -= np.outer(mean, self._y[group][rows] / self.count)
        diagonal = np.diag_indices_from(system)
        variances = system[diagonal]
        solutions = []
        for damping in dampings:
            system[diagonal] = variances + damping
            solutions.append(solve(system, right + damping * start.T))
        return solutions

    def missed(self, group: int, weight: Float64) -> Float64:
        """Return the variance of ``y - w x`` for each row."""
        means = (weight @ (self._x[group] / self.count)) * (self._y[group] / self.count)
        common = np.einsum("rc,cr->r", weight, self._xy[group]) / self.count - means
        variance = self.variance_y[group] - 2 * common + self.spread(group, weight)
        return np.asarray(np.maximum(variance, 0))

    def spread(self, group: int, weight: Float64) -> Float64:
        """Return the variance of ``w x`` for each row."""
        squares = np.zeros(len(weight))
        # Rows of a block read its columns alone.
        for rows, columns in patterns(weight != 0):
            part = weight[np.ix_(rows, columns)]
            products = self._xx[group][np.ix_(columns, columns)]
            squares[rows] = np.einsum("rc,rc->r", part @ products, part) / self.count
        mean = weight @ (self._x[group] / self.count)
        return np.asarray(np.maximum(squares - np.square(mean), 0))

    def unexplained(self, group: int, damping: float) -> Float64:
        """Return what the other columns cannot make up for, as `Observed.unexplained` says."""
        mean = self._x[group] / self.count
        system = self._xx[group] / self.count - np.outer(mean, mean)
        system[np.diag_indices_from(system)] += damping
        return 1 / inverse_diagonal(system)


class Few:
    """The inputs themselves: less than the products of all columns, where there are few.

    Parameters
    ----------
    groups, columns, rows : int
        As `Gram`.

    Notes
    -----
    A system of one unknown a position has the same solution as one of an unknown a column.
    """

    def __init__(self, groups: int, columns: int, rows: int) -> None:
        self._x: list[FloatArray] = [np.zeros((groups, 0, columns), np.float32)]
        self._y: list[FloatArray] = [np.zeros((groups, 0, rows // groups), np.float32)]
        # The centred columns of the group that was asked for last: it is asked many times.
        self._last: tuple[int, Float64] | None = None

    @property
    def count(self) -> int:
        """Positions that were added."""
        return sum(x.shape[1] for x in self._x)

    def add(self, x: FloatArray, y: FloatArray) -> None:
        """Add some positions, as `Observed.add` says."""
        self._x.append(x)
        self._y.append(y)
        self._last = None

    @property
    def mean_x(self) -> Float64:
        """Means of the columns, shape (groups, columns)."""
        return _average(self._x)

    @property
    def mean_y(self) -> Float64:
        """Means of the wanted outputs, shape (groups, rows / groups)."""
        return _average(self._y)

    @property
    def variance_y(self) -> Float64:
        """Variances of the wanted outputs, shape (groups, rows / groups)."""
        wanted = np.concatenate(self._y, axis=1, dtype=np.float64)
        return np.asarray(wanted.var(axis=1))

    def variance_x(self, group: int) -> float:
        """Return the mean variance of the columns of one convolution group."""
        return float(self.variances_x(group).mean())

    def variances_x(self, group: int) -> Float64:
        """Return the variance of each column of one convolution group."""
        return np.asarray(self._inputs(group).var(axis=0))

    def products(self, group: int, columns: Rows) -> Float64:
        """Return the covariance of some columns with all."""
        x = self._inputs(group)
        return np.asarray(x[:, columns].T @ x / len(x))

    def common(self, group: int, rows: Rows) -> Float64:
        """Return the covariance of all columns with some wanted outputs."""
        x = self._inputs(group)
        return np.asarray(x.T @ _centred(self._y, group)[:, rows] / len(x))

    def solve(
        self, group: int, rows: Rows, columns: Rows, start: Float64, dampings: list[float]
    ) -> list[Solution]:
        """Return the values that come closest, as `Observed.solve` says."""
        x = self._inputs(group)[:, columns]
        wrong = _centred(self._y, group)[:, rows] - x @ start.T
        system = x @ x.T / len(x)
        diagonal = np.diag_indices_from(system)
        variances = system[diagonal]
        solutions = []
        for damping in dampings:
            system[diagonal] = variances + damping
            found = solve(system, wrong)
            values = start.T + x.T @ found.values / len(x)
            solutions.append(Solution(values, found.condition, found.fallback))
        return solutions

    def missed(self, group: int, weight: Float64) -> Float64:
        """Return the variance of ``y - w x`` for each row."""
        wrong = _centred(self._y, group) - self._inputs(group) @ weight.T
        return np.asarray(wrong.var(axis=0))

    def spread(self, group: int, weight: Float64) -> Float64:
        """Return the variance of ``w x`` for each row."""
        return np.asarray((self._inputs(group) @ weight.T).var(axis=0))

    def unexplained(self, group: int, damping: float) -> Float64:
        """Return what the other columns cannot make up for, as `Observed.unexplained` says."""
        # [(x'x / n + d)^-1]_jj = (1 - x_j' (x x' / n + d)^-1 x_j / n) / d, by Woodbury's identity.
        x = self._inputs(group)
        system = x @ x.T / len(x)
        system[np.diag_indices_from(system)] += damping
        explained = np.einsum("pj,pj->j", x, solve(system, x).values) / len(x)
        return np.asarray(damping / (1 - explained))

    def _inputs(self, group: int) -> Float64:
        """Return the centred columns of a group, (positions, columns); not to be changed."""
        last = self._last  # Another thread may replace it at any moment.
        if last is None or last[0] != group:
            last = self._last = group, _centred(self._x, group)
        return last[1]


def _centred(parts: list[FloatArray], group: int) -> Float64:
    every = np.concatenate([part[group] for part in parts], dtype=np.float64)
    every -= every.mean(axis=0)
    return every


def observed(groups: int, columns: int, rows: int, positions: int) -> Gram | Few:
    """Return `Few` where there are few positions or very many columns, else `Gram`.

    Parameters
    ----------
    groups, columns, rows : int
        As `Gram`.
    positions : int
        Number of positions that will be added.
    """
    # The products of all pairs are made once for all blocks of a layer. With a quarter as many
    # positions as columns, systems of one unknown a position are small enough to be made for each.
    few = 4 * positions < columns or (positions < columns and columns > MOST_COLUMNS)
    return (Few if few else Gram)(groups, columns, rows)


def _mean(x: FloatArray) -> FloatArray:
    return np.asarray(x.mean(axis=1, keepdims=True, dtype=np.float64), x.dtype)


def _average(parts: list[FloatArray]) -> Float64:
    total = sum(part.sum(axis=1, dtype=np.float64) for part in parts)
    return np.asarray(total / sum(part.shape[1] for part in parts))


def patterns(kept: BoolArray) -> Iterator[tuple[Rows, NDArray[np.intp]]]:
    """Yield rows that store the same columns, and these columns; rows that store any at all.

    Examples
    --------
    >>> for rows, columns in patterns(np.array([[1, 1], [0, 1], [1, 1]], bool)):
    ...     print(rows, columns)
    [1] [1]
    [0 2] [0 1]
    """
    _, inverse = np.unique(np.packbits(kept, axis=1), axis=0, return_inverse=True)
    inverse = inverse.ravel()
    order = np.argsort(inverse, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(inverse[order])) + 1):
        columns = np.flatnonzero(kept[rows[0]]) if rows.size else rows
        if columns.size:
            yield rows, columns
