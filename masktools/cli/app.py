"""The command line: ``masktools inspect``, ``convert`` and ``export``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from masktools.cli.export import export_command
from masktools.errors import FormatError, MasktoolsError, printable
from masktools.files import check_apart, check_source, check_target
from masktools.version import add_version

if TYPE_CHECKING:
    from masktools.conversion.convert import Conversion
    from masktools.importers.load import Names

app = typer.Typer(
    help="A mask from any pruning tool goes in; a network that is really faster comes out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
add_version(app, "masktools")

MASK_FILES = (".safetensors", ".npz", ".pt")

File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="A mask file of any tool, a result folder, or a checkpoint."
    ),
]
Tool = Annotated[
    str | None, typer.Option(help="The tool that wrote it, where its keys leave it open.")
]
NamesFile = Annotated[
    Path | None,
    typer.Option(help="JSON file: {name in the file: layer}, or the layers in the file's order."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


@app.command()
def inspect(file: File, tool: Tool = None, names: NamesFile = None, as_json: Json = False) -> None:
    """Show what a file holds: tool, layers, shapes, densities, and what was assumed."""
    with _refusing():
        from masktools.conversion.result import Conversion, is_result

        if is_result(file):
            result = Conversion.load(file)
            _show_result(result, {"path": str(file)}, as_json)
            return
        from masktools.checkpoint.inventory import is_checkpoint

        if is_checkpoint(file):
            _show_checkpoint(file, as_json)
            return
        from masktools.cli.tables import masks_lines, masks_table
        from masktools.importers import inspect_masks

        found = inspect_masks(file, tool, _read_names(names))
        if as_json:
            print(json.dumps({**asdict(found), "density": found.density}))
        else:
            head, *rest = masks_lines(found)
            _print(head, masks_table(found), *rest)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A mask file of any tool.")],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="A folder; or masks alone, ending in .safetensors, .npz or .pt."
        ),
    ],
    method: Annotated[
        Literal["regroup", "refill", "refill-plus"],
        typer.Option(help="Dense blocks, whole rows, or whole rows and --extra of the others."),
    ],
    density: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Of all converted layers; each one's own by default."),
    ] = None,
    by: Annotated[
        Literal["weights", "multiplications"], typer.Option(help="What the density is a share of.")
    ] = "weights",
    graph: Annotated[
        Path | None,
        typer.Option(help="The network, as ONNX: roles of layers, groups, multiplications."),
    ] = None,
    extra: Annotated[
        float, typer.Option(min=0, max=1, help="refill-plus: share of the dropped rows to keep.")
    ] = 0.0,
    criterion: Annotated[
        Literal["l1", "count"], typer.Option(help="refill: what makes a row good.")
    ] = "l1",
    target: Annotated[
        Literal["cpu", "cuda", "cuda-tensor"],
        typer.Option(help="Where it is to run: row groups of 8, 32 or 64; refill has none."),
    ] = "cpu",
    group_rows: Annotated[
        int | None, typer.Option(min=1, help="regroup: rows of a group, whatever the target.")
    ] = None,
    partitioner: Annotated[
        Literal["kahypar", "mtkahypar", "spectral", "best"],
        typer.Option(help="regroup: what divides the rows into groups."),
    ] = "kahypar",
    skip: Annotated[
        list[str] | None, typer.Option(metavar="LAYER", help="Leave this layer dense.")
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYER", help="Convert this layer although it would stay dense."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="A file to take the weights from; IN by default.")
    ] = None,
    tool: Tool = None,
    names: NamesFile = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the partitioner and the search.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Turn the masks of a network into dense blocks, or into whole rows."""
    options: dict[str, Any] = {
        "method": method,
        "density": density,
        "by": by,
        "extra": extra,
        "criterion": criterion,
        "target": target,
        "group_rows": group_rows,
        "partitioner": partitioner,
        "seed": seed,
    }
    kept = out.with_name(out.name + ".unfinished") if _is_mask_file(out) else out
    with _refusing(kept):
        from masktools.conversion.convert import Options
        from masktools.conversion.convert import convert as convert_network
        from masktools.conversion.result import check_place, result_files
        from masktools.conversion.resume import FOLDER, discard
        from masktools.importers import save_masks

        try:
            Options(**options).check(None, graph)
        except TypeError as error:
            raise typer.BadParameter(str(error)) from error
        inputs = [*result_files(source), weights, graph]
        if _is_mask_file(out):
            check_target(out, inputs)
        else:
            check_apart(out, inputs)
        check_place(kept)
        masks, saliency, notes = _load(source, weights, tool, _read_names(names))
        if not resume:
            discard(kept / FOLDER)
        result = convert_network(
            masks,
            saliency,
            **options,
            graph=graph,
            skip=skip or (),
            include=include or (),
            resume=kept,
        )
        if _is_mask_file(out):
            save_masks(out, result.masks)
            discard(kept / FOLDER)
            if kept.is_dir():
                kept.rmdir()
        else:
            result.save(out)
        for note in notes:
            print(f"masktools: {printable(note)}", file=sys.stderr)
        _show_result(result, {"out": str(out)}, as_json)


app.command("export")(export_command)


def main() -> None:
    """Run the command line; the exit status is 0 done, 1 refused, 2 usage, 130 interrupted."""
    app(prog_name="masktools")


@contextmanager
def _refusing(kept: Path | None = None) -> Iterator[None]:
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


def _is_mask_file(out: Path) -> bool:
    return out.suffix in MASK_FILES


def _load(
    source: Path, weights: Path | None, tool: str | None, names: Names
) -> tuple[dict[str, Any], dict[str, Any] | None, list[str]]:
    """Return masks, weights where there are any, and what to tell about them."""
    from masktools.importers import inspect_masks, load_masks, load_weights

    masks = load_masks(source, tool, names)
    if weights is not None:
        return masks, load_weights(weights), []
    if "trained" in inspect_masks(source, tool, names).weights:
        return masks, load_weights(source, tool, names), []
    return masks, None, [f"{source} holds no weights: each kept one counts the same"]


def _read_names(path: Path | None) -> Names:
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


def _show_result(result: Conversion, head: dict[str, str], as_json: bool) -> None:
    from masktools.cli.tables import conversion_lines, conversion_table

    if as_json:
        print(json.dumps({**head, **result.report.as_dict()}))
    else:
        lines = conversion_lines(result.report)
        _print(conversion_table(result.report), *lines)


def _show_checkpoint(path: Path, as_json: bool) -> None:
    from masktools.checkpoint import read
    from masktools.checkpoint.inventory import inventory
    from masktools.cli.tables import checkpoint_lines, checkpoint_table

    checkpoint = read(path)
    stored = inventory(checkpoint)
    if as_json:
        graph = checkpoint.graph
        data = {
            "path": str(path),
            "producer": checkpoint.producer,
            "seed": checkpoint.seed,
            "source": checkpoint.source,
            "inputs": {value.name: value.shape for value in graph.inputs},
            "outputs": {value.name: value.shape for value in graph.outputs},
            "nodes": len(graph.nodes),
            "layers": [asdict(layer) | {"density": layer.density} for layer in stored],
        }
        print(json.dumps(data))
    else:
        head, *rest = checkpoint_lines(path, checkpoint, stored)
        _print(head, checkpoint_table(stored), *rest)


def _print(*parts: object) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = 160  # a pipe has no width: names are not to be cut
    console.print(*parts, sep="\n")


if __name__ == "__main__":
    main()
