"""The main job on real input: an unstructured ticket becomes a network that runs from blocks.

    python examples/digits/demo.py [OUT]

Needs no training framework. Converts the ticket with the commands a user would type, exports it in
several forms, runs each of them on the 360 test images, and draws the large masks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file

import masktools
import runtime
from masktools.checks import BoolArray
from masktools.conversion.result import load_layouts
from masktools.layout import BlockLayout

HERE = Path(os.path.relpath(Path(__file__).parent))
TICKET = HERE / "digitsnet_round07.safetensors"
NETWORK = HERE / "digitsnet.onnx"
IMAGES = HERE / "digitsnet_calibration_images.npy"
RETRAINED = HERE / "digitsnet_regrouped.safetensors"
LARGE = 256 * 1152
REPEATS = 15

console = Console(soft_wrap=True)


@dataclass
class Row:
    """A network of the closing table."""

    title: str
    checkpoint: Path
    accuracy: float = 0.0
    seconds: float = 0.0
    stored: int = 0
    multiplications: int = 0


def command(*arguments: str | Path) -> None:
    """Run and show a command of masktools."""
    console.print(f"\n[bold]$ masktools {' '.join(str(a) for a in arguments)}[/bold]")
    subprocess.run([sys.executable, "-m", "masktools", *map(str, arguments)], check=True)


def forms(out: Path) -> list[Row]:
    """Export the ticket dense, exactly as pruned, as its blocks alone, and these calibrated."""
    masks = masktools.load_masks(TICKET)
    everything = {name: np.ones_like(mask) for name, mask in masks.items()}
    dense = out / "dense.safetensors"
    masktools.export.from_onnx(NETWORK, dense, masks=everything)
    exact, blocks = out / "exact.safetensors", out / "blocks.safetensors"
    command("export", NETWORK, exact, "--masks", TICKET, "--residual", "keep")
    command("export", NETWORK, blocks, "--layouts", out / "result", "--residual", "drop")
    calibrated, kept = out / "calibrated.safetensors", ("--residual", "drop", "--calibrate", IMAGES)
    command("export", NETWORK, calibrated, "--layouts", out / "result", *kept)
    return [
        Row("dense", dense),
        Row("ticket, unchanged", exact),
        Row("its blocks alone", blocks),
        Row("its blocks, calibrated", calibrated),
        Row("its blocks, retrained", RETRAINED),
    ]


def measure(rows: list[Row], images: np.ndarray, labels: np.ndarray) -> None:
    """Fill in accuracy, and seconds for all images: medians of interleaved runs."""
    models = [runtime.load(row.checkpoint) for row in rows]
    for row, model in zip(rows, models, strict=True):
        row.accuracy = float((model(images).argmax(axis=1) == labels).mean())
        steps = model.profile(images[:1])
        row.multiplications = sum(step.multiplications for step in steps)
        row.stored = row.checkpoint.stat().st_size
    times = np.empty((REPEATS, len(models)))
    for repeat in range(REPEATS):
        for number, model in enumerate(models):
            start = time.perf_counter()
            model(images)
            times[repeat, number] = time.perf_counter() - start
    for row, seconds in zip(rows, np.median(times, axis=0), strict=True):
        row.seconds = float(seconds)


def results(rows: list[Row], title: str) -> Table:
    """Return a table of accuracy, size and speed, each beside the dense network and the limit."""
    dense = rows[0]
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("network", overflow="fold")
    for name in ("right", "file", "products", "time", "speed-up", "limit"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.title,
            f"{row.accuracy:.1%}",
            f"{row.stored / 1e6:.2f} MB",
            f"{row.multiplications / dense.multiplications:.1%}",
            f"{row.seconds * 1e3:.1f} ms",
            f"{dense.seconds / row.seconds:.2f}x",
            f"{dense.multiplications / row.multiplications:.2f}x",
        )
    return table


def report(rows: list[Row], images: int) -> None:
    """Print the results, and what their words mean."""
    backend = runtime.load(rows[0].checkpoint).backend.name
    console.print()
    console.print(results(rows, f"{images} test images, backend '{backend}'"))
    trained = json.loads((HERE / "digitsnet.json").read_text())[0]["accuracy"]
    console.print(f"Trained dense, before pruning: {trained:.1%} right.")
    console.print("Calibrated: on 240 training images, without labels and without training.")
    console.print("Products: multiplications inside the image; limit: the speed-up they allow.")
    if backend == "reference":
        console.print("This backend is the oracle, obvious rather than fast.")


def by_blocks(layout: BlockLayout) -> np.ndarray:
    """Return the rows of a layer, those of one block next to each other."""
    first = np.full(layout.rows, len(layout.blocks))
    for number, block in reversed(list(enumerate(layout.blocks))):
        first[block.rows] = number
    return np.argsort(first, kind="stable")


def draw(path: Path, name: str, before: BoolArray, layout: BlockLayout) -> None:
    """Draw a mask before and after, the rows in the blocks' order in both."""
    from matplotlib import pyplot

    order = by_blocks(layout)
    pictures = {
        "as pruned": before.reshape(layout.rows, -1),
        "regrouped": layout.to_mask().reshape(layout.rows, -1),
    }
    figure, axes = pyplot.subplots(2, 1, figsize=(11, 6), layout="constrained", sharex=True)
    for axis, (title, mask) in zip(axes, pictures.items(), strict=True):
        axis.imshow(mask[order], cmap="Greys", aspect="auto", interpolation="antialiased")
        axis.set_title(f"{name}, {title}: density {mask.mean():.3f}")
        axis.set_ylabel("rows, by row group")
    axes[-1].set_xlabel("columns (input channel, y, x)")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def main() -> None:
    mpl.use("Agg")
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "build/demo")
    out.mkdir(parents=True, exist_ok=True)
    command("inspect", TICKET)
    command("convert", TICKET, out / "result", "--method", "regroup", "--graph", NETWORK)
    rows = forms(out)
    test = load_file(HERE / "digitsnet_test_images.safetensors")
    images = test["images"].astype(np.float32) / 16
    measure(rows, images, test["labels"])
    report(rows, len(images))
    masks, layouts = masktools.load_masks(TICKET), load_layouts(out / "result")
    for name, layout in layouts.items():
        if layout.rows * layout.columns >= LARGE:
            draw(out / f"{name}.png", name, masks[name], layout)
    console.print(f"pictures and checkpoints: {out}")


if __name__ == "__main__":
    main()
