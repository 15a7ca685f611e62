"""Tables of how fast networks run on a CPU, and what memory they take."""

from __future__ import annotations

from statistics import median

from benchmarks.tables.records import NETWORKS, Row, markdown, records

LARGEST_BATCH = {"vgg16": 64, "resnet18-cifar": 64, "resnet50": 8, "mobilenet-v1": 8}


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
