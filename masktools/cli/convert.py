"""``masktools convert``: turn the masks of a network into dense blocks, or into whole rows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from masktools.cli.common import Json, NamesFile, Tool, read_names, refusing, show_result
from masktools.errors import MaskError, printable
from masktools.files import check_apart, check_target

if TYPE_CHECKING:
    from collections.abc import Iterable

    from masktools.importers.load import Names
    from masktools.network.graph import Graph

MASK_FILES = (".safetensors", ".npz", ".pt")


def convert_command(
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
    across: Annotated[
        Literal["log-share", "share", "absolute", "erk", "own"],
        typer.Option(
            help="How the layers share the density: the sum of the logarithms of the shares of "
            "saliency that they retain is largest (no layer ends empty); the sum of the shares; "
            "of the saliency itself; Erdős-Rényi-kernel densities; each mask's own, to scale."
        ),
    ] = "log-share",
    saliency: Annotated[
        Literal["magnitude", "input", "error"],
        typer.Option(
            help="What is retained as far as possible: the size of weights; what they add to the "
            "outputs; the rise of the outputs' error when they go. All but the first need "
            "--graph and --calibrate."
        ),
    ] = "magnitude",
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="INPUTS",
            help="Inputs as the network takes them: .npy, .npz by name, or a folder of these.",
        ),
    ] = None,
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
        "across": across,
        "saliency": saliency,
        "extra": extra,
        "criterion": criterion,
        "target": target,
        "group_rows": group_rows,
        "partitioner": partitioner,
        "seed": seed,
    }
    kept = out.with_name(out.name + ".unfinished") if _is_mask_file(out) else out
    with refusing(kept):
        from masktools.conversion.convert import convert as convert_network
        from masktools.conversion.options import Options
        from masktools.conversion.result import check_place, result_files
        from masktools.conversion.resume import FOLDER, discard
        from masktools.importers import save_masks

        try:
            Options(**options).check(None, graph)
        except TypeError as error:
            raise typer.BadParameter(str(error)) from error
        _check_calibrate(saliency, calibrate, graph)
        inputs = [*result_files(source), weights, graph, calibrate]
        if _is_mask_file(out):
            check_target(out, inputs)
        else:
            check_apart(out, inputs)
        check_place(kept)
        masks, values, notes = _load(source, weights, tool, read_names(names))
        if not resume:
            discard(kept / FOLDER)
        network = None if graph is None else _read_graph(graph)
        chosen: dict[str, Any] = {"graph": network, "skip": skip or (), "include": include or ()}
        if network is not None and calibrate is not None:
            if values is None:
                raise MaskError(f"{source} holds no weights: --saliency {saliency} needs --weights")
            chosen["norms"] = _norms(calibrate, saliency, masks, **chosen)
        result = convert_network(masks, values, **options, **chosen, resume=kept)
        if _is_mask_file(out):
            save_masks(out, result.masks)
            discard(kept / FOLDER)
            if kept.is_dir():
                kept.rmdir()
        else:
            result.save(out)
        for note in notes:
            print(f"masktools: {printable(note)}", file=sys.stderr)
        show_result(result, {"out": str(out)}, as_json)


def _check_calibrate(saliency: str, calibrate: Path | None, graph: Path | None) -> None:
    if saliency == "magnitude":
        if calibrate is not None:
            raise typer.BadParameter("--calibrate needs --saliency input or error")
        return
    for option, given in (("--calibrate INPUTS", calibrate), ("--graph NET.onnx", graph)):
        if given is None:
            raise typer.BadParameter(f"--saliency {saliency} needs {option}")


def _read_graph(path: Path) -> Graph:
    from masktools.network.onnx.reader import read_onnx

    return read_onnx(path)


def _norms(
    calibrate: Path,
    saliency: str,
    masks: dict[str, Any],
    graph: Graph,
    skip: Iterable[str],
    include: Iterable[str],
) -> dict[str, Any]:
    """Run the network on inputs; return the norms of the columns of the layers to convert."""
    from masktools.calibration.columns import column_norms
    from masktools.calibration.inputs import read_inputs
    from masktools.conversion.convert import converted_layers
    from runtime import prepare

    inputs = read_inputs(calibrate, graph)
    wanted = converted_layers(masks, graph, skip, include)
    return column_norms(graph, wanted, saliency, inputs, prepare)


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
