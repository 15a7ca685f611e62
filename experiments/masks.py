"""The sources and posts that a configuration can name, all of `masktools`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

from numpy.typing import ArrayLike

from experiments.training import Task
from masktools import prune
from masktools.checks import as_mask
from masktools.tickets import Search, posts
from masktools.tickets.states import Masks, State, density

# How much the blocks of the code released with the paper outgrow masks that are sparse.
PAPER_GROWTH = 1.7


@dataclass(frozen=True)
class Found:
    """Masks, and the weights that they were made of, by which a post ranks."""

    masks: Masks
    weights: State


Options = dict[str, Any]
Maker = Callable[[Task, State, Options, int], Mapping[str, ArrayLike]]


def _magnitude(task: Task, state: State, options: Options, seed: int) -> Masks:
    return prune.magnitude(_matrices(state), **options)


def _random(task: Task, state: State, options: Options, seed: int) -> Masks:
    return prune.random(_matrices(state), seed=seed, **options)


def _snip(task: Task, state: State, options: Options, seed: int) -> Masks:
    return prune.snip(task.module(state), *task.some_of_each(10), **options)


def _grasp(task: Task, state: State, options: Options, seed: int) -> Masks:
    return prune.grasp(task.module(state), *task.some_of_each(10), **options)


def _synflow(task: Task, state: State, options: Options, seed: int) -> Masks:
    return prune.synflow(task.module(state), task.shape, **options)


def _channels(task: Task, state: State, options: Options, seed: int, *, criterion: str) -> Masks:
    images, labels = task.some_of_each(20)
    return prune.channels(
        task.module(state), criterion=criterion, inputs=images, targets=labels, seed=seed, **options
    )


INITIAL: dict[str, Maker] = {"rp": _random, "snip": _snip, "grasp": _grasp, "synflow": _synflow}
TRAINED: dict[str, Maker] = {
    "omp": _magnitude,
    "l1-channels": partial(_channels, criterion="l1"),
    "gamma-channels": partial(_channels, criterion="gamma"),
    "molchanov-channels": partial(_channels, criterion="molchanov"),
    "random-channels": partial(_channels, criterion="random"),
}
SOURCES = ("imp", *INITIAL, *TRAINED)


def found_by(source: str, task: Task, search: Search, number: int, seed: int) -> Found:
    """Return masks of the density that iterative magnitude pruning has in a round.

    Parameters
    ----------
    source : str
        ``"imp"`` is the search itself. Others prune the network before any training
        (`INITIAL`), or the trained dense network (`TRAINED`), in one go.
    task : Task
    search : Search
    number : int
        Of the round, from 1.
    seed : int
    """
    if source == "imp":
        return Found(search.masks(number), search.trained(number - 1))
    initial = source in INITIAL
    state = search.dense(0) if initial else search.trained(0)
    options = {
        "density": search.rounds[number].density,
        "include": search.layers,
        "skip": [layer for layer in _matrices(state) if layer not in search.layers],
    }
    masks = (INITIAL if initial else TRAINED)[source](task, state, options, seed)
    return Found({layer: as_mask(masks[layer]) for layer in search.layers}, state)


def _matrices(state: State) -> State:
    """Return the weights that can be pruned, by layer."""
    return {name.removesuffix(".weight"): w for name, w in state.items() if w.ndim > 1}


Post = Callable[[Found, Executor, int], Mapping[str, ArrayLike]]


def _refill(
    found: Found, executor: Executor, seed: int, *, extra: float
) -> Mapping[str, ArrayLike]:
    return posts.refill(extra)(found.masks, found.weights)


def _regroup(
    found: Found, executor: Executor, seed: int, *, rows: int, growth: float | None = None
) -> Mapping[str, ArrayLike]:
    if growth is None:
        post = posts.regroup(group_rows=rows, executor=executor)
    else:
        stored = _grown(found.masks, growth)
        post = posts.regroup(group_rows=rows, density=stored, across="own", executor=executor)
    return post(found.masks, found.weights)


def _grown(masks: Masks, growth: float) -> float:
    """Return the density of all layers when each has `growth` times its own, at most 1."""
    stored = sum(min(1.0, growth * density({name: m})) * m.size for name, m in masks.items())
    return stored / sum(mask.size for mask in masks.values())


def _shuffled(found: Found, executor: Executor, seed: int) -> Mapping[str, ArrayLike]:
    return prune.random(
        found.masks, layerwise_like=found.masks, seed=seed, include=list(found.masks)
    )


POSTS: dict[str, Post] = {
    "refill": partial(_refill, extra=0.0),
    "refill-plus": partial(_refill, extra=0.2),
    "regroup-8": partial(_regroup, rows=8),
    "regroup-32": partial(_regroup, rows=32),
    "regroup-8-paper-like": partial(_regroup, rows=8, growth=PAPER_GROWTH),
    "regroup-32-paper-like": partial(_regroup, rows=32, growth=PAPER_GROWTH),
    "shuffled": _shuffled,
}
