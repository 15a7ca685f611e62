"""``masktools export``: write a checkpoint, and prove that it computes what the source does."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import typer
from numpy.typing import NDArray

from masktools.errors import FormatError, GraphError, MasktoolsError
from masktools.files import check_target, whole_file

if TYPE_CHECKING:
    from masktools.layout import BlockLayout

# Of float32 over the deepest networks; a wrong weight or border is far beyond.
TOLERANCE = 1e-4


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
    residual: Annotated[
        Literal["error", "keep", "drop"],
        typer.Option(help="Kept weights outside the dense blocks."),
    ] = "error",
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Run both networks and compare.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Write a network and its masks as a checkpoint that the runtime runs."""
    if masks is not None and layouts is not None:
        raise typer.BadParameter("--masks and --layouts exclude each other")
    try:
        report = export(net, out, masks, layouts, residual, verify)
    except (MasktoolsError, OSError, MemoryError, TypeError) as error:
        print(f"masktools: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    if as_json:
        print(json.dumps(report))
        return
    print(f"{out}: {report['bytes']} bytes, {report['sparse_layers']} sparse layers")
    if verify:
        print(f"max|Δ| / max|y| = {report['difference']:.2e}, tolerance {TOLERANCE:.0e}")


def export(
    net: Path,
    out: Path,
    masks: Path | None = None,
    layouts: Path | None = None,
    residual: str = "error",
    verify: bool = True,
) -> dict[str, Any]:
    """Write a checkpoint, after comparing it with its source unless told not to.

    Parameters
    ----------
    net, out : path
    masks : path, default None
        A mask file of any tool.
    layouts : path, default None
        A result folder, whose seed the checkpoint keeps; or its layouts.safetensors alone.
    residual : {"error", "keep", "drop"}
    verify : bool, default True
        Both networks, the source with the exported masks, run on the same random input.

    Returns
    -------
    dict
        ``out``, ``bytes``, ``sparse_layers``, ``difference`` (None unless verified).

    Raises
    ------
    FormatError
        If `out` is one of the inputs, or cannot be written.
    GraphError
        If the outputs differ by more than `TOLERANCE`; then nothing is written.
    """
    from masktools.checkpoint import write
    from masktools.export.network import prepare
    from masktools.importers import load_masks
    from masktools.result import result_files

    read = [path for given in (masks, layouts) if given is not None for path in result_files(given)]
    check_target(out, [net, *read])
    blocks, seed = (None, None) if layouts is None else _load_layouts(layouts)
    checkpoint, kept = prepare(
        net,
        masks=None if masks is None else load_masks(masks),
        layouts=blocks,
        residual=residual,
        seed=seed,
    )
    with whole_file(out) as beside:
        write(beside, checkpoint)
        difference = compare(net, kept, beside) if verify else None
        if difference is not None and not difference <= TOLERANCE:
            raise GraphError(
                f"{net}: the checkpoint computes something else: max|Δ| / max|y| = "
                f"{difference:.2e}, more than {TOLERANCE:.0e}; nothing was written"
            )
    return {
        "out": str(out),
        "bytes": out.stat().st_size,
        "sparse_layers": len(checkpoint.sparse),
        "difference": difference,
    }


def _load_layouts(path: Path) -> tuple[Mapping[str, BlockLayout], int | None]:
    """Return layouts and the seed of their conversion, which only the report of a result knows."""
    from masktools.result import Conversion, load_layouts

    if not path.is_dir():
        return load_layouts(path), None
    result = Conversion.load(path)
    seed = result.report.options.get("seed")
    if not (seed is None or (type(seed) is int and seed >= 0)):
        raise FormatError(f"{path}: its report has the seed {seed!r}, expected a whole number")
    return result.layouts, seed


def compare(net: Path, kept: Mapping[str, NDArray[np.bool_]], checkpoint: Path) -> float:
    """Return max|Δ| / max|y| between a network under masks and a checkpoint of it.

    Parameters
    ----------
    net : path
        ONNX, run by onnxruntime.
    kept : mapping of str to ndarray of bool
        The masks, by layer.
    checkpoint : path
        Run by the reference backend.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise GraphError(
            "comparing needs onnxruntime: pip install 'masktools[onnx]', or pass --no-verify"
        ) from error

    import runtime
    from masktools.onnx_reader import load_onnx, with_masks

    model = with_masks(load_onnx(net), kept)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    ours = runtime.load(checkpoint, backend="reference")
    rng = np.random.default_rng(0)
    sizes = {
        i.name: [n if isinstance(n, int) else 1 for n in i.shape] for i in session.get_inputs()
    }
    feeds = {name: rng.standard_normal(size, np.float32) for name, size in sizes.items()}
    expected = session.run(None, feeds)
    found = ours(feeds)
    outputs = found.values() if isinstance(found, dict) else [found]
    return max(_difference(a, b) for a, b in zip(outputs, expected, strict=True))


def _difference(found: NDArray[Any], expected: NDArray[Any]) -> float:
    if found.shape != expected.shape:
        raise GraphError(f"the checkpoint's output is {found.shape}, expected {expected.shape}")
    largest = float(np.abs(expected).max(initial=0.0))
    distance = float(np.abs(found - expected).max(initial=0.0))
    return distance / largest if largest else distance
