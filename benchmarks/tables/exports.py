"""Tables of exported networks: which pass, and how far they are from what they come from."""

from __future__ import annotations

from collections import Counter

from benchmarks.tables.records import markdown, records


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
