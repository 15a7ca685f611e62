"""Saliency from the columns that weights multiply."""

from __future__ import annotations

import numpy as np
import pytest

from masktools.calibration.linear import inverse_diagonal
from masktools.errors import MaskError
from masktools.transform.saliency import weigh


def test_error_is_what_the_output_loses_at_best_without_the_weight():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 6)) @ rng.standard_normal((6, 6)) + 3
    weight = rng.standard_normal((3, 6))
    norms = np.sqrt(1 / inverse_diagonal(np.cov(x.T, bias=True)))
    found = weigh(np.abs(weight), norms[None], "error")
    for row, column in np.ndindex(weight.shape):
        others = np.delete(x, column, axis=1)
        design = np.column_stack([others, np.ones(len(x))])  # the bias makes up for it as well
        y = x @ weight[row]
        missed = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
        assert found[row, column] == pytest.approx(np.mean(missed**2), rel=1e-5)


def test_input_is_what_the_weight_adds_to_the_output():
    rng = np.random.default_rng(1)
    x, weight = rng.standard_normal((50, 4)) + 2, rng.standard_normal((3, 4))
    found = weigh(np.abs(weight), np.sqrt(np.mean(x**2, axis=0))[None], "input")
    for row, column in np.ndindex(weight.shape):
        added = x[:, column] * weight[row, column]
        assert found[row, column] == pytest.approx(np.sqrt(np.mean(added**2)))


def test_each_convolution_group_has_columns_of_its_own():
    found = weigh(np.ones((4, 2)), [[1, 2], [3, 4]], "input", groups=2)
    assert found.tolist() == [[1, 2], [1, 2], [3, 4], [3, 4]]
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("norms", "error", "match"),
    [
        ([1, 2], MaskError, r"norms of shape \(groups, columns\) = \(1, 2\), got \(2,\)"),
        ([[1, 2, 3]], MaskError, r"\(1, 2\), got \(1, 3\)"),
        ([[1, -2]], MaskError, "not negative, got -2 for column 1 of group 0"),
        ([[np.nan, 2]], MaskError, "must be finite and not negative, got nan for column 0"),
        ([[1, 2j]], TypeError, "real numbers, got dtype complex128"),
        ([["a", "b"]], TypeError, "real numbers, got dtype <U1"),
        ([[1, 2], [3]], MaskError, "lists of unequal length"),
    ],
)
def test_other_norms_are_refused(norms, error, match):
    with pytest.raises(error, match=match):
        weigh(np.ones((4, 2)), norms, "error")
