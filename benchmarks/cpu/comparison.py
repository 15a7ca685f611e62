"""Engines side by side on variants of one network: loaded, checked, timed in the same rounds."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import runtime
from benchmarks.cpu.networks import Files, Variant, images
from benchmarks.cpu.report import Measured, Size, records
from masktools import checkpoint
from runtime.engines.turns import SUFFIXES, Engine, EngineError, take_turns
from runtime.plan import cost, plan
from runtime.plan.steps import Weighted

# Images on which outputs are compared, and how far they may be apart.
CHECKED = 2
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}

Contender = tuple[str, Variant]


class Bench:
    """State that all comparisons share: interpreters, files, results that are kept.

    Parameters
    ----------
    files : Files
    pythons : mapping of str to str
        The interpreter of each engine.
    rounds : int
    """

    def __init__(self, files: Files, pythons: Mapping[str, str], rounds: int) -> None:
        self.files = files
        self.pythons = pythons
        self.rounds = rounds
        self.versions: dict[str, str] = {}
        self.failures: list[str] = []
        self.reference = cache(self._reference)
        self.size = cache(self._size)

    def compare(
        self, contenders: Sequence[Contender], batch: int, threads: int
    ) -> list[dict[str, Any]]:
        """Time engines on variants of one network, in turns, and return a record for each.

        An engine that fails, or whose output is wrong, is left out and named in `failures`.
        """
        with tempfile.TemporaryDirectory() as folder:
            engines: dict[Contender, Engine] = {}
            peak = Engine("peak", self.pythons["masktools"])
            try:
                deviations: dict[Contender, float] = {}
                for contender in contenders:
                    self._admit(contender, engines, deviations, batch, threads, Path(folder))
                times = take_turns(
                    {str(c): e for c, e in engines.items()}, self.rounds, peak, threads
                )
            finally:
                for engine in (*engines.values(), peak):
                    engine.close()
        measured = [Measured(*c, times[str(c)], deviations[c]) for c in engines]
        counted = {c[1].name: c[1] for c in engines}
        counted |= {Variant(v.network).name: Variant(v.network) for v in counted.values()}
        sizes = {name: self.size(variant) for name, variant in counted.items()}
        return records(measured, sizes, batch, threads)

    def _admit(
        self,
        contender: Contender,
        engines: dict[Contender, Engine],
        deviations: dict[Contender, float],
        batch: int,
        threads: int,
        folder: Path,
    ) -> None:
        """Load a network in a new engine and check its output, or say why it is left out."""
        name, variant = contender
        engine = Engine(name, self.pythons[name])
        try:
            self._load(contender, engine, batch, threads, folder)
            deviations[contender] = self._check(contender, engine, folder)
            engines[contender] = engine
        except EngineError as error:
            engine.close()
            self.failures.append(f"{variant.name}, batch {batch}, threads {threads}: {error}")
            print(f"left out: {self.failures[-1]}", file=sys.stderr)

    def _load(
        self, contender: Contender, engine: Engine, batch: int, threads: int, folder: Path
    ) -> None:
        name, variant = contender
        path = self.files.find(variant, batch, SUFFIXES[name])
        inputs = folder / f"images-{batch}.npy"
        if not inputs.exists():
            np.save(inputs, images(variant, batch))
        how = {"path": str(path), "images": str(inputs), "threads": threads}
        self.versions[name] = engine.ask("load", engine=name, **how)["version"]

    def _check(self, contender: Contender, engine: Engine, folder: Path) -> float:
        """Return how far an engine's output is from the reference backend's, if not too far."""
        name, variant = contender
        path = folder / "output.npy"
        engine.ask("output", path=str(path))
        found = np.load(path)[:CHECKED]
        expected = self.reference(variant)[: len(found)]
        deviation = float(np.abs(found - expected).max() / np.abs(expected).max())
        allowed = TOLERANCE["bfloat16" if name.endswith("bfloat16") else "float32"]
        if not deviation <= allowed:  # a NaN is too far
            raise EngineError(name, f"output is {deviation:.1e} from the reference")
        return deviation

    def _reference(self, variant: Variant) -> NDArray[np.float32]:
        path = self.files.find(variant, CHECKED, ".safetensors")
        output: NDArray[np.float32] = runtime.load(path, backend="reference")(
            images(variant, CHECKED)
        )
        return output

    def _size(self, variant: Variant) -> Size:
        network = plan.build(checkpoint.read(self.files.find(variant, 1, ".safetensors")))
        return Size(
            sum(cost.multiplications(network, step, 1) for step in network.steps),
            sum(step.stored for step in network.steps if isinstance(step, Weighted)),
        )
