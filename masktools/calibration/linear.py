"""Solve the systems that a fit comes to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def one_thread() -> AbstractContextManager[object]:
    """Return a context in which linear algebra runs on one thread.

    The systems are small: threads would wait for each other, and another number of cores would
    round another way.
    """
    import scipy.linalg  # noqa: F401 - brings a BLAS of its own, to be limited too
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[object] = threadpool_limits(1)
    return limits


def in_threads(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Return what a function makes of each item, worked out on all cores that may be used.

    Parameters
    ----------
    work : callable
        Of one item. What it makes must not depend on other items: threads run in any order.
    items : iterable

    Examples
    --------
    >>> in_threads(abs, [-1, 2])
    [1, 2]
    """
    from loky import cpu_count

    with ThreadPoolExecutor(cpu_count()) as pool:
        return list(pool.map(work, items))


@dataclass(frozen=True, eq=False)
class Solution:
    """The solution of a system, and how far to trust it.

    Parameters
    ----------
    values : ndarray of float64, shape (n, m)
        Of all solutions the shortest, where there are several.
    condition : float
        The condition number, estimated in the 1-norm; infinite where the system is singular.
    fallback : bool
        Cholesky failed, or was of no use, and the eigenvalues were taken instead.
    """

    values: Float64
    condition: float
    fallback: bool


def solve(system: Float64, right: Float64) -> Solution:
    """Solve a symmetric, positive semidefinite system.

    Parameters
    ----------
    system : ndarray of float64, shape (n, n)
        Not changed.
    right : ndarray of float64, shape (n, m)
        Not changed.

    Returns
    -------
    Solution

    Examples
    --------
    >>> solve(np.diag([2.0, 4.0]), np.array([[2.0], [2.0]])).values.round(12).ravel().tolist()
    [1.0, 0.5]
    >>> solve(np.ones((2, 2)), np.ones((2, 1))).fallback
    True
    """
    from scipy.linalg import LinAlgError, cho_solve, cholesky, eigh
    from scipy.linalg.lapack import dpocon

    norm = float(np.abs(system).sum(axis=0).max(initial=0.0))
    try:
        factor = cholesky(system, lower=True, check_finite=False)
        inverse, _ = dpocon(factor, norm, uplo="L")
        if inverse > np.finfo(np.float64).eps * len(system):
            return Solution(cho_solve((factor, True), right), 1 / float(inverse), False)
    except LinAlgError:
        pass
    values, vectors = eigh(system)
    least = max(float(values[-1]), 0.0) * len(system) * np.finfo(np.float64).eps
    good = values > least
    parts = vectors[:, good]
    shortest = parts @ ((parts.T @ right) / values[good, None])
    return Solution(shortest, np.inf, True)


def inverse_diagonal(system: Float64) -> Float64:
    """Return the diagonal of the inverse of a symmetric, positive definite system.

    Parameters
    ----------
    system : ndarray of float64, shape (n, n)
        Not changed.

    Returns
    -------
    ndarray of float64, shape (n,)

    Raises
    ------
    numpy.linalg.LinAlgError
        If it is not positive definite.

    Examples
    --------
    >>> inverse_diagonal(np.array([[2.0, 1.0], [1.0, 1.0]])).round(6).tolist()
    [1.0, 2.0]
    """
    from scipy.linalg import cholesky
    from scipy.linalg.lapack import dpotri

    inverse, _ = dpotri(cholesky(system, lower=True, check_finite=False), lower=True)
    return np.array(np.diagonal(inverse))
