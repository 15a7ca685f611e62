"""The saliency of weights: their size alone, or with what a network's inputs make of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from masktools.checks import FloatArray, as_array
from masktools.errors import MaskError

SALIENCIES = ("magnitude", "input", "error")


def weigh(
    magnitude: FloatArray, norms: ArrayLike, saliency: str, groups: int = 1
) -> NDArray[np.float32]:
    """Return the saliency of a layer's weights from norms of the columns that they multiply.

    Parameters
    ----------
    magnitude : ndarray of float, shape (rows, columns)
        |w|, 0 where pruned. Not changed.
    norms : array_like of float, shape (groups, columns)
        Of each convolution group's columns, not negative; see Notes. Not changed.
    saliency : {"input", "error"}
    groups : int, default 1
        Convolution groups.

    Returns
    -------
    ndarray of float32, shape (rows, columns)

    Raises
    ------
    TypeError
        If the norms are not real numbers.
    MaskError
        If their shape is another, or one of them is negative or not finite.

    Notes
    -----
    With w_rj the weight of row r in column j, and x_j the numbers that it multiplies, one at each
    position of each sample:

    - ``"input"``: ``|w_rj| n_j``, with ``n_j = sqrt(mean x_j^2)``. What the weight adds to the
      output, root mean square (Wanda).
    - ``"error"``: ``(w_rj n_j)^2``, with ``n_j = sqrt(1 / [H^-1]_jj)`` and H the covariance matrix
      of all columns of the convolution group. By how much the mean square of the output's error
      rises when the weight goes and the other columns of its row, and its bias, make up for it as
      well as they can (Optimal Brain Surgeon). A row group's column has the sum over its rows. A
      column that the others predict is worth little, however large its numbers are. That several
      columns go at once, and that some are pruned already, is left out of account.

    `masktools.calibration.columns.column_norms` finds both kinds of norms.

    References
    ----------
    Sun et al., "A simple and effective pruning approach for large language models", ICLR 2024.
    Hassibi and Stork, "Second order derivatives for network pruning: optimal brain surgeon",
    NIPS 1992.

    Examples
    --------
    >>> weigh(np.array([[1.0, 2.0], [3.0, 0.0]]), [[0.5, 2.0]], "input")
    array([[0.5, 4. ],
           [1.5, 0. ]], dtype=float32)
    >>> weigh(np.array([[1.0, 2.0], [3.0, 0.0]]), [[0.5, 2.0]], "error")
    array([[ 0.25, 16.  ],
           [ 2.25,  0.  ]], dtype=float32)
    """
    rows, columns = magnitude.shape
    factors = _checked(norms, (groups, columns))
    grouped = magnitude.reshape(groups, rows // groups, columns) * factors[:, None]
    if saliency == "error":
        grouped = np.square(grouped)
    return grouped.reshape(rows, columns).astype(np.float32)


def _checked(norms: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    array: NDArray[Any] = as_array(norms, "norms of columns")
    if array.dtype.kind not in "iuf":
        raise TypeError(f"expected norms of columns as real numbers, got dtype {array.dtype}")
    if array.shape != shape:
        raise MaskError(f"expected norms of shape (groups, columns) = {shape}, got {array.shape}")
    wrong = ~np.isfinite(array) | (array < 0)
    if wrong.any():
        group, column = map(int, np.unravel_index(int(np.argmax(wrong)), shape))
        raise MaskError(
            f"norms must be finite and not negative, got {array[group, column]} for column "
            f"{column} of group {group}"
        )
    return array.astype(np.float64)
