"""Run a configuration: find the masks of every arm, train under them, and gather the accuracies."""

from __future__ import annotations

import hashlib
import logging
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike

from experiments.configuration import Arm, Configuration, ConfigurationError
from experiments.data import DATA, Images
from experiments.masks import POSTS, found_by
from experiments.training import Task
from masktools.tickets import Retraining, Search, extreme, find_ticket, retrain, sources
from masktools.tickets.retraining import SEEDS_TO_WIN
from masktools.tickets.states import Masks, State, check_masks, density, under

logger = logging.getLogger("experiments")

DECIDES = "validation"  # the accuracy that says which tickets win
_FRESH_SEEDS = 1000


@dataclass(frozen=True)
class Ticket:
    """An arm at a round, trained from a start: a line of the results."""

    arm: Arm
    number: int
    start: str


@dataclass(frozen=True)
class Trial:
    """The results of one seed for one ticket."""

    trained: Retraining
    before: float
    layers: dict[str, float]
    without: dict[str, float]


@dataclass(frozen=True, eq=False)
class Seed:
    """One seed of an experiment: its own initialisation, search and trainings.

    Everything is kept below `folder`, which experiments with the same training share: masks that
    several of them need are searched for once, and an interrupted run goes on.
    """

    configuration: Configuration
    task: Task
    number: int
    folder: Path
    executor: Executor
    search: Search

    def dense(self) -> Retraining:
        """Train the dense network from the rewinding step, as every ticket is trained."""
        return self._trained("dense", {}, "")

    def trial(self, ticket: Ticket) -> Trial:
        """Make the masks of a ticket and train under them."""
        found = found_by(ticket.arm.source, self.task, self.search, ticket.number, self.number)
        masks = found.masks
        if ticket.arm.post is not None:
            made = POSTS[ticket.arm.post](found, self.executor, self.number)
            masks = check_masks(made, self.search.dense(0), str(ticket.arm))
        name = f"{ticket.arm}_{ticket.number:02d}".replace(" + ", "+")
        trained = self._trained(name, masks, ticket.start)
        logger.info("seed %d, %s, round %d: %r", self.number, ticket.arm, ticket.number, trained)
        layers = {layer: density({layer: mask}) for layer, mask in masks.items()}
        return Trial(trained, density(found.masks), layers, self._without_training(ticket, masks))

    def _trained(self, name: str, masks: Mapping[str, ArrayLike], start: str) -> Retraining:
        asked = self.configuration
        step = asked.start_step(start) if start else asked.rewind
        begin: State | Callable[[int], State] = self.search.dense(step)
        if start == "fresh":
            begin = lambda seed: self.task.initial(seed + _FRESH_SEEDS)  # noqa: E731
        return retrain(
            self.task.train,
            masks,
            begin,
            total=asked.steps,
            step=step,
            schedule=asked.schedule,
            seeds=[self.number],
            evaluate=self.task.evaluations(),
            folder=self.folder / f"{name}_{start.replace(' %', '') or 'rewound'}_{asked.schedule}",
        )

    def _without_training(self, ticket: Ticket, masks: Masks) -> dict[str, float]:
        if not self.configuration.without_training:
            return {}
        state = under(self.search.trained(ticket.number), masks)
        again = self.task.estimated_again(state)
        return {
            "as converted": self.task.accuracy(state, "test"),
            "statistics estimated again": self.task.accuracy(again, "test"),
        }


def run(configuration: Configuration, work: Path) -> dict[str, Any]:
    """Run every seed of a configuration, and return the results as JSON holds them.

    Parameters
    ----------
    configuration : Configuration
    work : path
        Keeps searches and trainings; the same call goes on from what is there.

    Raises
    ------
    ConfigurationError
        If it is for a GPU, and there is none.
    """
    if configuration.device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("there is no GPU for device 'cuda'; --rehearse shows that it runs")
    data = {
        part: Images(one.images.to(configuration.device), one.labels.to(configuration.device))
        for part, one in DATA[configuration.data]().items()
    }
    task = Task(configuration.network, configuration.steps, configuration.batch, data)
    tickets = [
        Ticket(arm, number, start)
        for arm in configuration.arms
        for number in configuration.rounds
        for start in configuration.starts or ("",)
    ]
    dense: list[Retraining] = []
    trials: dict[Ticket, list[Trial]] = defaultdict(list)
    with ThreadPoolExecutor(1) as executor:
        for number in range(configuration.seeds):
            folder = work / _training_of(configuration) / f"seed_{number:02d}"
            search = _search(configuration, task, number, folder / "search")
            seed = Seed(configuration, task, number, folder, executor, search)
            dense.append(seed.dense())
            for ticket in tickets:
                trials[ticket].append(seed.trial(ticket))
    return results(configuration, dense, trials)


def _search(asked: Configuration, task: Task, number: int, folder: Path) -> Search:
    """Return the iterative magnitude pruning that a seed's other masks are compared with."""
    return find_ticket(
        task.train,
        task.initial(number),
        sources.magnitude(),
        total=asked.steps,
        rewind=asked.rewind,
        rounds=max(asked.rounds),
        rate=asked.rate,
        snapshots=sorted({asked.start_step(s) for s in asked.starts if s != "fresh"}),
        skip=asked.skip,
        seed=number,
        folder=folder,
    )


def results(
    configuration: Configuration, dense: list[Retraining], trials: Mapping[Ticket, list[Trial]]
) -> dict[str, Any]:
    """Gather what all seeds gave: a line for each ticket, and which of them win."""
    whole = _together(dense)
    trained = {
        ticket: _together([one.trained for one in found]) for ticket, found in trials.items()
    }
    best = _extremes(trained, whole)
    return {
        "configuration": _plain(configuration),
        "seeds": list(range(configuration.seeds)),
        "excluded": ["classifier", *configuration.skip],
        "dense": _accuracies(whole),
        "tickets": [
            _line(ticket, found, trained[ticket])
            | _verdict(trained[ticket], whole)
            | {"extreme": ticket in best}
            for ticket, found in trials.items()
        ],
    }


def _line(ticket: Ticket, found: list[Trial], trained: Retraining) -> dict[str, Any]:
    layers = {
        layer: round(statistics.fmean(trial.layers[layer] for trial in found), 6)
        for layer in found[0].layers
    }
    return {
        "arm": str(ticket.arm),
        "round": ticket.number,
        "start": ticket.start or "rewound",
        "density_before": statistics.fmean(trial.before for trial in found),
        "density_after": trained.density,
        "layers": layers,
        **_accuracies(trained),
        **_listed([trial.without for trial in found]),
    }


def _together(runs: list[Retraining]) -> Retraining:
    """Return the runs of several seeds, each under masks of its own, as one."""
    mean = statistics.fmean(one.density for one in runs)
    return replace(runs[0], density=mean, runs=tuple(run for one in runs for run in one.runs))


def _accuracies(trained: Retraining) -> dict[str, list[float]]:
    return {
        name: [round(x, 6) for x in trained.accuracies(name)] for name in trained.runs[0].accuracy
    }


def _verdict(trained: Retraining, whole: Retraining) -> dict[str, bool]:
    """Say whether a ticket wins, and whether it is as good as dense within the spreads."""
    if len(whole.runs) < SEEDS_TO_WIN:
        return {}
    gap = whole.mean("test") - trained.mean("test")
    within = gap <= max(whole.spread("test"), trained.spread("test"))
    return {"wins": trained.wins(whole, DECIDES), "within_spread": bool(within)}


def _extremes(tickets: Mapping[Ticket, Retraining], whole: Retraining) -> list[Ticket]:
    """Return the sparsest winning ticket of each arm and start; none with too few seeds."""
    if len(whole.runs) < SEEDS_TO_WIN:
        return []
    kinds: dict[tuple[Arm, str], list[Retraining]] = defaultdict(list)
    for ticket, trained in tickets.items():
        kinds[ticket.arm, ticket.start].append(trained)
    best = [extreme(found, whole, DECIDES) for found in kinds.values()]
    return [ticket for ticket, trained in tickets.items() if any(trained is one for one in best)]


def _listed(values: list[dict[str, float]]) -> dict[str, Any]:
    if not values[0]:
        return {}
    return {"without_training": {n: [round(one[n], 6) for one in values] for n in values[0]}}


def _plain(configuration: Configuration) -> dict[str, Any]:
    return {**asdict(configuration), "arms": [str(arm) for arm in configuration.arms]}


def _training_of(configuration: Configuration) -> str:
    """Return a folder's name for all that searches and trainings depend on besides masks."""
    names = ("data", "network", "device", "steps", "rewind", "batch", "rate", "skip")
    text = repr([getattr(configuration, name) for name in names])
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{configuration.data}_{configuration.network}_{digest}"
