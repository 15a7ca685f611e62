"""Whether a backend computes a network: the right numbers, the same every time, nobody else's.

How far numbers may be off follows from the network itself: every value of it is shaken by as much
as the type rounds, and by more where long sums make it, and what comes out says how much that
matters. So a bound is tight for a layer, and as wide as it must be behind a long chain of them.
"""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from masktools.errors import MasktoolsError
from masktools.forks import unlocked_property
from masktools.network.graph import Graph, Node
from runtime.backend import choose
from runtime.cpu import native
from runtime.errors import BackendUnavailable, ExecutionError
from runtime.model import Model
from runtime.plan import plan
from runtime.reference.backend import ReferenceBackend

# Largest relative error of rounding a number once.
UNIT = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "tf32": 2.0**-11, "float16": 2.0**-11}
# Values are shaken by this much, this many times; errors are taken to grow in proportion.
SHAKE, SHAKES = 2.0**-12, 2
# How much more than shaken values a backend may be off, and how many roundings of the largest
# number besides: it rounds in other places, and a few shakes do not meet the worst case. Two to
# four times what thousands of networks needed.
ROOM = {"float32": 4.0, "bfloat16": 2.0, "tf32": 2.0, "float16": 2.0}
# Minimal filtering of 3 x 3 windows adds and subtracts numbers larger than what comes out.
FILTERED = 8.0


class Way(NamedTuple):
    """How a network is run.

    Parameters
    ----------
    backend : str
    isa : str
        A variant of the kernels of the CPU backend; empty elsewhere.
    dtype : str
    threads : int or None
    """

    backend: str
    isa: str = ""
    dtype: str = "float32"
    threads: int | None = None

    def __str__(self):
        named = (self.backend, self.isa, self.dtype, self.threads and f"threads={self.threads}")
        return " ".join(word for word in named if word)


class Failure(NamedTuple):
    """What went wrong: `kind` is alike for failures of one cause, as far as can be told."""

    kind: str
    text: str

    @property
    def is_refusal(self):
        """Whether it was a clear error with a name: the network is valid, but not run."""
        return self.kind == "refused"


def cpu_ways(isas=tuple(native.VARIANTS), dtypes=("float32", "bfloat16"), threads=(1, 2, 3)):
    """Return the ways of the CPU backend that were asked for and can run here."""
    ways = []
    for isa in isas:
        with forced(isa):
            try:
                narrow = bool(native.load().bfloat16_kernels())
            except BackendUnavailable:
                continue
        ways += [
            Way("cpu", isa, dtype, count)
            for dtype in dtypes
            for count in threads
            if dtype == "float32" or narrow
        ]
    return ways


@contextmanager
def forced(isa):
    """Choose a variant of the CPU kernels for what is compiled inside; empty leaves it as it is."""
    before = os.environ.get(native.VARIABLE)
    if isa:
        os.environ[native.VARIABLE] = isa
    try:
        yield
    finally:
        if before is not None:
            os.environ[native.VARIABLE] = before
        elif isa:
            del os.environ[native.VARIABLE]


class Check:
    """One network, and what is right for it; worked out once for all ways to run it."""

    def __init__(self, network):
        self.network = network
        self._wanted = {}

    @unlocked_property
    def checkpoint(self):
        """The network, checked as a file of it would be."""
        made = self.network.checkpoint()
        made.check()
        return made

    def right(self, batch):
        """Return the right outputs by name."""
        return self._right(batch, "float32")[0]

    def bound(self, batch, dtype):
        """Return how far each output may be off in a type."""
        wanted, spread = self._right(batch, dtype)
        largest = {name: np.abs(y[np.isfinite(y)]).max(initial=1.0) for name, y in wanted.items()}
        return {name: ROOM[dtype] * UNIT[dtype] * (spread[name] + largest[name]) for name in wanted}

    def is_finite(self):
        """Return whether all that comes out is a number, for the numbers that are put in."""
        return all(
            np.isfinite(y).all() for n in self.network.batches for y in self.right(n).values()
        )

    def failure(self, way, make=choose):
        """Return what is wrong with a way to run the network, or None.

        Parameters
        ----------
        way : Way
        make : callable
            Returns the backend of a name.
        """
        try:
            with forced(way.isa):
                model = Model(
                    plan.build(self.checkpoint), make(way.backend), way.dtype, way.threads
                )
                for batch in self.network.batches:
                    failed = self._failure_of(model, batch, way.dtype)
                    if failed:
                        return failed
        except (MasktoolsError, ExecutionError) as error:
            return Failure("refused", f"{type(error).__name__}: {error}")
        except Exception as error:
            return Failure(f"raw {type(error).__name__}", str(error))
        return None

    def _failure_of(self, model, batch, dtype):
        given = self.network.numbers(batch)
        kept = {name: x.copy() for name, x in given.items()}

        def call(numbers):
            made = model(numbers)
            return made if isinstance(made, dict) else {self.network.outputs[0]: made}

        first = call(given)
        before = {name: y.copy() for name, y in first.items()}
        if not _same(given, kept):
            return Failure("input changed", f"batch {batch}")
        failed = self._wrong(before, batch, dtype)
        if failed:
            return failed
        if not _same(call(given), before):
            return Failure("unsteady", f"batch {batch}: another result in a second call")
        call({name: np.full_like(x, np.nan) for name, x in given.items()})
        if not _same(call(given), before):
            return Failure("unsteady", f"batch {batch}: another result after a call of NaN")
        if self.network.is_open and batch > 1:
            failed = self._spilt(call, before, batch)
        if not failed and not _same(first, before):
            return Failure("unsteady", f"batch {batch}: later calls wrote over a result")
        return failed

    def _spilt(self, call, before, batch):
        """Return a failure if samples depend on each other: every second one is NaN."""
        for first in (0, 1):
            given = self.network.numbers(batch)
            for x in given.values():
                x[first::2] = np.nan
            after = call(given)
            apart = {name: y[1 - first :: 2] for name, y in before.items() if len(y) == batch}
            if not _same({name: after[name][1 - first :: 2] for name in apart}, apart):
                return Failure("spilt", f"batch {batch}: a sample depends on others")
        return None

    def _wrong(self, found, batch, dtype):
        wanted, allowed = self.right(batch), self.bound(batch, dtype)
        for name, want in wanted.items():
            got = found[name]
            if got.shape != want.shape or got.dtype != np.float32:
                return Failure("shape", f"{name}: {got.dtype} {got.shape}, expected {want.shape}")
            off = distance(got, want)
            if off > allowed[name]:
                times, largest = off / allowed[name], np.abs(want).max(initial=0)
                return Failure(
                    "wrong",
                    f"batch {batch}: {name} is off by {off:.3g}, {times:.3g} times its bound, "
                    f"of numbers up to {largest:.3g}",
                )
        return None

    def _right(self, batch, dtype):
        """Return the right outputs, and by how much they change for each unit of rounding."""
        sums = dtype == "float32"
        if (batch, sums) not in self._wanted:
            given = self.network.numbers(batch)
            want = _reference(self.checkpoint, given)
            spread = dict.fromkeys(want, 0.0)
            for seed in range(SHAKES):
                for name, y in _reference(self._shaken(batch, sums, seed), given).items():
                    spread[name] = max(spread[name], distance(y, want[name]) / SHAKE)
            self._wanted[batch, sums] = want, spread
        return self._wanted[batch, sums]

    def _shaken(self, batch, sums, seed):
        """Return the network with each value multiplied by numbers near one.

        Parameters
        ----------
        batch : int
        sums : bool
            Sums are rounded as numbers are: of k numbers, by about the root of k as much. Else they
            are exact beside that, but weights are rounded too.
        seed : int
        """
        graph, random = self.checkpoint.graph, np.random.default_rng(seed)
        shapes = self.network.shapes(batch)
        shake = dict.fromkeys((*self.network.inputs, *shapes), 1.0 if sums else 2.0)
        for node in graph.nodes:
            share = _error_of_sum(node, shapes, sums)
            for name in (node.inputs[0], node.outputs[0]):
                shake[name] = max(shake[name], share)
        constants, nodes = dict(graph.constants), []

        def shaken(name):
            size = shapes[name][1:]
            signs = random.choice([-1.0, 1.0], size) * SHAKE * shake[name]
            constants[f"{name} by"] = (1 + signs).astype(np.float32)
            nodes.append(
                Node(f"shake {name}", "Mul", (name, f"{name} by"), (f"{name} shaken",), {})
            )

        for name in self.network.inputs:
            shaken(name)
        made = {*self.network.inputs, *(name for node in graph.nodes for name in node.outputs)}
        for node in graph.nodes:
            inputs = tuple(f"{name} shaken" if name in made else name for name in node.inputs)
            nodes.append(replace(node, inputs=inputs))
            for name in node.outputs:
                shaken(name)
        outputs = tuple(replace(v, name=f"{v.name} shaken") for v in graph.outputs)
        whole = Graph(graph.inputs, outputs, tuple(nodes), constants)
        return replace(self.checkpoint, graph=whole)


def _error_of_sum(node, shapes, sums):
    """Return the error of the sums of a node, in roundings of one number."""
    if node.op in ("Conv", "Gemm"):
        shape = shapes[node.inputs[1]]
        filtered = FILTERED if shape[2:] == (3, 3) and min(shape[:2]) >= 16 else 1
        return filtered * (math.sqrt(math.prod(shape[1:])) / 2 if sums else 1)
    if node.op == "MatMul":
        return math.sqrt(shapes[node.inputs[0]][-1]) / 2 if sums else 1
    if (node.op == "GlobalAveragePool" or node.op.startswith("Reduce")) and sums:
        before, after = (math.prod(shapes[name]) for name in (node.inputs[0], node.outputs[0]))
        return math.sqrt(before // after) / 2
    return 0


def _reference(checkpoint, given):
    made = Model(plan.build(checkpoint), ReferenceBackend(), "float64")(given)
    made = made if isinstance(made, dict) else {checkpoint.graph.outputs[0].name: made}
    return {name.removesuffix(" shaken"): y for name, y in made.items()}


def distance(got, want):
    """Return the largest difference; infinite where one is no number and the other is."""
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.abs(got.astype(np.float64) - want)
    off = np.where(same, 0, np.where(np.isfinite(off), off, np.inf))
    return float(off.max(initial=0))


def _same(a, b):
    """Return whether arrays are the same to the bit."""
    return all(np.array_equal(_bits(a[name]), _bits(b[name])) for name in b)


def _bits(x):
    return np.ascontiguousarray(x).view(np.uint32)
