"""Command line: ``python -m runtime run|bench|profile``."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from masktools.version import add_version

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.model import Model, StepProfile

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Run, time and profile a checkpoint.",
)
add_version(app, "runtime")

Checkpoint = Annotated[Path, typer.Argument(metavar="CKPT", help="A checkpoint (.safetensors).")]
Backend = Annotated[str, typer.Option(help="auto, or a backend by name.")]
Dtype = Annotated[str, typer.Option(help="The type to compute in.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Processor threads.")]
Tune = Annotated[bool, typer.Option("--tune", help="Time choices first, and remember them.")]
Batch = Annotated[int, typer.Option(min=1, help="Samples at once.")]
Shape = Annotated[
    str | None,
    typer.Option(
        metavar="C,H,W", help="The shape of a sample: sizes that are open, or to be sure of it."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


@app.command()
def run(
    checkpoint: Checkpoint,
    source: Annotated[Path, typer.Argument(metavar="IN.npy", help="The input, float32.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.npy", help="Where the output goes.")],
    backend: Backend = "auto",
    dtype: Dtype = "float32",
    threads: Threads = None,
) -> None:
    """Run a network of one input and one output on an array."""
    import runtime
    from masktools.files import check_target
    from runtime.errors import InputError

    check_target(target, [checkpoint, source])
    model = runtime.load(checkpoint, backend, dtype, threads)
    if len(model.inputs) > 1 or len(model.outputs) > 1:
        raise InputError(
            f"{checkpoint}: run takes networks of one input and one output, this has "
            f"{len(model.inputs)} and {len(model.outputs)}; use runtime.load in Python"
        )
    _save(target, model(_load(source)))


@app.command()
def bench(
    checkpoint: Checkpoint,
    batch: Batch,
    shape: Shape = None,
    backend: Backend = "auto",
    dtype: Dtype = "float32",
    threads: Threads = None,
    tune: Tune = False,
    repeat: Annotated[int, typer.Option(min=1, help="Timed runs, or rounds of turns.")] = 20,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="ENGINE,...",
            help="onnxruntime, openvino, mnn, deepsparse: time these too, in turns, on the "
            "processor. ENGINE=PYTHON: the interpreter that has it.",
        ),
    ] = None,
    onnx: Annotated[Path | None, typer.Option(help="What the other engines run.")] = None,
    as_json: AsJson = False,
) -> None:
    """Time whole runs on random input; the first run is not counted."""
    import numpy as np

    import runtime

    if (against is None) != (onnx is None):
        raise typer.BadParameter("--against and --onnx belong together")
    if against is not None and backend not in ("auto", "cpu"):
        raise typer.BadParameter(f"--against compares on the processor, not on {backend!r}")
    if against is not None and onnx is not None:
        # The others run on the processor, so does ours.
        model = runtime.load(checkpoint, "cpu", dtype, threads, tune)
        found = _beside(
            checkpoint, model, _random_inputs(model, batch, shape), against, onnx, repeat
        )
        (_print_json if as_json else _show_beside)(found)
        return
    model = runtime.load(checkpoint, backend, dtype, threads, tune)
    given = _random_inputs(model, batch, shape)
    # Where a device computes, its own arrays go in and come out: copies are the caller's.
    inputs = {name: model.backend.upload(array) for name, array in given.items()}
    seconds = _timed(lambda: _wait(model, inputs), repeat)
    p10, median, p90 = (float(np.percentile(seconds, q)) * 1e3 for q in (10, 50, 90))
    figures = {
        "backend": model.backend.name,
        "on": model.backend.available().detail,
        "dtype": dtype,
        "threads": threads,
        "tuned": model.backend.tuned,
        "batch": batch,
        **_sizes(model, given),
        "repeat": repeat,
        "median_ms": median,
        "p10_ms": p10,
        "p90_ms": p90,
    }
    if as_json:
        _print_json(figures)
    else:
        _table(list(figures), [list(figures.values())])


@app.command()
def profile(
    checkpoint: Checkpoint,
    batch: Batch,
    shape: Shape = None,
    backend: Backend = "auto",
    dtype: Dtype = "float32",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Time every step on random input."""
    import runtime

    model = runtime.load(checkpoint, backend, dtype, threads)
    inputs = _random_inputs(model, batch, shape)
    rows = model.profile(inputs)
    plan = model.plan.at({name: array.shape for name, array in inputs.items()})
    if as_json:
        _print_json(
            {
                "backend": model.backend.name,
                "on": model.backend.available().detail,
                "dtype": dtype,
                "threads": threads,
                "batch": batch,
                **_sizes(model, inputs),
                "peak_bytes": plan.peak_bytes(batch),
                "steps": [asdict(row) for row in rows],
            }
        )
    else:
        _table(
            ["step", "operator", "inputs", "output", "density", "multiplications", "ms"],
            [_cells(row) for row in rows],
        )


def _beside(
    checkpoint: Path,
    model: Model,
    inputs: dict[str, Any],
    against: str,
    onnx: Path,
    rounds: int,
) -> dict[str, Any]:
    """Return the figures of a network beside other engines, timed in turns."""
    from masktools.network.layers import layers
    from masktools.network.onnx.reader import read_onnx
    from runtime.cpu.processor import cores
    from runtime.engines.comparison import compare, interpreters
    from runtime.errors import InputError
    from runtime.plan import cost

    peers = interpreters(against)
    if len(inputs) > 1:
        raise InputError(f"{checkpoint}: --against takes networks of one input, not {len(inputs)}")
    [x] = inputs.values()
    plan = model.plan.at({name: array.shape for name, array in inputs.items()})
    kept = sum(cost.multiplications(plan, step, len(x)) for step in plan.steps)
    # Of the file, not of what is stored: channels that nothing reads are not stored.
    network = layers(read_onnx(onnx, x.shape))
    dense = sum(layer.multiplications() for layer in network.values()) * len(x)
    threads = model.threads or cores()
    tuned = model.backend.tuned
    found = compare(
        checkpoint,
        onnx,
        peers,
        x,
        dtype=model.dtype,
        threads=threads,
        rounds=rounds,
        tuned=tuned,
    )
    share = kept / (found.rows[0].milliseconds / 1e3) / found.peak
    return {
        "dtype": model.dtype,
        "threads": threads,
        "tuned": tuned,
        "rounds": rounds,
        "input": "x".join(map(str, x.shape)),
        "engines": [asdict(row) for row in found.rows],
        "left_out": list(found.left_out),
        "limit": dense / kept if kept else None,
        "share_of_peak": share,
    }


def _show_beside(found: dict[str, Any]) -> None:
    """Print a comparison with other engines."""
    rows = [
        [
            row["engine"],
            row["version"],
            row["milliseconds"],
            f"{row['over_ours']:.2f}",
            "{:.2f} to {:.2f}".format(*row["quartiles"]),
            row["why"] or f"{row['apart']:.1e}",
        ]
        for row in found["engines"]
    ]
    _table(["engine", "version", "ms", "over ours", "quartiles", "output apart by"], rows)
    for said in found["left_out"]:
        print(f"left out: {said}", file=sys.stderr)
    if found["limit"]:
        print(
            f"{found['input']}, threads: {found['threads']}; dense over stored multiplications "
            f"{found['limit']:.2f}, {found['share_of_peak']:.0%} of this machine's peak"
        )


def _load(path: Path) -> Any:  # noqa: ANN401
    """Return the array of a .npy file; one that would execute code is refused."""
    import numpy as np

    from masktools.files import check_source
    from runtime.errors import InputError

    check_source(path)
    try:
        # Mapped, so that a header that claims more than the file holds allocates nothing.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path}: not an array of numbers in .npy format: {error}") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise InputError(f"{path}: an .npz archive; give one array in .npy format")
    return array


def _save(path: Path, array: Any) -> None:  # noqa: ANN401
    """Write an array beside its place and rename it there."""
    import numpy as np

    from masktools.files import whole_file

    with whole_file(path) as beside, beside.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def _random_inputs(model: Model, batch: int, shape: str | None) -> dict[str, Any]:
    """Return seeded normal numbers for every input."""
    import numpy as np

    from runtime.errors import InputError

    sizes = _open_sizes(model, shape)
    first = [value.shape[0] for value in model.inputs]
    if None not in first and first != [batch] * len(first):
        raise InputError(f"--batch {batch}: input {model.inputs[0].name!r} takes {first[0]} alone")
    random = np.random.default_rng(0)
    return {
        value.name: random.standard_normal(
            tuple(batch if n is None else sizes.get(str(n), n) for n in value.shape), np.float32
        )
        for value in model.inputs
    }


def _open_sizes(model: Model, shape: str | None) -> dict[str, int]:
    """Return the open sizes by name: those of a sample of the first input, else the examples."""
    from masktools.network.fixing import open_sizes
    from runtime.errors import InputError

    sizes = open_sizes(model.inputs)
    if shape is None:
        return sizes
    sample, given = model.inputs[0].shape[1:], shape.split(",")
    named: dict[str, str] = {}
    for size, text in zip(map(str, sample), given, strict=False):
        wanted = named.setdefault(size, text) if size in sizes else size
        if text != wanted or not text.isdigit() or int(text) < 1:
            break
    else:
        if len(given) == len(sample):
            return sizes | {name: int(text) for name, text in named.items()}
    raise InputError(f"--shape {shape}: the network takes {','.join(map(str, sample))}")


def _sizes(model: Model, inputs: dict[str, Any]) -> dict[str, str]:
    """Return the inputs' shapes as a figure, where they have open sizes."""
    from masktools.network.fixing import open_sizes

    said = ", ".join(f"{name} {'x'.join(map(str, a.shape))}" for name, a in inputs.items())
    return {"inputs": said} if open_sizes(model.inputs) else {}


def _wait(model: Model, inputs: dict[str, Any]) -> None:
    model(inputs)
    model.backend.synchronize()


def _timed(call: Callable[[], None], repeat: int) -> list[float]:
    call()
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def _cells(row: StepProfile) -> list[object]:
    return [
        row.name,
        row.operator,
        " ".join("x".join(map(str, shape)) for shape in row.inputs),
        "x".join(map(str, row.output)),
        "" if row.density is None else f"{row.density:.3f}",
        row.multiplications or "",
        f"{row.seconds * 1e3:.3f}",
    ]


def _table(header: list[str], rows: list[list[object]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from masktools.errors import printable

    table = Table(*header, box=None, pad_edge=False)
    for row in rows:
        # As Text: a name from the file is neither markup nor a terminal's command.
        cells = (f"{c:.3f}" if isinstance(c, float) else printable(str(c)) for c in row)
        table.add_row(*map(Text, cells))
    # A pipe has no width: tables must not be cut there.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _print_json(result: dict[str, Any]) -> None:
    print(json.dumps(result))


def main() -> NoReturn:
    """Run the command line: exit status 0 done, 1 refused with one line, 2 usage."""
    from masktools.errors import MasktoolsError, printable
    from runtime.errors import ExecutionError

    try:
        app(standalone_mode=True)
    except (MasktoolsError, ExecutionError, OSError, MemoryError, TypeError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        raise SystemExit(1) from None
    raise SystemExit(0)


if __name__ == "__main__":
    main()
