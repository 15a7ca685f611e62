"""The tables of the GPU benchmark, and the figures that are to be reached on an H200."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.record import show

Row = dict[str, Any]
Line = list[object]

# What is measured first tells most.
DENSITIES = (0.2, 0.1, 0.42, 0.26)
_TENSOR = {0.42: 1.3, 0.26: 2.1, 0.2: 2.8, 0.1: 5.0}
# Speed-ups of layers over cuDNN in the same type, by density.
GOALS = {"float32": {0.42: 2.2, 0.26: 3.5, 0.2: 4.5, 0.1: 8.0}, "tf32": _TENSOR, "float16": _TENSOR}
# Of whole networks that keep 20 %: the time saved, and the share of the limit.
SAVED = {"float32": 0.649, "float16": 0.55}
SHARE = {"float32": 0.85}
HOST = 20e-6  # seconds of a call, once recorded


def show_all(results: Mapping[str, list[Row]], failed: Mapping[str, str]) -> None:
    """Print a table for each part, and at last what was reached."""
    for name, rows in results.items():
        SHOWS[name](name, rows)
    summary = [*_layers_reached(results), *_networks_reached(results)]
    tests = (*results.get("tests", []), *results.get("sanitizer", []))
    summary += [[r["what"], r["outcome"][:60], "", r["status"] == 0] for r in tests]
    summary += [[f"{name} is not complete", error, "", ""] for name, error in failed.items()]
    show("Summary", ["what", "measured", "goal", "reached"], summary)


def _layers_reached(results: Mapping[str, list[Row]]) -> Iterator[Line]:
    measured = results.get("layers", [])
    for dtype, density in sorted({(r["dtype"], r["density"]) for r in measured}):
        best: dict[str, float] = {}  # Of each layer, over the heights of its row groups.
        for r in measured:
            if (r["dtype"], r["density"]) == (dtype, density):
                best[r["layer"]] = max(best.get(r["layer"], 0.0), r["speed-up"])
        goal, least, most = GOALS[dtype][density], min(best.values()), max(best.values())
        what = f"layers, {dtype}, density {density}: over cuDNN"
        yield [what, f"{least:.2f} to {most:.2f}", goal, least >= goal]


def _networks_reached(results: Mapping[str, list[Row]]) -> Iterator[Line]:
    measured = results.get("networks", [])
    for r in measured:
        fifth = r["masks"].startswith("20%")
        saved = SAVED.get(r["dtype"]) if fifth else None
        share = SHARE.get(r["dtype"]) if fifth else None
        goals = [f"{saved:.1%}" if saved else "", f"({share} of it)" if share else ""]
        yield [
            f"{r['network']} {r['size']}, {r['dtype']}, {r['masks']}: saved",
            f"{r['saved']:.1%} ({r['share of limit']:.2f} of the limit)",
            " ".join(goals).strip(),
            "" if saved is None else r["saved"] >= saved and r["share of limit"] >= (share or 0),
        ]
    if measured:
        most = max(r["ours"]["host"] for r in measured)
        yield ["host, a call: us", f"{most * 1e6:.1f} at most", HOST * 1e6, most <= HOST]


def _show_ceilings(_: str, rows: list[Row]) -> None:
    lines = [[r["unit"], f"{r['rate']:.3e}"] for r in rows]
    show("What the device can do", ["unit", "rate"], lines)


def _show_tests(name: str, rows: list[Row]) -> None:
    columns = ["what", "status", "seconds", "outcome"]
    lines = [[r["what"], r["status"], r["seconds"], r["outcome"]] for r in rows]
    show(f"On the device: {name}", columns, lines)
    for said in filter(None, (r["said"] for r in rows)):
        print(said[-3000:])


def _show_layers(name: str, rows: list[Row]) -> None:
    columns = ["layer", "type", "height", "density", "ours, us", "cuDNN, us", "best way",
               "speed-up", "goal", "TFLOP/s", "kernel"]  # fmt: skip
    lines = [
        [
            r["layer"], r["dtype"], r.get("height", ""), f"{r['density']:.3f}",
            r["ours"]["seconds"] * 1e6, r["cudnn seconds"] * 1e6, r["cudnn way"],
            f"{r['speed-up']:.2f}", r["goal"] or "", r["FLOP/s"] / 1e12,
            r["ours"]["kernel"].removeprefix("convolution_"),
        ]
        for r in rows
    ]  # fmt: skip
    show(f"Layers: {name}", columns, lines)


def _show_networks(_: str, rows: list[Row]) -> None:
    columns = ["network", "masks", "type", "ours, ms", "steps, ms", "host, us", "cuDNN, ms",
               "speed-up", "limit", "share", "saved"]  # fmt: skip
    lines = [
        [
            f"{r['network']} {r['size']}", r["masks"], r["dtype"], r["ours"]["seconds"] * 1e3,
            r["ours"]["steps"] * 1e3, r["ours"]["host"] * 1e6, r["cudnn seconds"] * 1e3,
            f"{r['speed-up']:.2f}", f"{r['limit']:.2f}", f"{r['share of limit']:.2f}",
            f"{r['saved']:.1%}",
        ]
        for r in rows
    ]  # fmt: skip
    show("Whole networks", columns, lines)


SHOWS = {
    "ceilings": _show_ceilings,
    "tests": _show_tests,
    "sanitizer": _show_tests,
    "layers": _show_layers,
    "networks": _show_networks,
    "ticket": _show_layers,
    "paper": _show_layers,
}
