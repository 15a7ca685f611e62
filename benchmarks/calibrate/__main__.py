"""Accuracy of a digits ticket in blocks, calibrated instead of retrained.

    python -m benchmarks.calibrate
    python -m benchmarks.calibrate --ticket build/tickets/resnet18_round12.safetensors
    python -m benchmarks.calibrate --cost resnet50 vgg16

A row per height of the blocks, stored density and saliency: how many of the 360 test images are
right as converted; with means and variances matched; with the values refitted; with the columns
chosen too. Then a row per number of inputs, and a row per length of retraining with labels, at one
setting. Calibrated on the first training images of scikit-learn's digits, without their labels; no
test image is among them. Writes results/calibrate.json, or calibrate-<ticket>.json. Tickets are
made by examples/digits/make_ticket.py; of round 0, all masks are ones: the dense network.

With --cost, time and memory of calibrating large networks instead: results/calibrate-cost.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.calibrate.ticket import DIGITS, Ticket
from benchmarks.record import environment, show, write

TICKET = DIGITS / "digitsnet_round07.safetensors"
HEIGHTS, DENSITIES = (8, 32), (0.21, 0.1, 0.05, 0.03)
SALIENCIES = ("magnitude", "input", "error")
METHODS = ("statistics", "values", "refit")
IMAGES, COUNTS, EPOCHS, ONE = 240, (32, 64, 120, 240, 480, 1000), (1, 2, 4, 8, 16), (8, 0.05)


def setting(ticket: Ticket, height: int, density: float, saliency: str) -> dict[str, Any]:
    """Return how many test images are right at one setting, by each method."""
    result = ticket.converted(height, density, saliency, IMAGES)
    row: dict[str, Any] = {
        "height": height,
        "density": density,
        "saliency": saliency,
        "images": IMAGES,
        "as_converted": ticket.right(result),
    }
    for method in METHODS:
        fitted, row["seconds"] = ticket.calibrated(result, IMAGES, method)
        row[method] = ticket.right(fitted)
    return row


def by_count(ticket: Ticket) -> list[dict[str, Any]]:
    """Return how many test images are right, by the number of inputs."""
    curve = []
    result = ticket.converted(*ONE, "magnitude", IMAGES)
    for count in COUNTS:
        fitted, seconds = ticket.calibrated(result, count, "refit")
        curve.append({"images": count, "refit": ticket.right(fitted), "seconds": seconds})
    return curve


def by_epochs(ticket: Ticket) -> list[dict[str, Any]]:
    """Return how many test images are right after retraining, by its length."""
    result = ticket.converted(*ONE, "magnitude", IMAGES)
    found = [(epochs, *ticket.retrained(result, epochs)) for epochs in EPOCHS]
    return [{"epochs": n, "retrained": share, "seconds": seconds} for n, share, seconds in found]


def cost(network: str) -> dict[str, Any]:
    """Return time and memory of calibrating a network, in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.calibrate.cost", network]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ticket", type=Path, default=TICKET)
    parser.add_argument("--saliency", nargs="*", choices=SALIENCIES, default=SALIENCIES)
    parser.add_argument("--heights", nargs="*", type=int, default=HEIGHTS)
    parser.add_argument("--densities", nargs="*", type=float, default=DENSITIES)
    parser.add_argument("--table-only", action="store_true", help="no curves")
    parser.add_argument("--cost", nargs="+", metavar="NETWORK", help="time and memory instead")
    options = parser.parse_args()
    where = environment(["masktools", "numpy", "scipy", "torch"])
    if options.cost:
        rows = [cost(network) for network in options.cost]
        show("cost", list(rows[0]), [list(row.values()) for row in rows])
        print(write("calibrate-cost", where, {"records": rows}))
        return
    with tempfile.TemporaryDirectory() as folder:
        ticket = Ticket.read(options.ticket, Path(folder))
        own = ticket.source()
        print(f"{options.ticket.stem}: {own:.1%} right")
        rows = []
        for height in options.heights:
            for density in options.densities:
                rows += [setting(ticket, height, density, name) for name in options.saliency]
        show("settings", list(rows[0]), [list(row.values()) for row in rows])
        measured: dict[str, Any] = {"ticket": own, "records": rows}
        for name, measure in {"curve": by_count, "retraining": by_epochs}.items():
            if not options.table_only:
                measured[name] = lines = measure(ticket)
                show(f"{name}: {ONE}", list(lines[0]), [list(line.values()) for line in lines])
    name = "calibrate" if options.ticket == TICKET else f"calibrate-{options.ticket.stem}"
    print(write(name, where, measured))


if __name__ == "__main__":
    main()
