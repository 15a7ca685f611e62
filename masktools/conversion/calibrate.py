"""Fit a converted network to its source on a few inputs, without labels and without training."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from masktools.calibration.network import calibrate_graph
from masktools.calibration.report import Calibration
from masktools.calibration.walk import Run
from masktools.checkpoint import Checkpoint
from masktools.checks import check_layers
from masktools.conversion.graphs import read_graph
from masktools.conversion.result import Conversion, load_layouts
from masktools.errors import MaskError
from masktools.layout import BlockLayout
from masktools.network.graph import Graph
from masktools.progress import bar

if TYPE_CHECKING:
    from onnx import ModelProto

    from masktools.network.input_shapes import InputShapes

RESIDUALS = ("drop", "keep")


def calibrate(
    network: Graph | Checkpoint | ModelProto | str | os.PathLike[str],
    layouts: Conversion | Mapping[str, BlockLayout] | str | os.PathLike[str],
    inputs: Mapping[str, ArrayLike] | ArrayLike,
    *,
    run: Run,
    labels: ArrayLike | None = None,
    method: str = "refit",
    residual: str = "drop",
    skip: Iterable[str] = (),
    input_shapes: InputShapes | None = None,
    progress: bool = True,
) -> Calibration:
    """Fit the values of a converted network to what the network before conversion computes.

    Takes some inputs, a few hundred mostly, and neither labels nor gradients nor a training
    framework. As much is stored as before.

    Parameters
    ----------
    network : path of an ONNX file, onnx.ModelProto, Graph or Checkpoint
        The source network with its weights: the ticket, or the dense network, whichever the
        converted one is to follow. Not changed.
    layouts : Conversion, mapping of str to BlockLayout, or path of a result folder
        What is stored of the layers that were converted. Dense layers behind them are fitted too,
        unless `method` is "statistics": they make up for a part of what was lost.
    inputs : array_like of float32, shape (samples, ...); or a mapping of input names to such
        As the network takes them, at least 32; they may be mapped from a file. One in eight is
        held back from the fit, to choose by and to measure on.
    run : callable
        Makes a network ready to run: takes a `Checkpoint`, returns a function from inputs by name
        to outputs, as `runtime.prepare` does.
    labels : array_like of int, shape (samples,), default None
        For the accuracies in the report alone.
    method : {"refit", "values", "statistics"}
        ``"refit"``: choose the columns that each block stores, as many as before, and fit the
        values. Columns stay where others would not lessen the layer's error on the samples held
        back, where rows lie in several blocks or have weights beside them, and where the choice
        would take long (`report` says so). ``"values"``: keep the columns. ``"statistics"``: only
        give each row the mean and variance that it has in the source, in the batch normalisation
        after it where there is one.
    residual : {"drop", "keep"}
        Whether non-zero weights outside the blocks are stored too.
    skip : iterable of str, default ()
        Layers that keep their values.
    input_shapes : mapping of str to sequence of int, or one such sequence, default None
        Sizes that an ONNX file leaves open, as in `masktools.export.from_onnx`.
    progress : bool, default True
        Show a bar on standard error, where that is a terminal.

    Returns
    -------
    Calibration
        ``values``, ``report``, and the ``layouts`` that store other columns now.
        `Conversion.calibrated` keeps them together. The same for the same arguments on the same
        machine.

    Raises
    ------
    TypeError
        If an argument is of another kind.
    CalibrationError
        If the inputs do not fit the network, are too few, all the same or not finite, or there is
        not a label for each.
    MaskError
        If `skip` names no layer, or a layout matches none or has another shape.
    FormatError, GraphError, OSError
        If the network or the result folder cannot be read.

    Notes
    -----
    Layer after layer in the order of execution: x, a layer's input in the network converted so
    far; y, the layer's output in the source. For each row, ``mean |y - w x - b|^2 + ridge v
    |w - w0|^2`` is least over the columns that the row stores; w0 are the stored values, v is the
    mean variance of the columns, and the ridge is the one of four that is best on the samples held
    back. All rows of a block share their columns and so one factorization. Then each row is scaled
    to the variance of y, so that later layers get inputs of the size that they were made for.

    Columns are chosen by orthogonal least squares, with the same ridge to the source's own values:
    one after the other, the one with which the rows of the block miss least.

    Examples
    --------
    A matrix whose rows store two of four columns, by a runner made for it:

    >>> import numpy as np, masktools
    >>> from masktools.network.graph import Graph, Node, Value
    >>> rng = np.random.default_rng(0)
    >>> weight = rng.standard_normal((2, 4)).astype(np.float32)
    >>> gemm = Node("fc", "Gemm", ("x", "fc.weight"), ("y",), {"transB": 1})
    >>> network = Graph(
    ...     (Value("x", (None, 4)),), (Value("y", (None, 2)),), (gemm,), {"fc.weight": weight}
    ... )
    >>> x = rng.standard_normal((64, 4)).astype(np.float32)
    >>> x[:, 2:] = x[:, :2]  # the columns that are dropped tell nothing new
    >>> def run(checkpoint):
    ...     constants = checkpoint.graph.constants
    ...     bias = constants.get("fc.bias", 0)
    ...     return lambda inputs: inputs["x"] @ constants["fc.weight"].T + bias
    >>> layout = masktools.BlockLayout((2, 4), [masktools.DenseBlock([0, 1], [0, 1])])
    >>> found = masktools.calibrate(network, {"fc": layout}, x, run=run, method="values")
    >>> bool(found.report.error_after < 1e-4 < found.report.error_before)
    True
    >>> np.round(found.values["fc.weight"] - (weight[:, :2] + weight[:, 2:]) @ np.eye(2, 4), 1) + 0
    array([[0., 0., 0., 0.],
           [0., 0., 0., 0.]])
    """
    if residual not in RESIDUALS:
        raise MaskError(f"residual must be one of {', '.join(RESIDUALS)}, got {residual!r}")
    graph = read_graph(network, input_shapes)
    return calibrate_graph(
        graph, _layouts(layouts), inputs, run, labels=labels, method=method, residual=residual,
        skip=skip, progress=partial(bar, title="calibration") if progress else None,
    )  # fmt: skip


def _layouts(
    layouts: Conversion | Mapping[str, BlockLayout] | str | os.PathLike[str],
) -> Mapping[str, BlockLayout]:
    if isinstance(layouts, Conversion):
        layouts = layouts.layouts
    elif isinstance(layouts, str | os.PathLike):
        layouts = load_layouts(layouts)
    check_layers("layouts", layouts)
    for name, layout in layouts.items():
        if not isinstance(layout, BlockLayout):
            raise TypeError(
                f"layouts: layer {name!r}: expected a BlockLayout, got {type(layout).__name__}"
            )
    return layouts
