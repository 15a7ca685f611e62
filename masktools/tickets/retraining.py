"""Train under given masks with several seeds, and say which tickets win."""

from __future__ import annotations

import logging
import os
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike, NDArray

from masktools.checks import check_count, listed
from masktools.errors import FormatError, MaskError, TicketError
from masktools.progress import bar
from masktools.tickets import states
from masktools.tickets.callables import EVALUATE, TRAIN, check_callable
from masktools.tickets.evaluation import Evaluate, accuracies
from masktools.tickets.plan import check_schedule, first_step
from masktools.tickets.search import MASKS, TRAINED, check_names
from masktools.tickets.states import Masks, State
from masktools.tickets.store import Store
from masktools.tickets.training import Train, train_under

Start = Mapping[str, NDArray[Any]] | Callable[[int], Mapping[str, NDArray[Any]]]
SEEDS_TO_WIN = 3
_IMAGES = 1_000_000  # up to as many images, means of accuracies are exact
_TICKET = "ticket"

logger = logging.getLogger("masktools.tickets")


@dataclass(frozen=True)
class Run:
    """One training of a retraining: its seed, its accuracies by name, the hash of its start."""

    seed: int
    accuracy: dict[str, float]
    start: str


@dataclass(frozen=True, repr=False)
class Retraining:
    """The results of training under given masks with several seeds.

    Parameters
    ----------
    folder : Path
    density : float
        Of the masks.
    runs : tuple of Run
    """

    folder: Path
    density: float
    runs: tuple[Run, ...]

    def __repr__(self) -> str:
        names = self.runs[0].accuracy if self.runs else ()
        told = "".join(f", {n} {self.mean(n):.4g} ± {self.spread(n):.2g}" for n in names)
        return f"Retraining(density {self.density:.4g}, {len(self.runs)} seeds{told})"

    def accuracies(self, name: str) -> tuple[float, ...]:
        """Return the accuracies of all seeds, by a name of `evaluate`."""
        for run in self.runs:
            if name not in run.accuracy:
                raise MaskError(f"{self.folder}: nothing was evaluated as {name!r}; "
                                f"{listed(run.accuracy)}")  # fmt: skip
        return tuple(run.accuracy[name] for run in self.runs)

    def mean(self, name: str) -> float:
        """Return the mean accuracy over the seeds."""
        return float(self._mean(name))

    def spread(self, name: str) -> float:
        """Return the standard deviation over the seeds, of a sample; NaN where there is one."""
        found = self.accuracies(name)
        return statistics.stdev(found) if len(found) > 1 else float("nan")

    def wins(self, dense: Retraining, name: str) -> bool:
        """Return whether this is a winning ticket: its mean is not below the dense network's.

        Parameters
        ----------
        dense : Retraining
            Under masks that keep all, over its own seeds.
        name : str
            Of the accuracy that decides.

        Raises
        ------
        TicketError
            If either has fewer than three seeds.
        """
        for one in (self, dense):
            if len(one.runs) < SEEDS_TO_WIN:
                raise TicketError(
                    f"{one.folder}: a ticket wins by the mean of at least {SEEDS_TO_WIN} seeds, "
                    f"and there are {len(one.runs)}"
                )
        return self._mean(name) >= dense._mean(name)

    def masks(self) -> Masks:
        """Return the masks that were trained under."""
        return Store(self.folder).read(_TICKET, MASKS)

    def trained(self, seed: int) -> State:
        """Return the state that training with a seed ended in."""
        return Store(self.folder).read(_entry(seed), TRAINED)

    def _mean(self, name: str) -> Fraction:
        # The share of right answers that a float stands for: equal means must not differ by a bit.
        found = [Fraction(one).limit_denominator(_IMAGES) for one in self.accuracies(name)]
        return sum(found, Fraction(0)) / len(found)


def retrain(
    train: Train,
    masks: Mapping[str, ArrayLike],
    start: Start,
    *,
    total: int,
    step: int,
    folder: str | os.PathLike[str],
    evaluate: Mapping[str, Evaluate],
    schedule: str = "rest",
    seeds: Iterable[int] = (0, 1, 2),
    progress: bool = True,
) -> Retraining:
    """Train under masks from one start with several seeds: the accuracy of a ticket.

    Parameters
    ----------
    train : callable
        As `find_ticket`.
    masks : mapping of str to array_like of bool
        By layer; layers without a mask keep every weight. ``{}`` is the dense network. Not
        changed.
    start : mapping of str to ndarray, or callable
        The state to begin with: `Search.dense` has those of the dense run. Or ``start(seed)``
        makes one: a fresh initialisation for each seed. Not changed.
    total, step : int
        The steps of the schedule, and the one that `start` is of; 0 for a fresh initialisation.
    folder : path
        Where every run is kept as soon as it is there, as `find_ticket` does.
    evaluate : mapping of str to callable
        ``evaluate(state) -> float`` by name.
    schedule : {"rest", "full"}
        Train from `step` to `total`; or all steps from the first. From the end of the dense run
        (fine-tuning), only ``"full"`` has anything to train.
    seeds : iterable of int, default (0, 1, 2)
        A folder with some of them is gone on with.
    progress : bool, default True
        Show a bar on standard error, where that is a terminal.

    Returns
    -------
    Retraining
        With the seeds in the order in which they were asked for.

    Raises
    ------
    TypeError, TicketError, MaskError, FormatError
        As `find_ticket`.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> def train(state, masks, start, stop, seed):
    ...     state["fc.weight"] += np.float32(0.01 * seed) * masks["fc"]
    ...     return state
    >>> ticket = retrain(train, {"fc": [[1, 0], [1, 1]]}, {"fc.weight": np.zeros((2, 2), "f4")},
    ...                  total=10, step=1, folder=tempfile.mkdtemp(),
    ...                  evaluate={"test": lambda state: state["fc.weight"].mean()})
    >>> ticket
    Retraining(density 0.75, 3 seeds, test 0.0075 ± 0.0075)
    """
    check_count("total", total, 1)
    check_count("step", step, 0)
    check_schedule(schedule)
    if step > total or (step == total and schedule == "rest"):
        raise MaskError(
            f"step {step} of {total} leaves nothing to train: take schedule='full', which trains "
            "all steps"
        )
    check_callable("train", train, TRAIN)
    check_names("evaluate", evaluate, EVALUATE)
    if callable(start):
        check_callable("start", start, ("seed",))
    asked = _seeds(seeds)
    makes = start if callable(start) else (lambda seed: start)
    first = states.check_state(makes(asked[0]), "start")
    checked = states.check_masks(masks, first, "masks") if masks else {}
    settings = {
        "total": int(total),
        "step": int(step),
        "schedule": schedule,
        "evaluate": sorted(evaluate),
        "masks": states.digest(checked),
    }
    store = Store.open(Path(folder), "retraining", settings)
    kept = states.density(checked) if checked else 1.0
    if not store.has(_TICKET):
        store.write(_TICKET, {"density": kept}, {MASKS: checked})
    with bar(len(asked), "retraining", wanted=progress) as advance:
        runs = []
        for seed in asked:
            begin = states.check_state(makes(seed), "start")
            if not store.has(_entry(seed)):
                found = _trained(train, begin, checked, first_step(schedule, step), total, seed)
                done = Run(seed, accuracies(evaluate, found), states.digest(begin))
                store.write(_entry(seed), asdict(done), {TRAINED: found})
            runs.append(_stored(store, seed, begin))
            logger.info("seed %d: %s", seed, runs[-1].accuracy)
            advance(f"seed {seed}")
    return Retraining(store.folder, kept, tuple(runs))


def extreme(tickets: Iterable[Retraining], dense: Retraining, name: str) -> Retraining | None:
    """Return the sparsest of the tickets that win; None where none does.

    Parameters
    ----------
    tickets : iterable of Retraining
    dense, name
        As `Retraining.wins`.
    """
    winning = [one for one in tickets if one.wins(dense, name)]
    return min(winning, key=lambda one: one.density, default=None)


def _trained(train: Train, begin: State, masks: Masks, start: int, stop: int, seed: int) -> State:
    try:
        return train_under(train, begin, masks, start, stop, seed)
    except (TicketError, MaskError) as error:
        raise type(error)(f"seed {seed}: {error}") from error


def _stored(store: Store, seed: int, begin: State) -> Run:
    path = store.folder / f"{_entry(seed)}.json"
    try:
        run = Run(**store.record(_entry(seed)))
    except TypeError as error:
        raise FormatError(f"{path}: it is no record of a run: {error}") from error
    if run.start != states.digest(begin):
        raise FormatError(f"{path}: it was trained from another start; name another folder")
    return run


def _entry(seed: int) -> str:
    return f"seed_{seed:04d}"


def _seeds(seeds: Iterable[int]) -> list[int]:
    asked = list(seeds)
    for seed in asked:
        check_count("seeds", seed, 0)
    if not asked:
        raise MaskError("seeds: there is none")
    if len(set(asked)) < len(asked):
        raise MaskError(f"seeds: {asked} has one twice")
    return [int(seed) for seed in asked]
