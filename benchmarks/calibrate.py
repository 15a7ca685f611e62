"""Accuracy of the digits ticket in blocks, calibrated instead of retrained.

    python -m benchmarks.calibrate

A row per height of the blocks and stored density: how many of the 360 test images are right as
converted, with means and variances matched, and with the values refitted, by each saliency; and a
row per number of inputs at one setting. Calibrated on the first training images of scikit-learn's
digits, without their labels; no test image is among them. Writes results/calibrate.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

import masktools
import runtime
from benchmarks.record import environment, show, write
from masktools.calibration.columns import column_norms
from masktools.conversion.convert import converted_layers
from masktools.conversion.result import Conversion
from masktools.export.exporting import prepare
from masktools.network.graph import Graph
from masktools.network.onnx.reader import read_onnx

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
sys.path.insert(0, str(DIGITS))

from training import digits  # noqa: E402 - beside the example

TICKET, NETWORK = DIGITS / "digitsnet_round07.safetensors", DIGITS / "digitsnet.onnx"
HEIGHTS, DENSITIES = (8, 32), (0.21, 0.1, 0.05, 0.03)
SALIENCIES = ("magnitude", "input", "error")
IMAGES, COUNTS, CURVE = 240, (32, 64, 120, 240, 480, 1000), (8, 0.1)

Images = NDArray[np.float32]


class Ticket:
    """The ticket, its network, and the images that it is calibrated and tested on."""

    def __init__(self) -> None:
        self.masks, self.weights = masktools.load_masks(TICKET), masktools.load_weights(TICKET)
        self.graph: Graph = read_onnx(NETWORK)
        self.images: Images = digits(8)[0].images.numpy()
        test = load_file(DIGITS / "digitsnet_test_images.safetensors")
        self.test, self.labels = test["images"].astype(np.float32) / 16, test["labels"]

    def converted(self, height: int, density: float, saliency: str, count: int) -> Conversion:
        norms = None
        if saliency != "magnitude":
            layers = converted_layers(self.masks, self.graph)
            images = self.images[:count]
            norms = column_norms(self.graph, layers, saliency, images, run=runtime.prepare)
        return masktools.convert(
            self.masks, self.weights, method="regroup", density=density, group_rows=height,
            graph=self.graph, saliency=saliency, norms=norms, progress=False,
        )  # fmt: skip

    def right(self, result: Conversion, values: dict[str, Any] | None = None) -> float:
        checkpoint, _ = prepare(NETWORK, layouts=result.layouts, residual="drop", values=values)
        return float((runtime.prepare(checkpoint)(self.test).argmax(axis=1) == self.labels).mean())

    def calibrated(self, result: Conversion, count: int, method: str) -> tuple[float, float]:
        """Return the share that is right, and the seconds that calibration took."""
        start = time.perf_counter()
        found = masktools.calibrate(
            self.graph, result, self.images[:count], run=runtime.prepare, method=method,
            progress=False,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        return self.right(result, dict(found.values)), seconds


def setting(ticket: Ticket, height: int, density: float, saliency: str) -> dict[str, Any]:
    result = ticket.converted(height, density, saliency, IMAGES)
    statistics, _ = ticket.calibrated(result, IMAGES, "statistics")
    refit, seconds = ticket.calibrated(result, IMAGES, "refit")
    return {
        "height": height,
        "density": density,
        "saliency": saliency,
        "images": IMAGES,
        "as_converted": ticket.right(result),
        "statistics": statistics,
        "refit": refit,
        "seconds": seconds,
    }


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    where = environment(["masktools", "numpy", "scipy"])
    ticket = Ticket()
    rows = [setting(ticket, h, d, s) for h in HEIGHTS for d in DENSITIES for s in SALIENCIES]
    show("settings", list(rows[0]), [list(row.values()) for row in rows])
    curve = []
    for count in COUNTS:
        result = ticket.converted(*CURVE, "magnitude", count)
        refit, seconds = ticket.calibrated(result, count, "refit")
        curve.append({"images": count, "refit": refit, "seconds": seconds})
    show(f"height, density: {CURVE}", list(curve[0]), [list(row.values()) for row in curve])
    whole, _ = prepare(NETWORK, masks=ticket.masks, residual="keep")
    own = float((runtime.prepare(whole)(ticket.test).argmax(axis=1) == ticket.labels).mean())
    print(write("calibrate", where, {"ticket": own, "records": rows, "curve": curve}))


if __name__ == "__main__":
    main()
