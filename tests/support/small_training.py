"""A state of a small network, and a training of it that takes no time and no framework."""

from __future__ import annotations

import numpy as np

TOTAL, REWIND = 40, 4
SHAPES = {
    "stem.weight": (8, 3, 3, 3),
    "conv.weight": (16, 8, 3, 3),
    "norm.weight": (16,),
    "norm.running_mean": (16,),
    "last.weight": (12, 16, 1, 1),
    "head.weight": (5, 12),
    "head.bias": (5,),
}
LAYERS = ("stem", "conv", "last")
WEIGHTS = 8 * 27 + 16 * 72 + 12 * 16


def initial(seed=0):
    """Return parameters, a buffer of statistics, and a counter without dimensions."""
    rng = np.random.default_rng(seed)
    state = {name: rng.standard_normal(s).astype(np.float32) for name, s in SHAPES.items()}
    return {**state, "norm.num_batches_tracked": np.array(0, np.int64)}


def train(state, masks, start, stop, seed):
    """Change every array in each step, by what the step and the seed draw; in place.

    Nothing but the state goes from a step to the next: a run that stops and goes on is the same.
    """
    for step in range(start, stop):
        rng = np.random.default_rng([seed, step])
        for array in state.values():
            if array.dtype.kind == "f":
                array *= np.float32(0.99)
                array += (0.1 * rng.standard_normal(array.shape)).astype(np.float32)
        for layer, mask in masks.items():
            state[f"{layer}.weight"] *= mask
        state["norm.num_batches_tracked"] += 1
    return state


def stay(state, masks, start, stop, seed):
    """Train without changing anything."""
    return state


class Recorded:
    """A training that notes what it was called with."""

    def __init__(self, train=train):
        self.train, self.calls = train, []

    def __call__(self, state, masks, start, stop, seed):
        given = {name: array.copy() for name, array in state.items()}
        kept = {layer: mask.copy() for layer, mask in masks.items()}
        self.calls.append((given, kept, start, stop, seed))
        return self.train(state, masks, start, stop, seed)


def spread(state):
    """Return a number that tells states apart, in place of an accuracy."""
    return float(np.tanh(np.abs(state["head.weight"]).mean()))


def same(one, other):
    """Return whether two states, or masks, are the same bit for bit."""
    return list(one) == list(other) and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and one[name].tobytes() == other[name].tobytes()
        for name in one
    )


def contents(folder):
    """Return the bytes of every file in a folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
