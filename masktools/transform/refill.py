"""Channel-wise masks: the best rows of a layer whole, all others empty."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from masktools.checks import BoolArray, as_mask, as_saliency, check_groups, check_share
from masktools.errors import MaskError

CRITERIA = ("l1", "count", "feature-l1", "feature-l2", "first-order", "molchanov")
GIVEN_CRITERIA = ("feature-l1", "feature-l2", "first-order", "molchanov")

# The share of the dropped rows that the paper's refill+ takes back. It is not printed; its tables
# go from 32.84 % to 46.41 %, and (46.41 - 32.84) / (100 - 32.84) is 0.202.
EXTRA = 0.2


def refill(
    mask: ArrayLike,
    weight: ArrayLike | None,
    density: float | None = None,
    extra: float = 0.0,
    criterion: str = "l1",
    scores: ArrayLike | None = None,
    groups: int = 1,
) -> BoolArray:
    """Keep the best rows of a layer whole and no other row: refill, and refill+ with `extra`.

    Of each convolution group's `rows` rows, the ``k = ceil(density * rows)`` with the highest
    scores are kept, equal scores in the order of the rows; then ``ceil(extra * (rows - k))``
    more, next by score. O(size of the mask).

    Parameters
    ----------
    mask : array_like of bool, shape (out, in / groups, kh, kw), (out, in / groups, k) or (out, in)
        True = keep. Not changed.
    weight : array_like of float, same shape, or None
        The layer's weights; what lies at pruned positions does not count. Not changed. None
        takes the mask itself.
    density : float, default None
        Share of the rows to keep, between 0 and 1. None takes the mask's own density.
    extra : float, default 0.0
        refill+: share of the dropped rows to take back, between 0 and 1.
    criterion : {"l1", "count", "feature-l1", "feature-l2", "first-order", "molchanov"}
        What makes a row good: the l1 norm of its remaining weights, their number, or, out of
        `scores`, the l1 or l2 norm of the channel's feature map on a batch, its first-order
        saliency: the magnitudes of activation times gradient, summed; or the square of the sum
        of weight times gradient. `masktools.prune.channel_scores` finds them.
    scores : array_like of float, shape (out,), default None
        The rows' scores, finite and not negative, for the last four criteria. Not changed.
    groups : int, default 1
        Convolution groups; each keeps the same number of rows. A depthwise convolution has one
        row in each of its groups, so with its own number of groups it keeps all rows or none.

    Returns
    -------
    ndarray of bool
        In the mask's shape: a row is all True or all False.

    Raises
    ------
    TypeError
        If an argument is of another kind, or `scores` is missing or does not belong to the
        criterion.
    MaskError
        If shapes differ, a weight or score is NaN or infinite, `density` or `extra` is not
        between 0 and 1, or `groups` does not divide the rows.

    Notes
    -----
    Algorithm 2 of Chen et al. (ICML 2022). The refilled positions take the unmasked weights:
    those of the rewinding step when the layer is retrained. The printed ``k = ceil(s * c_out * n)``
    counts weights where rows are meant, so the factor n is left out here.

    The paper prints no share for refill+; its tables fit ``extra=0.2``. Its released code fills
    ``floor(d * C + (1 - d) * C * extra) + 1`` of C rows, d the mask's density: without `extra` one
    more than here where ``d * C`` is a whole number. ``density=(that number) / C`` with no `extra`
    fills as many. That code ranks by the number of remaining weights unless told otherwise
    (``criterion="count"``), and by chance among equals.

    Examples
    --------
    >>> mask = [[1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 1, 1]]
    >>> weight = [[1.0, 9.0, 1.0], [9.0, 3.0, 9.0], [9.0, 9.0, 9.0], [9.0, 1.0, 4.0]]
    >>> refill(mask, weight, density=0.25).astype(int)
    array([[0, 0, 0],
           [0, 0, 0],
           [0, 0, 0],
           [1, 1, 1]])
    >>> refill(mask, weight, density=0.25, extra=1 / 3)[:, 0]
    array([False,  True, False,  True])
    """
    keep = as_mask(mask)
    check_groups(keep.shape, groups)
    if density is not None:
        check_share("density", density)
    check_share("extra", extra)
    score = row_scores(keep, weight, criterion, scores).reshape(groups, -1)
    share = density if density is not None else Fraction(int(keep.sum()), max(keep.size, 1))
    k = with_extra(rows_kept(share, score.shape[1]), score.shape[1], extra)
    return whole_rows(keep.shape, best_rows(score, np.full(groups, k)))


def row_scores(
    mask: BoolArray, weight: ArrayLike | None, criterion: str, scores: ArrayLike | None
) -> NDArray[np.float64]:
    """Return the score of each row, shape (rows,), as `refill` takes them.

    Raises
    ------
    TypeError, MaskError
        As `refill`.
    """
    if criterion not in CRITERIA:
        raise MaskError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}")
    if criterion in GIVEN_CRITERIA:
        if scores is None:
            raise TypeError(f"criterion {criterion!r} picks by given scores: pass scores=")
        return _as_scores(scores, mask.shape[0])
    if scores is not None:
        raise TypeError(f"criterion {criterion!r} does not use the scores that were given")
    if criterion == "count":
        return remaining(mask, None)
    return remaining(mask, weight)


def remaining(mask: BoolArray, weight: ArrayLike | None) -> NDArray[np.float64]:
    """Return the saliency that the mask leaves in each row, shape (rows,).

    Parameters
    ----------
    mask : ndarray of bool
    weight : array_like of float, same shape, or None
        None takes the mask itself: the number of remaining weights.
    """
    matrix = mask.reshape(mask.shape[0], math.prod(mask.shape[1:]))
    if weight is None:
        kept: NDArray[np.float64] = matrix.sum(axis=1, dtype=np.float64)
        return kept
    left: NDArray[np.float64] = (as_saliency(weight, mask.shape) * matrix).sum(1, np.float64)
    return left


def rows_kept(density: float | Fraction, rows: int) -> int:
    """Return ceil(density * rows), blind to the rounding of a float's last digits.

    Examples
    --------
    >>> 0.07 * 100, rows_kept(0.07, 100)
    (7.000000000000001, 7)
    """
    if isinstance(density, Fraction):
        return math.ceil(density * rows)
    return math.ceil(density * rows * (1 - 1e-12))


def with_extra(k: int, rows: int, extra: float) -> int:
    """Return k and the `extra` share of the other rows: the k+ of refill+."""
    return k + rows_kept(extra, rows - k)


def best_rows(score: NDArray[np.float64], kept: NDArray[np.integer]) -> BoolArray:
    """Return which rows are kept, given their scores by convolution group.

    Parameters
    ----------
    score : ndarray of float, shape (groups, rows in a group)
    kept : ndarray of int, shape (groups,)
        How many rows each group keeps.

    Returns
    -------
    ndarray of bool, shape (rows,)
    """
    rank = np.empty(score.shape, np.int64)
    order = np.argsort(-score, axis=1, kind="stable")
    np.put_along_axis(rank, order, np.arange(score.shape[1])[None, :], axis=1)
    return (rank < kept[:, None]).reshape(-1)


def whole_rows(shape: tuple[int, ...], rows: BoolArray) -> BoolArray:
    """Return the mask of a shape that keeps the given rows, shape (rows,), whole."""
    mask = np.empty(shape, np.bool_)
    mask[...] = rows.reshape(-1, *[1] * (len(shape) - 1))
    return mask


def _as_scores(scores: ArrayLike, rows: int) -> NDArray[np.float64]:
    array = np.asarray(scores)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"expected real scores, got dtype {array.dtype}")
    if array.shape != (rows,):
        raise MaskError(f"expected a score for each of {rows} rows, got shape {array.shape}")
    array = array.astype(np.float64)
    wrong = ~np.isfinite(array) | (array < 0)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise MaskError(f"scores must be finite and not negative, got {array[at]} for row {at}")
    return array
