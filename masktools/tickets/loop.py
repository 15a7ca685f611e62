"""The rounds of a search: masks are made, a network is trained under them, all of it is kept."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from masktools.errors import MaskError, TicketError
from masktools.progress import Step
from masktools.prune.counts import number_kept
from masktools.tickets import states
from masktools.tickets.evaluation import Evaluate, accuracies
from masktools.tickets.plan import Plan, first_step
from masktools.tickets.posts import Post
from masktools.tickets.search import (
    MASKS,
    STATE,
    TRAINED,
    PostResult,
    Round,
    dense_entry,
    round_entry,
    stored_rounds,
)
from masktools.tickets.sources import Source
from masktools.tickets.states import Masks, State, copied
from masktools.tickets.store import Store
from masktools.tickets.training import Train, train_under

_PATIENCE = 2

logger = logging.getLogger("masktools.tickets")


@dataclass(frozen=True)
class Loop:
    """A search at work: the user's callables, and the store that everything goes to."""

    plan: Plan
    train: Train
    source: Source
    posts: Mapping[str, Post]
    group_aware: Post | None
    evaluate: Mapping[str, Evaluate]
    store: Store
    full: Masks
    step: Step

    def dense(self, initial: State, snapshots: Iterable[int]) -> None:
        """Train the dense network: to the rewinding step, to the end, and to each snapshot.

        Each snapshot is a run of its own from the rewinding step, stopped there: a run that is
        stopped and goes on would start its optimiser afresh, and depend on the snapshots.
        """
        if not self.store.has(dense_entry(0)):
            self.store.write(dense_entry(0), {"step": 0}, {STATE: initial})
        self._snapshot(0, self.plan.rewind)
        if not self.store.has(round_entry(0)):
            with self._telling(0):
                trained = self._run(self._stored(self.plan.rewind), self.full, self.plan.rewind, 0)
                self._write(0, self.full, trained, {}, 1.0, self.full)
        self.step("dense")
        for step in sorted({*snapshots} - {0, self.plan.rewind, self.plan.total}):
            self._snapshot(0 if step < self.plan.rewind else self.plan.rewind, step)

    def _snapshot(self, start: int, stop: int) -> None:
        if stop == 0:
            return
        if not self.store.has(dense_entry(stop)):
            with self._telling(0):
                found = train_under(
                    self.train, self._stored(start), self.full, start, stop, self.plan.seed
                )
            self.store.write(dense_entry(stop), {"step": stop}, {STATE: found})
        self.step(f"dense to step {stop}")

    def go(self, index: int) -> None:
        """Make one round, unless it is there."""
        if not self.store.has(round_entry(index)):
            with self._telling(index):
                self._round(index)
        found = Round.from_dict(self.store.record(round_entry(index)), self.store.folder)
        told = "".join(f", {name} {value:.4g}" for name, value in found.accuracy.items())
        self.step(f"round {index}, density {found.density:.3g}{told}")

    def _round(self, index: int) -> None:
        before = self.store.read(round_entry(index - 1), MASKS)
        before = {layer: before[layer] for layer in self.full}
        left = states.kept(before)
        asked = (left - self.plan.gone(left)) / sum(mask.size for mask in before.values())
        scored, masks = self._pruned_from(index, before)
        found = self._asked(masks, scored, asked, index)
        beside = {name: self._post(name, found, scored) for name in self.posts}
        goes_on = found
        if self.group_aware is not None:
            goes_on = self._made(self.group_aware, "group_aware", found, scored)
            goes_on = states.check_masks(goes_on, scored, "group_aware")
            self._check_progress(index, goes_on)
        start = first_step(self.plan.schedule, self.plan.rewind)
        trained = self._run(self._stored(self.plan.rewind), goes_on, start, index)
        self._write(index, goes_on, trained, beside, asked, found)

    def _pruned_from(self, index: int, before: Masks) -> tuple[State, Masks]:
        """Return the weights that masks are made of, and the masks that they were trained under."""
        if self.plan.prune_from == "round":
            return self.store.read(round_entry(index - 1), TRAINED), before
        if self.plan.prune_from == "dense":
            return self.store.read(round_entry(0), TRAINED), self.full
        return self._stored(0), self.full

    def _asked(self, masks: Masks, scored: State, asked: float, index: int) -> Masks:
        """Return the source's masks, which keep no more than they were asked to."""
        copies = {layer: mask.copy() for layer, mask in masks.items()}
        given = self.source(copied(scored), copies, asked, self.plan.seed + index)
        found = states.same_layers(states.check_masks(given, scored, "source"), self.full, "source")
        wanted, got = (
            number_kept(asked, sum(mask.size for mask in found.values())),
            states.kept(found),
        )
        if got > wanted:
            fullest = max(found, key=lambda layer: float(found[layer].mean()))
            raise TicketError(
                f"source was asked for density {asked:.4g}, {wanted} weights, and keeps {got}; "
                f"layer {fullest!r} keeps most: {int(found[fullest].sum())} of "
                f"{found[fullest].size}"
            )
        if got < wanted:
            logger.warning("round %d: source keeps %d weights of %d asked", index, got, wanted)
        return found

    def _made(self, post: Post, what: str, masks: Masks, scored: State) -> Masks:
        copies = {layer: mask.copy() for layer, mask in masks.items()}
        found = states.fitting_masks(post(copies, copied(scored)), scored, what)
        return states.same_layers(found, self.full, what)

    def _post(self, name: str, masks: Masks, scored: State) -> Masks:
        found = self._made(self.posts[name], f"post {name!r}", masks, scored)
        for layer in states.emptied(found):
            logger.warning("post %r: layer %r keeps nothing", name, layer)
        return found

    def _check_progress(self, index: int, masks: Masks) -> None:
        """Raise once two rounds in succession keep no less than the round before each."""
        sizes = [one.kept for one in stored_rounds(self.store)[:index]] + [states.kept(masks)]
        last = sizes[-_PATIENCE - 1 :]
        stuck = all(later >= earlier for earlier, later in itertools.pairwise(last))
        if len(last) > _PATIENCE and stuck:
            layer = max(masks, key=lambda name: int(masks[name].sum()))
            raise TicketError(
                f"{_PATIENCE} rounds of group_aware in succession made no progress: they keep "
                f"{', '.join(map(str, last))} weights, most in layer {layer!r}; it brings back "
                "what is pruned: take the budgeted form, as posts.regroup() without a density, "
                "or a higher rate"
            )

    def _run(self, begin: State, masks: Masks, start: int, index: int) -> State:
        return train_under(self.train, begin, masks, start, self.plan.total, self.plan.seed + index)

    def _stored(self, step: int) -> State:
        return self.store.read(dense_entry(step), STATE)

    def _write(
        self,
        index: int,
        masks: Masks,
        trained: State,
        beside: Mapping[str, Masks],
        asked: float,
        found: Masks,
    ) -> None:
        record = Round(
            number=index,
            density=states.density(masks),
            weights=sum(mask.size for mask in masks.values()),
            asked=asked,
            pruned=states.density(found),
            layers={layer: int(mask.sum()) for layer, mask in masks.items()},
            posts={
                name: PostResult(states.density(one), states.emptied(one))
                for name, one in beside.items()
            },
            accuracy=accuracies(self.evaluate, trained),
            seed=self.plan.seed + index,
        )
        said = ", ".join(f"{name} {value:.4g}" for name, value in record.accuracy.items())
        logger.info("round %d: density %.4g  %s", index, record.density, said)
        parts: dict[str, Mapping[str, NDArray[Any]]] = {TRAINED: trained, MASKS: masks}
        self.store.write(round_entry(index), record.as_dict(), {**parts, **beside})

    @contextmanager
    def _telling(self, index: int) -> Iterator[None]:
        """Name the round in errors of ours, and the rounds that are kept."""
        try:
            yield
        except (TicketError, MaskError) as error:
            there = len(stored_rounds(self.store))
            kept = f"rounds 0 to {there - 1} are" if there > 1 else "round 0 is"
            told = f"; {kept} kept in {self.store.folder}" if there else ""
            raise type(error)(f"round {index}: {error}{told}") from error
