"""Retraining: starts, schedules, seeds, means and spreads, which tickets win."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from small_training import (
    LAYERS,
    REWIND,
    TOTAL,
    Recorded,
    contents,
    initial,
    same,
    spread,
    stay,
    train,
)

from masktools import FormatError, MaskError, TicketError, prune
from masktools.tickets import Search, extreme, find_ticket, retrain, sources


def masks_of(density=0.3):
    return prune.magnitude(
        {layer: initial()[f"{layer}.weight"] for layer in LAYERS}, density, include=LAYERS
    )


def again(folder, training=train, masks=None, start=None, **options):
    options = {"total": TOTAL, "step": REWIND, "evaluate": {"test": spread}} | options
    return retrain(
        training, masks_of() if masks is None else masks, initial(3) if start is None else start,
        folder=folder, progress=False, **options,
    )  # fmt: skip


def scored(folder, accuracies, density=0.5):
    """Return a retraining with these accuracies."""
    given = iter(accuracies)
    return again(
        folder, stay, masks_of(density), evaluate={"test": lambda state: next(given)},
        seeds=range(len(accuracies)),
    )  # fmt: skip


def test_each_seed_trains_from_the_start_under_the_masks(tmp_path):
    training = Recorded()
    ticket = again(tmp_path, training, seeds=[4, 2])
    assert [call[2:] for call in training.calls] == [(REWIND, TOTAL, 4), (REWIND, TOTAL, 2)]
    for state, masks, *_ in training.calls:
        assert same(masks, masks_of())
        for name, array in state.items():
            mask = masks_of().get(name.removesuffix(".weight"), True)
            assert (array == np.where(mask, initial(3)[name], 0)).all()
    assert [run.seed for run in ticket.runs] == [4, 2]
    assert same(ticket.masks(), masks_of())
    for run in ticket.runs:
        assert run.accuracy == {"test": spread(ticket.trained(run.seed))}
    accuracies = ticket.accuracies("test")
    assert len(set(accuracies)) == 2
    assert ticket.mean("test") == pytest.approx(statistics.mean(accuracies))
    assert ticket.spread("test") == pytest.approx(abs(accuracies[0] - accuracies[1]) / 2**0.5)
    assert ticket.density == pytest.approx(0.3, abs=1e-3)


def test_retraining_from_the_rewound_state_is_the_round_of_the_search(tmp_path):
    search = find_ticket(
        train, initial(), sources.magnitude(), total=TOTAL, rewind=REWIND, rounds=2,
        folder=tmp_path / "search", progress=False,
    )  # fmt: skip
    ticket = again(tmp_path / "again", masks=search.masks(2), start=search.dense(REWIND), seeds=[2])
    assert same(ticket.trained(2), search.trained(2))


@pytest.mark.parametrize("percent", [0, 5, 10, 20, 50])
def test_the_dense_run_under_full_masks_ends_the_same_from_any_step(tmp_path, percent):
    step = TOTAL * percent // 100
    search = find_ticket(
        train, initial(), sources.magnitude(), total=TOTAL, rewind=REWIND, rounds=0,
        folder=tmp_path / "search", snapshots=[step], progress=False,
    )  # fmt: skip
    dense = again(tmp_path / "again", masks={}, start=search.dense(step), step=step, seeds=[0])
    assert dense.density == 1.0
    assert dense.masks() == {}
    assert same(dense.trained(0), search.dense(TOTAL))


def test_the_full_schedule_fine_tunes_from_the_end(tmp_path):
    training = Recorded()
    again(tmp_path, training, step=TOTAL, schedule="full", seeds=[0])
    assert training.calls[0][2:] == (0, TOTAL, 0)
    with pytest.raises(MaskError, match="step 40 of 40 leaves nothing to train: take schedule="):
        again(tmp_path, training, step=TOTAL)
    with pytest.raises(MaskError, match="step 41 of 40"):
        again(tmp_path, training, step=TOTAL + 1, schedule="full")


def test_a_fresh_initialisation_for_each_seed(tmp_path):
    training = Recorded()
    again(tmp_path, training, masks={}, start=initial, step=0, seeds=[5, 6])
    assert [same(call[0], initial(seed)) for call, seed in zip(training.calls, (5, 6), strict=True)]
    assert not same(training.calls[0][0], training.calls[1][0])


def test_stopped_and_gone_on_with_is_the_same_to_the_byte(tmp_path):
    again(tmp_path / "a", seeds=range(4))

    class Stops(Recorded):
        def __call__(self, *arguments):
            if len(self.calls) == 2:
                raise KeyboardInterrupt
            return super().__call__(*arguments)

    with pytest.raises(KeyboardInterrupt):
        again(tmp_path / "b", Stops(), seeds=range(4))
    training = Recorded()
    gone_on = again(tmp_path / "b", training, seeds=range(4))
    assert [call[4] for call in training.calls] == [2, 3]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert [run.seed for run in gone_on.runs] == [0, 1, 2, 3]


def test_others_need_another_folder(tmp_path):
    again(tmp_path)
    for options, name in (
        ({"masks": masks_of(0.4)}, "another masks"),
        ({"schedule": "full"}, "another schedule"),
        ({"step": 3}, "another step"),
        ({"start": initial(4)}, r"seed_0000\.json: it was trained from another start"),
    ):
        with pytest.raises(FormatError, match=name):
            again(tmp_path, **options)
    (tmp_path / "seed_0001.json").write_text('{"files": {}}')
    with pytest.raises(FormatError, match=r"seed_0001\.json: it is no record of a run"):
        again(tmp_path)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"masks": {"conv": np.zeros((16, 8, 3, 3))}}, TicketError, "layer 'conv' keeps none of"),
        ({"masks": {"conv": np.ones((16, 8))}}, MaskError, "masks: layer 'conv': expected a mask"),
        (
            {"masks": {"cow": np.ones((16, 8))}},
            MaskError,
            "no layer 'cow'; there are 'stem', 'conv'",
        ),
        ({"seeds": []}, MaskError, "seeds: there is none"),
        ({"seeds": [1, 1]}, MaskError, r"seeds: \[1, 1\] has one twice"),
        ({"seeds": [0.5]}, TypeError, "seeds must be a whole number"),
        ({"schedule": "half"}, MaskError, "schedule must be one of"),
        ({"evaluate": spread}, TypeError, "evaluate must map names to callables"),
        ({"start": lambda seed: None}, TypeError, "start must map names to arrays, got NoneType"),
    ],
)
def test_arguments_are_checked_before_anything_is_trained(tmp_path, options, error, message):
    def never(*arguments):
        raise AssertionError("trained")

    with pytest.raises(error, match=message):
        again(tmp_path / "ticket", never, **options)
    assert not (tmp_path / "ticket").exists()


def test_what_train_returns_is_checked_and_the_seeds_before_are_kept(tmp_path):
    def spoils(state, masks, start, stop, seed):
        return {**state, "head.bias": state["head.bias"] * (np.nan if seed == 1 else 1)}

    with pytest.raises(TicketError, match=r"^seed 1: train returned 'head\.bias' with nan"):
        again(tmp_path, spoils)
    assert (tmp_path / "seed_0000.json").exists()
    assert not (tmp_path / "seed_0001.json").exists()


def test_a_ticket_wins_by_its_mean_of_three_seeds(tmp_path):
    dense = scored(tmp_path / "dense", [0.9, 0.8, 0.7], 1.0)
    equal = scored(tmp_path / "equal", [0.7, 0.8, 0.9], 0.5)
    sparse = scored(tmp_path / "sparse", [0.81, 0.81, 0.79], 0.2)
    worse = scored(tmp_path / "worse", [0.95, 0.9, 0.5], 0.1)
    assert [one.wins(dense, "test") for one in (equal, sparse, worse)] == [True, True, False]
    assert extreme([equal, worse, sparse], dense, "test") is sparse
    assert extreme([worse], dense, "test") is None
    assert repr(sparse).startswith("Retraining(density 0.2, 3 seeds, test 0.8033 ± 0.012")


def test_the_mean_of_equal_numbers_is_equal_in_any_order(tmp_path):
    numbers = [0.1, 0.7, 1e-9, 0.3]
    one = scored(tmp_path / "a", numbers)
    other = scored(tmp_path / "b", numbers[::-1])
    assert one.wins(other, "test")
    assert other.wins(one, "test")


def test_as_many_right_answers_win_however_they_are_spread(tmp_path):
    """The floats nearest to 234, 237 and 240 of 240 add up to less than three times 237 of 240."""
    one = scored(tmp_path / "one", [n / 240 for n in (234, 237, 240)])
    assert one.wins(scored(tmp_path / "other", [237 / 240] * 3), "test")


def test_too_few_seeds_win_nothing(tmp_path):
    dense = scored(tmp_path / "dense", [0.5, 0.5, 0.5], 1.0)
    two = scored(tmp_path / "two", [0.9, 0.9])
    for one, other in ((two, dense), (dense, two)):
        with pytest.raises(TicketError, match=r"two: .* at least 3 seeds, and there are 2"):
            one.wins(other, "test")
    one = scored(tmp_path / "one", [0.9])
    assert math.isnan(one.spread("test"))
    with pytest.raises(MaskError, match="nothing was evaluated as 'train'; there are 'test'"):
        one.mean("train")


def test_a_round_that_is_not_there(tmp_path):
    find_ticket(
        train, initial(), sources.magnitude(), total=TOTAL, rewind=REWIND, rounds=1,
        folder=tmp_path, progress=False,
    )  # fmt: skip
    search = Search.load(tmp_path)
    assert repr(search) == "Search(2 rounds, down to density 0.8)"
    for number in (-1, 2):
        with pytest.raises(MaskError, match=f"there is no round {number}: 2 are there, from 0 on"):
            search.masks(number)
        with pytest.raises(MaskError, match="there is no round"):
            search.trained(number)
    with pytest.raises(MaskError, match="round 1 has no post 'refill'; there are none"):
        search.masks(1, "refill")
