"""Measure partitions: what they retain, and how long they take.

    python -m benchmarks.conversion                          # everything, on the committed ticket
    python -m benchmarks.conversion --tickets build/tickets/*.safetensors
    python -m benchmarks.conversion retained --heights 32        # a part

Parts: `retained` (trained tickets, against KaHyPar alone and a spectral partition with 200,000
swaps), `network` (the 53 convolutions of a ResNet-50), `linear` (a 4096 x 4096 layer), `growth`
(time against nonzeros and rows), `from-mask`. Prints tables, writes results/convert-<part>.json.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import masktools
from benchmarks.conversion.baselines import kahypar_alone, retained, spectral_swaps
from benchmarks.conversion.workloads import Layer, growth, random_layer, resnet50_shapes, ticket
from benchmarks.record import environment, show, write
from masktools.partition.row_groups import row_groups

TICKET = Path(__file__).parents[2] / "examples" / "digits" / "digitsnet_round07.safetensors"
PACKAGES = ["masktools", "numpy", "scipy", "kahypar", "mtkahypar"]
PARTITIONERS = ["kahypar", "mtkahypar", "spectral"]
Result = TypeVar("Result")


def timed(run: Callable[[], Result]) -> tuple[Result, float]:
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def compare(layer: Layer, height: int) -> dict[str, Any]:
    """Return what each way of grouping retains at the mask's own density, and its seconds."""
    mask, weight = layer
    saliency = np.abs(np.where(mask, weight, 0)).reshape(len(mask), -1)
    budget = int(np.count_nonzero(mask))
    ways: dict[str, Callable[[], np.ndarray]] = {
        "kahypar alone": lambda: kahypar_alone(saliency, height),
        "200,000 swaps": lambda: spectral_swaps(saliency, height, budget),
    }
    for name in [*PARTITIONERS, "best"]:
        ways[name] = lambda name=name: (
            row_groups(mask, weight, group_rows=height, partitioner=name).labels
        )
    found: dict[str, Any] = {"rows": len(mask), "columns": saliency.shape[1], "height": height}
    found["density"] = budget / mask.size
    for name, run in ways.items():
        labels, seconds = timed(run)
        found[name] = {"retained": retained(saliency, labels, budget), "seconds": seconds}
    return found


def part_retained(options: argparse.Namespace) -> dict[str, Any]:
    ways = ["kahypar alone", "200,000 swaps", *PARTITIONERS, "best"]
    records = []
    for path in options.tickets:
        for name, layer in ticket(path).items():
            for height in options.heights:
                if len(layer[0]) >= 2 * height:  # else there is one group, and nothing to find
                    records.append({"ticket": path.stem, "layer": name} | compare(layer, height))
                    show_retained(records[-1:], ways)
    show_retained(records, ways)
    summary = [
        ratios("kahypar over kahypar alone", records, "kahypar", "kahypar alone"),
        ratios("best over 200,000 swaps", records, "best", "200,000 swaps"),
    ]
    show("Retained, ratios", list(summary[0]), [list(line.values()) for line in summary])
    return {"records": records, "summary": summary}


def show_retained(records: Sequence[dict[str, Any]], ways: Sequence[str]) -> None:
    rows = [
        [
            f"{r['ticket']} {r['layer']} {r['rows']}x{r['columns']}",
            r["height"],
            r["density"],
            *(f"{r[way]['retained']:.4f} ({r[way]['seconds']:.1f})" for way in ways),
        ]
        for r in records
    ]
    show("Retained saliency (seconds)", ["layer", "height", "density", *ways], rows)


def ratios(title: str, records: Sequence[dict[str, Any]], ours: str, theirs: str) -> dict[str, Any]:
    ratio = [r[ours]["retained"] / r[theirs]["retained"] for r in records]
    return {
        "what": title,
        "layers": len(ratio),
        "least": min(ratio),
        "mean": float(np.mean(ratio)),
        "slowest, s": max(r[ours]["seconds"] for r in records),
    }


def part_network(options: argparse.Namespace) -> dict[str, Any]:
    shapes = resnet50_shapes()
    layers = {n: random_layer(s, 0.2, seed) for seed, (n, s) in enumerate(shapes.items())}
    masks = {name: mask for name, (mask, _) in layers.items()}
    weights = {name: weight for name, (_, weight) in layers.items()}
    records = []
    for name in options.partitioners:
        result, seconds = timed(
            lambda name=name: masktools.convert(
                masks, weights, method="regroup", group_rows=32, partitioner=name,
                include=list(masks), progress=False,
            )
        )  # fmt: skip
        assert all(line.row_groups for line in result.report), "a layer was left dense"
        records.append(
            {"partitioner": name, "layers": len(result.report), "seconds": seconds} | peak_memory()
        )
    show(
        "ResNet-50, density 0.2, height 32 (random masks)",
        list(records[0]),
        [list(record.values()) for record in records],
    )
    return {"records": records}


def peak_memory() -> dict[str, float]:
    """Return the peaks of this process and of its largest worker so far, in GB."""
    unit = 1e-6  # Linux counts KiB
    return {
        "main, GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "largest worker, GB": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit,
    }


def part_linear(options: argparse.Namespace) -> dict[str, Any]:
    mask, weight = random_layer((4096, 4096), 0.5)
    layout, seconds = timed(
        lambda: masktools.regroup(mask, weight, group_rows=32, partitioner="spectral")
    )
    record = {
        "layer": "4096x4096",
        "seconds": seconds,
        "retained": layout.retained(np.where(mask, weight, 0)),
        **peak_memory(),
    }
    show("Linear layer, density 0.5, height 32, spectral", list(record), [list(record.values())])
    return {"records": [record]}


def part_growth(options: argparse.Namespace) -> dict[str, Any]:
    records = []
    for grows, (mask, weight) in growth():
        record: dict[str, Any] = {"grows": grows, "rows": len(mask), "columns": mask.shape[1]}
        record["nonzeros"] = int(np.count_nonzero(mask))
        for name in PARTITIONERS:
            for refine in (False, True):
                _, seconds = timed(
                    lambda mask=mask, weight=weight, name=name, refine=refine: row_groups(
                        mask, weight, group_rows=32, partitioner=name, refine=refine
                    )
                )
                record[f"{name}{' + search' if refine else ''}, s"] = seconds
        records.append(record)
    show(
        "Seconds at height 32 (random masks)",
        list(records[0]),
        [list(record.values()) for record in records],
    )
    return {"records": records}


def part_from_mask(options: argparse.Namespace) -> dict[str, Any]:
    random = np.random.default_rng(0)
    patterns = random.random((64, 4608)) < 0.2
    masks = {
        "64 patterns": patterns[random.integers(0, 64, 2048)],
        "2048 patterns": random.random((2048, 4608)) < 0.2,
    }
    records = []
    for name, mask in masks.items():
        runs = [timed(lambda mask=mask: masktools.BlockLayout.from_mask(mask)) for _ in range(9)]
        assert np.array_equal(runs[0][0].to_mask(), mask)
        seconds = float(np.median([seconds for _, seconds in runs]))
        records.append({"rows that share": name, "blocks": len(runs[0][0].blocks), "s": seconds})
    show(
        "from_mask, 2048x4608 (median of 9)",
        list(records[0]),
        [list(record.values()) for record in records],
    )
    return {"records": records}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "retained": part_retained,
    "network": part_network,
    "linear": part_linear,
    "growth": part_growth,
    "from-mask": part_from_mask,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help="of the measurements; all by default")
    parser.add_argument("--tickets", type=Path, nargs="+", default=[TICKET])
    parser.add_argument("--heights", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--partitioners", nargs="+", default=["spectral", "kahypar"])
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    where = environment(PACKAGES)
    for name in options.parts or PARTS:
        print(write(f"convert-{name}", where, PARTS[name](options)))


if __name__ == "__main__":
    main()
