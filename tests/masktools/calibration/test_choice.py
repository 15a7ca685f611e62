"""Columns chosen by what is lost without others: against a search that solves each system anew."""

from __future__ import annotations

import numpy as np
import pytest

from masktools.calibration import choice
from masktools.calibration.choice import choosable, choose_columns, multiplications
from masktools.calibration.moments import Few, Gram
from masktools.layout import BlockLayout, DenseBlock

KINDS = pytest.mark.parametrize("kind", [Gram, Few])


def problem(groups=1, positions=300, columns=14, rows=6, seed=0):
    """Return x (groups, positions, columns), weights, and y that they make with some noise."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((groups, positions, columns)) @ rng.standard_normal(
        (groups, columns, columns)
    )
    weight = rng.standard_normal((groups, rows, columns))
    y = np.einsum("gpc,grc->gpr", x, weight) + rng.standard_normal((groups, positions, rows))
    return x.astype(np.float32), y.astype(np.float32), weight.reshape(groups * rows, columns)


def seen(kind, x, y):
    found = kind(len(x), x.shape[2], y.shape[2] * len(y))
    for part in np.array_split(np.arange(x.shape[1]), 3):
        found.add(x[:, part].copy(), y[:, part])
    return found


def least(x, y, wanted, gain, columns, ridge):
    """Return the least of what a choice minimises, for the rows of one block."""
    x, y = (a.astype(np.float64) - a.mean(axis=0, dtype=np.float64) for a in (x, y))
    damping = ridge * x.var(axis=0).mean()
    part, start = x[:, columns], wanted[:, columns].T
    system = part.T @ part / len(x) + damping * np.eye(len(columns))
    values = np.linalg.solve(system, part.T @ y / len(x) + damping * start)
    away = wanted.T.copy()
    away[columns] -= values
    missed = np.square(gain * (y - part @ values)).mean(axis=0).sum()
    return missed + damping * np.square(gain * away).sum()


def by_search(x, y, wanted, gain, count, ridge):
    chosen = []
    for _ in range(count):
        left = [c for c in range(x.shape[1]) if c not in chosen]
        worth = [least(x, y, wanted, gain, [*chosen, c], ridge) for c in left]
        chosen.append(left[int(np.argmin(worth))])
    return sorted(chosen)


@KINDS
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("ridge", [1e-3, 0.1, 10.0])
def test_each_column_is_the_one_that_leaves_least(kind, groups, ridge):
    x, y, wanted = problem(groups)
    gain = np.random.default_rng(1).uniform(0.2, 3, len(wanted))
    blocks, expected = [], []
    for first, count in ((0, 5), (3, 8)):
        for group in range(groups):
            own = np.arange(first, first + 3)
            rows = group * 6 + own
            blocks.append(DenseBlock(rows, np.arange(count)))
            arguments = (x[group], y[group][:, own], wanted[rows], gain[rows], count, ridge)
            expected.append(by_search(*arguments))
    layout = BlockLayout(wanted.shape, blocks, groups)
    found = choose_columns(seen(kind, x, y), wanted, gain, layout, ridge)
    assert [block.columns.tolist() for block in found.blocks] == expected
    assert [b.rows.tolist() for b in found.blocks] == [b.rows.tolist() for b in blocks]
    assert found.groups == groups


@KINDS
def test_columns_of_one_step_are_chosen_together(kind, monkeypatch):
    monkeypatch.setattr(choice, "STEPS", 2)
    x, y, wanted = problem()
    layout = BlockLayout(wanted.shape, [DenseBlock(np.arange(6), np.arange(5))])
    found = choose_columns(seen(kind, x, y), wanted, np.ones(6), layout, 0.1).blocks[0].columns
    alone = [least(x[0], y[0], wanted, 1.0, [c], 0.1) for c in range(14)]
    assert set(np.argsort(alone)[:3]) <= set(found.tolist())
    assert len(set(found.tolist())) == 5


def test_more_columns_than_the_inputs_tell_apart_are_chosen_all_the_same():
    x, y, wanted = problem()
    x[..., 5:] = x[..., 4:5]
    layout = BlockLayout(wanted.shape, [DenseBlock(np.arange(6), np.arange(9))])
    found = choose_columns(seen(Gram, x, y), wanted, np.ones(6), layout, 1e-6).blocks[0].columns
    assert len(set(found.tolist())) == 9


def test_a_group_whose_input_is_constant_keeps_its_columns():
    x, y, wanted = problem(2)
    x[1] = 1
    layout = BlockLayout(wanted.shape, [DenseBlock([0, 1], [2, 3]), DenseBlock([6, 8], [2, 3])], 2)
    found = choose_columns(seen(Gram, x, y), wanted, np.ones(12), layout, 0.1)
    assert found.blocks[1].columns.tolist() == [2, 3]
    assert found.blocks[0].columns.tolist() != [2, 3]


def test_what_can_be_chosen():
    shape = (4, 6)
    assert choosable(BlockLayout(shape, [DenseBlock([0, 1], [2]), DenseBlock([2], range(6))]))
    whole = BlockLayout(shape, [DenseBlock([0, 2], range(6))])  # Rows of a refill.
    twice = BlockLayout(shape, [DenseBlock([0, 1], [2]), DenseBlock([1, 2], [3])])
    assert not choosable(whole)
    assert not choosable(twice)
    assert not choosable(BlockLayout(shape, []))
    assert multiplications(twice) == 12
