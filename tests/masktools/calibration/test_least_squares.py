"""Values fitted by least squares: against NumPy's solution, in both ways to keep the inputs."""

from __future__ import annotations

import numpy as np
import pytest

from masktools.calibration.least_squares import best_bias, error, fits, restored
from masktools.calibration.linear import solve
from masktools.calibration.moments import Few, Gram, observed

KINDS = pytest.mark.parametrize("kind", [Gram, Few])


def problem(groups=1, positions=400, columns=12, rows=6, offset=0.0, seed=0):
    """Return x (groups, positions, columns) and y that the first half of the columns explain."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((groups, columns, columns))
    x = rng.standard_normal((groups, positions, columns)) @ mix + offset
    truth = rng.standard_normal((groups, rows, columns))
    truth[:, :, columns // 2 :] = 0
    y = np.einsum("gpc,grc->gpr", x, truth) + rng.standard_normal((groups, 1, rows))
    return x.astype(np.float32), y.astype(np.float32), truth


def seen(kind, x, y, pieces=3):
    """Return moments of arrays that come in pieces; `x` is copied, since `add` overwrites it."""
    found = kind(len(x), x.shape[2], y.shape[2] * len(y))
    for part in np.array_split(np.arange(x.shape[1]), pieces):
        found.add(x[:, part].copy(), y[:, part])
    return found


def by_numpy(x, y, columns):
    """Return the least squares of one group with an intercept: weights, biases."""
    design = np.hstack([x[:, columns], np.ones((len(x), 1))]).astype(np.float64)
    found, *_ = np.linalg.lstsq(design, y.astype(np.float64), rcond=None)
    return found[:-1].T, found[-1]


@KINDS
@pytest.mark.parametrize("groups", [1, 3])
def test_a_planted_weight_is_found_again(kind, groups):
    x, y, truth = problem(groups)
    kept = np.ones((groups * 6, 12), bool)
    kept[:, 6:] = False
    start = np.zeros(kept.shape)
    (fit,) = fits(seen(kind, x, y), start, kept, [0.0])
    np.testing.assert_allclose(fit.weight.reshape(truth.shape), truth, atol=2e-4)
    for group in range(groups):
        weight, bias = by_numpy(x[group], y[group], np.arange(6))
        part = slice(group * 6, group * 6 + 6)
        np.testing.assert_allclose(fit.weight[part, :6], weight, atol=2e-4)
        np.testing.assert_allclose(fit.bias[part], bias, atol=2e-3)
    assert error(seen(kind, x, y), fit.weight, fit.bias) < 1e-6


@KINDS
def test_rows_of_several_blocks_and_of_a_residual_are_fitted_jointly(kind):
    x, y, _ = problem()
    kept = np.zeros((6, 12), bool)
    kept[np.ix_([0, 1, 2], [0, 3, 4])] = True
    kept[np.ix_([1, 2, 5], [7, 8])] = True  # Rows 1 and 2 lie in two blocks.
    kept[2, 11] = True  # A residual weight beside them.
    (fit,) = fits(seen(kind, x, y), np.zeros(kept.shape), kept, [0.0])
    assert not fit.weight[~kept].any()
    for row in range(6):
        columns = np.flatnonzero(kept[row])
        weight, bias = by_numpy(x[0], y[0][:, [row]], columns)
        np.testing.assert_allclose(fit.weight[row, columns], weight[0], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(fit.bias[row], bias[0], rtol=1e-3, atol=1e-3)


def test_a_ridge_is_the_same_in_both_ways():
    x, y, _ = problem(positions=9, columns=30)
    rng = np.random.default_rng(1)
    kept, start = rng.random((6, 30)) < 0.5, rng.standard_normal((6, 30))
    ridges = [1e-3, 1.0]
    gram, few = (fits(seen(kind, x, y), start * kept, kept, ridges) for kind in (Gram, Few))
    for one, other in zip(gram, few, strict=True):
        np.testing.assert_allclose(one.weight, other.weight, atol=2e-3)
        np.testing.assert_allclose(one.bias, other.bias, atol=1e-2)
    assert isinstance(observed(1, 30, 6, 7), Few)
    assert isinstance(observed(1, 30, 6, 8), Gram)
    assert isinstance(observed(1, 10_000, 1, 9_000), Few)  # The products of all would not fit.


def test_a_large_ridge_holds_to_the_old_values():
    x, y, _ = problem()
    start = np.random.default_rng(1).standard_normal((6, 12))
    loose, tight = fits(seen(Gram, x, y), start, np.ones((6, 12), bool), [1e-6, 1e6])
    assert np.abs(tight.weight - start).max() < 1e-3 < np.abs(loose.weight - start).max()


@KINDS
def test_the_error_is_the_one_that_is_measured(kind):
    x, y, _ = problem(2)
    rng = np.random.default_rng(1)
    weight, bias = rng.standard_normal((12, 12)), rng.standard_normal(12)
    made = np.einsum("gpc,grc->gpr", x, weight.reshape(2, 6, 12)) + bias.reshape(2, 1, 6)
    direct = np.square(made - y).mean(axis=1).sum() / y.var(axis=1).sum()
    assert error(seen(kind, x, y), weight, bias) == pytest.approx(direct, rel=1e-4)
    gain = rng.uniform(0.1, 9, 12)
    scaled, wanted = (part * gain.reshape(2, 1, 6) for part in (made, y))
    direct = np.square(scaled - wanted).mean(axis=1).sum() / wanted.var(axis=1).sum()
    assert error(seen(kind, x, y), weight, bias, gain) == pytest.approx(direct, rel=1e-4)


def test_a_large_mean_takes_no_digits_from_the_fit():
    # Sums of squares in float32 alone would be 1e4 times the variance, and keep no digit of it.
    x, y, truth = problem(positions=4000, offset=300.0)
    y -= y.mean(axis=1, keepdims=True)
    kept = np.ones((6, 12), bool)
    (fit,) = fits(seen(Gram, x, y, pieces=50), np.zeros((6, 12)), kept, [0.0])
    np.testing.assert_allclose(fit.weight, truth[0], atol=2e-3)
    design = x[0] @ np.eye(12, dtype=np.float32)
    naive = (design.T @ design) / np.float32(4000) - np.outer(design.mean(0), design.mean(0))
    exact = np.cov(x[0].astype(np.float64).T, bias=True)
    assert np.abs(naive - exact).max() > 1e-2 * np.abs(exact).max()


def test_restored_rows_vary_as_they_should():
    x, y, _ = problem()
    y = y + np.random.default_rng(2).standard_normal(y.shape).astype(np.float32)
    kept = np.arange(12) < np.arange(0, 12, 2)[:, None]  # The first row stores nothing.
    known = seen(Gram, x, y)
    (fit,) = fits(known, np.zeros((6, 12)), kept, [1e-2])
    found = restored(known, fit)
    made = x[0] @ found.weight.T + found.bias
    np.testing.assert_allclose(made.var(axis=0)[1:], y[0].var(axis=0)[1:], rtol=1e-4)
    np.testing.assert_allclose(made.mean(axis=0), y[0].mean(axis=0), rtol=1e-4, atol=1e-4)
    assert (x[0] @ fit.weight.T).var(axis=0)[1] < 0.9 * y[0].var(axis=0)[1]
    np.testing.assert_allclose(found.bias, best_bias(known, found.weight))


def test_constant_columns_leave_the_values_and_fit_the_bias():
    x, y, _ = problem()
    x[:] = 3
    start = np.ones((6, 12))
    (fit,) = fits(seen(Gram, x, y), start, np.ones((6, 12), bool), [1e-2])
    np.testing.assert_array_equal(fit.weight, start)
    np.testing.assert_allclose(fit.bias, y[0].mean(axis=0) - 36, rtol=1e-5)


def test_a_singular_system_is_solved_by_eigenvalues_and_counted():
    x, y, _ = problem()
    x[..., 1] = x[..., 0]
    (fit,) = fits(seen(Gram, x, y), np.zeros((6, 12)), np.ones((6, 12), bool), [0.0])
    assert fit.fallbacks == 1
    assert np.isinf(fit.condition)
    np.testing.assert_allclose(fit.weight[:, 0], fit.weight[:, 1], atol=1e-3)  # The shortest.
    assert error(seen(Gram, x, y), fit.weight, fit.bias) < 0.9
    found = solve(np.zeros((2, 2)), np.ones((2, 1)))
    assert found.fallback
    assert not found.values.any()
