"""Prove that a checkpoint computes what its source does, with every backend that runs here."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from masktools.errors import GraphError
from masktools.network.fixing import open_sizes

if TYPE_CHECKING:
    from masktools.network.graph import Value
    from masktools.network.input_shapes import InputShapes
    from runtime.model import Model

Arrays = dict[str, NDArray[Any]]

# Of float32 over the deepest networks; a wrong weight or border is far beyond.
TOLERANCE = 1e-4
# Samples of a call: one alone, and a number that fills no vector and is no power of two.
BATCHES = (1, 3)
# One more, which fills the vectors of any processor and so is computed in another way, unless its
# inputs would be larger than this many numbers: the reference needs gigabytes and a minute there.
FULL_BATCH = 16
FULL_NUMBERS = 1 << 20
# What is called in between is this many times larger, to be seen wherever it is left over.
LOUDER = 8
# Random integers are less than this; LOUDER times as large, they fit into 8 bits.
SMALL = 15
# How much less than half of the examples open sizes are besides.
ODDER = (0, 19)


@dataclass(frozen=True)
class Verified:
    """How far one backend's outputs were from the source's.

    Parameters
    ----------
    backend : str
    on : str
        What it ran on.
    differences : dict of str to float
        By batch, and open sizes other than the examples: max|Δ| / max|y| against the source.
    """

    backend: str
    on: str
    differences: dict[str, float]


@dataclass(frozen=True)
class Verification:
    """The result of a comparison: batches, backends, differences.

    Parameters
    ----------
    batches : tuple of int
        The numbers of samples that were run.
    open_batch : bool
        Whether the network takes any number of samples; else `batches` holds the only one.
    backends : tuple of Verified
    unavailable : dict of str to str
        The backends that cannot run here, and why.
    """

    batches: tuple[int, ...]
    open_batch: bool
    backends: tuple[Verified, ...]
    unavailable: dict[str, str] = field(default_factory=dict)

    @property
    def difference(self) -> float:
        """The largest difference of all."""
        return max(max(one.differences.values()) for one in self.backends)

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "batches": list(self.batches),
            "open_batch": self.open_batch,
            "backends": {
                one.backend: {
                    "on": one.on,
                    "differences": dict(one.differences),
                }
                for one in self.backends
            },
            "unavailable": dict(self.unavailable),
        }

    def lines(self) -> list[str]:
        """Return it as text."""
        lines = []
        for one in self.backends:
            figures = ", ".join(f"{d:.2e} at batch {n}" for n, d in one.differences.items())
            lines.append(f"{one.backend} ({one.on}): max|Δ| / max|y| = {figures}")
        lines.append(
            f"tolerance {TOLERANCE:.0e}; each input ran twice, another one in between, and gave "
            "the same bits"
        )
        if not self.open_batch:
            lines.append(f"the network's batch is fixed: batch {self.batches[0]} is all that ran")
        lines += [f"not verified: {why}" for why in self.unavailable.values()]
        return lines


def verify(
    net: Path,
    kept: Mapping[str, NDArray[np.bool_]],
    checkpoint: Path,
    values: Mapping[str, NDArray[np.float32]] | None = None,
    shapes: InputShapes | None = None,
) -> Verification:
    """Compare a network under masks with a checkpoint of it, on every backend that runs here.

    Parameters
    ----------
    net : path
        ONNX, run by onnxruntime.
    kept : mapping of str to ndarray of bool
        The masks, by layer.
    checkpoint : path
        Run by each backend of the runtime with its own settings, in float32.
    values : mapping of str to ndarray of float32, default None
        Calibrated values, which stand for the file's own and for the masks.
    shapes : mapping or sequence, default None
        The sizes of inputs that the checkpoint was exported with, as `load_onnx` takes them.

    Returns
    -------
    Verification

    Raises
    ------
    GraphError
        If a backend fails, differs by more than `TOLERANCE`, or computes something else once
        other data has gone through it: naming the backend and the batch. If the source cannot be
        run.

    Notes
    -----
    A backend keeps its memory between calls, and makes programs of its own for each batch. Random
    inputs of all batches go through it, louder ones, and the first ones again: what a call has left
    behind, and a later one reads, shows as other bits.
    """
    try:
        return _verify(_Source(net, kept, values or {}, shapes), checkpoint)
    except GraphError as error:
        raise GraphError(f"{net}: {error}") from error


def _verify(source: _Source, checkpoint: Path) -> Verification:
    import runtime
    from runtime.backend import BACKENDS
    from runtime.errors import BackendUnavailable

    cases: dict[str, _Case] = {}
    verified, unavailable = [], {}
    open_batch = True
    for name in BACKENDS:
        try:
            model = runtime.load(checkpoint, backend=name)
        except BackendUnavailable as error:
            unavailable[name] = str(error)
            continue
        except Exception as error:
            raise _failed(name, "cannot load the checkpoint", error) from error
        if not cases:
            open_batch = any(value.shape[0] is None for value in model.inputs)
            cases = _cases(model, source, open_batch)
        verified.append(_verified(name, model, cases))
    if not verified:
        raise GraphError(
            f"no backend can run here: {'; '.join(unavailable.values())}; pass --no-verify to "
            "write without comparing"
        )
    batches = tuple(dict.fromkeys(case.batch for case in cases.values()))
    return Verification(batches, open_batch, tuple(verified), unavailable)


@dataclass(frozen=True, eq=False)
class _Case:
    """Inputs, what the source makes of them, and the inputs that come in between."""

    batch: int
    inputs: Arrays
    expected: list[NDArray[Any]]
    louder: Arrays


class _Source:
    """The network before export, with the exported masks or values; onnxruntime runs it."""

    def __init__(
        self,
        net: Path,
        kept: Mapping[str, NDArray[np.bool_]],
        values: Mapping[str, NDArray[np.float32]],
        shapes: InputShapes | None,
    ) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise GraphError(
                "comparing needs onnxruntime: pip install 'masktools[onnx]', or pass --no-verify"
            ) from error
        from masktools.network.onnx.altered import with_values
        from masktools.network.onnx.reader import load_onnx, with_masks

        model = load_onnx(net, shapes)
        model = with_values(model, values) if values else with_masks(model, kept)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime and protobuf have errors of their own.
            raise self._unable(error) from error

    def __call__(self, inputs: Arrays, open_batch: bool) -> list[NDArray[Any]]:
        """Return the outputs; `open_batch`: whether the checkpoint takes any number of samples."""
        first = [value.shape[0] for value in self._session.get_inputs()]
        fixed = first[0]
        if not open_batch or not all(isinstance(size, int) for size in first):
            return self._run(inputs)
        # The file fixes a batch where the network means the same for any: it takes the samples in
        # pieces, for none depends on another. The last one fills a piece that is short of some.
        samples = len(next(iter(inputs.values())))
        made = []
        for start in range(0, samples, fixed):
            at = np.minimum(np.arange(start, start + fixed), samples - 1)
            outputs = self._run({name: array[at] for name, array in inputs.items()})
            made.append([array[: samples - start] for array in outputs])
        return [np.concatenate(parts) for parts in zip(*made, strict=True)]

    def _run(self, inputs: Arrays) -> list[NDArray[Any]]:
        try:
            outputs: list[NDArray[Any]] = self._session.run(None, inputs)
        except Exception as error:
            raise self._unable(error) from error
        return outputs

    @staticmethod
    def _unable(error: Exception) -> GraphError:
        return GraphError(
            "onnxruntime cannot run it, so that nothing can be compared; pass --no-verify to "
            f"write without: {_words(error)}"
        )


def _cases(model: Model, source: _Source, open_batch: bool) -> dict[str, _Case]:
    """Return inputs and expected outputs for each batch; for one, where the file fixes it.

    Where other sizes are open, the batches have the example sizes; a sample of each of two smaller
    ones follows, an even and an odd size, where the network works at it.
    """
    from runtime.errors import PlanError

    inputs = model.inputs
    batches = _batches(inputs) if open_batch else (inputs[0].shape[0] or 1,)
    cases = {str(batch): _case(inputs, source, open_batch, batch) for batch in batches}
    examples = open_sizes(inputs)
    for less in ODDER if examples else ():
        sizes = {name: max(size // 2 - less, 1) for name, size in examples.items()}
        numbers = tuple(_at(value, sizes) for value in inputs)
        shapes = {v.name: tuple(n or batches[0] for n in v.shape) for v in numbers}
        with suppress(PlanError):
            model.plan.at(shapes)
            said = ", ".join(f"{name} = {size}" for name, size in sizes.items())
            cases[f"{batches[0]}, {said}"] = _case(numbers, source, open_batch, batches[0])
    return cases


def _at(value: Value, sizes: Mapping[str, int]) -> Value:
    return replace(value, shape=tuple(sizes.get(str(n), n) for n in value.shape))


def _case(inputs: tuple[Value, ...], source: _Source, open_batch: bool, batch: int) -> _Case:
    rng = np.random.default_rng(batch)
    given, louder = (
        {v.name: _numbers(rng, v, batch) * scale for v in inputs} for scale in (1, LOUDER)
    )
    return _Case(batch, given, source(given, open_batch), louder)


def _numbers(rng: np.random.Generator, value: Value, batch: int) -> NDArray[Any]:
    """Return random numbers for an input, in its type; of integers small ones, which any holds."""
    shape = [n or batch for n in value.shape]
    kind = np.dtype(value.dtype)
    if kind.kind == "f":
        return rng.standard_normal(shape, np.float32).astype(kind)
    return rng.integers(0, SMALL, shape).astype(kind)


def _batches(inputs: tuple[Value, ...]) -> tuple[int, ...]:
    numbers = sum(prod(n or FULL_BATCH for n in value.shape) for value in inputs)
    return (*BATCHES, FULL_BATCH) if numbers <= FULL_NUMBERS else BATCHES


def _verified(name: str, model: Model, cases: Mapping[str, _Case]) -> Verified:
    """Run one backend on every case, and on each again once other data has gone through."""
    try:
        first = {batch: _outputs(model, case.inputs) for batch, case in cases.items()}
        for case in cases.values():
            model(case.louder)
        again = {batch: _outputs(model, case.inputs) for batch, case in cases.items()}
    except Exception as error:
        raise _failed(name, "cannot run the checkpoint", error) from error
    differences: dict[str, float] = {}
    # Numbers of float16 that lie next to each other are this far apart.
    tolerance = TOLERANCE + 2**-10 * any(value.dtype == "float16" for value in model.outputs)
    for batch, case in cases.items():
        for outputs, when in ((first[batch], ""), (again[batch], ", after other data")):
            difference = _difference(outputs, case.expected, f"backend {name!r}, batch {batch}")
            if not difference <= tolerance:
                raise GraphError(
                    f"the checkpoint computes something else on backend {name!r}, batch {batch}"
                    f"{when}: max|Δ| / max|y| = {difference:.2e}, more than {tolerance:.0e}; "
                    "nothing was written"
                )
            differences[batch] = max(differences.get(batch, 0.0), difference)
        for one, other in zip(first[batch], again[batch], strict=True):
            if one.tobytes() != other.tobytes():
                raise GraphError(
                    f"backend {name!r}, batch {batch}: the same input gives other numbers after "
                    "another input was run; nothing was written"
                )
    return Verified(name, model.backend.available().detail, differences)


def _outputs(model: Model, inputs: Arrays) -> list[NDArray[Any]]:
    found = model(inputs)
    return list(found.values()) if isinstance(found, dict) else [found]


def _difference(found: list[NDArray[Any]], expected: list[NDArray[Any]], where: str) -> float:
    """Return the largest max|Δ| / max|y| of any output; NaN where there is one in a difference."""
    largest = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        if ours.shape != theirs.shape:
            raise GraphError(
                f"{where}: the checkpoint's output is {ours.shape}, expected {theirs.shape}"
            )
        scale = float(np.abs(theirs).max(initial=0.0))
        with np.errstate(all="ignore"):
            distance = float(np.abs(ours.astype(np.float64) - theirs).max(initial=0.0))
        # Not max(): it would pass over NaN.
        largest = float(np.maximum(largest, distance / scale if scale else distance))
    return largest


def _failed(name: str, what: str, error: Exception) -> GraphError:
    return GraphError(
        f"backend {name!r} {what}: {_words(error)}; nothing was written (--no-verify writes "
        "without running it)"
    )


def _words(error: Exception) -> str:
    """Return an error as one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
