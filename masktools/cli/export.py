"""``masktools export``: write a checkpoint, and prove that it computes what the source does."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from masktools.cli.common import (
    CalibrateMethod,
    Fitting,
    Images,
    InputShape,
    Json,
    Labels,
    NamesFile,
    Threshold,
    Tool,
    fitting,
    input_shapes,
    read_names,
    refusing,
)
from masktools.errors import FormatError, printable
from masktools.files import check_ending, check_target, whole_file

if TYPE_CHECKING:
    from masktools.conversion.result import Conversion
    from masktools.layout import BlockLayout
    from masktools.network.input_shapes import InputShapes


def export_command(
    net: Annotated[Path, typer.Argument(metavar="NET.onnx", help="The network with its weights.")],
    out: Annotated[
        Path, typer.Argument(metavar="OUT.safetensors", help="The checkpoint to write.")
    ],
    masks: Annotated[
        Path | None, typer.Option(help="A mask file of any tool; else the zeros of the weights.")
    ] = None,
    layouts: Annotated[
        Path | None,
        typer.Option(metavar="RESULT", help="A result folder of masktools convert."),
    ] = None,
    calibrate: Images = None,
    labels: Labels = None,
    calibrate_method: CalibrateMethod = "refit",
    residual: Annotated[
        Literal["error", "keep", "drop"],
        typer.Option(help="Kept weights outside the dense blocks."),
    ] = "error",
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYER", help="Read this layer's zeros although it would stay dense."),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYER", help="Leave this layer dense; pass over its mask or layout."),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify",
            help="Run both networks and compare, on every backend that can run here.",
        ),
    ] = True,
    input_shape: InputShape = None,
    tool: Tool = None,
    names: NamesFile = None,
    threshold: Threshold = None,
    as_json: Json = False,
) -> None:
    """Write a network and its masks as a checkpoint that the runtime runs."""
    if masks is not None and layouts is not None:
        raise typer.BadParameter("--masks and --layouts exclude each other")
    shapes = input_shapes(input_shape)
    asked = fitting(net, calibrate, labels, calibrate_method, shapes)
    if asked is not None and (layouts is None or not layouts.is_dir()):
        raise typer.BadParameter("--calibrate needs --layouts, a result folder")
    with refusing():
        how = {"tool": tool, "names": read_names(names), "threshold": threshold}
        report, lines = export(
            net, out, masks, layouts, residual, verify=verify, how=how, calibration=asked,
            shapes=shapes, include=include or (), skip=skip or (),
        )  # fmt: skip
    for note in report["notes"]:
        print(f"masktools: {printable(note)}", file=sys.stderr)
    if as_json:
        print(json.dumps(report))
        return
    print(f"{out}: {report['bytes']} bytes, {report['sparse_layers']} sparse layers")
    for line in lines:
        print(line)


def export(
    net: Path,
    out: Path,
    masks: Path | None = None,
    layouts: Path | None = None,
    residual: str = "error",
    verify: bool = True,
    how: Mapping[str, Any] | None = None,
    calibration: Fitting | None = None,
    shapes: InputShapes | None = None,
    include: Iterable[str] = (),
    skip: Iterable[str] = (),
) -> tuple[dict[str, Any], list[str]]:
    """Write a checkpoint, after comparing it with its source unless `verify` is False.

    Parameters
    ----------
    net, out : path
    masks : path, default None
        A mask file of any tool.
    layouts : path, default None
        A result folder, whose seed the checkpoint keeps, and its calibrated values where it has
        any; or its layouts.safetensors alone.
    residual : {"error", "keep", "drop"}
    verify : bool, default True
        Both networks, the source with the exported masks, run on the same random inputs, the
        checkpoint on every backend that can run here (see `masktools.cli.verification`).
    how : mapping, default None
        How `masks` is read: the further arguments of `masktools.load_masks`.
    calibration : Fitting, default None
        Inputs to calibrate on; what the result folder was calibrated to before does not count.
    shapes : mapping or sequence, default None
        Sizes that `net` leaves open, as `masktools.export.from_onnx` takes them.
    include : iterable of str, default ()
        Layers whose zeros are read although they would stay dense.
    skip : iterable of str, default ()
        Layers that stay dense; their masks and layouts are passed over.

    Returns
    -------
    dict
        ``out``, ``bytes``, ``sparse_layers``; ``notes``, what was assumed or decided;
        ``difference``, the largest of all, and ``verification``, what was run (both None unless
        verified). None of it is in the file.
    list of str
        The verification as text; empty without one.

    Raises
    ------
    FormatError
        If `out` is one of the inputs, or cannot be written.
    GraphError
        If the source cannot be run, or a backend fails, differs from it, or depends on what ran
        before; then nothing is written.
    """
    from masktools.checkpoint import write
    from masktools.cli.tables import calibration_lines
    from masktools.cli.verification import verify as check
    from masktools.conversion.result import result_files
    from masktools.export.exporting import CHECKPOINT, prepare
    from masktools.importers import load_masks

    read = [path for given in (masks, layouts) if given is not None for path in result_files(given)]
    check_target(out, [net, *read])
    check_ending(out, *CHECKPOINT)
    blocks, result, seed = (None, None, None) if layouts is None else _load_layouts(layouts)
    if calibration is not None and result is not None:
        result = calibration.read().fit(result)
        blocks = result.layouts
    values = result.values if result is not None and result.calibration else None
    found = None if masks is None else load_masks(masks, **(how or {}))
    notes = [] if found is None else [f"{masks}: {note}" for note in found.notes]
    checkpoint, kept = prepare(
        net,
        masks=found,
        layouts=blocks,
        residual=residual,
        include=include,
        skip=skip,
        input_shapes=shapes,
        values=values,
        seed=seed,
        say=notes.append,
    )
    with whole_file(out) as beside:
        write(beside, checkpoint)
        verified = check(net, kept, beside, values, shapes) if verify else None
    report = {
        "out": str(out),
        "bytes": out.stat().st_size,
        "sparse_layers": len(checkpoint.sparse),
        "notes": notes,
        "difference": None if verified is None else verified.difference,
        "verification": None if verified is None else verified.as_dict(),
    }
    lines = [] if verified is None else verified.lines()
    if result is not None and result.calibration:
        report["calibration"] = result.calibration.report.as_dict()
        lines = [*map(str, calibration_lines(result.calibration.report)), *lines]
    return report, lines


def _load_layouts(
    path: Path,
) -> tuple[Mapping[str, BlockLayout], Conversion | None, int | None]:
    """Return layouts, and the result and seed of their conversion, which only a folder has."""
    from masktools.conversion.result import Conversion, load_layouts

    if not path.is_dir():
        return load_layouts(path), None, None
    result = Conversion.load(path)
    seed = result.report.options.get("seed")
    if not (seed is None or (type(seed) is int and seed >= 0)):
        raise FormatError(f"{path}: its report has the seed {seed!r}, expected a whole number")
    return result.layouts, result, seed
