"""``masktools convert``: turn the masks of a network into dense blocks, or into whole rows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import typer

from masktools.cli.common import (
    MASK_FILES,
    CalibrateMethod,
    Images,
    InputShape,
    Json,
    Labels,
    NamesFile,
    Tool,
    fitting,
    input_shapes,
    read_names,
    refusing,
    show_result,
)
from masktools.errors import MaskError, printable
from masktools.files import check_apart, check_ending, check_target

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from masktools.cli.common import Ready
    from masktools.importers.load import Names
    from masktools.network.graph import Graph


_THRESHOLDS = "--method regroup by the thresholds of the paper's Algorithm 3"


def _threshold(words: str) -> Any:  # noqa: ANN401 - typer's own kind of default
    """Return an option for a threshold: a count of 1 or more, in a panel of their own."""
    return typer.Option(min=1, help=words, rich_help_panel=_THRESHOLDS)


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
    graph: Annotated[
        Path | None,
        typer.Option(help="The network, as ONNX: roles of layers, groups, multiplications."),
    ] = None,
    extra: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="refill-plus: share of the dropped rows to keep; 0.2 by default."
        ),
    ] = None,
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
    row_groups: Annotated[
        int | None, _threshold("t1: row groups of a layer; groups of --group-rows by default.")
    ] = None,
    min_column_nonzeros: Annotated[
        int | None, _threshold("t2: nonzeros that a column needs in a row group.")
    ] = None,
    min_rows: Annotated[int | None, _threshold("b1: rows that a block needs.")] = None,
    min_columns: Annotated[int | None, _threshold("b2: columns that a block needs.")] = None,
    passes: Annotated[
        int | None, _threshold("The most passes; until one finds no block by default.")
    ] = None,
    preset: Annotated[
        Literal["released"] | None,
        typer.Option(
            help="In place of thresholds: as the code that was released with the paper. Stores "
            "more than the masks keep.",
            rich_help_panel=_THRESHOLDS,
        ),
    ] = None,
    without_blocks: Annotated[
        Literal["mask", "dense", "empty"],
        typer.Option(
            help="A layer in which they find no block keeps its mask, stays dense, or is empty.",
            rich_help_panel=_THRESHOLDS,
        ),
    ] = "mask",
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
    calibrate: Images = None,
    labels: Labels = None,
    calibrate_method: CalibrateMethod = "refit",
    input_shape: InputShape = None,
    tool: Tool = None,
    names: NamesFile = None,
    weights_tool: Annotated[str | None, typer.Option(help="As --tool, for --weights.")] = None,
    weights_names: Annotated[Path | None, typer.Option(help="As --names, for --weights.")] = None,
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
        "row_groups": row_groups,
        "min_column_nonzeros": min_column_nonzeros,
        "min_rows": min_rows,
        "min_columns": min_columns,
        "passes": passes,
        "preset": preset,
        "without_blocks": without_blocks,
        "partitioner": partitioner,
        "seed": seed,
    }
    shapes = input_shapes(input_shape)
    if shapes is not None and graph is None:
        raise typer.BadParameter("--input-shape needs --graph, the network that it is of")
    asked = fitting(graph, calibrate, labels, calibrate_method, shapes)
    if saliency != "magnitude" and calibrate is None:
        raise typer.BadParameter(f"--saliency {saliency} needs --calibrate INPUTS")
    if saliency == "magnitude" and calibrate is not None and _is_mask_file(out):
        raise typer.BadParameter("--calibrate needs a folder as OUT: masks hold no values")
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
        inputs = [*result_files(source), weights, graph, calibrate, labels]
        if _is_mask_file(out):
            check_target(out, inputs)
        else:
            check_apart(out, inputs)
            alone = f"masks alone end in {', '.join(MASK_FILES)}"
            check_ending(out, "a folder with masks and a report", f"leave that out, or {alone}")
        check_place(kept)
        ready = None if asked is None else asked.read()
        masks, values, notes = _load(
            source, tool, read_names(names), weights, weights_tool, read_names(weights_names)
        )
        if not resume:
            discard(kept / FOLDER)
        chosen: dict[str, Any] = {"skip": skip or (), "include": include or ()}
        if ready is None:
            chosen |= {"graph": graph, "input_shapes": shapes}
        else:
            chosen["graph"] = ready.network
        if ready is not None and saliency != "magnitude":
            if values is None:
                raise MaskError(f"{source} holds no weights: --saliency {saliency} needs --weights")
            chosen["norms"] = _norms(ready, saliency, masks, **chosen)
        result = convert_network(masks, values, **options, **chosen, resume=kept)
        if ready is not None and not _is_mask_file(out):
            notes += _differing(values, ready.network, source)
            result = ready.fit(result)
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


def _norms(
    ready: Ready,
    saliency: str,
    masks: dict[str, Any],
    graph: Graph,
    skip: Iterable[str],
    include: Iterable[str],
) -> dict[str, Any]:
    """Run the network on inputs; return the norms of the columns of the layers to convert."""
    from masktools.calibration.columns import column_norms
    from masktools.conversion.convert import converted_layers
    from runtime import prepare

    wanted = converted_layers(masks, graph, skip, include)
    return column_norms(graph, wanted, saliency, ready.inputs, prepare)


def _is_mask_file(out: Path) -> bool:
    return out.suffix in MASK_FILES


def _differing(
    weights: Mapping[str, NDArray[np.float32]] | None, network: Graph, source: Path
) -> Iterator[str]:
    """Yield a note where the network is another one than the masks' file holds the weights of."""
    for name, weight in (weights or {}).items():
        own = network.constants.get(f"{name}.weight")
        if own is None or own.shape != weight.shape:
            continue
        kept = weight != 0
        if (
            np.abs(own - weight, where=kept, out=np.zeros_like(own)).max()
            > 0.01 * np.abs(own).max()
        ):
            yield (
                f"layer {name!r}: its weights in {source} are not those of the network; the values "
                "are fitted to the network's"
            )
            return


def _load(
    source: Path,
    tool: str | None,
    names: Names,
    weights: Path | None,
    weights_tool: str | None,
    weights_names: Names,
) -> tuple[dict[str, Any], dict[str, Any] | None, list[str]]:
    """Return masks, weights where there are any, and what to tell about them."""
    from masktools.importers import inspect_masks, load_masks, load_weights
    from masktools.names import meet

    masks = load_masks(source, tool, names)
    if weights is not None:
        held = load_weights(weights, weights_tool, weights_names)
        found, notes = meet(masks, held, str(weights))
        return masks, found, [f"{weights}: {note}" for note in notes]
    if "trained" in inspect_masks(source, tool, names).weights:
        return masks, load_weights(source, tool, names), []
    return masks, None, [f"{source} holds no weights: each kept one counts the same"]
