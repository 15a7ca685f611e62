"""Time the CUDA backend on the GPU at hand, beside cuDNN at its best; needs CuPy and PyTorch.

    python benchmarks/gpu.py --quick                          # a few minutes: does it pay here?
    python benchmarks/gpu.py --ticket vgg16_cifar_ticket.json # everything
    python benchmarks/gpu.py --parts layers --dtypes float16

In one call: builds, measures what the device can do at most (`ceilings`), tunes, checks every
result against the reference, and times single layers (`layers`), the layers of a real ticket
(`ticket`), the same at the sizes at which the paper profiles (`paper`), and whole networks
(`networks`). Each part is written to results/gpu.json when it is done, so that a run that is cut
short keeps what it has; a short table comes last.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gpu_cases as cases
import gpu_cudnn as cudnn
import torch
import zoo
from gpu_ceilings import ceilings
from record import RESULTS, environment, show

from runtime.cuda_backend import TUNE
from runtime.cuda_candidates import NEEDED
from runtime.cuda_driver import cupy_module, current_device
from runtime.cuda_launch import Device

ROOT = Path(__file__).parents[1]
PACKAGES = ["masktools", "numpy", "cupy-cuda12x", "cupy-cuda13x", "torch", "nvidia-cudnn-cu12",
            "nvidia-cudnn-cu13"]  # fmt: skip
LAYERS = [(256, 8), (256, 16), (256, 28), (512, 8), (512, 14), (512, 28)]
DENSITIES = (0.42, 0.26, 0.2, 0.1)
# Row groups that each type is fast with: tensor cores want them taller.
HEIGHTS = {"float32": (32,), "tf32": (64, 96), "float16": (64, 96)}
# Speed-ups over cuDNN in the same type that layers are to reach on an H200, by density.
GOALS = {
    "float32": {0.42: 2.2, 0.26: 3.5, 0.2: 4.5, 0.1: 8.0},
    "tf32": {0.42: 1.3, 0.26: 2.1, 0.2: 2.8, 0.1: 5.0},
    "float16": {0.42: 1.3, 0.26: 2.1, 0.2: 2.8, 0.1: 5.0},
}
NETWORKS = ("vgg16", "resnet18-cifar", "resnet18", "resnet50")
SIZES = (32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2)  # of VGG-16's layers, for the ticket
PAPER_SIZE = 127

Rows = list[dict[str, Any]]


def part_ceilings(device: Device, options: argparse.Namespace) -> Rows:
    return [{"unit": unit, "rate": rate} for unit, rate in ceilings(device).items()]


def part_layers(device: Device, options: argparse.Namespace) -> Rows:
    rows: Rows = []
    layers = LAYERS[1::3] if options.quick else LAYERS
    densities = (0.2,) if options.quick else DENSITIES
    for dtype in options.dtypes:
        for channels, size in layers:
            shape = (channels, channels, 3, 3)
            theirs = cudnn.layer_seconds(shape, size, options.batch, dtype)
            for density in densities:
                for height in HEIGHTS[dtype]:
                    weight = cases.grouped(shape, height, density)
                    ours = cases.layer_seconds(device, weight, size, options.batch, dtype)
                    row = {"layer": f"{channels}x{channels}x3x3 @{size}", "height": height}
                    rows.append(row | compared(dtype, density, ours, theirs, GOALS[dtype]))
    return rows


def part_ticket(device: Device, options: argparse.Namespace) -> Rows:
    """Layer by layer, as in the paper's Figure 7."""
    return ticket_layers(device, options, dict(enumerate(SIZES)), epilogue=True)


def part_paper(device: Device, options: argparse.Namespace) -> Rows:
    """Convolutions alone, on the maps of 127 x 127 at which the paper profiles."""
    return ticket_layers(device, options, dict.fromkeys(range(13), PAPER_SIZE), epilogue=False)


def ticket_layers(
    device: Device, options: argparse.Namespace, sizes: dict[int, int], epilogue: bool
) -> Rows:
    if options.ticket is None:
        raise ValueError("the ticket's file was not given: --ticket PATH")
    rows: Rows = []
    for dtype in options.dtypes:
        for number, (name, weight) in enumerate(cases.ticket(options.ticket).items()):
            shape, size = weight.layout.shape, sizes[number]
            theirs = cudnn.layer_seconds(shape, size, options.batch, dtype, epilogue)
            ours = cases.layer_seconds(device, weight, size, options.batch, dtype, epilogue)
            row = {"layer": f"{name} {'x'.join(map(str, shape))} @{size}"}
            rows.append(row | compared(dtype, weight.density, ours, theirs))
    return rows


def compared(
    dtype: str,
    density: float,
    ours: dict[str, Any],
    theirs: dict[str, Any],
    goals: dict[float, float] | None = None,
) -> dict[str, Any]:
    """Return one line: both times, their ratio, and the ratio to reach where there is one."""
    way, seconds = cudnn.best(theirs)
    return {
        "dtype": dtype,
        "density": density,
        "ours": ours,
        "cudnn": theirs,
        "cudnn way": way,
        "cudnn seconds": seconds,
        "speed-up": seconds / ours["seconds"],
        "goal": goals.get(density) if goals else None,
        "FLOP/s": 2 * ours["multiplications"] / ours["seconds"],
    }


def part_networks(device: Device, options: argparse.Namespace) -> Rows:
    rows: Rows = []
    networks = NETWORKS[:2] if options.quick else NETWORKS
    for network in networks:
        x = cases.images(network, options.batch)
        dense = cases.multiplications(
            cases.export(options.folder, network, None, f"{network}-dense"), 1
        )
        for dtype in options.dtypes:
            theirs = cudnn.network_seconds(zoo.make(network), torch.from_numpy(x), dtype)
            way, seconds = cudnn.best(theirs)
            for what, path in variants(network, dtype, options):
                ours = cases.network_seconds(device, path, x, dtype)
                limit = dense / cases.multiplications(path, 1)
                speedup = seconds / ours["seconds"]
                rows.append(
                    {
                        "network": network,
                        "size": x.shape[2],
                        "masks": what,
                        "dtype": dtype,
                        "ours": ours,
                        "cudnn": theirs,
                        "cudnn way": way,
                        "cudnn seconds": seconds,
                        "speed-up": speedup,
                        "limit": limit,
                        "share of limit": speedup / limit,
                        "saved": 1 - 1 / speedup,
                    }
                )
    return rows


def variants(network: str, dtype: str, options: argparse.Namespace) -> list[tuple[str, Path]]:
    """Return the masks that a network is timed under, and its files."""
    found = []
    for density in (0.2,) if options.quick else (1.0, 0.2, 0.1):
        if density == 1:
            found.append(("dense", cases.export(options.folder, network, None, f"{network}-dense")))
            continue
        height = HEIGHTS[dtype][0]
        name = f"{network}-height-{height}-{density:g}"
        masks = cases.masks_of(network, height, density)
        path = cases.export(options.folder, network, masks, name)
        found.append((f"{density:.0%} in groups of {height}", path))
    if network == "vgg16" and options.ticket is not None:
        module = zoo.make(network)
        layers = [n for n, p in module.named_modules() if isinstance(p, torch.nn.Conv2d)]
        masks = cases.cpu_networks.ticket_masks(options.ticket, layers)
        found.append(("ticket", cases.export(options.folder, network, masks, "vgg16-ticket")))
    return found


PARTS: dict[str, Callable[[Device, argparse.Namespace], Rows]] = {
    "ceilings": part_ceilings,
    "layers": part_layers,
    "networks": part_networks,
    "ticket": part_ticket,
    "paper": part_paper,
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    os.environ[TUNE] = "1"
    device = current_device(cupy_module())
    capability = device.hardware.capability
    options.dtypes = [dtype for dtype in options.dtypes if capability >= NEEDED[dtype]]
    where = environment(PACKAGES) | told(device)
    results: dict[str, Rows] = {}
    failed: dict[str, str] = {}
    for name in options.parts:
        print(f"{name} ...", flush=True)
        try:
            results[name] = PARTS[name](device, options)
        except Exception as error:
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {error}"
        write(options.output, where, results, failed)
    for name, rows in results.items():
        SHOWS[name](rows)
    show_summary(results, failed)
    return bool(failed)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="default: all that can be run")
    parser.add_argument("--dtypes", nargs="+", choices=NEEDED, default=list(NEEDED))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--ticket", type=Path, help="a ticket's blocks as JSON (README.md)")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu.json")
    parser.add_argument("--quick", action="store_true", help="two layers, two networks at 20 %%")
    options = parser.parse_args(arguments)
    if options.parts is None:
        with_ticket = options.ticket is not None and not options.quick
        options.parts = [p for p in PARTS if with_ticket or p not in ("ticket", "paper")]
    return options


def told(device: Device) -> dict[str, Any]:
    """Return what the device and its driver are."""
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        said = "unknown"
    return {
        "device": device.hardware._asdict(),
        "driver": said,
        "cuda driver": device.cupy.cuda.runtime.driverGetVersion(),
        "compiler": device.compiler,
        "cudnn": torch.backends.cudnn.version(),
    }


def write(
    path: Path, where: dict[str, Any], results: dict[str, Rows], failed: dict[str, str]
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    text = json.dumps({"environment": where, "failed": failed, **results}, indent=1)
    beside.write_text(text + "\n")
    beside.replace(path)


# --- tables --------------------------------------------------------------------------------------


def show_ceilings(rows: Rows) -> None:
    show(
        "What the device can do", ["unit", "rate"], [[r["unit"], f"{r['rate']:.3e}"] for r in rows]
    )


def show_layers(rows: Rows) -> None:
    columns = ["layer", "type", "height", "density", "ours, us", "cuDNN, us", "best way",
               "speed-up", "goal", "TFLOP/s", "kernel"]  # fmt: skip
    lines = [
        [
            r["layer"], r["dtype"], r.get("height", ""), f"{r['density']:.3f}",
            r["ours"]["seconds"] * 1e6, r["cudnn seconds"] * 1e6, r["cudnn way"],
            f"{r['speed-up']:.2f}", r["goal"] or "", r["FLOP/s"] / 1e12,
            r["ours"]["kernel"].removeprefix("convolution_"),
        ]
        for r in rows
    ]  # fmt: skip
    show("Layers", columns, lines)


def show_networks(rows: Rows) -> None:
    columns = ["network", "masks", "type", "ours, ms", "steps, ms", "host, us", "cuDNN, ms",
               "speed-up", "limit", "share", "saved"]  # fmt: skip
    lines = [
        [
            f"{r['network']} {r['size']}", r["masks"], r["dtype"], r["ours"]["seconds"] * 1e3,
            r["ours"]["steps"] * 1e3, r["ours"]["host"] * 1e6, r["cudnn seconds"] * 1e3,
            f"{r['speed-up']:.2f}", f"{r['limit']:.2f}", f"{r['share of limit']:.2f}",
            f"{r['saved']:.1%}",
        ]
        for r in rows
    ]  # fmt: skip
    show("Whole networks", columns, lines)


SHOWS = {
    "ceilings": show_ceilings,
    "layers": show_layers,
    "networks": show_networks,
    "ticket": show_layers,
    "paper": show_layers,
}


def show_summary(results: dict[str, Rows], failed: dict[str, str]) -> None:
    lines: list[list[object]] = []
    measured = results.get("layers", [])
    for dtype, density in sorted({(r["dtype"], r["density"]) for r in measured}):
        best: dict[str, float] = {}  # Of each layer, over the heights of its row groups.
        for r in measured:
            if (r["dtype"], r["density"]) == (dtype, density):
                best[r["layer"]] = max(best.get(r["layer"], 0.0), r["speed-up"])
        goal, least, most = GOALS[dtype][density], min(best.values()), max(best.values())
        what = f"layers, {dtype}, density {density}: over cuDNN"
        lines.append([what, f"{least:.2f} to {most:.2f}", goal, least >= goal])
    for r in results.get("networks", []):
        what = f"{r['network']} {r['size']}, {r['dtype']}, {r['masks']}: saved"
        lines.append([what, f"{r['saved']:.1%} ({r['share of limit']:.2f} of the limit)", "", ""])
    lines += [[f"{name} failed", error, "", ""] for name, error in failed.items()]
    show("Summary", ["what", "measured", "goal", "reached"], lines)


if __name__ == "__main__":
    sys.exit(main())
