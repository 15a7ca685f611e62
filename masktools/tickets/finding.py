"""Find a ticket: train, prune, rewind, again and again; every round is kept."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.checks import check_count
from masktools.progress import bar
from masktools.tickets import states
from masktools.tickets.callables import EVALUATE, POST, SOURCE, TRAIN, check_callable
from masktools.tickets.evaluation import Evaluate
from masktools.tickets.loop import Loop
from masktools.tickets.plan import Plan
from masktools.tickets.posts import Post
from masktools.tickets.search import Search, check_names
from masktools.tickets.sources import Source
from masktools.tickets.store import Store
from masktools.tickets.training import Train


def find_ticket(
    train: Train,
    state: Mapping[str, NDArray[Any]],
    source: Source,
    *,
    total: int,
    rewind: int,
    rounds: int,
    folder: str | os.PathLike[str],
    rate: float = 0.2,
    schedule: str = "rest",
    prune_from: str = "round",
    post: Mapping[str, Post] | None = None,
    group_aware: Post | None = None,
    snapshots: Iterable[int] = (),
    evaluate: Mapping[str, Evaluate] | None = None,
    skip: Iterable[str] = (),
    include: Iterable[str] = (),
    seed: int = 0,
    progress: bool = True,
) -> Search:
    """Find winning tickets by iterative pruning with rewinding, and keep every round.

    Round 0 trains the dense network. Every other round asks `source` for masks, takes the weights
    of the rewinding step under them, and trains again.

    Parameters
    ----------
    train : callable
        The user's own: ``train(state, masks, start, stop, seed) -> state`` trains from step
        `start` to step `stop` of its schedule, keeps pruned weights at zero after every step of
        the optimiser, and depends on nothing but its arguments. It gets copies.
    state : mapping of str to ndarray
        Every parameter and buffer before training: a ``state_dict()`` with NumPy arrays. Not
        changed.
    source : callable
        ``source(state, masks, density, seed) -> masks``: see `masktools.tickets.sources`.
    total, rewind : int
        The steps of the schedule in the unit of `train`, and the step to which every round goes
        back, less than `total`. The paper goes back to 5 % of it.
    rounds : int
        After the dense one. A folder with fewer rounds is gone on with.
    folder : path
        Where everything is kept as soon as it is there. The same call goes on from what is there,
        and ends with the same bytes as if it had never been interrupted.
    rate : float, default 0.2
        Share of the weights still there that goes in each round: floor(rate * n) of n.
    schedule : {"rest", "full"}
        From round 1 on: train from the rewinding step to the end; or all steps from the first.
    prune_from : {"round", "dense", "initial"}
        The weights that masks are made of: those trained in the round before, under its masks; or
        always those of the dense run (one-shot pruning), or those before training, with masks
        that keep all.
    post : mapping of str to callable, default None
        ``post(masks, state) -> masks`` by name: side results of every round but the first, from
        which the search does not go on. See `masktools.tickets.posts`.
    group_aware : callable, default None
        A post from whose masks the search does go on: group-aware pruning.
    snapshots : iterable of int, default ()
        Steps at which the state of the dense run is kept, to retrain from; steps 0, `rewind`
        and `total` are kept in any case. Each is a training of its own.
    evaluate : mapping of str to callable, default None
        ``evaluate(state) -> float`` by name, as of validation and test data: of each round's
        trained state.
    skip, include : iterable of str
        Convolutions that keep every weight; other layers that are pruned. By default every
        convolution is pruned, and no matrix.
    seed : int, default 0
        Round r trains, and prunes, with ``seed + r``.
    progress : bool, default True
        Show a bar on standard error, where that is a terminal. It counts trainings.

    Returns
    -------
    Search
        The rounds there are, with their masks and states.

    Raises
    ------
    TypeError
        If an argument, or what a callable returns, is of another kind.
    TicketError
        If `train` returns another network's state, a number that is not finite or pruned weights
        that are not zero; if `source` keeps more than it was asked for; if a layer keeps nothing;
        or if two rounds in succession keep as much as the one before. It names the round and the
        layer, and the rounds before stay in `folder`.
    MaskError
        If an argument has a value that does not fit, or masks fit no layer.
    FormatError
        If `folder` holds something else, was made with other arguments, or is damaged.

    Notes
    -----
    Algorithm 1 of Chen et al. (ICML 2022), and their Algorithm 4 with `group_aware`; with a post
    in its budgeted form, which never keeps more than the mask, each round makes progress.
    The dense run is two trainings, to the rewinding step and on from it, so that round 0 differs
    from the others in its masks alone. Everything in the state is rewound, also statistics of
    BatchNorm; the masks alone remain. A weight that a post brings back has its value of the
    rewinding step.

    `folder` has ``settings.json``; the dense run at its steps, ``dense_<step>_state``; and of each
    round ``round_<n>_trained``, ``round_<n>_masks``, one file for each post, all safetensors, and
    ``round_<n>.json``. The masks are files that `masktools.load_masks` and the commands read.

    References
    ----------
    Chen, Chen, Ma, Wang, Wang, "Coarsening the Granularity: Towards Structurally Sparse Lottery
    Tickets", ICML 2022.
    Frankle, Dziugaite, Roy, Carbin, "Linear mode connectivity and the lottery ticket hypothesis",
    ICML 2020 (rewinding).

    Examples
    --------
    A network of one convolution, and a "training" that moves each weight away from zero:

    >>> import tempfile
    >>> import numpy as np
    >>> from masktools.tickets import sources
    >>> def train(state, masks, start, stop, seed):
    ...     grown = state["conv.weight"] * 1.01 ** (stop - start)
    ...     return {"conv.weight": grown.astype(np.float32) * masks["conv"]}
    >>> weight = np.random.default_rng(0).standard_normal((8, 4, 3, 3)).astype(np.float32)
    >>> search = find_ticket(train, {"conv.weight": weight}, sources.magnitude(), total=100,
    ...                      rewind=5, rounds=3, folder=tempfile.mkdtemp())
    >>> [round(one.density, 3) for one in search.rounds]
    [1.0, 0.802, 0.642, 0.514]
    """
    plan = Plan(total, rewind, rate, schedule, prune_from, seed)
    check_count("rounds", rounds, 0)
    if group_aware is not None and prune_from != "round":
        raise TypeError("group_aware goes on from the masks of a round: leave prune_from out")
    posts: Mapping[str, Post] = {} if post is None else post
    evaluations: Mapping[str, Evaluate] = {} if evaluate is None else evaluate
    check_callable("train", train, TRAIN)
    check_callable("source", source, SOURCE)
    check_names("post", posts, POST)
    check_names("evaluate", evaluations, EVALUATE)
    if group_aware is not None:
        check_callable("group_aware", group_aware, POST)
    steps = plan.snapshots(snapshots)
    initial = states.check_state(state, "state")
    layers = states.pruned_layers(initial, skip, include)
    full = states.full_masks(initial, layers)
    settings = {
        **_plain(asdict(plan)),
        "layers": list(layers),
        "post": sorted(posts),
        "group_aware": group_aware is not None,
        "evaluate": sorted(evaluations),
        "state": states.digest(initial),
    }
    store = Store.open(Path(folder), "search", settings)
    trainings = len({*steps, plan.rewind} - {0, plan.total}) + 1 + rounds
    with bar(trainings, "tickets", wanted=progress) as step:
        loop = Loop(plan, train, source, posts, group_aware, evaluations, store, full, step)
        loop.dense(initial, steps)
        for index in range(1, rounds + 1):
            loop.go(index)
    return Search.load(folder)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return numpy's numbers as Python's, which JSON can hold."""
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}
