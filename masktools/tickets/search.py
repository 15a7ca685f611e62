"""The results of a search for a ticket: a view of the folder that `find_ticket` fills."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from masktools.checks import listed
from masktools.errors import FormatError, MaskError, TicketError
from masktools.tickets.callables import check_callable
from masktools.tickets.states import Masks, State
from masktools.tickets.store import Store

MASKS, TRAINED, STATE = "masks", "trained", "state"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.-]*")


@dataclass(frozen=True)
class PostResult:
    """The masks that a post made in a round: their density, and layers that keep nothing."""

    density: float
    emptied: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Round:
    """The record of one round: densities, accuracies, the seed.

    Parameters
    ----------
    number : int
        0 is the dense run.
    density : float
        Of the masks that were trained under: kept / `weights`.
    weights : int
        All weights of the pruned layers.
    asked : float
        The density that the source was asked for.
    pruned : float
        The density of the source's masks; `group_aware` makes others of them.
    layers : dict of str to int
        How many weights each layer keeps.
    posts : dict of str to PostResult
        The side results.
    accuracy : dict of str to float
        By the names of `evaluate`.
    seed : int
        That of the training.
    """

    number: int
    density: float
    weights: int
    asked: float
    pruned: float
    layers: dict[str, int]
    posts: dict[str, PostResult]
    accuracy: dict[str, float]
    seed: int

    @property
    def kept(self) -> int:
        """How many weights all layers keep."""
        return sum(self.layers.values())

    def as_dict(self) -> dict[str, Any]:
        """Return the record as JSON holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], path: Path) -> Round:
        """Return the record that `as_dict` made; raise `FormatError` where it is another."""
        try:
            posts = {name: PostResult(**one) for name, one in data["posts"].items()}
            return cls(**{**data, "posts": posts})
        except (TypeError, KeyError, AttributeError) as error:
            raise FormatError(f"{path}: it is no record of a round: {error}") from error


@dataclass(frozen=True, repr=False)
class Search:
    """The rounds of a search, and its masks and states, which are read when they are asked for.

    Parameters
    ----------
    folder : Path
    layers : tuple of str
        Those that are pruned; all densities are of these together.
    total, rewind : int
        Steps of the schedule, and the step that each round goes back to.
    rounds : tuple of Round
    """

    folder: Path
    layers: tuple[str, ...]
    total: int
    rewind: int
    rounds: tuple[Round, ...]

    def __repr__(self) -> str:
        last = self.rounds[-1].density if self.rounds else 1.0
        return f"Search({len(self.rounds)} rounds, down to density {last:.4g})"

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Search:
        """Return the search in a folder, as far as it has come.

        Raises
        ------
        FormatError
            If there is none, or a file is damaged.
        """
        store = Store(Path(folder))
        settings = store.settings("search")
        try:
            layers = tuple(settings["layers"])
            total, rewind = int(settings["total"]), int(settings["rewind"])
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{folder}: its settings are not those of a search") from error
        return cls(store.folder, layers, total, rewind, tuple(stored_rounds(store)))

    def masks(self, number: int, post: str | None = None) -> Masks:
        """Return the masks of a round, or those that a post made of them.

        Raises
        ------
        MaskError
            If there is no such round, or it has no such post.
        """
        found = self._round(number)
        if post is not None and post not in found.posts:
            raise MaskError(f"round {number} has no post {post!r}; {listed(found.posts)}")
        arrays = Store(self.folder).read(round_entry(number), post or MASKS)
        return {layer: arrays[layer] for layer in self.layers}

    def trained(self, number: int) -> State:
        """Return the weights at the end of a round's training, and all buffers."""
        self._round(number)
        return Store(self.folder).read(round_entry(number), TRAINED)

    def dense(self, step: int) -> State:
        """Return the state of the dense run at a step: 0, the rewinding step, a snapshot, the end.

        Raises
        ------
        TicketError
            If the search did not keep that step.
        """
        store = Store(self.folder)
        if step == self.total and self.rounds:
            return self.trained(0)
        if not store.has(dense_entry(step)):
            there = [
                str(int(path.stem.removeprefix("dense_")))
                for path in sorted(self.folder.glob("dense_*.json"))
            ]
            raise TicketError(
                f"the dense run was not kept at step {step}; there are {', '.join(there)}"
                f"{f' and {self.total}' if self.rounds else ''}: name steps in snapshots"
            )
        return store.read(dense_entry(step), STATE)

    def _round(self, number: int) -> Round:
        if not 0 <= number < len(self.rounds):
            raise MaskError(f"there is no round {number}: {len(self.rounds)} are there, from 0 on")
        return self.rounds[number]


def round_entry(number: int) -> str:
    """Return the name of a round in the store."""
    return f"round_{number:02d}"


def dense_entry(step: int) -> str:
    """Return the name of a state of the dense run in the store."""
    return f"dense_{step:06d}"


def stored_rounds(store: Store) -> list[Round]:
    """Return the records of all rounds from the first to the last before a missing one."""
    rounds: list[Round] = []
    while store.has(round_entry(len(rounds))):
        entry = round_entry(len(rounds))
        rounds.append(Round.from_dict(store.record(entry), store.folder / f"{entry}.json"))
    return rounds


def check_names(argument: str, names: Mapping[str, object], takes: tuple[str, ...]) -> None:
    """Raise unless an argument maps names that can be parts of file names to such callables."""
    if not isinstance(names, Mapping):
        raise TypeError(f"{argument} must map names to callables, got {type(names).__name__}")
    lower = [MASKS, TRAINED, STATE]
    for name, called in names.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name.lower() in lower:
            raise MaskError(
                f"{argument}: the name {name!r} is taken, or cannot be a part of a file's name: "
                "use letters, digits, +, - and ."
            )
        check_callable(f"{argument}: {name!r}", called, takes)
        lower.append(name.lower())
