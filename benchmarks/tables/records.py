"""Read records, and write rows as a table of Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"

Row = dict[str, Any]

# What networks are called in the documents, by their names in the records.
NETWORKS = {
    "vgg16": "VGG-16",
    "resnet18-cifar": "ResNet-18",
    "resnet50": "ResNet-50",
    "mobilenet-v1": "MobileNet-v1",
    "yolov8n": "YOLOv8n, 640²",
    "yolo11n": "YOLO11n, 640²",
    "unet": "U-Net, 256²",
    "efficientnet-b0": "EfficientNet-B0, 224²",
}


def loaded(name: str) -> dict[str, Any]:
    """Return a record whole."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def records(name: str) -> list[Row]:
    """Return the rows of a record."""
    found: list[Row] = loaded(name)["records"]
    return found


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
