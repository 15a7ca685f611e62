# ruff: noqa: RUF001 - the multiplication sign is meant
"""Tables for the terminal: mask files, conversions, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from masktools.errors import printable
from masktools.network.fixing import open_sizes

if TYPE_CHECKING:
    from pathlib import Path

    from masktools.calibration.report import CalibrationReport
    from masktools.checkpoint import Checkpoint
    from masktools.checkpoint.inventory import StoredLayer
    from masktools.conversion.report import Figures, LayerReport, Report
    from masktools.importers import LayerSummary, MaskFile
    from masktools.network.cost import Multiplications


def conversion_table(report: Report) -> Table:
    """Return a line per layer, one for the converted layers and one for all together.

    A layer's shape is that of its matrix, rows by columns.
    """
    counted = report.total.multiplications is not None
    heads = ["rows ×\ncolumns", "blocks", "density", "retained", "of the\nbudget"]
    table = _table("layer", heads + ["multi-\nplications"] * counted)
    for row, share in zip(report, report.budget_shares, strict=True):
        cells = [row.layer, f"{row.rows} × {row.columns}", *_cells(row, share, counted)]
        if row.dense_because or row.without_blocks:
            cells[2] = row.without_blocks or "dense"
        table.add_row(_name(row.layer), *cells[1:], style="dim" if row.dense_because else "")
    table.add_section()
    converted = sum(not row.dense_because for row in report)
    table.add_row(f"{converted} converted", "", *_cells(report.converted, None, counted))
    table.add_row(f"all {len(report)}", "", *_cells(report.total, None, counted), style="bold")
    return table


def conversion_lines(report: Report) -> list[Text]:
    """Return the lines below a conversion's table: limit, why layers stay dense, notes."""
    lines = []
    limit = report.total.limit
    if limit is not None:
        lines.append(Text(f"limit {limit:.2f}×: dense / remaining multiplications", "bold"))
    if report.cost is not None:
        lines += _cost_lines(report.cost)
    lines += dense_lines(report.excluded)
    lines += _reasons(
        "no block found", {row.layer: _WITHOUT_BLOCKS[row.without_blocks] for row in report}
    )
    return lines + [Text(f"note: {printable(note)}", "yellow") for note in report.notes]


def _cost_lines(cost: Mapping[str, Multiplications]) -> list[Text]:
    """Return a heading, and a line for each convention of counting multiplications."""
    lines = [Text("multiplications by live inputs, dense: before → after")]
    for of, how in (("inside", "inside the image"), ("padded", "with padding")):
        dense, before, after = (getattr(cost[case], of) for case in ("dense", "before", "after"))
        lines.append(Text(f"  {how}, {dense:,}: {before:,} → {after:,}"))
    return lines


_WITHOUT_BLOCKS = {
    "": "",
    "mask": "the mask is kept, row by row",
    "dense": "stays dense",
    "empty": "nothing is stored",
}


def dense_lines(reasons: Mapping[str, str]) -> list[Text]:
    """Return a line for each reason why layers stay dense; an empty one is none."""
    return _reasons("dense", reasons)


def _reasons(what: str, reasons: Mapping[str, str]) -> list[Text]:
    by_reason: dict[str, list[str]] = {}
    for layer, why in reasons.items():
        if why:
            by_reason.setdefault(why, []).append(layer)
    return [
        Text(printable(f"{what}: {', '.join(who)} ({why})"), "dim")
        for why, who in by_reason.items()
    ]


def pruning_table(layers: Sequence[LayerSummary], reasons: Mapping[str, str]) -> Table:
    """Return a line per layer, one for the pruned layers and one for all together."""
    table = _table("layer", ("shape", "weights", "kept", "density"))
    for layer in layers:
        shape = " × ".join(map(str, layer.shape))
        dim = "dim" if reasons[layer.name] else ""
        table.add_row(_name(layer.name), shape, *_counted([layer]), style=dim)
    table.add_section()
    pruned = [layer for layer in layers if not reasons[layer.name]]
    table.add_row(f"{len(pruned)} pruned", "", *_counted(pruned))
    table.add_row(f"all {len(layers)}", "", *_counted(layers), style="bold")
    return table


def _counted(layers: Sequence[LayerSummary]) -> tuple[str, str, str]:
    size, kept = sum(prod(layer.shape) for layer in layers), sum(layer.kept for layer in layers)
    return f"{size:,}", f"{kept:,}", f"{kept / max(size, 1):.4f}"


def calibration_table(report: CalibrationReport) -> Table:
    """Return a line per calibrated layer: the columns of its rows, how it was fitted, its error."""
    table = _table("layer", ("columns", "replaced", "ridge", "condition", "error before", "after"))
    for row in report.layers:
        table.add_row(
            _name(row.layer),
            f"{row.columns:,}",
            f"{row.replaced:,}",
            "" if row.ridge is None else f"{row.ridge:g}",
            "" if row.condition is None else f"{row.condition:.1e}",
            _figure(row.error_before),
            _figure(row.error_after),
        )
    return table


def calibration_lines(report: CalibrationReport) -> list[Text]:
    """Return the lines below a calibration's table: error, agreement, accuracy, notes."""
    held = f"{report.held_back} inputs that were held back"
    lines = [
        Text(f"{report.method} on {report.samples} inputs; on the {held}:", "dim"),
        Text(
            f"error of the output {_figure(report.error_before)} → "
            f"{_figure(report.error_after)} of its variance",
            "bold",
        ),
    ]
    if report.agreement_after is not None:
        lines.append(
            Text(
                f"same class as the source {report.agreement_before:.1%} → "
                f"{report.agreement_after:.1%}"
            )
        )
    if report.accuracy_after is not None:
        lines.append(
            Text(
                f"right {report.accuracy_before:.1%} → {report.accuracy_after:.1%}; "
                f"the source {report.accuracy_source:.1%}"
            )
        )
    return lines + [Text(f"note: {printable(note)}", "yellow") for note in report.notes]


def _figure(error: float | None) -> str:
    return "?" if error is None else f"{error:.4f}"


def masks_table(file: MaskFile) -> Table:
    """Return a line per layer of a mask file, and one for all of them."""
    table = _table("layer", ("shape", "kept", "density"))
    for layer in file.layers:
        shape = " × ".join(map(str, layer.shape))
        table.add_row(_name(layer.name), shape, f"{layer.kept:,}", f"{layer.density:.4f}")
    table.add_section()
    kept = sum(layer.kept for layer in file.layers)
    count = f"all {len(file.layers)}"
    table.add_row(count, "", f"{kept:,}", f"{file.density:.4f}", style="bold")
    return table


def masks_lines(file: MaskFile) -> list[Text]:
    """Return the heading of a mask file's table, and the lines below it."""
    held = ", ".join(file.weights) or "none"
    head = f"{file.path}: {file.tool} ({file.container}), weights: {held}"
    lines = [Text(printable(head), "bold")]
    lines += [Text(printable(f"assumed: {words}"), "dim") for words in file.assumptions]
    return lines + [Text(printable(f"refused: {file.refusal}"), "yellow")] * bool(file.refusal)


def checkpoint_table(layers: Sequence[StoredLayer]) -> Table:
    """Return a line per layer of a checkpoint, and one for all of them."""
    table = _table("layer", ("shape", "blocks", "residual", "density", "multiplications"))
    for layer in layers:
        table.add_row(
            _name(layer.name),
            " × ".join(map(str, layer.shape)),
            f"{layer.blocks:,}" if layer.stored < layer.size else "dense",
            f"{layer.residual:,}",
            f"{layer.density:.3f}",
            f"{layer.multiplications_stored:,}",
        )
    table.add_section()
    table.add_row(
        f"all {len(layers)}",
        "",
        f"{sum(layer.blocks for layer in layers):,}",
        f"{sum(layer.residual for layer in layers):,}",
        f"{sum(layer.stored for layer in layers) / max(sum(x.size for x in layers), 1):.3f}",
        f"{sum(layer.multiplications_stored for layer in layers):,}",
        style="bold",
    )
    return table


def checkpoint_lines(
    path: Path, checkpoint: Checkpoint, layers: Sequence[StoredLayer]
) -> list[Text]:
    """Return the heading of a checkpoint's table, and the lines below it."""
    graph = checkpoint.graph
    ends = [
        ", ".join(f"{v.name} {v.shape_text}" for v in values)
        for values in (graph.inputs, graph.outputs)
    ]
    head = f"{path}: checkpoint of {checkpoint.producer}, {len(graph.nodes)} nodes"
    lines = [Text(printable(head), "bold"), Text(printable(f"{ends[0]} → {ends[1]}"), "dim")]
    sizes = open_sizes(graph.inputs)
    if sizes:
        at = ", ".join(f"{name} = {size}" for name, size in sizes.items())
        lines.append(Text(printable(f"multiplications are counted at {at}"), "dim"))
    left = sum(layer.multiplications_stored for layer in layers)
    padded = sum(layer.padded_stored for layer in layers)
    lines.append(Text(f"multiplications: {left:,} inside the image, {padded:,} with padding"))
    if left:
        limit = sum(layer.multiplications for layer in layers) / left
        lines.append(Text(f"limit {limit:.2f}×: dense / remaining multiplications", "bold"))
    return lines


def _name(name: str) -> Text:
    """Make a name that comes from a file harmless to show: no markup, no control characters."""
    return Text(printable(name))


def _table(first: str, others: Sequence[str]) -> Table:
    """Make a table that a narrow terminal shows whole: names are folded, figures never cut."""
    # Narrow gaps: seven columns and a name of 16 characters fit a terminal of 80.
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 0, 0, 1))
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _cells(figures: Figures | LayerReport, share: float | None, counted: bool) -> list[str]:
    cells = [
        f"{figures.blocks:,}",
        _change(figures.density_before, figures.density_after),
        f"{figures.retained:.3f}",
        "" if share is None else f"{share:.1%}",
    ]
    if counted:
        before, after = (
            figures.multiplication_density_before,
            figures.multiplication_density_after,
        )
        cells.append(_change(before, after))
    return cells


def _change(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f"{before:.3f}→{after:.3f}"
