"""Options that commands share, how they end on an error, and how they show results."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from masktools.errors import FormatError, MasktoolsError, printable
from masktools.files import check_source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from masktools.conversion.convert import Conversion
    from masktools.importers.load import Names
    from masktools.network.graph import Graph
    from masktools.network.input_shapes import InputShapes

# The endings of files that hold masks alone.
MASK_FILES = (".safetensors", ".npz", ".pt")

Tool = Annotated[
    str | None, typer.Option(help="The tool that wrote it, where its keys leave it open.")
]
NamesFile = Annotated[
    Path | None,
    typer.Option(help="JSON file: {name in the file: layer}, or the layers in the file's order."),
]
Images = Annotated[
    Path | None,
    typer.Option(
        metavar="INPUTS",
        help="Fit the values to what --graph, or NET, computes of these inputs, a few hundred of "
        "them, as the network takes them: .npy, .npz with named inputs, or a folder of either.",
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(help="--calibrate: the inputs' classes, .npy; only for figures of accuracy."),
]
CalibrateMethod = Annotated[
    Literal["refit", "values", "statistics"],
    typer.Option(
        help="--calibrate: choose the columns of blocks and fit the values; only fit the values; "
        "or only match the mean and variance of each row."
    ),
]
InputShape = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]1,3,640,640",
        help="Sizes of an input that the network's file leaves open; ? leaves one open. NAME= is "
        "for networks of several inputs, of which each takes the option once.",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(help="Keep weights whose mask is above this: for scores and soft masks."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


@contextmanager
def refusing(kept: Path | None = None) -> Iterator[None]:
    """End with one line and a status where something cannot be done, or is interrupted."""
    try:
        yield
    except (MasktoolsError, OSError, MemoryError, TypeError) as error:
        print(f"masktools: {printable(str(error))}", file=sys.stderr)
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        from masktools.conversion.resume import FOLDER, count

        done = count(kept / FOLDER) if kept else 0
        layers = "1 layer is" if done == 1 else f"{done} layers are"
        hint = f"; {layers} done, --resume goes on from there" if done else ""
        print(f"masktools: interrupted{hint}", file=sys.stderr)
        raise typer.Exit(130) from error


def read_names(path: Path | None) -> Names:
    """Return what the option --names names: a JSON file, or nothing."""
    if path is None:
        return None
    check_source(path)
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{path}: it is not JSON: {error}") from error
    if not isinstance(names, (dict, list)):
        raise FormatError(f"{path}: expected an object or an array of layer names")
    return names


def input_shapes(given: Sequence[str] | None) -> InputShapes | None:
    """Return shapes of inputs from their options; raise a usage error where they are none."""
    shapes: dict[str, tuple[int | str, ...]] = {}
    for text in given or ():
        name, _, sizes = text.rpartition("=")
        if name in shapes or (shapes and "" in (name, *shapes)):
            raise typer.BadParameter(
                f"--input-shape {text}: write NAME= before each, and each once"
            )
        shape = tuple(size.strip() for size in sizes.split(","))
        if "" in shape:
            raise typer.BadParameter(f"--input-shape {text}: expected sizes with commas between")
        shapes[name] = tuple(int(s) if re.fullmatch(r"-?\d{1,18}", s) else s for s in shape)
    return shapes.get("", shapes or None)


@dataclass(frozen=True)
class Fitting:
    """A calibration that is asked for: files of inputs and labels, the method, sizes of inputs.

    Parameters
    ----------
    graph, inputs : Path
    labels : Path or None
    method : str
    shapes : as `masktools.network.onnx.reader.load_onnx` takes them, default None
    """

    graph: Path
    inputs: Path
    labels: Path | None
    method: str
    shapes: InputShapes | None = None

    def read(self) -> Ready:
        """Read and check all of it: ask before any work."""
        from masktools.calibration.inputs import read_inputs, read_labels
        from masktools.calibration.samples import samples
        from masktools.network.onnx.reader import read_onnx

        network = read_onnx(self.graph, self.shapes)
        given = read_inputs(self.inputs, network)
        samples(network, given)
        count = len(next(iter(given.values())))
        classes = None if self.labels is None else read_labels(self.labels, count)
        return Ready(network, given, classes, self.method)


@dataclass(frozen=True, eq=False)
class Ready:
    """A calibration whose files are read: the network, inputs, labels and method."""

    network: Graph
    inputs: Mapping[str, Any]
    labels: NDArray[np.int64] | None
    method: str

    def fit(self, result: Conversion) -> Conversion:
        """Return a result with fitted values."""
        import runtime
        from masktools.conversion.calibrate import calibrate

        found = calibrate(
            self.network,
            result,
            self.inputs,
            run=runtime.prepare,
            labels=self.labels,
            method=self.method,
        )
        return result.calibrated(found)


def fitting(
    graph: Path | None,
    inputs: Path | None,
    labels: Path | None,
    method: str,
    shapes: InputShapes | None,
) -> Fitting | None:
    """Return the calibration that options ask for; raise a usage error where they contradict."""
    if inputs is None:
        if labels is not None or method != "refit":
            raise typer.BadParameter("--labels and --calibrate-method belong to --calibrate")
        return None
    if graph is None:
        raise typer.BadParameter("--calibrate needs --graph, the network that is converted")
    return Fitting(graph, inputs, labels, method, shapes)


def show_result(result: Conversion, head: dict[str, str], as_json: bool) -> None:
    """Print a conversion: its table, or one JSON object that begins with `head`."""
    from masktools.cli.tables import (
        calibration_lines,
        calibration_table,
        conversion_lines,
        conversion_table,
    )

    calibration = result.calibration.report if result.calibration else None
    if as_json:
        more = {"calibration": calibration.as_dict()} if calibration else {}
        print(json.dumps({**head, **result.report.as_dict(), **more}))
        return
    print_rich(conversion_table(result.report), *conversion_lines(result.report))
    if calibration:
        print_rich("", calibration_table(calibration), *calibration_lines(calibration))


def print_rich(*parts: object) -> None:
    """Print tables and text as wide as the terminal, or wide enough for every name."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = 160  # a pipe has no width: names are not to be cut
    console.print(*parts, sep="\n")
