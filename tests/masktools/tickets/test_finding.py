"""The search: counts, rewinding, schedules, what masks are made of, posts, group-aware pruning."""

from __future__ import annotations

import logging
import subprocess
import sys
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
from paths import ROOT
from small_training import (
    LAYERS,
    REWIND,
    TOTAL,
    WEIGHTS,
    Recorded,
    contents,
    initial,
    same,
    spread,
    stay,
    train,
)

from masktools import TicketError, load_masks, prune
from masktools.tickets import Search, find_ticket, finding, posts, sources


def find(folder, training=train, rounds=4, source=None, **options):
    options = {"total": TOTAL, "rewind": REWIND, "progress": False} | options
    source = source or sources.magnitude()
    return find_ticket(training, initial(), source, rounds=rounds, folder=folder, **options)


def kept(masks):
    return sum(int(mask.sum()) for mask in masks.values())


def masked(state, masks):
    """Return a state with zeros where masks prune."""
    return {
        name: np.where(masks[name[:-7]], array, np.float32(0))
        if name.removesuffix(".weight") in masks
        else array.copy()
        for name, array in state.items()
    }


def test_each_round_prunes_a_fifth_exactly_and_masks_are_nested(tmp_path):
    search = find(tmp_path, rounds=9)
    wanted, densities = WEIGHTS, (1, 0.8, 0.64, 0.512, 0.4096, 0.3277, 0.2621, 0.2097, 0.1678)
    for one, density in zip(search.rounds, densities, strict=False):
        assert one.kept == kept(search.masks(one.number)) == wanted
        assert one.weights == WEIGHTS
        assert one.density == one.pruned == pytest.approx(density, abs=2e-3)
        wanted -= wanted // 5
    assert len(search.rounds) == 10
    for earlier, later in pairwise(range(10)):
        before, after = search.masks(earlier), search.masks(later)
        assert tuple(after) == LAYERS
        assert all((after[layer] <= before[layer]).all() for layer in LAYERS)


def test_the_smallest_magnitudes_of_all_layers_go(tmp_path):
    search = find(tmp_path, rounds=2)
    trained, before, after = search.trained(1), search.masks(1), search.masks(2)
    gone = [np.abs(trained[f"{layer}.weight"][before[layer] & ~after[layer]]) for layer in LAYERS]
    stay_there = [np.abs(trained[f"{layer}.weight"][after[layer]]) for layer in LAYERS]
    assert np.concatenate(gone).max() < np.concatenate(stay_there).min()


def test_every_round_starts_from_the_rewound_state_bit_for_bit(tmp_path):
    training = Recorded()
    search = find(tmp_path, training, rounds=3, seed=7)
    to_rewind, dense, *rounds = training.calls
    assert same(to_rewind[0], initial())
    assert to_rewind[2:] == (0, REWIND, 7)
    assert dense[2:] == (REWIND, TOTAL, 7)
    rewound = search.dense(REWIND)
    assert same(rewound, train(initial(), {}, 0, REWIND, 7))
    for number, (state, masks, start, stop, seed) in enumerate(rounds, 1):
        assert same(masks, search.masks(number))
        assert same(state, masked(rewound, masks))
        assert (start, stop, seed) == (REWIND, TOTAL, 7 + number)
        again = train(masked(rewound, masks), masks, start, stop, seed)
        assert same(search.trained(number), again)


def test_a_training_that_changes_nothing_makes_iterative_one_shot_pruning(tmp_path):
    search = find(tmp_path, stay, rounds=6)
    weights = {layer: initial()[f"{layer}.weight"] for layer in LAYERS}
    for one in search.rounds:
        shot = prune.magnitude(weights, one.density, include=LAYERS)
        assert same(search.masks(one.number), shot)


@pytest.mark.parametrize(("prune_from", "state"), [("dense", "trained"), ("initial", "initial")])
def test_masks_of_the_dense_or_the_initial_weights(tmp_path, prune_from, state):
    search = find(tmp_path, prune_from=prune_from, rounds=3)
    scored = initial() if state == "initial" else search.trained(0)
    weights = {layer: scored[f"{layer}.weight"] for layer in LAYERS}
    for one in search.rounds:
        assert same(search.masks(one.number), prune.magnitude(weights, one.density, include=LAYERS))


@pytest.mark.parametrize("prune_from", ["round", "dense"])
def test_a_source_gets_what_it_is_to_prune_and_can_spoil_nothing(tmp_path, prune_from):
    seen, options = [], {"prune_from": prune_from, "post": {"refill": posts.refill()}}

    def source(state, masks, density, seed):
        seen.append((kept(masks), density, seed))
        found = sources.magnitude()(state, masks, density, seed)
        for array in (*state.values(), *masks.values()):
            array[...] = 0
        return found

    search = find(tmp_path / "a", source=source, rounds=2, seed=3, **options)
    second = search.rounds[1].kept if prune_from == "round" else WEIGHTS
    assert [one[0] for one in seen] == [WEIGHTS, second]
    assert [one[1] for one in seen] == [one.density for one in search.rounds[1:]]
    assert [one[2] for one in seen] == [4, 5]
    find(tmp_path / "b", rounds=2, seed=3, **options)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_the_full_schedule_trains_all_steps_from_round_one_on(tmp_path):
    training = Recorded()
    find(tmp_path, training, schedule="full", rounds=2)
    assert [call[2:4] for call in training.calls] == [
        (0, REWIND), (REWIND, TOTAL), (0, TOTAL), (0, TOTAL),
    ]  # fmt: skip


def test_without_rewinding_steps_rounds_start_at_the_beginning(tmp_path):
    training = Recorded()
    search = find(tmp_path, training, rewind=0, rounds=1)
    assert [call[2:4] for call in training.calls] == [(0, TOTAL), (0, TOTAL)]
    assert same(search.dense(0), initial())


def test_snapshots_are_of_the_one_dense_run(tmp_path):
    training = Recorded()
    search = find(tmp_path / "a", training, rounds=1, snapshots=[0, 2, REWIND, 8, 20, TOTAL])
    for step in (0, 2, REWIND, 8, 20, TOTAL):
        assert same(search.dense(step), train(initial(), {}, 0, step, 0)), step
    assert same(search.dense(TOTAL), search.trained(0))
    assert sorted(call[2:4] for call in training.calls) == [
        (0, 2), (0, REWIND), (REWIND, 8), (REWIND, 20), (REWIND, TOTAL), (REWIND, TOTAL),
    ]  # fmt: skip
    with pytest.raises(TicketError, match="not kept at step 9; there are 0, 2, 4, 8, 20 and 40"):
        search.dense(9)


def test_snapshots_may_come_later_and_change_nothing_else(tmp_path):
    find(tmp_path / "a", rounds=1, snapshots=[20])
    find(tmp_path / "b", rounds=1)
    before = contents(tmp_path / "b")
    find(tmp_path / "b", rounds=1, snapshots=[20])
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert set(contents(tmp_path / "b")) - set(before) == {
        "dense_000020.json", "dense_000020_state.safetensors",
    }  # fmt: skip


def test_more_rounds_go_on_from_those_there(tmp_path):
    find(tmp_path / "a", rounds=1)
    training = Recorded()
    find(tmp_path / "a", training, rounds=3)
    assert len(training.calls) == 2
    find(tmp_path / "b", rounds=3)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_skip_and_include_choose_the_layers(tmp_path):
    search = find(tmp_path, rounds=1, skip=["stem"], include=["head"])
    assert search.layers == ("conv", "last", "head")
    assert search.rounds[1].weights == WEIGHTS - 8 * 27 + 60


def test_posts_are_side_results_of_the_unstructured_masks(tmp_path):
    given = []

    def noted(masks, state):
        given.append((kept(masks), state["conv.weight"].copy()))
        found = posts.refill()(masks, state)
        for array in (*state.values(), *masks.values()):
            array[...] = 0
        return found

    search = find(tmp_path / "a", rounds=3, post={"refill": noted, "refill+": posts.refill(0.2)})
    plain = find(tmp_path / "b", rounds=3)
    assert search.rounds[0].posts == {}
    for one in search.rounds[1:]:
        number = one.number
        assert same(search.masks(number), plain.masks(number))
        assert same(search.trained(number), plain.trained(number))
        scored = search.trained(number - 1)
        assert given[number - 1][0] == one.kept
        assert (given[number - 1][1] == scored["conv.weight"]).all()
        for name, extra in (("refill", 0.0), ("refill+", 0.2)):
            made = search.masks(number, name)
            assert same(made, posts.refill(extra)(search.masks(number), scored))
            assert one.posts[name].density == kept(made) / WEIGHTS
            assert one.posts[name].emptied == []


def test_a_post_that_empties_a_layer_is_told_and_does_not_end_the_search(tmp_path, caplog):
    def empties(masks, state):
        return {**masks, "conv": np.zeros_like(masks["conv"])}

    with caplog.at_level(logging.WARNING):
        search = find(tmp_path, rounds=2, post={"bad": empties})
    assert [one.posts["bad"].emptied for one in search.rounds[1:]] == [["conv"], ["conv"]]
    assert "post 'bad': layer 'conv' keeps nothing" in caplog.text


def test_group_aware_pruning_goes_on_from_the_posts_masks(tmp_path):
    training = Recorded()
    group_aware = posts.regroup(group_rows=4, partitioner="spectral")
    search = find(tmp_path, training, rounds=3, group_aware=group_aware)
    sizes = [one.kept for one in search.rounds]
    for one in search.rounds[1:]:
        before, scored = search.masks(one.number - 1), search.trained(one.number - 1)
        asked = sizes[one.number - 1] - sizes[one.number - 1] // 5
        assert one.asked == asked / WEIGHTS
        found = sources.magnitude()(scored, before, one.asked, 0)
        assert kept(found) == asked
        assert one.pruned == asked / WEIGHTS
        assert same(search.masks(one.number), group_aware(found, scored))
    assert all(later < earlier for earlier, later in pairwise(sizes))
    brought_back = (
        search.masks(1)["conv"]
        & ~sources.magnitude()(search.trained(0), search.masks(0), search.rounds[1].asked, 0)[
            "conv"
        ]
    )
    assert brought_back.any()
    begin = training.calls[2][0]["conv.weight"]
    assert (begin[brought_back] == search.dense(REWIND)["conv.weight"][brought_back]).all()


def test_group_aware_pruning_stops_after_two_rounds_without_progress(tmp_path):
    def brings_all_back(masks, state):
        return {layer: np.ones_like(mask) for layer, mask in masks.items()}

    with pytest.raises(
        TicketError, match=r"round 2: 2 rounds .* no progress.*'conv'.*rounds 0 to 1 are"
    ):
        find(tmp_path, group_aware=brings_all_back, rounds=5)
    assert len(Search.load(tmp_path).rounds) == 2


def test_one_round_without_progress_is_no_reason_to_stop(tmp_path):
    rounds = iter(range(10))

    def sometimes(masks, state):
        back = next(rounds) % 2 == 0
        return {layer: mask | back for layer, mask in masks.items()}

    search = find(tmp_path, group_aware=sometimes, rounds=4)
    fifth = WEIGHTS - WEIGHTS // 5
    assert [one.kept for one in search.rounds] == [WEIGHTS, WEIGHTS, fifth, WEIGHTS, fifth]


def test_accuracies_are_of_the_trained_states(tmp_path):
    evaluate = {"validation": spread, "test": lambda state: state["head.bias"].max()}
    search = find(tmp_path, rounds=2, evaluate=evaluate)
    for one in search.rounds:
        trained = search.trained(one.number)
        assert one.accuracy == {
            "test": float(trained["head.bias"].max()),
            "validation": spread(trained),
        }
    assert len({one.accuracy["validation"] for one in search.rounds}) == 3


def test_the_files_are_what_the_other_commands_read(tmp_path):
    search = find(tmp_path, rounds=2)
    assert same(
        dict(sorted(search.masks(2).items())),
        dict(sorted(load_masks(tmp_path / "round_02_masks.safetensors").items())),
    )


def test_the_same_call_gives_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        find(tmp_path / name, rounds=2, seed=seed, source=sources.random())
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    searches = [Search.load(tmp_path / name) for name in "ac"]
    assert not same(searches[0].masks(1), searches[1].masks(1))


@pytest.mark.parametrize("across", ["lamp", "erk"])
def test_any_other_way_of_pruning_is_a_source(tmp_path, across):
    def source(state, masks, density, seed):
        weights = {name[:-7]: array for name, array in state.items() if array.ndim > 1}
        return prune.magnitude(weights, density, across=across, include=masks, skip=["head"])

    search = find(tmp_path, source=source, prune_from="dense", rounds=2)
    found = source(search.trained(0), LAYERS, search.rounds[2].density, 0)
    assert found.pop("head").all()
    assert same(search.masks(2), found)


def test_a_source_may_keep_less_than_asked_and_that_is_told(tmp_path, caplog):
    def half(state, masks, density, seed):
        return sources.magnitude()(state, masks, density / 2, seed)

    with caplog.at_level(logging.WARNING):
        search = find(tmp_path, source=half, rounds=1)
    assert search.rounds[1].kept == pytest.approx(0.4 * WEIGHTS, abs=1)
    assert search.rounds[1].asked == pytest.approx(0.8, abs=1e-3)
    assert "of 1248 asked" in caplog.text


@pytest.mark.parametrize("options", [{}, {"rewind": 0}, {"snapshots": [0, 2, 20, TOTAL]}])
def test_the_bar_counts_every_training(tmp_path, monkeypatch, options):
    bars = []

    @contextmanager
    def counted(total, title, *, wanted):
        names = []
        bars.append((total, wanted, names))
        yield names.append

    monkeypatch.setattr(finding, "bar", counted)
    training = Recorded()
    for rounds in (1, 3, 3):
        find(tmp_path, training, rounds=rounds, progress=True, evaluate={"t": spread}, **options)
    assert [total for total, _, _ in bars] == [len(names) for _, _, names in bars]
    assert all(wanted for _, wanted, _ in bars)
    assert bars[2][0] == len(training.calls)
    assert bars[2][2][-1].startswith("round 3, density 0.513, t 0.")


def test_importing_loads_no_framework():
    code = "import sys, masktools.tickets; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    heavy = {"torch", "onnx", "kahypar", "networkx", "loky", "rich", "scipy", "h5py"}
    assert not heavy & set(done.stdout.split())


def test_a_random_mask_of_the_same_layer_densities(tmp_path):
    """The control of a ticket's structure needs nothing but `prune.random`."""
    masks = find(tmp_path, rounds=3).masks(3)
    control = prune.random(masks, layerwise_like=masks, include=masks, seed=1)
    assert [int(mask.sum()) for mask in control.values()] == [
        int(mask.sum()) for mask in masks.values()
    ]
    assert not same(control, masks)
