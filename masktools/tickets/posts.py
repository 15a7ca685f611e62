"""Posts for `find_ticket`: structured masks made of the unstructured ones of each round.

A post is any callable ``post(masks, state)`` that returns a mask for each layer in `masks`; `state`
has the trained weights that the masks were made of. Both arguments are copies.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from typing import Any

from numpy.typing import ArrayLike

from masktools.conversion.convert import convert
from masktools.conversion.options import Options
from masktools.named_layers import NamedLayers
from masktools.network.graph import Graph
from masktools.tickets.states import Masks, State

Post = Callable[[Masks, State], Mapping[str, ArrayLike]]


def refill(
    extra: float = 0.0,
    *,
    density: float | None = None,
    by: str = "weights",
    across: str = "log-share",
    graph: Graph | str | os.PathLike[str] | None = None,
    criterion: str = "l1",
    skip: Iterable[str] = (),
) -> Post:
    """Keep the best rows of each layer whole: the paper's refill, and refill+ with `extra`.

    Parameters
    ----------
    extra : float, default 0.0
        Share of the dropped rows that come back: refill+. The paper's is 0.2, as its densities
        tell.
    density, by, across, graph, criterion
        As `masktools.convert`.
    skip : iterable of str
        Layers whose masks stay as they are. All others are converted, also a first layer.

    Raises
    ------
    TypeError, MaskError
        If the options do not fit each other, before anything is trained.

    Examples
    --------
    >>> import numpy as np
    >>> masks = {"a": np.array([[1, 1, 0, 1], [0, 1, 0, 0]], bool)}
    >>> state = {"a.weight": np.array([[1.0, 1, 0, 1], [0, 2, 0, 0]])}
    >>> refill()(masks, state)["a"].astype(int)
    array([[1, 1, 1, 1],
           [0, 0, 0, 0]])
    """
    options = {
        "method": "refill-plus" if extra else "refill",
        "density": density,
        "by": by,
        "across": across,
        "extra": extra,
        "criterion": criterion,
    }
    _check(graph, **options)
    return _post(NamedLayers.of(skip), graph=graph, **options)


def regroup(
    *,
    density: float | None = None,
    by: str = "weights",
    across: str = "log-share",
    graph: Graph | str | os.PathLike[str] | None = None,
    target: str = "cpu",
    group_rows: int | None = None,
    partitioner: str = "kahypar",
    seed: int = 0,
    skip: Iterable[str] = (),
    executor: Executor | None = None,
) -> Post:
    """Keep dense blocks: regroup within a budget, by default each layer's own density.

    Parameters
    ----------
    density, by, across, graph, target, group_rows, partitioner, seed, executor
        As `masktools.convert`.
    skip : iterable of str
        As `refill`.

    Raises
    ------
    TypeError, MaskError, PartitionError
        If the options do not fit each other, or the partitioner is not installed, before anything
        is trained.

    Examples
    --------
    >>> import numpy as np
    >>> masks = {"a": np.array([[1, 0, 1, 0], [0, 1, 0, 0], [1, 0, 1, 1], [0, 1, 0, 0]], bool)}
    >>> state = {"a.weight": np.ones((4, 4))}
    >>> regroup(group_rows=2, partitioner="spectral")(masks, state)["a"].astype(int)
    array([[1, 0, 1, 0],
           [0, 1, 0, 0],
           [1, 0, 1, 0],
           [0, 1, 0, 0]])
    """
    options = {
        "method": "regroup",
        "density": density,
        "by": by,
        "across": across,
        "target": target,
        "group_rows": group_rows,
        "partitioner": partitioner,
        "seed": seed,
    }
    _check(graph, **options)
    return _post(NamedLayers.of(skip), graph=graph, executor=executor, **options)


def _check(graph: Graph | str | os.PathLike[str] | None, **options: Any) -> None:  # noqa: ANN401
    """Raise unless options fit each other: a conversion would say so only after a training."""
    Options(**options).check(None, graph)


def _post(named: NamedLayers, **options: Any) -> Post:  # noqa: ANN401 - those of convert
    def post(masks: Masks, state: State) -> Masks:
        named.check(masks)
        pruned = [layer for layer, mask in masks.items() if not mask.all()]
        wanted = [layer for layer in pruned if layer not in named.skip]
        if not wanted:
            return masks
        weights = {layer: state[f"{layer}.weight"] for layer in masks}
        skip = [layer for layer in masks if layer not in wanted]
        converted = convert(masks, weights, include=wanted, skip=skip, progress=False, **options)
        return {
            layer: converted.masks[layer] if layer in wanted else mask
            for layer, mask in masks.items()
        }

    return post
