"""Time a checkpoint beside other engines that run the network's ONNX file."""

from __future__ import annotations

import importlib.util
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.cpu.backend import TUNE
from runtime.engines.turns import Engine, EngineError, Times, take_turns
from runtime.errors import InputError

# The engines that read ONNX, by the package that each is in.
PEERS = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "mnn": "MNN",
    "deepsparse": "deepsparse",
}
OURS = {"float32": "masktools", "bfloat16": "masktools-bfloat16"}


@dataclass(frozen=True)
class Compared:
    """How long an engine takes, beside ours in the same rounds.

    Parameters
    ----------
    engine, version : str
    milliseconds : float
        The median over the rounds.
    over_ours : float
        Its time over ours, the median over the rounds: how much faster ours is.
    quartiles : tuple of float
        The lower and the upper quartile of that.
    apart : float or None
        The largest difference of its output from ours, relative to the largest number of ours; None
        where they cannot be compared.
    why : str
        Why not: "another shape", "not finite".
    """

    engine: str
    version: str
    milliseconds: float
    over_ours: float
    quartiles: tuple[float, float]
    apart: float | None
    why: str = ""


@dataclass(frozen=True)
class Comparison:
    """Engines timed in turns.

    Parameters
    ----------
    rows : tuple of Compared
        Ours first.
    peak : float
        Fused multiply-adds a second on registers alone, on all threads: the median around ours.
    left_out : tuple of str
        The engines that could not run the file, with what they said.
    """

    rows: tuple[Compared, ...]
    peak: float
    left_out: tuple[str, ...]


def interpreters(asked: str) -> dict[str, str]:
    """Return the interpreter of each engine of a list such as ``onnxruntime,mnn=/venv/bin/python``.

    Raises
    ------
    InputError
        If an engine is not known, or is not installed here and no interpreter is given.
    """
    found = {}
    for part in asked.split(","):
        name, _, python = part.strip().partition("=")
        if name not in PEERS:
            raise InputError(f"--against {name!r}: the engines are {', '.join(PEERS)}")
        if not python and importlib.util.find_spec(PEERS[name]) is None:
            raise InputError(
                f"--against {name}: not installed here; install {PEERS[name]}, or say which "
                f"interpreter has it: --against {name}=PYTHON"
            )
        found[name] = python or sys.executable
    return found


def compare(
    checkpoint: Path,
    onnx: Path,
    peers: Mapping[str, str],
    x: NDArray[np.float32],
    *,
    dtype: str,
    threads: int,
    rounds: int,
    tuned: bool,
) -> Comparison:
    """Time a checkpoint and other engines in turns, on one input.

    Parameters
    ----------
    checkpoint, onnx : Path
        What we run on the CPU backend, and what the others run.
    peers : mapping of str to str
        The interpreter of each of the other engines.
    x : ndarray of float32
    dtype : {"float32", "bfloat16"}
        What ours computes in; the others compute in float32.
    threads : int
    rounds : int
        In each, every engine has a turn.
    tuned : bool
        Whether ours times its choices first.

    Raises
    ------
    InputError
        If this system cannot stop a process while another has its turn.
    EngineError
        If ours fails.
    """
    if not hasattr(signal, "SIGSTOP"):
        raise InputError(
            f"--against: {sys.platform} cannot stop one engine while another has its turn; "
            "run without it, or on Linux or macOS"
        )
    ours = OURS[dtype]
    pythons = {ours: sys.executable, **peers}
    left_out: list[str] = []
    running: dict[str, Engine] = {}
    loaded: dict[str, tuple[str, NDArray[np.float32]]] = {}
    peak = Engine("peak", sys.executable)
    try:
        with tempfile.TemporaryDirectory() as folder:
            np.save(Path(folder) / "x.npy", x)
            for name, python in pythons.items():
                running[name] = Engine(name, python, {TUNE: "1"} if tuned else {})
                path = checkpoint if name == ours else onnx
                try:
                    loaded[name] = _load(running[name], path, threads, Path(folder))
                except EngineError as error:
                    if name == ours:
                        raise
                    running.pop(name).close()
                    left_out.append(str(error))
        times = _turns(running, ours, rounds, peak, threads, left_out)
    finally:
        for engine in (*running.values(), peak):
            engine.close()
    rows = tuple(
        _compared(name, version, times[name], times[ours], *_apart(output, loaded[ours][1]))
        for name, (version, output) in loaded.items()
        if name in times
    )
    return Comparison(rows, float(np.median(times[ours].peaks)), tuple(left_out))


def _load(
    engine: Engine, path: Path, threads: int, folder: Path
) -> tuple[str, NDArray[np.float32]]:
    """Return an engine's version and its output, once its network is loaded."""
    images, output = folder / "x.npy", folder / "y.npy"
    asked = {"path": str(path.absolute()), "images": str(images), "threads": threads}
    version: str = engine.ask("load", engine=engine.name, **asked)["version"]
    engine.ask("output", path=str(output))
    found: NDArray[np.float32] = np.load(output)
    return version, found


def _turns(
    running: dict[str, Engine],
    ours: str,
    rounds: int,
    peak: Engine,
    threads: int,
    left_out: list[str],
) -> dict[str, Times]:
    """Return the times of all engines, anew without one that ends meanwhile."""
    while True:
        try:
            return take_turns(running, rounds, peak, threads)
        except EngineError as error:  # noqa: PERF203 - a round takes far longer
            if error.engine not in running or error.engine == ours:
                raise
            running.pop(error.engine).close()
            left_out.append(str(error))


def _compared(
    name: str, version: str, times: Times, ours: Times, apart: float | None, why: str = ""
) -> Compared:
    ratios = np.divide(times.seconds, ours.seconds)
    lower, middle, upper = (float(q) for q in np.quantile(ratios, (0.25, 0.5, 0.75)))
    milliseconds = float(np.median(times.seconds)) * 1e3
    return Compared(name, version, milliseconds, middle, (lower, upper), apart, why)


def _apart(
    found: NDArray[np.float32], ours: NDArray[np.float32]
) -> tuple[float, str] | tuple[None, str]:
    """Return the largest difference relative to our largest number, or why there is none."""
    if found.shape != ours.shape:
        return None, "another shape"
    if not (np.isfinite(found).all() and np.isfinite(ours).all()):
        return None, "not finite"
    difference = float(np.abs(found - ours).max(initial=0))
    return difference / max(float(np.abs(ours).max(initial=0)), 1e-30) if difference else 0.0, ""
