"""Time the CUDA backend on the GPU at hand, beside cuDNN at its best; needs CuPy and PyTorch.

    python -m benchmarks.gpu --quick                           # a few minutes: does it pay here?
    python -m benchmarks.gpu --ticket vgg16_cifar_ticket.json  # everything
    python -m benchmarks.gpu --parts layers --dtypes float16 --minutes 5

In one call: measures what the device can do at most (`ceilings`), runs the tests that need a device
(`tests`), some of them under compute-sanitizer (`sanitizer`), then builds, tunes, checks every
result against the reference, and times single layers (`layers`), whole networks (`networks`), the
layers of a real ticket (`ticket`), and the same at the sizes at which the paper profiles (`paper`).
What matters most comes first in each part; `--minutes` ends a part when its share of the time is
over. Every line is in results/gpu.json as soon as it is measured; short tables come last.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
import zoo

from benchmarks.gpu import cases, cudnn
from benchmarks.gpu.ceilings import ceilings
from benchmarks.gpu.report import DENSITIES, GOALS, show_all
from benchmarks.record import RESULTS, environment
from runtime.cuda.backend import TUNE
from runtime.cuda.candidates import NEEDED
from runtime.cuda.device import Device
from runtime.cuda.driver import cupy_module, current_device

ROOT = Path(__file__).parents[2]
PACKAGES = ["masktools", "numpy", "cupy-cuda12x", "cupy-cuda13x", "torch", "nvidia-cudnn-cu12",
            "nvidia-cudnn-cu13"]  # fmt: skip
LAYERS = [(256, 8), (512, 8), (256, 16), (512, 14), (256, 28), (512, 28)]
# Row groups that each type is fast with: tensor cores want them taller.
HEIGHTS = {"float32": (32,), "tf32": (64, 96), "float16": (64, 96)}
NETWORKS = ("vgg16", "resnet18-cifar", "resnet18", "resnet50")
SIZES = (32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2)  # of VGG-16's layers, for the ticket
PAPER_SIZE = 127
SANITIZERS = ("memcheck", "racecheck", "synccheck")
# Of the tests of the steps: few that between them use every kind of kernel.
SANITIZED = "everything_around or residual_and or products_of or pool or softmax or turned"

Row = dict[str, Any]
Rows = Iterator[Row]


class Run(NamedTuple):
    """The arguments of a part of the benchmark."""

    device: Device
    options: argparse.Namespace
    deadline: float  # of time.monotonic

    def left(self) -> float:
        return max(1.0, self.deadline - time.monotonic())


def part_ceilings(run: Run) -> Rows:
    for unit, rate in ceilings(run.device).items():
        yield {"unit": unit, "rate": rate}


def part_tests(run: Run) -> Rows:
    yield tested(
        run,
        "pytest -m gpu",
        [],
        "tests/runtime/cuda/test_gpu.py",
        "tests/runtime/cuda/test_steps.py",
    )


def part_sanitizer(run: Run) -> Rows:
    for tool in SANITIZERS:
        wrapped = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "86"]
        yield tested(run, tool, wrapped, "tests/runtime/cuda/test_steps.py", "-k", SANITIZED)


def tested(run: Run, name: str, wrapped: Sequence[str], *chosen: str) -> Row:
    """Run tests that need a device in a process of their own; tell how they ended."""
    # What another machine's packages warn of is not what is tested here.
    pytest = [sys.executable, "-m", "pytest", "-q", "-W", "default", "-m", "gpu"]
    command = [*wrapped, *pytest, *chosen]
    begin = time.perf_counter()
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=run.left(), check=False
        )
        status, said = done.returncode, done.stdout + done.stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        status, said = -1, str(error)
    counted = re.findall(r"^.*\d+ (?:passed|failed|error).*$|^=+ ERROR SUMMARY.*$", said, re.M)
    return {
        "what": name,
        "status": status,
        "outcome": "; ".join(counted) or said[-200:],
        "seconds": time.perf_counter() - begin,
        "said": "" if status == 0 else said[-20000:],
    }


def part_layers(run: Run) -> Rows:
    layers = LAYERS[2:4] if run.options.quick else LAYERS
    densities = DENSITIES[:1] if run.options.quick else DENSITIES
    for density, (channels, size), dtype in product(densities, layers, run.options.dtypes):
        shape = (channels, channels, 3, 3)
        theirs = cudnn_layer(shape, size, run.options.batch, dtype)
        for height in HEIGHTS[dtype]:
            weight = cases.grouped(shape, height, density)
            ours = cases.layer_seconds(run.device, weight, size, run.options.batch, dtype)
            row = {"layer": f"{channels}x{channels}x3x3 @{size}", "height": height}
            yield row | compared(dtype, density, ours, theirs, GOALS[dtype].get(density))


def part_ticket(run: Run) -> Rows:
    """Layer by layer, as in the paper's Figure 7."""
    return ticket_layers(run, SIZES, epilogue=True)


def part_paper(run: Run) -> Rows:
    """Convolutions alone, on the maps of 127 x 127 at which the paper profiles."""
    return ticket_layers(run, (PAPER_SIZE,) * len(SIZES), epilogue=False)


def ticket_layers(run: Run, sizes: Sequence[int], epilogue: bool) -> Rows:
    options = run.options
    if options.ticket is None:
        raise ValueError("the ticket's file was not given: --ticket PATH")
    layers = list(zip(cases.ticket(options.ticket).items(), sizes, strict=True))
    for dtype, ((name, weight), size) in product(options.dtypes, layers):
        shape = weight.layout.shape
        theirs = cudnn_layer(shape, size, options.batch, dtype, epilogue)
        ours = cases.layer_seconds(run.device, weight, size, options.batch, dtype, epilogue)
        row = {"layer": f"{name} {'x'.join(map(str, shape))} @{size}"}
        yield row | compared(dtype, weight.density, ours, theirs, None)


cudnn_layer = cache(cudnn.layer_seconds)


@cache
def cudnn_network(network: str, batch: int, dtype: str) -> dict[str, Any]:
    x = torch.from_numpy(cases.images(network, batch))
    return cudnn.network_seconds(zoo.make(network), x, dtype)


def compared(
    dtype: str, density: float, ours: Row, theirs: dict[str, Any], goal: float | None
) -> Row:
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
        "goal": goal,
        "FLOP/s": 2 * ours["multiplications"] / ours["seconds"],
    }


def part_networks(run: Run) -> Rows:
    options = run.options
    networks = NETWORKS[:2] if options.quick else NETWORKS
    masks = ("20%",) if options.quick else ("20%", "ticket", "10%", "dense")
    for kept, network, dtype in product(masks, networks, options.dtypes):
        if kept == "ticket" and (network != "vgg16" or options.ticket is None):
            continue
        what, path = masked(network, kept, HEIGHTS[dtype][0], options)
        dense = cases.multiplications(masked(network, "dense", 0, options)[1], 1)
        x = cases.images(network, options.batch)
        ours = cases.network_seconds(run.device, path, x, dtype)
        theirs = cudnn_network(network, options.batch, dtype)
        way, seconds = cudnn.best(theirs)
        limit, speedup = dense / cases.multiplications(path, 1), seconds / ours["seconds"]
        yield {
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


def masked(network: str, kept: str, height: int, options: argparse.Namespace) -> tuple[str, Path]:
    """Return what a network's masks are, in words, and its file."""
    if kept == "dense":
        return kept, cases.export(options.folder, network, None, f"{network}-dense")
    if kept == "ticket":
        masks, what = cases.ticket_masks(network, options.ticket), kept
    else:
        masks = cases.masks_of(network, height, int(kept.rstrip("%")) / 100)
        what = f"{kept} in groups of {height}"
    name = f"{network}-{what}".replace(" ", "-").replace("%", "")
    return what, cases.export(options.folder, network, masks, name)


class Part(NamedTuple):
    """A part, and its share of the time beside the others'."""

    rows: Callable[[Run], Rows]
    share: int


PARTS = {
    "ceilings": Part(part_ceilings, 1),
    "tests": Part(part_tests, 4),
    "sanitizer": Part(part_sanitizer, 3),
    "layers": Part(part_layers, 6),
    "networks": Part(part_networks, 6),
    "ticket": Part(part_ticket, 2),
    "paper": Part(part_paper, 2),
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    os.environ[TUNE] = "0" if options.untuned else "1"
    device = current_device(cupy_module())
    capability = device.hardware.capability
    options.dtypes = [dtype for dtype in options.dtypes if capability >= NEEDED[dtype]]
    where = environment(PACKAGES) | told(device)
    if options.commit:
        where["commit"] = options.commit
    end = time.monotonic() + 60 * options.minutes
    results: dict[str, list[Row]] = {}
    failed: dict[str, str] = {}
    for number, name in enumerate(options.parts):
        print(f"{name} ...", flush=True)
        shares = [PARTS[part].share for part in options.parts[number:]]
        now = time.monotonic()
        run = Run(device, options, now + max(0.0, end - now) * shares[0] / sum(shares))
        measured = results.setdefault(name, [])
        try:
            for row in PARTS[name].rows(run):
                measured.append(row)
                write(options.output, where, results, failed)
                if time.monotonic() > run.deadline:
                    failed[name] = f"out of time after {len(measured)} lines"
                    break
        except Exception as error:
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {error}"
        write(options.output, where, results, failed)
    show_all(results, failed)
    return bool(failed) or any(row["status"] for row in results.get("tests", []))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="default: all that can be run")
    parser.add_argument("--dtypes", nargs="+", choices=NEEDED, default=list(NEEDED))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--ticket", type=Path, help="a ticket's blocks as JSON (README.md)")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "gpu")
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu.json")
    parser.add_argument("--minutes", type=float, default=60.0, help="to end in, about")
    parser.add_argument("--commit", help="what is measured, where git does not tell")
    parser.add_argument("--untuned", action="store_true", help="take kernels by estimate")
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
    path: Path, where: Mapping[str, Any], results: Mapping[str, list[Row]], failed: dict[str, str]
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    text = json.dumps({"environment": where, "failed": failed, **results}, indent=1)
    beside.write_text(text + "\n")
    beside.replace(path)


if __name__ == "__main__":
    sys.exit(main())
