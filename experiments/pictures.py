"""Draw the results of an experiment; legible without colours."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What the horizontal axis shows, and the key of a line of the results that has it.
PICTURES = {"density": "density_after", "source": "arm", "start": "start"}
_STYLES = (("o", "-"), ("s", "--"), ("^", ":"), ("D", "-."), ("v", (0, (5, 1))), ("P", (0, (1, 1))))
_LEAST = 0.1
_GREYS = ("0.0", "0.35", "0.0", "0.35", "0.5", "0.2")


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Write a picture of the test errors: means, and their spread over the seeds.

    On a logarithmic axis: near the dense network a tenth of a point counts, far from it none does.

    Parameters
    ----------
    results : mapping
        As `experiments.runner.run` returns them.
    path : Path
        The same results give the same bytes.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot, ticker

    across = results["configuration"]["picture"]
    panels = [None] if across == "density" else sorted({one["round"] for one in results["tickets"]})
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(7.5 if len(panels) == 1 else 11, 4.4),
        sharey=True, squeeze=False, layout="constrained",
    )  # fmt: skip
    for axis, number in zip(axes[0], panels, strict=True):
        lines = [one for one in results["tickets"] if number in (None, one["round"])]
        _dense(axis, results["dense"]["test"])
        if across == "density":
            _curves(axis, lines)
        else:
            _groups(axis, lines, across)
        axis.grid(color="0.9", linewidth=0.6)
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 5)))
        axis.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axis.yaxis.set_minor_locator(ticker.NullLocator())
    axes[0][0].invert_yaxis()  # all panels: they share it
    axes[0][0].set_ylabel("test error in %, upwards is better")
    named = axes[0][0].get_legend_handles_labels()
    figure.legend(*named, fontsize=8, frameon=False, loc="outside upper center", ncols=4)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _dense(axis: Any, accuracies: list[float]) -> None:  # noqa: ANN401 - matplotlib's axes
    mean, spread = _mean_and_spread(accuracies)
    axis.axhspan(mean - spread, mean + spread, color="0.9", linewidth=0)
    axis.axhline(mean, color="0.5", linewidth=1, label="dense, and its spread")


def _curves(axis: Any, lines: list[Mapping[str, Any]]) -> None:  # noqa: ANN401
    """Draw a curve for each arm: filled where a ticket wins."""
    for number, arm in enumerate(dict.fromkeys(one["arm"] for one in lines)):
        of_arm = sorted(
            (one for one in lines if one["arm"] == arm), key=lambda x: x["density_after"]
        )
        marker, line = _STYLES[number % len(_STYLES)]
        grey = _GREYS[number % len(_GREYS)]
        x = [one["density_after"] for one in of_arm]
        y, spread = zip(*(_mean_and_spread(one["test"]) for one in of_arm), strict=True)
        style = {"marker": marker, "markersize": 5, "color": grey, "linewidth": 1, "capsize": 2}
        axis.errorbar(x, y, spread, linestyle=line, label=arm, markerfacecolor="white", **style)
        won = [(a, b) for a, b, one in zip(x, y, of_arm, strict=True) if one.get("wins")]
        if won:
            axis.plot(*zip(*won, strict=True), marker, color=grey, markersize=5, zorder=3)
    axis.set_xscale("log")
    ticks = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    axis.minorticks_off()
    axis.set_xlabel("density of the masks trained under (filled: winning)")


def _groups(axis: Any, lines: list[Mapping[str, Any]], across: str) -> None:  # noqa: ANN401
    """Draw points by source, or by start, side by side for what else differs."""
    keys = [_split(one, across) for one in lines]
    places = list(dict.fromkeys(place for place, _ in keys))
    series = list(dict.fromkeys(name for _, name in keys))
    for number, name in enumerate(series):
        of_series = [
            (places.index(p), one) for (p, n), one in zip(keys, lines, strict=True) if n == name
        ]
        x = [place + 0.16 * (number - (len(series) - 1) / 2) for place, _ in of_series]
        y, spread = zip(*(_mean_and_spread(one["test"]) for _, one in of_series), strict=True)
        style = {"marker": _STYLES[number][0], "color": _GREYS[number], "capsize": 2}
        face = "white" if number % 2 else _GREYS[number]
        axis.errorbar(x, y, spread, linestyle="none", label=name, markerfacecolor=face, **style)
    axis.set_xticks(range(len(places)), places, fontsize=8, rotation=0 if across == "start" else 20)
    axis.set_title(f"density {lines[0]['density_before']:.3g} before the post", fontsize=10)


def _split(one: Mapping[str, Any], across: str) -> tuple[str, str]:
    if across == "start":
        return one["start"], one["arm"]
    source, _, post = one["arm"].partition(" + ")
    return source, post or "as it is"


def _mean_and_spread(accuracies: list[float]) -> tuple[float, float]:
    """Return mean and standard deviation of the error, in percent; no spread of one seed.

    The mean is at least `_LEAST`, which a logarithmic axis can show, and above the spread.
    """
    spread = 100 * statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    mean = max(_LEAST, 100 - 100 * statistics.fmean(accuracies))
    return mean, min(spread, mean - _LEAST / 2)
