"""Whether the networks that people have pass through masktools, and are equal to PyTorch.

    python -m benchmarks.networks
    python -m benchmarks.networks --families timm --exporters dynamo --lines build/networks.jsonl
    python -m benchmarks.networks --networks unet yolo11n --exporters from_torch

Each network has random weights, four of five pruned in every second layer, and batch normalisation
calibrated on noise. It is written by one of PyTorch's exporters, exported with the masks by module
names, run by the reference and the CPU backend, and compared with PyTorch; where the difference is
large, with float64. Each runs in a process of its own. Writes results/networks.json, but not
of a choice by --networks. With --lines,
results are added to a file as they come, and those that it has are not made again.

Needs torchvision, timm, ultralytics and segmentation_models_pytorch, where their families are asked
for; see benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.networks.families import FAMILIES, load_torchvision
from benchmarks.record import environment, show, write

EXPORTERS = ("torchscript", "dynamo", "from_torch")
OUTCOMES = ("equal", "ill-conditioned", "refused", "wrong", "error", "exporter failed", "not built")
PACKAGES = ["torch", "torchvision", "timm", "ultralytics", "segmentation_models_pytorch", "onnx"]


def tried(family: str, name: str, exporter: str, seconds: int, gigabytes: int) -> dict[str, Any]:
    """Return how a network fares, tried in a process of its own."""
    read, write_to = os.pipe()
    start = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        resource.setrlimit(resource.RLIMIT_AS, (gigabytes << 30, gigabytes << 30))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        _child(family, name, exporter, write_to)
    os.close(write_to)
    with os.fdopen(read) as file:
        text = file.read()
    status = os.waitpid(pid, 0)[1]
    row: dict[str, Any] = {"family": family, "network": name, "exporter": exporter}
    row["seconds"] = round(time.perf_counter() - start, 1)
    if text:
        return row | json.loads(text)
    signalled = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    late = signalled in (signal.SIGXCPU, signal.SIGKILL)
    why = f"more than {seconds} s" if late else f"the process ended with status {status}"
    return row | {"outcome": "error", "message": why}


def _child(family: str, name: str, exporter: str, write_to: int) -> None:
    """Try a network, tell the parent, and end."""
    null = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        os.dup2(null, output)
    try:
        from benchmarks.networks.trial import Trial

        with tempfile.TemporaryDirectory() as folder:
            try:
                trial = Trial(family, name, Path(folder))
            except Exception as error:
                row = {"outcome": "not built", "message": f"{type(error).__name__}: {error}"[:300]}
            else:
                row = trial.run(exporter)
    except BaseException:
        row = {"outcome": "error", "message": traceback.format_exc()[-1500:]}
    os.write(write_to, json.dumps(row).encode())
    os._exit(0)


def _summary(rows: Sequence[dict[str, Any]]) -> None:
    counts = Counter((row["family"], row["exporter"], row["outcome"]) for row in rows)
    kinds = dict.fromkeys((family, exporter) for family, exporter, _ in counts)
    lines = [[*kind, *(counts[(*kind, outcome)] for outcome in OUTCOMES)] for kind in kinds]
    show("networks", ["family", "exporter", *OUTCOMES], lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", nargs="*", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--networks", nargs="*", help="these alone")
    parser.add_argument("--exporters", nargs="*", choices=EXPORTERS, default=list(EXPORTERS[:2]))
    parser.add_argument("--seconds", type=int, default=120, help="of processor time for each")
    parser.add_argument("--gigabytes", type=int, default=10, help="of memory for each")
    parser.add_argument("--lines", type=Path, help="a file of results, one a line")
    options = parser.parse_args()
    where = environment([*PACKAGES, "masktools", "numpy"])
    if options.families != ["handwritten"]:
        load_torchvision()
    importlib.import_module("benchmarks.networks.trial")  # Once, for all processes.
    rows: list[dict[str, Any]] = []
    if options.lines and options.lines.exists():
        rows = [json.loads(line) for line in options.lines.read_text().splitlines()]
    known = {(row["family"], row["network"], row["exporter"]) for row in rows}
    wanted = [
        (family, name, exporter)
        for family in options.families
        for name in FAMILIES[family].names
        for exporter in options.exporters
        if not options.networks or name in options.networks
    ]
    for case in wanted:
        if case in known:
            continue
        row = tried(*case, options.seconds, options.gigabytes)
        rows.append(row)
        message = row.get("message", "").strip().splitlines()[-1:]
        print(*case, row["seconds"], row["outcome"], *message, flush=True)
        if options.lines:
            with options.lines.open("a") as file:
                file.write(json.dumps(row) + "\n")
    _summary(rows)
    if not options.networks:
        print(write("networks", where, {"records": rows}))


if __name__ == "__main__":
    main()
