"""Tables of what calibration restores, and what it costs."""

from __future__ import annotations

from benchmarks.tables.records import NETWORKS, RESULTS, Row, loaded, markdown, records

# What is calibrated, by the name of its record.
CALIBRATED = {
    "calibrate": "digits ticket",
    "calibrate-resnet18_round06": "ResNet-18 ticket, round 6",
    "calibrate-resnet18_round12": "ResNet-18 ticket, round 12",
    "calibrate-mobilenet_round05": "MobileNet ticket",
    "calibrate-digitsnet_round00": "dense network, no ticket",
}


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
