"""Another head for another task: what is taken over, what is refused, retrained under the masks."""

from __future__ import annotations

import numpy as np
import pytest
from small_training import REWIND, TOTAL, initial, same, spread, train

from masktools import MaskError
from masktools.tickets import find_ticket, retrain, sources, with_head


def head(classes, dtype=np.float32):
    return {
        "head.weight": np.full((classes, 12), 0.5, dtype),
        "head.bias": np.zeros(classes, dtype),
    }


def test_the_head_alone_is_another_one():
    state = initial()
    moved = with_head(state, head(62))
    assert list(moved) == list(state)
    assert same({n: moved[n] for n in head(62)}, head(62))
    assert all(same({n: moved[n]}, {n: state[n]}) for n in state if not n.startswith("head"))
    moved["conv.weight"][...] = 0
    assert same(state, initial())


def test_a_ticket_is_retrained_on_another_task(tmp_path):
    search = find_ticket(
        train, initial(), sources.magnitude(), total=TOTAL, rewind=REWIND, rounds=2,
        folder=tmp_path / "source", progress=False,
    )  # fmt: skip
    moved = retrain(
        train, search.masks(2), with_head(search.dense(REWIND), head(62)), total=2 * TOTAL,
        step=REWIND, schedule="full", folder=tmp_path / "target", evaluate={"test": spread},
        progress=False,
    )  # fmt: skip
    for run in moved.runs:
        state = moved.trained(run.seed)
        assert state["head.weight"].shape == (62, 12)
        for layer, mask in search.masks(2).items():
            assert not state[f"{layer}.weight"][~mask].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.weight": np.zeros((62, 12), "f4")}, "head: the state has no 'fc.weight'; there are"),
        ({"head.weight": np.zeros((62, 13), "f4")}, r"\(62, 13\), and the old one \(5, 12\)"),
        ({"head.weight": np.zeros(62, "f4")}, r"\(62,\), and the old one \(5, 12\)"),
        ({"norm.num_batches_tracked": np.array(0)}, "only the number of outputs may differ"),
        ({"head.bias": np.zeros(62)}, "has dtype float64, and the old one float32"),
        ({"head.bias": np.zeros(61, "f4")}, "different numbers of outputs: .*'head.bias': 61"),
    ],
)
def test_what_is_no_head_of_the_network_is_refused(change, message):
    with pytest.raises(MaskError, match=message):
        with_head(initial(), head(62) | change)


def test_kinds_are_checked():
    with pytest.raises(TypeError, match="head must map names to arrays, got list"):
        with_head(initial(), [])
    with pytest.raises(TypeError, match=r"'head\.bias' must be a NumPy array, got list"):
        with_head(initial(), {"head.bias": [0.0]})


@pytest.mark.parametrize(("left", "out"), [("weight", "bias"), ("bias", "weight")])
def test_a_layer_of_the_head_is_given_whole(left, out):
    given = {f"head.{left}": head(62)[f"head.{left}"]}
    with pytest.raises(MaskError, match=rf"'head.{left}' has 62 outputs, and 'head.{out}' .* 5"):
        with_head(initial(), given)
    same_size = {f"head.{left}": head(5)[f"head.{left}"]}
    assert same({f"head.{left}": with_head(initial(), same_size)[f"head.{left}"]}, same_size)
