"""``masktools prune``: make masks of a network's weights alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import typer

from masktools.cli.common import (
    MASK_FILES,
    InputShape,
    Json,
    NamesFile,
    Tool,
    input_shapes,
    print_rich,
    read_names,
    refusing,
)
from masktools.errors import FormatError, printable
from masktools.files import check_target

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from masktools.network.graph import Graph
    from masktools.network.input_shapes import InputShapes


def prune_command(
    source: Annotated[
        Path,
        typer.Argument(metavar="NET.onnx|WEIGHTS", help="The network, or a file of its weights."),
    ],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="Masks, ending in .safetensors, .npz or .pt."),
    ],
    density: Annotated[
        float, typer.Option(min=0, max=1, help="Kept weights / all weights of the pruned layers.")
    ],
    across: Annotated[
        Literal["global", "uniform", "erk", "lamp"],
        typer.Option(
            help="How many weights each layer keeps: all layers compete by magnitude; the same "
            "density; Erdős-Rényi-kernel densities; all compete by LAMP scores, under which no "
            "layer ends empty."
        ),
    ] = "global",
    skip: Annotated[
        list[str] | None, typer.Option(metavar="LAYER", help="Keep every weight of this layer.")
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYER", help="Prune this layer although it would stay dense."),
    ] = None,
    input_shape: InputShape = None,
    tool: Tool = None,
    names: NamesFile = None,
    as_json: Json = False,
) -> None:
    """Make unstructured masks of a network's weights: the largest are kept."""
    shapes = input_shapes(input_shape)
    with refusing():
        from masktools.conversion.result import result_files
        from masktools.importers import save_masks
        from masktools.named_layers import NamedLayers
        from masktools.prune import magnitude
        from masktools.prune.layers import staying_dense

        check_target(out, result_files(source))
        if out.suffix not in MASK_FILES:
            raise FormatError(f"{out}: masks are saved as {', '.join(MASK_FILES)}; end it in one")
        weights, graph = _read(source, tool, names, shapes)
        chosen: dict[str, Any] = {"skip": skip or (), "include": include or ()}
        reasons = staying_dense(weights, graph, NamedLayers.of(**chosen))
        masks = magnitude(weights, density, across=across, graph=graph, **chosen)
        save_masks(out, masks)
        for note in [*_unread(graph, weights), *_notes(weights, masks, reasons)]:
            print(f"masktools: {printable(note)}", file=sys.stderr)
        _show(out, masks, reasons, as_json)


def _read(
    source: Path, tool: str | None, names: Path | None, shapes: InputShapes | None
) -> tuple[dict[str, NDArray[Any]], Graph | None]:
    """Return the weights of a file, and the graph where it is an ONNX file."""
    from masktools.importers import inspect_masks, load_weights
    from masktools.network.onnx.reader import read_onnx

    how = (tool, read_names(names))
    if inspect_masks(source, *how).container == "onnx":
        if names is not None:
            raise typer.BadParameter("--names is for files of weights: masks bear a network's own")
        return load_weights(source, *how), read_onnx(source, shapes)
    if shapes is not None:
        raise typer.BadParameter("--input-shape is for networks: the file holds weights alone")
    return load_weights(source, *how), None


def _unread(graph: Graph | None, weights: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    """Yield a note where the network has layers whose weights were not read."""
    from masktools.network.layers import PHASES
    from masktools.roles import layers_under

    if graph is None:
        return
    known = layers_under(graph, {name: w.shape for name, w in weights.items()}, "weights")
    unread = [repr(name.removesuffix(PHASES)) for name in known if name not in weights]
    if unread:
        yield (
            f"layer {', '.join(unread)} stays dense, without a mask: its weights are not read from "
            "an ONNX file (a transposed convolution); prune a file of weights instead"
        )


def _notes(
    weights: Mapping[str, NDArray[Any]],
    masks: Mapping[str, NDArray[np.bool_]],
    reasons: Mapping[str, str],
) -> Iterator[str]:
    """Yield what could surprise: layers that are left with nothing, and zeros that are kept."""
    pruned = [name for name, reason in reasons.items() if not reason]
    empty = [name for name in pruned if masks[name].size and not masks[name].any()]
    if empty:
        yield (
            f"nothing is left of layer {', '.join(map(repr, empty))}: give --across lamp or a "
            "larger density, or --skip LAYER"
        )
    zeros = {name: np.count_nonzero(masks[name] & (weights[name] == 0)) for name in pruned}
    if any(zeros.values()):
        others = sum(int(np.count_nonzero(weights[name])) for name in pruned)
        layers = ", ".join(repr(name) for name, count in zeros.items() if count)
        yield (
            f"{sum(zeros.values())} of the kept weights are zero, in layer {layers}: the pruned "
            f"layers have {others} that are not, so ask for a smaller density"
        )


def _show(
    out: Path, masks: Mapping[str, NDArray[np.bool_]], reasons: Mapping[str, str], as_json: bool
) -> None:
    """Print the layers, those that are pruned together, and all together."""
    from masktools.cli.tables import dense_lines, pruning_table
    from masktools.importers import LayerSummary

    layers = [
        LayerSummary(name, mask.shape, int(mask.sum()), float(mask.mean()) if mask.size else 0.0)
        for name, mask in masks.items()
    ]
    if not as_json:
        print_rich(pruning_table(layers, reasons), *dense_lines(reasons))
        return
    rows = [
        {
            "layer": one.name,
            "shape": list(one.shape),
            "weights": masks[one.name].size,
            "kept": one.kept,
            "density": one.density,
            "dense_because": reasons[one.name],
        }
        for one in layers
    ]
    pruned = [row for row in rows if not row["dense_because"]]
    print(
        json.dumps(
            {"out": str(out), "layers": rows, "pruned": _total(pruned), "total": _total(rows)}
        )
    )


def _total(rows: list[dict[str, Any]]) -> dict[str, Any]:
    weights, kept = (sum(row[which] for row in rows) for which in ("weights", "kept"))
    return {"weights": weights, "kept": kept, "density": kept / weights}
