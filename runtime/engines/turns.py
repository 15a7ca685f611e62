"""Run other engines beside ours, each in a process of its own, and time them in turns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from runtime.errors import ExecutionError

WORKER = Path(__file__).with_name("worker.py")

# What each engine reads.
SUFFIXES = {
    "onnxruntime": ".onnx",
    "openvino": ".onnx",
    "torch": ".pt2",
    "torch-compile": ".pt2",
    "deepsparse": ".onnx",
    "mnn": ".onnx",
    "masktools": ".safetensors",
    "masktools-bfloat16": ".safetensors",
}
# Seconds that an engine runs in a turn, and the fewest and most runs.
TURN, FEWEST, MOST = 0.25, 3, 200
# Seconds for which the machine's peak is measured before and after each turn.
PEAK = 0.02


class EngineError(ExecutionError, RuntimeError):
    """An engine that cannot run a network, with what it said.

    Parameters
    ----------
    engine, what : str
    """

    def __init__(self, engine: str, what: str) -> None:
        super().__init__(f"{engine}: {what}")
        self.engine = engine


@dataclass(frozen=True)
class Times:
    """One engine's figures, a number for each round.

    Parameters
    ----------
    seconds : tuple of float
        The median of the runs of a turn.
    peaks : tuple of float
        Multiplications a second that the machine could do around that turn, all threads together.
    """

    seconds: tuple[float, ...]
    peaks: tuple[float, ...]


class Engine:
    """A process with one engine; stopped by a signal whenever another engine has its turn.

    Idle threads of some engines spin for a while, which would slow down whoever is next.

    Parameters
    ----------
    name : str
    python : str
        The interpreter that has the engine.
    settings : mapping of str to str
        Of its environment.
    """

    def __init__(self, name: str, python: str, settings: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self.process = subprocess.Popen(
            [python, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            # DeepSparse reports its use to its makers unless told not to.
            env=os.environ | {"NM_DISABLE_ANALYTICS": "True"} | dict(settings or {}),
        )

    def ask(self, do: str, **what: object) -> dict[str, Any]:
        """Send one request, wait for the answer, and stop the process until the next."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.stdin.write(json.dumps({"do": do, **what}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = self.process.wait()
            said = f", saying {last!r}" if (last := self._last_line()) else ""
            raise EngineError(self.name, f"ended with status {status}{said}")
        self.process.send_signal(signal.SIGSTOP)
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or "do" in answer:
            raise EngineError(self.name, f"{line[:60]!r} is no answer: is it started by Python?")
        if "error" in answer:
            raise EngineError(self.name, answer["error"])
        return answer

    def _last_line(self) -> str:
        """Return what the process said last on its standard error."""
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").split("\n")
        return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()  # closes both pipes
        self._said.close()


def take_turns(
    engines: Mapping[str, Engine], rounds: int, peak: Engine, threads: int
) -> dict[str, Times]:
    """Return each engine's times, all engines taking turns within a round.

    Parameters
    ----------
    engines : mapping of str to Engine
        With their network loaded.
    rounds : int
    peak : Engine
        Measures the machine before and after each turn: the clock of a shared machine drifts by
        more than the differences that are looked for.
    threads : int
        On which the peak is measured.
    """
    runs = {k: runs_in_turn(e.ask("run", times=1)["seconds"][0]) for k, e in engines.items()}
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    peaks: dict[str, list[float]] = {name: [] for name in engines}

    def measure_peak() -> float:
        rate: float = peak.ask("peak", seconds=PEAK, threads=threads)["multiplications"]
        return rate

    names = list(engines)
    for turn in range(rounds):
        before = measure_peak()
        # Who follows whom changes from round to round.
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(median(engines[name].ask("run", times=runs[name])["seconds"]))
            after = measure_peak()
            peaks[name].append((before + after) / 2)
            before = after
    return {name: Times(tuple(seconds[name]), tuple(peaks[name])) for name in engines}


def runs_in_turn(seconds: float) -> int:
    """Return how many runs an engine makes in a turn, given the seconds of one."""
    return max(FEWEST, min(MOST, round(TURN / max(seconds, 1e-6))))
