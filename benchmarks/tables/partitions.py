"""Tables of what partitions retain, and how long they take."""

from __future__ import annotations

from statistics import fmean

from benchmarks.tables.records import RESULTS, Row, markdown, records


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
