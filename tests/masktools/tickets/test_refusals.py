"""What a training, a source, a post or a caller does wrong: the error names the layer."""

from __future__ import annotations

import numpy as np
import pytest
from small_training import REWIND, TOTAL, initial, spread, train

from masktools import MaskError, TicketError
from masktools.tickets import Search, find_ticket, posts, sources


def find(folder, training=train, state=None, source=None, **options):
    options = {"total": TOTAL, "rewind": REWIND, "rounds": 2, "progress": False} | options
    state = initial() if state is None else state
    return find_ticket(training, state, source or sources.magnitude(), folder=folder, **options)


def spoiled(change, in_round=1):
    """Return a training whose result is changed in one round, by what the change returns."""

    def training(state, masks, start, stop, seed):
        state = train(state, masks, start, stop, seed)
        return change(state, masks) if seed == in_round else state

    return training


def setting(name, value):
    return lambda state, masks: {**state, name: value}


def revived(state, masks):
    place = np.argwhere(~masks["conv"])[3]
    state["conv.weight"][tuple(place)] = 1e-30
    return state


def revived_place():
    return r"\(\d+, \d+, \d+, \d+\): set them to zero after every step"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            revived,
            TicketError,
            r"layer 'conv' with 1 pruned weights .* 1e-30 at " + revived_place(),
        ),
        (setting("head.bias", np.full(5, np.inf, "f4")), TicketError, r"'head\.bias' with inf at"),
        (setting("norm.running_mean", np.full(16, np.nan, "f4")), TicketError, "running_mean"),
        (setting("conv.weight", np.zeros((16, 8, 3), "f4")), TicketError, r"\(16, 8, 3\)"),
        (setting("conv.weight", np.zeros((16, 8, 3, 3))), TicketError, "float64.*float32"),
        (setting("new", np.zeros(3)), TicketError, "'new', which"),
        (setting("head.bias", [0.0] * 5), TypeError, "'head.bias' must be a NumPy array, got list"),
        (lambda s, m: {n: a for n, a in s.items() if n != "norm.weight"}, TicketError, "no 'norm."),
        (lambda s, m: None, TypeError, "must map names to arrays, got NoneType"),
        (lambda s, m: {}, TicketError, "empty"),
    ],
)
def test_what_train_returns_is_checked(tmp_path, change, error, message):
    with pytest.raises(error, match=message) as raised:
        find(tmp_path, spoiled(change))
    if error is TicketError:
        assert str(raised.value).startswith("round 1: ")
        assert str(raised.value).endswith(f"round 0 is kept in {tmp_path}")
    assert [one.number for one in Search.load(tmp_path).rounds] == [0]


def test_negative_zeros_are_zeros(tmp_path):
    def negative(state, masks, start, stop, seed):
        state = train(state, masks, start, stop, seed)
        for layer, mask in masks.items():
            state[f"{layer}.weight"][~mask] = -0.0
        return state

    assert len(find(tmp_path, negative).rounds) == 3


def keeping(**given):
    """Return a source that makes other masks of some layers."""

    def source(state, masks, density, seed):
        found = dict(sources.magnitude()(state, masks, density, seed))
        for layer, change in given.items():
            found[layer] = change(masks.get(layer))
        return found

    return source


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (keeping(conv=np.zeros_like), TicketError, "layer 'conv' keeps none of its 1152 weights"),
        (keeping(conv=np.ones_like), TicketError, "asked for density 0.8, 1248 weights, and keeps "
         r"\d+; layer 'conv' keeps most: 1152 of 1152"),
        (keeping(conv=lambda m: m[:, :4]), MaskError, r"layer 'conv': expected a mask of shape"),
        (keeping(conv=lambda m: m * 0.5), MaskError, "layer 'conv': expected a mask of 0 and 1"),
        (keeping(head=lambda m: np.eye(5, 12)), MaskError, "layer 'head' is not one of"),
        (keeping(nowhere=lambda m: np.ones((5, 12))), MaskError, "no layer 'nowhere'; there are"),
        (lambda *a: {"conv": np.ones((16, 8, 3, 3))}, MaskError, "no mask of layer 'stem'"),
        (lambda *a: [], TypeError, "expected masks by layer, got list"),
        (lambda *a: {}, MaskError, "source: there are no masks"),
    ],
)  # fmt: skip
def test_what_a_source_returns_is_checked(tmp_path, source, error, message):
    with pytest.raises(error, match=message) as raised:
        find(tmp_path, source=source)
    assert error is TypeError or str(raised.value).startswith("round 1: source")
    assert len(Search.load(tmp_path).rounds) == 1


def test_a_layer_that_loses_all_in_a_later_round_ends_the_search_there(tmp_path):
    state = initial()
    state["last.weight"] *= np.float32(0.3)

    def grow(state, masks, start, stop, seed):
        return state

    with pytest.raises(TicketError, match=r"round \d: source: layer 'last' keeps none of its 192"):
        find(tmp_path, grow, state, rounds=9)
    found = Search.load(tmp_path)
    assert len(found.rounds) >= 2
    assert found.masks(len(found.rounds) - 1)["last"].any()


def test_a_density_that_cannot_be_reached(tmp_path):
    """The rate asks for less and less, until there is nothing that a round could prune."""
    tiny = {"conv.weight": np.arange(1, 6, dtype="f4").reshape(1, 5, 1, 1)}

    def stay(state, masks, start, stop, seed):
        return state

    message = "round 2: rate 0.2 prunes none of the 4 weights that are left; rounds 0 to 1 are kept"
    with pytest.raises(TicketError, match=message):
        find(tmp_path, stay, tiny, rounds=9)


def test_a_source_does_not_bring_pruned_weights_back():
    masks = {"a": np.zeros((2, 4), bool), "b": np.eye(4, dtype=bool)}
    state = {"a.weight": np.ones((2, 4)), "b.weight": np.ones((4, 4))}
    message = "density 0.5 is 12 weights, and the masks keep 4: .*; layer 'b' has lost most"
    for source in (sources.magnitude(), sources.random()):
        with pytest.raises(TicketError, match=message):
            source(state, masks, 0.5, 0)


@pytest.mark.parametrize(
    ("post", "error", "message"),
    [
        (lambda masks, state: None, TypeError, "post 'p': expected masks by layer, got NoneType"),
        (lambda masks, state: {"conv": masks["conv"]}, MaskError, "post 'p': there is no mask of"),
        (
            lambda masks, state: {**masks, "stem": masks["conv"]},
            MaskError,
            "post 'p': layer 'stem'",
        ),
    ],
)
def test_what_a_post_returns_is_checked(tmp_path, post, error, message):
    with pytest.raises(error, match=message):
        find(tmp_path, post={"p": post})


def test_a_group_aware_post_may_empty_no_layer(tmp_path):
    def empties(masks, state):
        return {**masks, "stem": np.zeros_like(masks["stem"])}

    with pytest.raises(TicketError, match="group_aware: layer 'stem' keeps none"):
        find(tmp_path, group_aware=empties)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (float("nan"), TicketError, "evaluate 'test' returned nan"),
        ("good", TypeError, "evaluate 'test' must return a number, got str"),
        (None, TypeError, "evaluate 'test' must return a number, got NoneType"),
    ],
)
def test_what_evaluate_returns_is_checked(tmp_path, given, error, message):
    with pytest.raises(error, match=message):
        find(tmp_path, evaluate={"test": lambda state: given})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"total": 0}, MaskError, "total must be at least 1"),
        ({"total": 4.0}, TypeError, "total must be a whole number"),
        ({"rewind": TOTAL}, MaskError, "rewind must be less than total, 40, got 40"),
        ({"rounds": -1}, MaskError, "rounds must be at least 0"),
        ({"rate": 0.0}, MaskError, "rate must be above 0 and below 1, got 0.0"),
        ({"rate": 1}, MaskError, "rate must be above 0 and below 1, got 1"),
        ({"rate": "0.2"}, TypeError, "rate must be a number, got str"),
        ({"schedule": "half"}, MaskError, "schedule must be one of rest, full, got 'half'"),
        ({"prune_from": "end"}, MaskError, "prune_from must be one of round, dense, initial"),
        ({"snapshots": [TOTAL + 1]}, MaskError, "snapshots: step 41 is after the last, 40"),
        ({"snapshots": [0.5]}, TypeError, "snapshots must be a whole number"),
        ({"post": {"masks": posts.refill()}}, MaskError, "name 'masks' is taken"),
        ({"post": {"a/b": posts.refill()}}, MaskError, "name 'a/b' is taken, or cannot be"),
        ({"post": {"A": posts.refill(), "a": posts.refill()}}, MaskError, "name 'a' is taken"),
        ({"post": {"p": "refill"}}, TypeError, "post: 'p' must be callable, got str"),
        ({"post": posts.refill()}, TypeError, "post must map names to callables, got function"),
        ({"evaluate": spread}, TypeError, "evaluate must map names to callables"),
        ({"source": "magnitude"}, TypeError, "source must be callable, got str"),
        (
            {"source": sources.magnitude},
            TypeError,
            r"source must take \(state, masks, density, seed\), and magnitude\(across='global'\)",
        ),
        (
            {"post": {"p": posts.refill}},
            TypeError,
            r"post: 'p' must take \(masks, state\), and ref",
        ),
        (
            {"group_aware": posts.regroup},
            TypeError,
            r"group_aware must take .*and regroup\(\*, den",
        ),
        ({"group_aware": "regroup"}, TypeError, "group_aware must be callable, got str"),
        ({"training": None}, TypeError, "train must be callable, got NoneType"),
        (
            {"training": lambda state, masks: state},
            TypeError,
            r"train must take \(state, masks, sta",
        ),
        ({"evaluate": {"e": lambda: 0.5}}, TypeError, r"evaluate: 'e' must take \(state\), and"),
        ({"group_aware": posts.refill(), "prune_from": "dense"}, TypeError, "leave prune_from out"),
        ({"skip": ["nowhere"]}, MaskError, "skip: there is no layer 'nowhere'; there are 'stem'"),
        ({"skip": ["stem", "conv", "last"]}, MaskError, "there is no layer to prune"),
        ({"state": {}}, TicketError, "state is empty"),
        ({"state": [1]}, TypeError, "state must map names to arrays, got list"),
        ({"state": {"a.weight": np.zeros((2, 2, 1, 1), "c8")}}, TypeError, "dtype complex64"),
        ({"state": {"a.weight": np.zeros((2, 2, 1, 1, 1))}}, MaskError, "three-dimensional conv"),
        ({"state": {3: np.zeros(2)}}, TypeError, "a name must be a string, got 3"),
    ],
)
def test_arguments_are_checked_before_anything_is_trained(tmp_path, options, error, message):
    def never(*arguments):
        raise AssertionError("trained")

    folder = tmp_path / "search"
    with pytest.raises(error, match=message):
        find(folder, **{"training": never, **options})
    assert not folder.exists()
