"""Regroup or refill the layers of a network: within one budget, or each by itself."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from masktools.checks import BoolArray, listed
from masktools.conversion.across import Offer, spend
from masktools.conversion.resume import Finished
from masktools.conversion.selection import Source
from masktools.conversion.workers import Job, find_all
from masktools.errors import MaskError
from masktools.layout import BlockLayout
from masktools.partition.partitioners import group_heights
from masktools.partition.row_groups import row_groups
from masktools.transform.ranked_rows import RankedRows
from masktools.transform.refill import GIVEN_CRITERIA, row_scores, rows_kept
from masktools.transform.regroup import regroup

WITHOUT_BLOCKS = ("mask", "dense", "empty")


@dataclass(frozen=True)
class Converted:
    """The layout of a layer, the seconds it took, and what else the report tells of it.

    Where the layer is to stay dense, it has no layout.
    """

    layout: BlockLayout | None
    seconds: float
    details: Mapping[str, Any] = field(default_factory=dict)


def regroup_layers(
    sources: Sequence[Source],
    density: float | None,
    by: str,
    across: str,
    options: Mapping[str, Any],
    executor: Executor | None,
    finished: Finished,
    progress: bool,
) -> list[Converted]:
    """Turn each mask into dense blocks, the columns of all layers chosen within one budget.

    Parameters
    ----------
    sources : sequence of Source
    density : float or None
        Of all sources together; None leaves each layer its own.
    by : {"weights", "multiplications"}
    across : str
        How the layers share the budget; see `masktools.conversion.across.spend`.
    options : mapping
        The other arguments of `row_groups`.
    executor, finished, progress
        As `find_all` takes them.
    """
    costs = [_column_cost(source, by) for source in sources]
    own = [_own(source, by) for source in sources]
    dense = sum(source.rows * int(cost.sum()) for source, cost in zip(sources, costs, strict=True))
    budget = None if density is None else _whole(density, dense)
    rough = [
        _in_order(source, cost, options["group_rows"], mine)
        for source, cost, mine in zip(sources, costs, own, strict=True)
    ]
    shares = own if budget is None else _costs(rough, spend(rough, budget, across))
    jobs = [
        Job(
            source.name,
            row_groups,
            source.mask,
            source.saliency,
            {**options, "groups": source.groups, "budget": share},
            cost,
        )
        for source, cost, share in zip(sources, costs, shares, strict=True)
    ]
    by_layer = find_all(jobs, executor, finished, progress)
    found = [by_layer[source.name] for source in sources]
    offers = [
        Offer(*f.result.candidates(), source.shape, mine)
        for f, source, mine in zip(found, sources, own, strict=True)
    ]
    chosen = spend(offers, budget, across)
    return [
        Converted(
            f.result.layout(which),
            f.seconds,
            {
                "row_groups": len(f.result.sums),
                "partitioner": f.result.partitioner,
                "refinement": f.result.refinement,
                "resumed": f.resumed,
            },
        )
        for f, which in zip(found, chosen, strict=True)
    ]


def regroup_each(
    sources: Sequence[Source],
    options: Mapping[str, Any],
    without_blocks: str,
    executor: Executor | None,
    finished: Finished,
    progress: bool,
) -> list[Converted]:
    """Turn each mask into the dense blocks that thresholds, or a preset, find in it.

    Parameters
    ----------
    sources : sequence of Source
    options : mapping
        The other arguments of `regroup`.
    without_blocks : {"mask", "dense", "empty"}
        What becomes of a layer in which no block is found.
    executor, finished, progress
        As `find_all` takes them.
    """
    jobs = [
        Job(s.name, regroup, s.mask, s.saliency, {**options, "groups": s.groups}) for s in sources
    ]
    found = find_all(jobs, executor, finished, progress)
    converted = []
    for source in sources:
        one = found[source.name]
        layout: BlockLayout | None = one.result
        details: dict[str, Any] = {"partitioner": options["partitioner"], "resumed": one.resumed}
        if not one.result.blocks:
            details |= {"without_blocks": without_blocks, "blocks": 0}
            if without_blocks == "mask":
                layout = BlockLayout.from_mask(source.mask, groups=source.groups)
            elif without_blocks == "dense":
                layout = None
        converted.append(Converted(layout, one.seconds, details))
    return converted


def refill_layers(
    sources: Sequence[Source],
    density: float | None,
    by: str,
    across: str,
    extra: float,
    criterion: str,
    scores: Mapping[str, ArrayLike] | None,
) -> list[Converted]:
    """Keep the best rows of each layer whole, the rows of all layers chosen within one budget.

    Parameters
    ----------
    sources : sequence of Source
    density : float or None
        Of all sources together; None leaves each layer its own, its rows counted as by `refill`.
    by : {"weights", "multiplications"}
    across : str
        How the layers share the budget; see `masktools.conversion.across.spend`.
    extra, criterion
        As `refill` takes them.
    scores : mapping of str to array_like of float, or None
        Per layer, as `refill` takes them.

    Notes
    -----
    A depthwise convolution has one row in each group: its rows are ranked over the whole layer.
    """
    ranked, seconds = [], []
    for source in sources:
        start = time.perf_counter()
        ranked.append(_rank(source, by, extra, criterion, _of_layer(scores, source.name)))
        seconds.append(time.perf_counter() - start)
    if density is None:
        layouts = [_keep_own(one, source, by) for one, source in zip(ranked, sources, strict=True)]
    else:
        budget = _whole(density, sum(one.row_cost * one.shape[0] for one in ranked))
        offers = [
            Offer(*one.candidates(), source.shape, _own(source, by))
            for one, source in zip(ranked, sources, strict=True)
        ]
        chosen = spend(offers, budget, across)
        layouts = [one.layout(which) for one, which in zip(ranked, chosen, strict=True)]
    return [Converted(*pair) for pair in zip(layouts, seconds, strict=True)]


def _rank(
    source: Source, by: str, extra: float, criterion: str, scores: ArrayLike | None
) -> RankedRows:
    saliency = source.saliency.sum(axis=1, dtype=np.float64)
    try:
        given = criterion in GIVEN_CRITERIA or criterion == "count"
        score = row_scores(source.mask, None, criterion, scores) if given else saliency
    except (TypeError, MaskError) as error:
        raise type(error)(f"layer {source.name!r}: {error}") from error
    depthwise = source.groups > 1 and source.shape[1] == 1
    rankings = (1 if depthwise else source.groups, -1)
    return RankedRows(
        source.shape,
        source.groups,
        score.reshape(rankings),
        saliency.reshape(rankings),
        int(_column_cost(source, by).sum()),
        extra,
    )


def _keep_own(ranked: RankedRows, source: Source, by: str) -> BlockLayout:
    """Return a layer's best rows, as many as its own density pays for."""
    share = Fraction(_own(source, by), max(ranked.row_cost * source.rows, 1))
    rankings, rows = ranked.scores.shape
    return ranked.keep(np.full(rankings, rows_kept(share, rows)))


def _of_layer(scores: Mapping[str, ArrayLike] | None, layer: str) -> ArrayLike | None:
    if scores is None:
        return None
    if layer not in scores:
        raise MaskError(f"layer {layer!r} has no scores; {listed(scores)}")
    return scores[layer]


def _column_cost(source: Source, by: str) -> NDArray[np.int64]:
    """Return what a weight of each column costs."""
    if by == "weights" or source.column_cost is None:
        return np.ones(source.columns, np.int64)
    return source.column_cost


def _own(source: Source, by: str) -> int:
    """Return what the weights cost that the layer's mask keeps."""
    return int(np.count_nonzero(source.matrix, axis=0) @ _column_cost(source, by))


def _whole(density: float, cost: int) -> int:
    """Return floor(density * cost), blind to the rounding of a float's last digits."""
    return min(math.floor(density * cost * (1 + 1e-12)), cost)


def _in_order(source: Source, cost: NDArray[np.int64], group_rows: int, own: int) -> Offer:
    """Return what a layer would offer if its groups were its rows in their order.

    The search for row groups needs a price to aim at; what the layer gets is settled later,
    among all layers. On trained tickets the saliency retained came within 0.1 % of what the
    shares that were settled on would have given at once.
    """
    heights = np.tile(group_heights(source.rows // source.groups, group_rows), source.groups)
    first = np.cumsum(heights) - heights
    sums = np.add.reduceat(source.saliency, first, axis=0) if first.size else source.saliency
    return Offer(sums.ravel(), (heights[:, None] * cost).ravel(), source.shape, own)


def _costs(offers: Sequence[Offer], chosen: Sequence[BoolArray]) -> list[int]:
    return [int(offer.cost[which].sum()) for offer, which in zip(offers, chosen, strict=True)]
