"""Whole networks: every layer's mask turned into blocks or whole rows, within one budget."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from masktools.checks import check_layers, listed
from masktools.conversion.cost import cost_of
from masktools.conversion.graphs import read_graph
from masktools.conversion.methods import refill_layers, regroup_each, regroup_layers
from masktools.conversion.options import Options
from masktools.conversion.report import LayerReport, Report, layer_report, total
from masktools.conversion.result import Conversion as Conversion
from masktools.conversion.result import check_place
from masktools.conversion.resume import FOLDER, Finished
from masktools.conversion.selection import Source, select
from masktools.errors import MaskError
from masktools.named_layers import NamedLayers
from masktools.network.graph import Graph
from masktools.network.layers import Layer
from masktools.roles import layers_under, transposed
from masktools.transform.saliency import weigh

if TYPE_CHECKING:
    from masktools.network.input_shapes import InputShapes


def convert(
    masks: Mapping[str, ArrayLike],
    weights: Mapping[str, ArrayLike] | None = None,
    *,
    method: str,
    density: float | None = None,
    by: str = "weights",
    across: str = "log-share",
    graph: Graph | str | os.PathLike[str] | None = None,
    input_shapes: InputShapes | None = None,
    extra: float | None = None,
    criterion: str = "l1",
    scores: Mapping[str, ArrayLike] | None = None,
    saliency: str = "magnitude",
    norms: Mapping[str, ArrayLike] | None = None,
    skip: Iterable[str] = (),
    include: Iterable[str] = (),
    target: str = "cpu",
    group_rows: int | None = None,
    row_groups: int | None = None,
    min_column_nonzeros: int | None = None,
    min_rows: int | None = None,
    min_columns: int | None = None,
    passes: int | None = None,
    preset: str | None = None,
    without_blocks: str = "mask",
    partitioner: str = "kahypar",
    seed: int = 0,
    resume: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    progress: bool = True,
) -> Conversion:
    """Convert the masks of a whole network into dense blocks, or into whole rows.

    The classifier, the first layer, depthwise convolutions and layers whose mask keeps every
    weight stay dense unless named in `include`. Where all masks keep every weight the network is
    dense, and is pruned in blocks: give the `density`.

    Parameters
    ----------
    masks : mapping of str to array_like of bool
        Per layer, in the weight's own shape; True = keep. Not changed.
    weights : mapping of str to array_like of float, default None
        Of at least these layers, same shapes: what counts when weights have to go; or any
        saliency per weight. Not changed. None takes the masks themselves.
    method : {"regroup", "refill", "refill-plus"}
        Dense blocks; whole rows; whole rows and `extra` of the others.
    density : float, default None
        Of all converted layers together, spread over them as `across` says. None leaves each
        layer its own mask's density.
    by : {"weights", "multiplications"}
        What `density` is a share of, and what a layer's own density means.
    across : {"log-share", "share", "absolute", "erk", "own"}
        How the layers share `density`. With R the share of its saliency that a layer retains:
        the sum of log R over the layers is largest, and no layer ends empty as long as one
        candidate of each fits; the sum of R is largest; the saliency retained by the whole is
        largest. Or the density of each layer is in proportion to its Erdős-Rényi-kernel density,
        or to its own mask's density, at most 1.
    graph : Graph or path of an ONNX file, default None
        Says which layers are the first and the classifier, has convolution groups, and how often
        each weight is multiplied inside the image. Needed for ``by="multiplications"``. Without
        it, shapes tell the dense layers as far as they can and every layer has one group.
    input_shapes : mapping of str to sequence of int, or one such sequence, default None
        Sizes that the file of `graph` leaves open, as `export.from_onnx` takes them: what
        multiplications are counted at.
    extra : float, default None
        refill-plus: share of the dropped rows of a layer that come back on top of the density; 0.2
        by default, which the paper's tables fit.
    criterion : str, default "l1"
        How refill ranks rows; see `refill`.
    scores : mapping of str to array_like of float, default None
        The rows' scores per converted layer, for criteria that need them.
    saliency : {"magnitude", "input", "error"}
        What is retained as far as possible: the weights' magnitudes; what they add to the
        outputs; the rise of the outputs' error when they go. See
        `masktools.transform.saliency.weigh`.
    norms : mapping of str to array_like of float, default None
        Per converted layer, shape (groups, columns), for a saliency from inputs:
        `masktools.calibration.columns.column_norms` finds them. Not changed.
    skip, include : iterable of str
        Layers that stay dense in any case; layers that are converted in any case.
    target : {"cpu", "cuda", "cuda-tensor"}
        Where the network is to run: gives the height of row groups, 8, 32 or 64. The whole rows
        of refill are the same for all three.
    group_rows : int, default None
        regroup: the height of row groups itself.
    row_groups, min_column_nonzeros, min_rows, min_columns, passes : int, default None
        regroup: the thresholds of Algorithm 3, the same for every layer, in place of a density;
        see `regroup`.
    preset : {"released"}, default None
        regroup: as the code that was released with the paper, in place of a density; see
        `regroup`.
    without_blocks : {"mask", "dense", "empty"}
        What becomes of a layer in which thresholds or a preset find no block: it keeps its mask,
        row by row; it stays dense; nothing of it is stored. The report says so of each.
    partitioner : {"kahypar", "mtkahypar", "spectral", "best"}
        regroup: what divides the rows into groups.
    seed : int, default 0
    resume : path, default None
        A result folder in which the row groups of each layer are kept as soon as they are found,
        and looked for: a conversion that was interrupted goes on from there.
        `Conversion.save` to the same folder removes them.
    executor : concurrent.futures.Executor, default None
        Works on layers side by side, and is not shut down. None starts a process per core.
        Refill takes milliseconds a layer and needs none.
    progress : bool, default True
        Show a bar on standard error, where that is a terminal.

    Returns
    -------
    Conversion
        ``layouts``, ``masks``, ``report``. The same for the same arguments, whatever the
        executor and the number of workers.

    Raises
    ------
    TypeError
        If an argument is of another kind, or two contradict each other.
    MaskError, GraphError, FormatError, PartitionError
        Naming the layer, or the file, and the value that is wrong.

    Notes
    -----
    Regrouping is Algorithm 3 of Chen et al. (ICML 2022), in its budgeted form or with thresholds;
    refilling is Algorithm 2. The paper prints no thresholds, and says nothing of layers without a
    block: its code trains them under their masks (``"mask"``) and runs them dense (``"dense"``).

    Densities of whole networks are not in the paper: with `density`, the (row group, column) pairs
    of all layers, or their rows, compete for one budget by what they add per weight or
    multiplication, that is, at one Lagrange price.

    What a candidate adds is settled by `across`. Magnitudes as they are (``"absolute"``) starve
    layers of small weights, up to nothing. A ticket for digits (98.6 % right), regrouped to half
    its density in groups of 8 rows, was 93 % right with logarithms of shares and 86 % with
    magnitudes; in groups of 32, 82 % and 38 %; not retrained, but BatchNorm's statistics estimated
    again.

    Examples
    --------
    >>> import numpy as np
    >>> mask = np.array([[1, 1, 0, 0], [0, 0, 1, 1]] * 4, bool)
    >>> result = convert({"fc": mask}, method="regroup", include=["fc"], group_rows=4,
    ...                  partitioner="spectral")
    >>> result.layouts["fc"].blocks
    (DenseBlock(4 rows x 2 columns), DenseBlock(4 rows x 2 columns))
    >>> result.report[0].density_after
    0.5
    """
    options = Options(
        method=method,
        density=density,
        by=by,
        across=across,
        saliency=saliency,
        extra=extra,
        criterion=criterion,
        target=target,
        group_rows=group_rows,
        row_groups=row_groups,
        min_column_nonzeros=min_column_nonzeros,
        min_rows=min_rows,
        min_columns=min_columns,
        passes=passes,
        preset=preset,
        without_blocks=without_blocks,
        partitioner=partitioner,
        seed=seed,
    )
    options.check(scores, graph)
    _check_norms(saliency, norms, weights)
    if executor is not None and not isinstance(executor, Executor):
        raise TypeError(f"expected an Executor, got {type(executor).__name__}")
    check_layers("masks", masks)
    if weights is not None:
        check_layers("weights", weights)
    if graph is None and input_shapes is not None:
        raise TypeError("input_shapes needs a graph: the network that it is of")
    named = NamedLayers.of(skip, include)
    network = None if graph is None else read_graph(graph, input_shapes)
    sources, known = _sources(masks, weights, network, named)
    wanted = [source for source in sources if not source.dense_because]
    if not wanted:
        raise MaskError(
            "nothing to convert, unless layers are named in include: "
            + ", ".join(f"{s.name!r} ({s.dense_because})" for s in sources[:4])
            + ", ..." * (len(sources) > 4)
        )
    if norms is not None:
        wanted = [_weighed(source, norms, saliency) for source in wanted]
    finished = _finished(resume)
    if method != "regroup":
        back = options.taken_back
        converted = refill_layers(wanted, density, by, across, back, criterion, scores)
    elif options.form == "budget":
        converted = regroup_layers(
            wanted, density, by, across, options.of_row_groups(), executor, finished, progress
        )
    else:
        converted = regroup_each(
            wanted, options.of_regroup(), without_blocks, executor, finished, progress
        )
    rows = {
        source.name: replace(layer_report(source, one.layout, one.seconds), **one.details)
        for source, one in zip(wanted, converted, strict=True)
    }
    reported = tuple(rows.get(source.name) or layer_report(source, None) for source in sources)
    report = Report(
        reported,
        total(rows.values()),
        total(reported, _unmasked(known, masks)),
        _plain(asdict(options) | {"extra": options.taken_back})
        | {k: list(v) for k, v in asdict(named).items()},
        tuple(_notes(finished, rows)),
        {row.layer: row.dense_because for row in reported if row.dense_because}
        | {name: "it has no mask" for name in known or () if name not in masks},
    )
    layouts = {
        name: one.layout
        for name, one in zip(rows, converted, strict=True)
        if one.layout is not None
    }
    result = Conversion(layouts, report)
    if network is None or known is None:
        return result
    before = {source.name: source.mask for source in sources}
    return replace(
        result, report=replace(report, cost=cost_of(network, known, before, result.masks))
    )


def converted_layers(
    masks: Mapping[str, ArrayLike],
    graph: Graph,
    skip: Iterable[str] = (),
    include: Iterable[str] = (),
) -> list[str]:
    """Return the layers that `convert` would convert: those that it needs norms of.

    Parameters
    ----------
    masks, graph, skip, include
        As `convert`.
    """
    sources, _ = _sources(masks, None, graph, NamedLayers.of(skip, include))
    return [source.name for source in sources if not source.dense_because]


def _check_norms(saliency: str, norms: object, weights: object) -> None:
    if (norms is None) != (saliency == "magnitude"):
        missing = "needs the norms of columns" if norms is None else "takes no norms of columns"
        raise TypeError(f"saliency={saliency!r} {missing}")
    if norms is not None:
        check_layers("norms", norms)
        if weights is None:
            raise TypeError(f"saliency={saliency!r} needs weights")


def _weighed(source: Source, norms: Mapping[str, ArrayLike], saliency: str) -> Source:
    if source.name not in norms:
        raise MaskError(f"layer {source.name!r} has no norms of columns; {listed(norms)}")
    try:
        found = weigh(source.saliency, norms[source.name], saliency, source.groups)
    except (TypeError, MaskError) as error:
        raise type(error)(f"layer {source.name!r}: {error}") from error
    return replace(source, saliency=found)


def _notes(finished: Finished, rows: Mapping[str, LayerReport]) -> Iterator[str]:
    for layer in finished.damaged:
        yield f"layer {layer!r}: the file of its row groups was damaged; they were found again"
    for layer, row in rows.items():
        if row.kept and not row.stored and not row.without_blocks:
            yield f"layer {layer!r}: nothing of it is left within the density"


def _plain(values: Mapping[str, object]) -> dict[str, object]:
    """Return numpy's numbers as Python's, which JSON can hold."""
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}


def _sources(
    masks: Mapping[str, ArrayLike],
    weights: Mapping[str, ArrayLike] | None,
    graph: Graph | None,
    named: NamedLayers,
) -> tuple[list[Source], dict[str, Layer] | None]:
    """Return the layers to convert or leave dense, and those of the network where it is given.

    These have the names of the masks where all are matched. A transposed convolution has another
    shape in the network, so that its mask fits no layer: it is left out where it is skipped.
    """
    if graph is None:
        return select(masks, weights, None, named), None
    shapes = {name: np.shape(mask) for name, mask in masks.items()}
    known = layers_under(graph, shapes, "masks")
    other = transposed(known, shapes)
    for called, name in other.items():
        if called not in named.skip:
            raise MaskError(
                f"layer {called!r} is a transposed convolution, which the graph has in another "
                f"shape, as {name!r}: convert without graph= (--graph), or name it in skip= "
                "(--skip)"
            )
    masks = {name: mask for name, mask in masks.items() if name not in other}
    named = replace(named, skip=tuple(name for name in named.skip if name not in other))
    return select(masks, weights, known, named), known


def _finished(resume: str | os.PathLike[str] | None) -> Finished:
    if resume is None:
        return Finished(None)
    check_place(Path(resume))
    return Finished(Path(resume) / FOLDER)


def _unmasked(known: Mapping[str, Layer] | None, masked: Collection[str]) -> int:
    """Return the multiplications of the graph's layers that have no mask."""
    return sum(
        layer.multiplications() for name, layer in (known or {}).items() if name not in masked
    )
