"""Divide the rows of a layer into groups of fixed heights, by the partitioner asked for."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.checks import FloatArray, IndexArray
from masktools.errors import MaskError, PartitionError
from masktools.partition.hypergraph import Hypergraph
from masktools.partition.spectral import spectral_groups

Heights = NDArray[np.int64]

PARTITIONERS = ("kahypar", "mtkahypar", "spectral", "best")
_INSTALL = {"kahypar": "kahypar", "mtkahypar": "masktools[mtkahypar]"}


def group_heights(rows: int, group_rows: int) -> Heights:
    """Return the height of each group: full groups, then one of the rows that are left over.

    A remainder stands alone: added to a full group, it would lower what each of those rows keeps.

    Examples
    --------
    >>> group_heights(100, 32).tolist(), group_heights(5, 8).tolist()
    ([32, 32, 32, 4], [5])
    """
    full, rest = divmod(rows, group_rows)
    return np.array([group_rows] * full + [rest] * (rest > 0), np.int64)


def candidates(partitioner: str) -> tuple[str, ...]:
    """Return the partitioners to run for the one asked for.

    Parameters
    ----------
    partitioner : {"kahypar", "mtkahypar", "spectral", "best"}
        "best" stands for all that are installed. KaHyPar has no wheels for Windows: Mt-KaHyPar
        takes its place there, with a warning.

    Raises
    ------
    MaskError
        If there is no partitioner of that name.
    PartitionError
        If it is not installed, saying what to install.
    """
    if partitioner not in PARTITIONERS:
        raise MaskError(f"partitioner {partitioner!r}: expected one of {', '.join(PARTITIONERS)}")
    if partitioner == "best":
        return tuple(name for name in PARTITIONERS[:-1] if name == "spectral" or find_spec(name))
    if partitioner == "kahypar" and sys.platform == "win32":
        warnings.warn(
            "kahypar has no wheels for Windows: mtkahypar divides the rows instead",
            RuntimeWarning,
            stacklevel=3,
        )
        partitioner = "mtkahypar"
    if partitioner != "spectral" and find_spec(partitioner) is None:
        raise PartitionError(
            f"partitioner {partitioner!r} is not installed: pip install "
            f"'{_INSTALL[partitioner]}', or choose 'spectral', which needs nothing more"
        )
    return (partitioner,)


def partition(
    saliency: FloatArray, heights: Heights, partitioner: str, seed: int = 0
) -> IndexArray:
    """Divide rows into groups of given heights, or of at most these, without refinement.

    Parameters
    ----------
    saliency : ndarray of float, shape (rows, columns)
        Not negative; its nonzeros are the mask. Not changed.
    heights : ndarray of int64, shape (k,)
        Rows of each group. Where their sum is more than the number of rows, the most rows of each
        group: how many it gets is then the partitioner's choice.
    partitioner : {"kahypar", "mtkahypar", "spectral"}
    seed : int, default 0

    Returns
    -------
    ndarray of int32, shape (rows,)
        Label `g` occurs ``heights[g]`` times, or at most so often. The same on every run.

    Raises
    ------
    PartitionError
        If the partitioner is missing, fails, or returns groups of other heights.
    """
    (partitioner,) = candidates(partitioner)
    in_order = np.repeat(np.arange(len(heights), dtype=np.int32), heights)[: len(saliency)]
    if len(heights) < 2 or (heights == 1).all() or not saliency.any():
        return in_order
    if partitioner == "spectral":
        return spectral_groups(saliency, heights, seed)
    graph = Hypergraph.from_mask(saliency > 0)
    if not len(graph.columns):
        return in_order
    run: Callable[[Hypergraph, Heights, int], list[int]] = {
        "kahypar": _kahypar,
        "mtkahypar": _mtkahypar,
    }[partitioner]
    try:
        found = np.array(run(graph, heights, seed), np.int32)
    except (RuntimeError, ValueError, TypeError, ImportError) as error:
        raise PartitionError(f"{partitioner} failed on {_size(graph, heights)}: {error}") from error
    got = np.bincount(found, minlength=len(heights))
    if got.shape != heights.shape or got.sum() != len(saliency) or (got > heights).any():
        raise PartitionError(
            f"{partitioner} returned groups of {got.tolist()} rows, not {heights.tolist()}, on "
            f"{_size(graph, heights)}"
        )
    return found


def _kahypar(graph: Hypergraph, heights: Heights, seed: int) -> list[int]:
    import kahypar

    context = kahypar.Context()
    with _configuration("kahypar.ini") as path:
        context.loadINIconfiguration(os.fspath(path))
    context.setK(len(heights))
    context.setEpsilon(0.0)
    context.setCustomTargetBlockWeights(heights.tolist())
    context.setSeed(seed % 2**31)
    context.suppressOutput(True)
    hypergraph = kahypar.Hypergraph(
        graph.vertices,
        len(graph.columns),
        graph.offsets.tolist(),
        graph.pins.tolist(),
        len(heights),
    )
    kahypar.partition(hypergraph, context)
    return [hypergraph.blockID(row) for row in range(graph.vertices)]


def _mtkahypar(graph: Hypergraph, heights: Heights, seed: int) -> list[int]:
    import mtkahypar

    library = _mtkahypar_library()
    with _configuration("mtkahypar.ini") as path, TemporaryDirectory() as folder:
        seeded = Path(folder, path.name)  # a context takes its seed from its file alone
        seeded.write_text(f"{path.read_text()}seed={seed % 2**31}\n")
        context = library.context_from_file(os.fspath(seeded))
    context.set_partitioning_parameters(len(heights), 0.0, mtkahypar.Objective.KM1)
    context.set_individual_target_block_weights(heights.tolist())
    context.logging = False
    pins = [net.tolist() for net in np.split(graph.pins, graph.offsets[1:-1])]
    hypergraph = library.create_hypergraph(context, graph.vertices, len(pins), pins)
    labels: list[int] = hypergraph.partition(context).get_partition()
    return labels


@contextmanager
def _configuration(name: str) -> Iterator[Path]:
    """Give the path of a configuration file of the package."""
    with as_file(files("masktools.partition") / name) as path:
        if not path.is_file():  # KaHyPar would end the process
            raise PartitionError(f"the configuration {path} is missing: reinstall masktools")
        yield path


@cache
def _mtkahypar_library() -> Any:  # noqa: ANN401 - the library has no types
    """Start Mt-KaHyPar, once a process, with one thread: layers run in parallel, not rows."""
    import mtkahypar

    return mtkahypar.initialize(1)


def _size(graph: Hypergraph, heights: Heights) -> str:
    return (
        f"{graph.vertices} rows, {len(graph.columns)} columns of {len(graph.pins)} nonzeros, "
        f"{len(heights)} groups"
    )
