"""``masktools inspect``: show what a file holds."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from masktools.cli.common import (
    Json,
    NamesFile,
    Threshold,
    Tool,
    print_rich,
    read_names,
    refusing,
    show_result,
)

File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="A mask file of any tool, a result folder, or a checkpoint."
    ),
]


def inspect_command(
    file: File,
    tool: Tool = None,
    names: NamesFile = None,
    threshold: Threshold = None,
    as_json: Json = False,
) -> None:
    """Show what a file holds: tool, layers, shapes, densities, and what was assumed."""
    with refusing():
        from masktools.conversion.result import Conversion, is_result

        if is_result(file):
            result = Conversion.load(file)
            show_result(result, {"path": str(file)}, as_json)
            return
        from masktools.checkpoint.inventory import is_checkpoint

        if is_checkpoint(file):
            _show_checkpoint(file, as_json)
            return
        from masktools.cli.tables import masks_lines, masks_table
        from masktools.importers import inspect_masks

        found = inspect_masks(file, tool, read_names(names), threshold)
        if as_json:
            print(json.dumps({**asdict(found), "density": found.density}))
        else:
            head, *rest = masks_lines(found)
            print_rich(head, masks_table(found), *rest)


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
        print_rich(head, checkpoint_table(stored), *rest)
