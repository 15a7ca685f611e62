"""The CPU backend against the engines a user could pick instead.

    python -m benchmarks.cpu networks --network vgg16 --deepsparse PYTHON --ticket TICKET.json
    python -m benchmarks.cpu layers | memory | accuracy

`networks`: whole networks on every engine, one process each, in turns (README.md says how to set
the others up); `layers`: single convolutions, as shares of peak; `memory`: peak memory and the time
to a first output of a fresh process; `accuracy`: bfloat16 against float32. Prints tables and writes
results/cpu-*.json.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo import ZOO

from benchmarks.cpu import accuracy, layers, memory
from benchmarks.cpu.comparison import Bench, Contender
from benchmarks.cpu.networks import BATCHES, Files, Variant
from benchmarks.cpu.report import DENSE_PEERS, SPARSE_PEERS
from benchmarks.record import environment, show, write

PACKAGES = ["masktools", "numpy", "torch", "onnx"]
DENSITIES = (0.2, 0.1)
HEIGHTS = (8, 16, 32)
STRUCTURES = ("dense", "unstructured", "grouped", "ticket", "bfloat16")
COLUMNS = {
    "engine": "engine",
    "structure": "structure",
    "density_by_weights": "weights",
    "density_by_multiplications": "mults",
    "milliseconds": "ms",
    "share_of_peak": "of peak",
    "over_fastest_dense_peer": "x dense peer",
    "over_deepsparse": "x deepsparse",
    "over_mnn": "x mnn",
    "limit": "limit",
    "deviation": "deviation",
}


def contenders(
    network: str, structure: str, yardsticks: list[str], heights: Sequence[int]
) -> list[Contender]:
    """Return who is timed together: dense yardsticks, and engines on sparse variants."""
    dense = Variant(network)
    if structure == "dense":
        return [(engine, dense) for engine in (*DENSE_PEERS, "masktools")]
    if structure == "bfloat16":
        variants = [dense, *(Variant(network, "height-16", density) for density in DENSITIES)]
        engines = ["masktools", "masktools-bfloat16"]
        return [(engine, variant) for variant in variants for engine in engines]
    if structure == "ticket":
        variants = [Variant(network, "ticket")]
    elif structure == "unstructured":
        variants = [Variant(network, structure, density) for density in DENSITIES]
    else:
        variants = [Variant(network, f"height-{h}", d) for h in heights for d in DENSITIES]
    return [(engine, dense) for engine in yardsticks] + [
        (engine, variant) for variant in variants for engine in (*SPARSE_PEERS, "masktools")
    ]


def compare_network(
    bench: Bench, network: str, batch: int, options: argparse.Namespace
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for threads in options.threads:
        # The two fastest dense peers are timed beside sparse networks too.
        yardsticks = list(options.dense_peers or DENSE_PEERS)
        for structure in options.structure:
            if structure == "ticket" and (network != "vgg16" or bench.files.ticket is None):
                continue
            who = contenders(network, structure, yardsticks, options.heights)
            rows = bench.compare([c for c in who if c[0] in bench.pythons], batch, threads)
            found += rows
            title = f"{network}, batch {batch}, {threads} threads: {structure}"
            show(title, list(COLUMNS.values()), [cells(row) for row in rows])
            if structure == "dense" and not options.dense_peers:
                peers = sorted(rows, key=lambda row: row["milliseconds"])
                yardsticks = [r["engine"] for r in peers if r["engine"] in DENSE_PEERS][:2]
    return found


def cells(row: dict[str, Any]) -> list[object]:
    return [row.get(name, "") for name in COLUMNS]


def part_networks(options: argparse.Namespace) -> None:
    where = environment(PACKAGES)
    own = ("torch", "torch-compile", "masktools", "masktools-bfloat16")
    pythons = dict.fromkeys(own, sys.executable)
    pythons |= dict.fromkeys(("onnxruntime", "openvino", "mnn"), options.peers)
    if options.deepsparse:
        pythons["deepsparse"] = options.deepsparse
    else:
        print("left out: deepsparse (no --deepsparse)", file=sys.stderr)
    for network in options.network:
        for batch in options.batch or BATCHES[network]:
            bench = Bench(Files(options.folder, options.ticket), pythons, options.rounds)
            found = compare_network(bench, network, batch, options)
            more = {"engines": bench.versions, "left_out": bench.failures}
            record(options, f"cpu-{network}-batch{batch}", where, found, **more)


def part_layers(options: argparse.Namespace) -> None:
    where = environment(PACKAGES)
    found = []
    for threads in options.threads:
        for batch in options.batch or (64,):
            rows = layers.measure(batch, threads, options.rounds)
            found += rows
            title = f"share of peak by height of the row groups, batch {batch}, {threads} threads"
            heights = sorted({row["height"] for row in rows})
            show(title, ["layer", *map(str, heights)], by_height(rows))
    record(options, "cpu-layers", where, found)


def part_memory(options: argparse.Namespace) -> None:
    where = environment(PACKAGES)
    files = Files(options.folder, options.ticket)
    found = [
        memory.measure(files, variant, batch, options.threads[0], options.rounds)
        for network in options.network
        for variant in some_variants(network)
        for batch in options.batch or BATCHES[network]
    ]
    columns = ["network", "structure", "batch", "used_bytes", "used_over_bound"]
    columns += ["load_seconds", "first_output_seconds"]
    rows = [[row[name] for name in columns] for row in found]
    show("memory of a fresh process, and its first output", columns, rows)
    record(options, "cpu-memory", where, found)


def part_accuracy(options: argparse.Namespace) -> None:
    where = environment(PACKAGES)
    files = Files(options.folder, options.ticket)
    found = [
        accuracy.outputs(files, variant)
        for network in options.network
        for variant in some_variants(network)
    ]
    rows = [list(row.values()) for row in found]
    show("bfloat16 against float32", list(found[0]), rows)
    trained = accuracy.digits()
    print(trained)
    record(options, "cpu-bfloat16", where, [*found, trained])


def some_variants(network: str) -> list[Variant]:
    sparse = [Variant(network, structure, 0.2) for structure in ("unstructured", "height-16")]
    return [Variant(network), *sparse]


def by_height(rows: list[dict[str, Any]]) -> list[list[object]]:
    """Return a line for each layer and density, with a share of peak for each height."""
    lines: dict[str, list[object]] = {}
    for row in sorted(rows, key=lambda row: row["height"]):
        layer = "{width}² x {channels} channels, {kernel} x {kernel}, density {density}"
        name = layer.format_map(row)
        lines.setdefault(name, [name]).append(row["share_of_peak"])
    return list(lines.values())


def record(
    options: argparse.Namespace,
    name: str,
    where: dict[str, Any],
    records: list[dict[str, Any]],
    **more: object,
) -> None:
    if options.keep:
        print(write(name, where, {**more, "records": records}))


PARTS = {
    "networks": part_networks,
    "layers": part_layers,
    "memory": part_memory,
    "accuracy": part_accuracy,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("part", choices=PARTS)
    add("--network", nargs="+", choices=BATCHES, default=[n for n in BATCHES if n in ZOO])
    add("--structure", nargs="+", choices=STRUCTURES, default=STRUCTURES)
    add("--batch", type=int, nargs="+", help="instead of each network's own two")
    add("--threads", type=int, nargs="+", default=[2, 1])
    add("--heights", type=int, nargs="+", default=list(HEIGHTS), help="of row groups")
    add("--rounds", type=int, default=5)
    add("--dense-peers", nargs="+", choices=DENSE_PEERS, help="yardsticks of sparse networks")
    add("--ticket", type=Path, help="the blocks of a VGG-16 ticket, as JSON")
    add("--peers", metavar="PYTHON", help="that has onnxruntime, OpenVINO and MNN",
        default=os.environ.get("MASKTOOLS_PEERS_PYTHON", sys.executable))  # fmt: skip
    add("--deepsparse", metavar="PYTHON", help="that has DeepSparse",
        default=os.environ.get("MASKTOOLS_DEEPSPARSE_PYTHON"))  # fmt: skip
    add("--folder", type=Path, default=Path("build/benchmarks"), help="for exported networks")
    add("--no-record", dest="keep", action="store_false", help="print alone")
    options = parser.parse_args()
    PARTS[options.part](options)


if __name__ == "__main__":
    main()
