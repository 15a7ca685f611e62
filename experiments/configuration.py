"""The configuration of an experiment: a TOML file, checked before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from experiments.data import DATA
from experiments.masks import POSTS, SOURCES
from experiments.networks import NETWORKS
from experiments.pictures import PICTURES
from masktools.checks import listed

_LEAST = {"steps": 1, "rewind": 0, "batch": 2, "seeds": 1}


class ConfigurationError(ValueError):
    """A configuration that cannot be run; names the file, the key and the value."""


@dataclass(frozen=True)
class Arm:
    """A source of masks, and the post that makes structured ones of them: ``"imp + refill"``."""

    source: str
    post: str | None = None

    def __str__(self) -> str:
        return self.source if self.post is None else f"{self.source} + {self.post}"


@dataclass(frozen=True)
class Configuration:
    """Which masks are trained from which starts: every arm, at every round, from every start.

    Parameters
    ----------
    title, question : str
        For the page of results.
    picture : str
        What its horizontal axis shows: see `experiments.pictures`.
    rounds : tuple of int
        Of iterative magnitude pruning. Other sources are asked for the density of the same round.
    arms : tuple of Arm
    starts : tuple of str
        Where training under the masks begins: at a share of the dense run's steps, as
        ``"5 %"``, or at weights that are drawn anew, ``"fresh"``. None is the rewinding step.
    data, network : str
        Of `experiments.data` and `experiments.networks`.
    device : str
        Where the network is trained: ``"cpu"`` or ``"cuda"``.
    steps, rewind, batch : int
        Steps of the optimiser in a training, the one that is rewound to, images in a step.
    schedule : str
        ``"rest"``: training goes on from the step of its start; ``"full"``: it takes all steps.
    rate : float
        Share of the weights left that a round prunes.
    skip : tuple of str
        Convolutions that keep every weight, besides the classifier, which always does.
    seeds : int
        Each has an initialisation, a search and trainings of its own.
    without_training : bool
        Also evaluate the trained weights of a round under its masks, with BatchNorm's statistics
        as they are, and estimated again.
    waits_for : str
        Why the committed results are not those of this configuration.
    """

    title: str
    question: str
    picture: str
    rounds: tuple[int, ...]
    arms: tuple[Arm, ...]
    starts: tuple[str, ...] = ()
    data: str = "digits"
    network: str = "small"
    device: str = "cpu"
    steps: int = 160
    rewind: int = 8
    batch: int = 64
    schedule: str = "rest"
    rate: float = 0.2
    skip: tuple[str, ...] = ("stem",)
    seeds: int = 3
    without_training: bool = False
    waits_for: str = ""

    def start_step(self, start: str) -> int:
        """Return the step of the dense run that a start is of; 0 for a fresh one."""
        if start == "fresh":
            return 0
        share = start.removesuffix("%").strip()
        if start == share or not share.isdigit() or int(share) > 100:
            raise ValueError('a start is "fresh" or a share of the dense run as "5 %"')
        if int(share) * self.steps % 100:
            raise ValueError(f"{start} of {self.steps} steps is no whole step")
        return int(share) * self.steps // 100


def read(path: Path) -> Configuration:
    """Return the configuration in a file; raise `ConfigurationError` where it cannot be run."""
    import tomllib

    try:
        return of(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except ValueError as error:  # also what is no TOML, and no text
        raise ConfigurationError(f"{path.name}: {error}") from error


def of(given: Mapping[str, Any]) -> Configuration:
    """Return a configuration of keys and values; raise `ConfigurationError` where one is wrong."""
    kinds = {field.name: str(field.type) for field in fields(Configuration)}
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in kinds:
            raise ConfigurationError(f"there is no key {key!r}; {listed(list(kinds))}")
        values[key] = _value(key, value, kinds[key])
    missing = [
        key for key in ("title", "question", "picture", "rounds", "arms") if key not in values
    ]
    if missing:
        raise ConfigurationError(f"there is no {missing[0]!r}, and it has no default")
    found = Configuration(**values)
    _check(found)
    return found


def rehearsal(configuration: Configuration) -> Configuration:
    """Return a configuration of the same parts that takes minutes: it shows that all of it runs."""
    data = {"characters": "few-characters"}.get(configuration.data, configuration.data)
    few = replace(configuration, data=data, device="cpu", rounds=(1,), seeds=1)
    return replace(few, steps=20, rewind=1, batch=8)


def _value(key: str, value: object, kind: str) -> object:
    if not kind.startswith("tuple"):
        allowed: tuple[type, ...] = {"str": (str,), "int": (int,), "bool": (bool,)}.get(
            kind, (int, float)
        )
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind != "bool"):
            raise ConfigurationError(f"{key} must be of type {kind}, got {value!r}")
        return value
    item = int if "int" in kind else str
    if not isinstance(value, list) or any(type(one) is not item for one in value):
        raise ConfigurationError(f"{key} must be a list of {item.__name__}, got {value!r}")
    return tuple(map(_arm, value)) if key == "arms" else tuple(value)


def _arm(text: str) -> Arm:
    source, plus, post = (part.strip() for part in text.partition("+"))
    if source not in SOURCES:
        raise ConfigurationError(f"arm {text!r} has source {source!r}; {listed(list(SOURCES))}")
    if plus and post not in POSTS:
        raise ConfigurationError(f"arm {text!r} has post {post!r}; {listed(list(POSTS))}")
    return Arm(source, post or None)


def _check(found: Configuration) -> None:
    for key, least in _LEAST.items():
        if getattr(found, key) < least:
            raise ConfigurationError(f"{key} must be at least {least}, got {getattr(found, key)}")
    for key, known in (
        ("data", DATA),
        ("network", NETWORKS),
        ("device", ("cpu", "cuda")),
        ("picture", PICTURES),
        ("schedule", ("rest", "full")),
    ):
        if getattr(found, key) not in known:
            raise ConfigurationError(
                f"{key} {getattr(found, key)!r} is unknown; {listed(list(known))}"
            )
    for key in ("rounds", "arms"):
        if not getattr(found, key) or len(set(getattr(found, key))) < len(getattr(found, key)):
            raise ConfigurationError(f"{key} must be different ones, at least one")
    if min(found.rounds) < 1:
        raise ConfigurationError(f"rounds must be at least 1, got {min(found.rounds)}")
    if found.rewind >= found.steps:
        raise ConfigurationError(
            f"rewind must be less than steps, {found.steps}, got {found.rewind}"
        )
    if not 0 < found.rate < 1:
        raise ConfigurationError(f"rate must be above 0 and below 1, got {found.rate}")
    for start in found.starts:
        try:
            step = found.start_step(start)
        except ValueError as error:
            raise ConfigurationError(f"starts has {start!r}: {error}") from error
        if step == found.steps and found.schedule == "rest":
            raise ConfigurationError(
                f"starts has {start!r}, and schedule 'rest' leaves nothing to train: take 'full'"
            )
    if found.without_training and any(arm.source != "imp" for arm in found.arms):
        raise ConfigurationError("without_training needs trained weights, which only 'imp' has")
