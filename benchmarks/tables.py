"""Write the tables of results in the documents anew, from the records.

    python -m benchmarks.tables            # rewrites what stands between the marks
    python -m benchmarks.tables --check    # only says which documents are stale

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = ("README.md", "docs/cpu.md", "docs/results.md")

MARKED = re.compile(r"(<!-- table: ([a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
NETWORKS = {
    "vgg16": "VGG-16",
    "resnet18-cifar": "ResNet-18",
    "resnet50": "ResNet-50",
    "mobilenet-v1": "MobileNet-v1",
    "yolov8n": "YOLOv8n, 640²",
    "yolo11n": "YOLO11n, 640²",
    "unet": "U-Net, 256²",
}
LARGEST_BATCH = {"vgg16": 64, "resnet18-cifar": 64, "resnet50": 8, "mobilenet-v1": 8}
# What is calibrated, by the name of its record.
CALIBRATED = {
    "calibrate": "digits ticket",
    "calibrate-resnet18_round06": "ResNet-18 ticket, round 6",
    "calibrate-resnet18_round12": "ResNet-18 ticket, round 12",
    "calibrate-mobilenet_round05": "MobileNet ticket",
    "calibrate-digitsnet_round00": "dense network, no ticket",
}
# Structures of a table of networks, with the density of its weights where there is one to choose.
STRUCTURES = (
    ("dense", None),
    ("unstructured", 0.2),
    ("unstructured", 0.1),
    ("height-16", 0.2),
    ("height-16", 0.1),
    ("ticket", None),
)
# Network, batch, structure, density: won, and lost.
IN_SHORT = (
    ("vgg16", 64, "height-16", 0.2),
    ("vgg16", 64, "unstructured", 0.2),
    ("resnet18-cifar", 64, "unstructured", 0.2),
    ("resnet50", 8, "height-16", 0.2),
    ("resnet50", 8, "dense", None),
    ("mobilenet-v1", 8, "height-16", 0.2),
)
THREADS = 2

Row = dict[str, Any]


def records(name: str) -> list[Row]:
    """Return the rows of a record."""
    found: list[Row] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["records"]
    return found


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def milliseconds(row: Row) -> str:
    """Return a time with three digits."""
    return f"{row['milliseconds']:#.3g}".rstrip(".")


def structure_of(row: Row) -> str:
    """Return in words how a network is pruned."""
    kind = str(row["structure"])
    if kind == "dense":
        return "dense"
    if kind == "ticket":
        return "the paper's ticket"
    words = "unstructured" if kind == "unstructured" else f"groups of {kind[7:]} rows"
    return f"{words}, {100 * (1 - row['density']):.0f} %"


def measured(network: str, batch: int, structure: str, density: float | None) -> Row | None:
    """Return our row of a comparison with the other engines, on two threads."""
    found = [
        row
        for row in records(f"cpu-{network}-batch{batch}")
        if (row["engine"], row["threads"]) == ("masktools", THREADS)
        and (row["structure"], row["density"]) == (structure, density)
        and "over_fastest_dense_peer" in row
    ]
    return found[0] if found else None


def networks_in_short() -> list[str]:
    """Return six networks: how they are pruned, how fast they are, beside which engines."""
    rows = []
    for wanted in IN_SHORT:
        row = measured(*wanted)
        assert row is not None, wanted
        rows.append(
            [
                f"{NETWORKS[row['network']]}, batch {row['batch']}, {structure_of(row)}",
                f"{milliseconds(row)} ms",
                f"{row['over_deepsparse']:.2f} x",
                f"{row['over_fastest_dense_peer']:.2f} x",
                f"{row['limit']:.2f} x",
            ]
        )
    columns = ("network", "masktools", "DeepSparse 1.8", "fastest dense engine", "limit")
    return markdown(columns, rows)


def cpu_networks() -> list[str]:
    """Return all networks at their largest batch, then at batch 1."""
    rows = []
    for network, batch in [*LARGEST_BATCH.items(), *((name, 1) for name in NETWORKS)]:
        for structure, density in STRUCTURES:
            row = measured(network, batch, structure, density)
            if row is not None:
                rows.append(
                    [
                        NETWORKS[network],
                        str(batch),
                        structure_of(row),
                        milliseconds(row),
                        f"{row['over_deepsparse']:.2f}",
                        f"{row['over_fastest_dense_peer']:.2f}",
                        f"{row['limit']:.2f}",
                        f"{row['share_of_peak']:.2f}",
                    ]
                )
    ours = ("masktools, ms", "over DeepSparse", "over the fastest dense engine")
    return markdown(("network", "batch", "structure", *ours, "limit", "share of peak"), rows)


def cpu_bfloat16() -> list[str]:
    """Return bfloat16 beside float32, timed in the same rounds."""
    deviations = {
        (row["network"], row["structure"], row["density"]): row["deviation"]
        for row in records("cpu-bfloat16")
        if "deviation" in row
    }
    rows = []
    for network, batch in LARGEST_BATCH.items():
        timed = [
            row
            for row in records(f"cpu-{network}-batch{batch}")
            if row["threads"] == THREADS and "over_fastest_dense_peer" not in row
        ]
        by_engine = {(row["engine"], row["structure"], row["density"]): row for row in timed}
        for structure, density in STRUCTURES:
            wide, half = (
                by_engine.get((engine, structure, density))
                for engine in ("masktools", "masktools-bfloat16")
            )
            if wide is None or half is None:
                continue
            rounds = zip(wide["milliseconds_by_round"], half["milliseconds_by_round"], strict=True)
            deviation = deviations.get((network, structure, density), half["deviation"])
            rows.append(
                [
                    f"{NETWORKS[network]}, batch {batch}, {structure_of(half)}",
                    milliseconds(wide),
                    milliseconds(half),
                    f"{median(w / h for w, h in rounds):.2f}",
                    f"{100 * deviation:.1f} %",
                ]
            )
    columns = ("network", "float32, ms", "bfloat16, ms", "ratio", "furthest from the reference")
    return markdown(columns, rows)


def cpu_memory() -> list[str]:
    """Return the memory and the start of a fresh process."""
    rows = [
        [
            f"{NETWORKS[row['network']]}, batch {row['batch']}, {structure_of(row)}",
            f"{row['weight_bytes'] / 1e6:.1f}",
            f"{row['used_bytes'] / 1e6:.0f}",
            f"{row['load_seconds']:.2f}",
            f"{row['first_output_seconds']:.2f}",
        ]
        for row in records("cpu-memory")
        if row["threads"] == THREADS
    ]
    columns = ("network", "weights, MB", "used, MB", "loaded after, s", "first output after, s")
    return markdown(columns, rows)


def retained() -> list[Row]:
    """Return all rows of the records of what partitions retain."""
    names = sorted(path.stem for path in RESULTS.glob("convert-retained*.json"))
    return [row for name in names for row in records(name)]


def partition_gains() -> list[str]:
    """Return what the partitioners retain over simpler ways, over all layers and heights."""
    rows = []
    for title, ours, theirs in (
        ("`kahypar`, refined, over KaHyPar alone", "kahypar", "kahypar alone"),
        ("`best` over a spectral partition with 200,000 random swaps", "best", "200,000 swaps"),
    ):
        ratios = [row[ours]["retained"] / row[theirs]["retained"] for row in retained()]
        rows.append([title, str(len(ratios)), f"{min(ratios):.3f}", f"{fmean(ratios):.3f}"])
    return markdown(("retained saliency", "pairs", "least", "mean"), rows)


def partition_times() -> list[str]:
    """Return how long partitions of layers and networks take."""
    large = [row for row in retained() if (row["rows"], row["columns"]) == (512, 4608)]
    rows = []
    for ticket in sorted({row["ticket"] for row in large}):
        of_ticket = [row for row in large if row["ticket"] == ticket]
        span = {
            way: f"{min(seconds):.1f} to {max(seconds):.1f} s"
            for way in ("best", "kahypar alone", "200,000 swaps")
            if (seconds := [row[way]["seconds"] for row in of_ticket])
        }
        rows.append([f"512 x 4608 layers of `{ticket}`, each: `best`", span["best"]])
        rows.append(["the same, KaHyPar alone", span["kahypar alone"]])
        rows.append(["the same, spectral with 200,000 swaps", span["200,000 swaps"]])
    rows += [
        [
            f"{row['layers']} convolutions of a ResNet-50, `{row['partitioner']}`",
            f"{row['seconds']:.1f} s",
        ]
        for row in records("convert-network")
    ]
    rows += [
        [f"a linear layer of {row['layer'].replace('x', ' x ')}", f"{row['seconds']:.1f} s"]
        for row in records("convert-linear")
    ]
    rows += [
        [f"`BlockLayout.from_mask`, 2048 x 4608, {row['rows that share']}", f"{row['s']:.3f} s"]
        for row in records("convert-from-mask")
    ]
    return markdown(("what", "time"), rows)


def export_accuracy() -> list[str]:
    """Return the largest difference of exported networks, by network."""
    rows = []
    found = records("accuracy")
    for network in sorted({row["network"] for row in found}):
        of_network = [row for row in found if row["network"] == network]
        worst = {way: max(row[way] for row in of_network) for way in ("torch", "onnxruntime")}
        rows.append([network, str(len(of_network)), *(f"{x:.1e}" for x in worst.values())])
    columns = ("network", "exports", "from PyTorch, at most", "from onnxruntime, at most")
    return markdown(columns, rows)


def networks_by_exporter() -> list[str]:
    """Return how networks that people have fare, by family and exporter."""
    columns = ("equal", "ill-conditioned", "refused", "wrong", "error", "exporter failed")
    exporters = {"torchscript": "TorchScript", "dynamo": "torch.export"}
    counts = Counter(
        (row["exporter"], family, row["outcome"])
        for row in records("networks")
        if row["outcome"] != "not built"
        for family in (row["family"], "all")
    )
    rows = []
    for exporter, name in exporters.items():
        families = dict.fromkeys(f for e, f, _ in counts if e == exporter)
        for family in [*(f for f in families if f != "all"), "all"]:
            found = [counts[exporter, family, outcome] for outcome in columns]
            rows.append([name, family, *map(str, (sum(found), *found))])
    return markdown(("exporter", "family", "tried", *columns), rows)


def trained_networks() -> list[str]:
    """Return the largest difference from onnxruntime of networks that ship as packages."""
    rows = []
    for row in records("trained"):
        sizes = ", ".join(row["errors"]["cpu"])
        worst = (max(row["errors"][backend].values()) for backend in ("reference", "cpu"))
        rows.append([row["network"], row["structure"], sizes, *(f"{x:.1e}" for x in worst)])
    return markdown(("network", "structure", "sizes", "reference", "CPU"), rows)


def loaded(name: str) -> dict[str, Any]:
    """Return a record whole."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def share(row: Row | None, method: str) -> str:
    """Return the share of the test images that is right by one method; nothing if not measured."""
    return f"{row[method]:.1%}" if row else ""


def calibration() -> list[str]:
    """Return how many test images are right after calibration, by network, height and density."""
    rows = []
    for name, network in CALIBRATED.items():
        if not (RESULTS / f"{name}.json").exists():
            continue
        whole = loaded(name)
        found = whole["records"]
        for height, density in dict.fromkeys((row["height"], row["density"]) for row in found):
            at = {
                r["saliency"]: r for r in found if (r["height"], r["density"]) == (height, density)
            }
            first = at["magnitude"]
            shares = [share(first, m) for m in ("as_converted", "statistics", "values", "refit")]
            shares += [share(at.get(saliency), "refit") for saliency in ("input", "error")]
            rows.append([f"{network}, {whole['ticket']:.1%}", str(height), f"{density:g}", *shares])
    columns = ("network, its own share", "height", "density", "as converted", "statistics")
    return markdown((*columns, "values", "refit", "refit, `input`", "refit, `error`"), rows)


def calibration_images() -> list[str]:
    """Return how many test images are right, by the number of images calibrated on."""
    return markdown(
        ("images", "right", "seconds"),
        [
            [str(row["images"]), share(row, "refit"), f"{row['seconds']:.1f}"]
            for row in loaded("calibrate")["curve"]
        ],
    )


def calibration_retraining() -> list[str]:
    """Return how many test images are right after retraining with labels, by its length."""
    return markdown(
        ("epochs", "right", "seconds"),
        [
            [str(row["epochs"]), share(row, "retrained"), f"{row['seconds']:.1f}"]
            for row in loaded("calibrate")["retraining"]
        ],
    )


def calibration_cost() -> list[str]:
    """Return time and memory of calibrating large networks."""
    rows = []
    for row in records("calibrate-cost"):
        size = f"{row['image_size']}x{row['image_size']}"
        rows.append(
            [
                f"{NETWORKS[row['network']]}, {size}",
                f"{row['layers']} ({row['lower_error']})",
                f"{row['seconds'] / 60:.1f} min",
                f"{row['peak_bytes'] / 2**30:.1f} GiB",
            ]
        )
    return markdown(("network", "layers (of lower error)", "time", "memory at most"), rows)


TABLES: dict[str, Callable[[], list[str]]] = {
    "networks-in-short": networks_in_short,
    "cpu-networks": cpu_networks,
    "cpu-bfloat16": cpu_bfloat16,
    "cpu-memory": cpu_memory,
    "partition-gains": partition_gains,
    "partition-times": partition_times,
    "export-accuracy": export_accuracy,
    "networks": networks_by_exporter,
    "trained-networks": trained_networks,
    "calibration": calibration,
    "calibration-images": calibration_images,
    "calibration-retraining": calibration_retraining,
    "calibration-cost": calibration_cost,
}


def rendered(text: str) -> str:
    """Return a document with every marked table written anew."""

    def table(found: re.Match[str]) -> str:
        return found[1] + "\n".join(["", *TABLES[found[2]](), "", ""]) + found[3]

    return MARKED.sub(table, text)


def stale() -> list[str]:
    """Return the documents whose tables are not what the records say."""
    return [
        name
        for name in DOCUMENTS
        if rendered(text := (ROOT / name).read_text(encoding="utf-8")) != text
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    old = stale()
    for name in old:
        print(f"{name}: {'stale' if options.check else 'written'}")
        if not options.check:
            path = ROOT / name
            path.write_text(rendered(path.read_text(encoding="utf-8")), encoding="utf-8")
    sys.exit(bool(old) and options.check)


if __name__ == "__main__":
    main()
