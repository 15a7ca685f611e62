"""``masktools inspect``: show what a file holds."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from masktools.cli.common import (
    InputShape,
    Json,
    NamesFile,
    Threshold,
    Tool,
    input_shapes,
    print_rich,
    read_names,
    refusing,
    show_result,
)
from masktools.errors import FormatError

if TYPE_CHECKING:
    from masktools.network.input_shapes import InputShapes

File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="A mask file of any tool, a result folder, or a checkpoint."
    ),
]


def inspect_command(
    file: File,
    input_shape: InputShape = None,
    tool: Tool = None,
    names: NamesFile = None,
    threshold: Threshold = None,
    as_json: Json = False,
) -> None:
    """Show what a file holds: tool, layers, shapes, densities, and what was assumed."""
    shapes = input_shapes(input_shape)
    with refusing():
        from masktools.checkpoint.inventory import is_checkpoint
        from masktools.conversion.result import Conversion, is_result

        if is_checkpoint(file):
            _show_checkpoint(file, shapes, as_json)
            return
        if shapes is not None:
            raise FormatError(f"{file}: --input-shape is for checkpoints, which this is not")
        if is_result(file):
            result = Conversion.load(file)
            show_result(result, {"path": str(file)}, as_json)
            return
        from masktools.cli.tables import masks_lines, masks_table
        from masktools.importers import inspect_masks

        found = inspect_masks(file, tool, read_names(names), threshold)
        if as_json:
            print(json.dumps({**asdict(found), "density": found.density}))
        else:
            head, *rest = masks_lines(found)
            print_rich(head, masks_table(found), *rest)


def _show_checkpoint(path: Path, shapes: InputShapes | None, as_json: bool) -> None:
    from masktools.checkpoint import read
    from masktools.checkpoint.inventory import inventory
    from masktools.cli.tables import checkpoint_lines, checkpoint_table
    from masktools.network.fixing import open_sizes, with_input_shapes
    from masktools.network.sizes import spelled

    checkpoint = read(path)
    if shapes is not None:
        checkpoint = replace(checkpoint, graph=with_input_shapes(checkpoint.graph, shapes))
    stored = inventory(checkpoint)
    if as_json:
        graph = checkpoint.graph
        data = {
            "path": str(path),
            "producer": checkpoint.producer,
            "seed": checkpoint.seed,
            "source": checkpoint.source,
            "inputs": {value.name: spelled(value.shape) for value in graph.inputs},
            "outputs": {value.name: spelled(value.shape) for value in graph.outputs},
            **({"sizes": sizes} if (sizes := open_sizes(graph.inputs)) else {}),
            "nodes": len(graph.nodes),
            "layers": [asdict(layer) | {"density": layer.density} for layer in stored],
        }
        print(json.dumps(data))
    else:
        head, *rest = checkpoint_lines(path, checkpoint, stored)
        print_rich(head, checkpoint_table(stored), *rest)
