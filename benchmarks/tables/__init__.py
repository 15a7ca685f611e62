"""The tables of results in the documents, written from the records."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from benchmarks.tables import calibration, exports, partitions, speed

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "docs/cpu.md", "docs/results.md")

MARKED = re.compile(r"(<!-- table: ([a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
TABLES: dict[str, Callable[[], list[str]]] = {
    "networks-in-short": speed.networks_in_short,
    "cpu-networks": speed.cpu_networks,
    "cpu-bfloat16": speed.cpu_bfloat16,
    "cpu-memory": speed.cpu_memory,
    "partition-gains": partitions.partition_gains,
    "partition-times": partitions.partition_times,
    "export-accuracy": exports.export_accuracy,
    "networks": exports.networks_by_exporter,
    "trained-networks": exports.trained_networks,
    "calibration": calibration.calibration,
    "calibration-images": calibration.calibration_images,
    "calibration-retraining": calibration.calibration_retraining,
    "calibration-cost": calibration.calibration_cost,
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
