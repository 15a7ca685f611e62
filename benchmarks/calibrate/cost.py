"""Time and memory of one calibration, in a process of its own; prints a line of JSON.

python -m benchmarks.calibrate.cost resnet50
"""

from __future__ import annotations

import json
import resource
import sys
import time

import zoo

import masktools
import runtime
from benchmarks.cpu.networks import SIZES, Variant, images, make_masks
from masktools import BlockLayout
from masktools.network.onnx.reader import read_onnx

IMAGES, HEIGHT, DENSITY = 256, 8, 0.2


def main() -> None:
    network = sys.argv[1]
    variant = Variant(network, f"height-{HEIGHT}", DENSITY)
    module = zoo.make(network)
    graph = read_onnx(zoo.to_onnx(module, SIZES[network]))
    masks = make_masks(module, variant, None) or {}
    layouts = {name: BlockLayout.from_mask(mask) for name, mask in masks.items()}
    inputs = images(variant, IMAGES)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, busy = time.perf_counter(), time.process_time()
    found = masktools.calibrate(graph, layouts, inputs, run=runtime.prepare, progress=False)
    rows = found.report.layers
    measured = {
        "network": network,
        "image_size": SIZES[network],
        "images": IMAGES,
        "height": HEIGHT,
        "density": DENSITY,
        "layers": len(rows),
        "lower_error": sum(row.error_after < row.error_before for row in rows),
        "seconds": time.perf_counter() - start,
        "processor_seconds": time.process_time() - busy,
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "held_before_bytes": 1024 * held,
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
