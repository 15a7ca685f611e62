"""Baselines for partitions: KaHyPar alone, and a spectral partition with random swaps."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import kahypar
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse.linalg import svds

from masktools.partition.budget import choose
from masktools.partition.hypergraph import Hypergraph
from masktools.partition.search import group_sums

Saliency = NDArray[np.float32]
Labels = NDArray[np.int32]


def retained(saliency: Saliency, labels: Labels, budget: int) -> float:
    """Return the share of the saliency that the best columns of the groups keep."""
    sums = group_sums(saliency, labels).ravel()
    cost = np.repeat(np.bincount(labels), saliency.shape[1])
    return float(sums[choose(sums, cost, budget)].sum() / saliency.sum())


def kahypar_alone(saliency: Saliency, height: int, seed: int = 0) -> Labels:
    """KaHyPar with effort: twenty initial partitions, each refined, where masktools takes one."""
    effort = {"i-runs": "20", "i-r-type": "twoway_fm", "i-r-fm-stop-i": "50", "r-fm-stop-i": "350"}
    lines = files("masktools").joinpath("kahypar.ini").read_text().splitlines()
    keys = [line.split("=")[0] for line in lines]
    assert set(effort) <= set(keys), "the configuration has lost a parameter"
    changed = [
        f"{key}={effort[key]}" if key in effort else line
        for key, line in zip(keys, lines, strict=True)
    ]
    graph = Hypergraph.from_mask(saliency > 0)
    k = len(saliency) // height
    context = kahypar.Context()
    with TemporaryDirectory() as folder:
        path = Path(folder, "effort.ini")
        path.write_text("\n".join(changed) + "\n")
        context.loadINIconfiguration(os.fspath(path))
    context.setK(k)
    context.setEpsilon(0.0)
    context.setCustomTargetBlockWeights([height] * k)
    context.setSeed(seed)
    context.suppressOutput(True)
    hypergraph = kahypar.Hypergraph(
        graph.vertices, len(graph.columns), graph.offsets.tolist(), graph.pins.tolist(), k
    )
    kahypar.partition(hypergraph, context)
    return np.array([hypergraph.blockID(row) for row in range(graph.vertices)], np.int32)


def spectral_swaps(saliency: Saliency, height: int, budget: int, seed: int = 0) -> Labels:
    """The partition to beat: balanced k-means, assignment, then 200,000 random swaps."""
    k = len(saliency) // height
    length = np.linalg.norm(saliency, axis=1, keepdims=True).clip(1e-9)
    left, values, _ = svds(saliency / length, k=min(32, min(saliency.shape) - 1), random_state=seed)
    labels = _kmeans(left * values, k, seed)
    labels = _assignment(saliency, labels, k, budget)
    return _random_swaps(saliency, labels, budget, 200_000, seed)


def _seats(gain: NDArray[np.float64], height: int) -> Labels:
    """Give each row one of `height` seats in a group, optimally."""
    rows, seats = linear_sum_assignment(np.repeat(gain, height, axis=1), maximize=True)
    labels = np.empty(len(gain), np.int32)
    labels[rows] = seats // height
    return labels


def _kmeans(points: NDArray[np.float64], k: int, seed: int) -> Labels:
    centres = points[np.random.default_rng(seed).choice(len(points), k, replace=False)]
    for _ in range(20):
        distance = ((points[:, None] - centres) ** 2).sum(axis=-1)
        labels = _seats(-distance, len(points) // k)
        centres = np.stack([points[labels == group].mean(axis=0) for group in range(k)])
    return labels


def _assignment(saliency: Saliency, labels: Labels, k: int, budget: int) -> Labels:
    height = len(labels) // k
    for _ in range(40):
        sums = group_sums(saliency, labels).ravel()
        chosen = choose(sums, np.full(sums.size, height), budget).reshape(k, -1)
        better = _seats((saliency @ chosen.T).astype(np.float64), height)
        if np.array_equal(better, labels):
            break
        labels = better
    return labels


def _random_swaps(saliency: Saliency, labels: Labels, budget: int, tries: int, seed: int) -> Labels:
    """Swap two random rows of different groups whenever both groups together are worth more.

    A group is worth what its sums exceed a fixed price by: the mean saliency at which the budget
    was spent at the start.
    """
    random = np.random.default_rng(seed)
    labels = labels.copy()
    sums = group_sums(saliency, labels)
    height = len(labels) // len(sums)
    last = min(budget // height, sums.size - 1)
    threshold = np.sort(sums.ravel())[::-1][last]
    worth = np.maximum(sums - threshold, 0).sum(axis=1)
    for i, j in random.integers(len(labels), size=(tries, 2)):
        p, q = labels[i], labels[j]
        if p == q:
            continue
        moved = saliency[j] - saliency[i]
        first, second = sums[p] + moved, sums[q] - moved
        a = np.maximum(first - threshold, 0).sum()
        b = np.maximum(second - threshold, 0).sum()
        if a + b > worth[p] + worth[q]:
            sums[p], sums[q], worth[p], worth[q] = first, second, a, b
            labels[i], labels[j] = q, p
    return labels
