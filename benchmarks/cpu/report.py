"""From times to the figures that are reported: shares of peak, speed-ups, limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, NamedTuple

from benchmarks.cpu.networks import Variant
from runtime.engines.turns import Times

DENSE_PEERS = ("onnxruntime", "openvino", "torch", "torch-compile", "mnn", "deepsparse")
# Those that gain by zeros.
SPARSE_PEERS = ("deepsparse", "mnn")


class Size(NamedTuple):
    """A variant in numbers: multiplications of one image inside the image, and stored weights."""

    multiplications: int
    weights: int


@dataclass(frozen=True)
class Measured:
    """One engine on one variant.

    Parameters
    ----------
    engine : str
    variant : Variant
    times : Times
    deviation : float
        max|Δ| / max|y| against the reference backend.
    """

    engine: str
    variant: Variant
    times: Times
    deviation: float


def speedup(measured: Times, yardstick: Times) -> float:
    """Return how many times as fast as a yardstick it is: the median over rounds of both."""
    pairs = zip(measured.seconds, yardstick.seconds, strict=True)
    return median(theirs / ours for ours, theirs in pairs)


def share_of_peak(multiplications: int, times: Times) -> float:
    """Return multiplications over what the machine could do in that time, as it was just then."""
    pairs = zip(times.seconds, times.peaks, strict=True)
    return median(multiplications / (seconds * peak) for seconds, peak in pairs)


def fastest_dense_peer(measured: list[Measured]) -> Measured | None:
    dense = [
        m for m in measured if m.variant.structure == "dense" and m.engine in DENSE_PEERS
    ]  # fmt: skip
    return min(dense, key=lambda m: median(m.times.seconds), default=None)


def records(
    measured: list[Measured], sizes: Mapping[str, Size], batch: int, threads: int
) -> list[dict[str, Any]]:
    """Return a record for each engine and variant that were timed in the same rounds.

    Parameters
    ----------
    measured : list of Measured
        All of one network.
    sizes : mapping of str to Size
        By name of the variant, the dense one among them.
    batch, threads : int
    """
    dense = fastest_dense_peer(measured)
    peers = {(m.engine, m.variant): m for m in measured if m.engine in SPARSE_PEERS}
    found = []
    for m in measured:
        size, whole = sizes[m.variant.name], sizes[Variant(m.variant.network).name]
        row = asdict(m.variant) | {"batch": batch, "threads": threads, "engine": m.engine}
        row["milliseconds"] = median(m.times.seconds) * 1e3
        row["milliseconds_by_round"] = [round(seconds * 1e3, 3) for seconds in m.times.seconds]
        row["share_of_peak"] = share_of_peak(size.multiplications * batch, m.times)
        row["peak_gflops_per_thread"] = median(m.times.peaks) * 2 / threads / 1e9
        row["density_by_weights"] = size.weights / whole.weights
        row["density_by_multiplications"] = size.multiplications / whole.multiplications
        row["limit"] = whole.multiplications / size.multiplications
        if dense:
            row["fastest_dense_peer"] = dense.engine
            row["over_fastest_dense_peer"] = speedup(m.times, dense.times)
        for peer in SPARSE_PEERS:
            if (peer, m.variant) in peers:
                row[f"over_{peer}"] = speedup(m.times, peers[peer, m.variant].times)
        row["deviation"] = m.deviation
        found.append(row)
    return found
