"""How far exported networks are from PyTorch and onnxruntime, at the networks' own sizes.

A row per network, density and policy: max|Δ| / max|y| of the checkpoint on the reference backend
against both, each running under the weights that are stored; and the checkpoint's size beside what
its values and indices need, and the seconds to export and to load it.

    python -m benchmarks.accuracy [--network NAME]... [--small]

Writes results/accuracy.json, or results/accuracy-small.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import zoo

import runtime
from benchmarks.record import environment, write
from masktools.checkpoint import Checkpoint
from masktools.checkpoint import write as save
from masktools.checkpoint.file import to_bytes
from masktools.export.exporting import prepare

SETTINGS = [
    (1.0, "weights", "error"),
    *((density, "weights", policy) for density in (0.5, 0.2, 0.1) for policy in ("keep", "drop")),
    *((density, "rows", "error") for density in (0.5, 0.1)),
]


def measure(name: str, size: int) -> list[dict[str, Any]]:
    module = zoo.make(name)
    model = zoo.to_onnx(module, size)
    x = zoo.images(name, size)
    rows = []
    for density, kept, policy in SETTINGS:
        masks = None
        if density < 1:
            masks = zoo.random_masks(module, density, refilled=kept == "rows")
        start = time.perf_counter()
        checkpoint, _ = prepare(model, masks=masks, residual=policy)
        seconds = time.perf_counter() - start
        torch, onnxruntime = zoo.deviations(module, model, masks, policy, x)
        written, needed = len(to_bytes(checkpoint)), bytes_needed(checkpoint)
        loading = load_seconds(checkpoint)
        rows.append(
            {
                "network": name,
                "size": size,
                "density": density,
                "kept": kept,
                "residual": policy,
                "torch": torch,
                "onnxruntime": onnxruntime,
                "export_seconds": seconds,
                "load_seconds": loading,
                "bytes": written,
                "bytes_over_needed": written / needed,
            }
        )
    return rows


def load_seconds(checkpoint: Checkpoint) -> float:
    """Return the least of three times to load the checkpoint from a file, ready to run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        save(path, checkpoint)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            runtime.load(path)
            times.append(time.perf_counter() - start)
    return min(times)


def bytes_needed(checkpoint: Checkpoint) -> int:
    """Return the bytes of all values and indices."""
    arrays = [*checkpoint.graph.constants.values()]
    for weight in checkpoint.sparse.values():
        arrays += weight.to_arrays().values()
    return sum(array.nbytes for array in arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", action="append", choices=list(zoo.ZOO))
    parser.add_argument("--small", action="store_true", help="the images that the tests use")
    arguments = parser.parse_args()
    where = environment(["masktools", "numpy", "torch", "onnx", "onnxruntime"])
    every = []
    for name in arguments.network or zoo.ZOO:
        _, small, size = zoo.ZOO[name]
        rows = measure(name, small if arguments.small else size)
        every += rows
        for row in rows:
            print(
                f"{name:16} {row['size']:3}² density {row['density']:3} of {row['kept']:7} "
                f"residual {row['residual']:5}  torch {row['torch']:.1e}  "
                f"onnxruntime {row['onnxruntime']:.1e}  {row['bytes'] / 1e6:7.2f} MB "
                f"(x{row['bytes_over_needed']:.3f})  export {row['export_seconds']:.1f} s  "
                f"load {row['load_seconds']:.2f} s",
                flush=True,
            )
    worst = max(max(row["torch"], row["onnxruntime"]) for row in every)
    print(f"largest max|Δ| / max|y|: {worst:.1e}")
    print(write("accuracy-small" if arguments.small else "accuracy", where, {"records": every}))


if __name__ == "__main__":
    main()
