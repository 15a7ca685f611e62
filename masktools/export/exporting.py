"""Turn a network and its masks or layouts into a checkpoint."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from masktools.calibration.walk import Run
from masktools.checkpoint import Checkpoint, write
from masktools.checks import check_count, check_layers
from masktools.errors import MaskError
from masktools.export.aliases import fitted, known_layers
from masktools.export.calibrated import Inputs, Values, calibrated, check_calibration
from masktools.export.fold import fold
from masktools.export.shrink.shrink import shrink
from masktools.export.stored import BoolArray, Stored, check_wishes, select
from masktools.export.torch_module import module_to_onnx, tied_layers, untied
from masktools.export.transposed import Forms, spread_layouts, spread_masks, transposed_layers
from masktools.files import check_ending, check_target
from masktools.layout import BlockLayout
from masktools.named_layers import NONE, NamedLayers
from masktools.network.network import Network

if TYPE_CHECKING:
    import torch
    from onnx import ModelProto

    from masktools.network.input_shapes import InputShapes

# What is written, how to name it, and the endings that it has.
CHECKPOINT = ("a checkpoint", "end its name in .safetensors", (".safetensors",))


_Given = TypeVar("_Given")

logger = logging.getLogger("masktools.export")


def from_onnx(
    src: str | os.PathLike[str] | ModelProto,
    dst: str | os.PathLike[str],
    *,
    layouts: Mapping[str, BlockLayout] | None = None,
    masks: Mapping[str, ArrayLike] | None = None,
    names: Mapping[str, str] | None = None,
    residual: str = "error",
    include: Iterable[str] = (),
    skip: Iterable[str] = (),
    input_shapes: InputShapes | None = None,
    values: Values | None = None,
    calibrate: Inputs | None = None,
    run: Run | None = None,
    seed: int | None = None,
) -> None:
    """Write a network from ONNX as a checkpoint.

    Parameters
    ----------
    src : path-like or onnx.ModelProto
        Of operator set 9 or newer, weights included. Not changed.
    dst : path-like
        The checkpoint; replaced where it exists, written whole or not at all.
    layouts : mapping of str to BlockLayout, default None
        The blocks of the layers that it names; all others stay dense. None takes them from the
        masks: rows that keep the same columns make a block if they are 4 or more, or keep all
        columns; a row that lacks a few of a block's columns belongs to it, with zeros that are
        stored (see `BlockLayout.from_mask`); the weights of all other rows are the residual.
    masks : mapping of str to array_like of bool, default None
        The weights that count, in the shape of the layer's weight; layers without a mask stay
        dense. None reads the zeros of the weights; then depthwise convolutions stay dense, the
        first layer and the classifier unless blocks hold all that is left, at most a quarter, and
        any layer with less than 1 % zeros. What has zeros and stays dense is logged.
    names : mapping of str to str, default None
        Renames layers: the name in the ONNX file to the name that masks, layouts and the
        checkpoint have. Without it, masks and layouts are matched by what the exporter left of the
        modules' names, by a common prefix, or by the weights (see `masktools.names.match`); how is
        logged.
    residual : {"error", "keep", "drop"}
        What becomes of kept weights outside the blocks: refused, stored one by one, or left out.
    include : iterable of str, default ()
        Layers that stay dense otherwise, whose zeros are read nevertheless; for neither masks nor
        layouts.
    skip : iterable of str, default ()
        Layers that stay dense: their zeros are not read, and their masks and layouts are passed
        over, as those of parts that the exporter left out.
    input_shapes : mapping of str to sequence of int, or one such sequence, default None
        Sizes that the file leaves open, by input or of its only one: ``{"x": (1, 3, 640, 640)}``.
        None, -1, ``"?"`` or a name leaves an axis as the file has it. A first size counts for the
        batch, which stays open where the network means the same for any.
    values : mapping of str to ndarray of float32, default None
        Calibrated values that stand for the file's own: ``result.values``.
    calibrate : array_like of float32, or a mapping of input names to such, default None
        Inputs to fit the values of the layers in `layouts` on, as `masktools.calibrate` does.
    run : callable, default None
        What runs the network for that: `runtime.prepare`.
    seed : int, default None
        That of the conversion which made the layouts or masks, for the record:
        ``result.report.options["seed"]``.

    Raises
    ------
    TypeError
        If an argument is of another kind.
    FormatError
        If `src` is no ONNX file, or `dst` is `src`, lies in no folder, or ends as other files do.
    CalibrationError
        If the inputs to calibrate on do not fit, as `masktools.calibrate`.
    GraphError
        If the network has an operator, an attribute or a shape that is not supported, or
        `input_shapes` does not fit its inputs.
    MaskError
        If a mask or layout matches no layer or has another shape, if weights are not finite, or
        if there is a residual under ``residual="error"``: saying how many weights of which layers.

    Notes
    -----
    Batch normalisation is folded into the layer before it. Channels that are constant, because
    refilling dropped their row, are taken out of the network (see `masktools.export.shrink`).

    The file is not run. The command ``masktools export`` writes the same file and keeps it only if
    every backend that can run here computes what the source does.
    """
    check_target(Path(dst), [_path(src)])
    check_ending(Path(dst), *CHECKPOINT)
    checkpoint, _ = prepare(
        src,
        layouts=layouts,
        masks=masks,
        names=names,
        residual=residual,
        include=include,
        skip=skip,
        input_shapes=input_shapes,
        values=values,
        calibrate=calibrate,
        run=run,
        seed=seed,
    )
    write(dst, checkpoint)


def prepare(
    src: str | os.PathLike[str] | ModelProto,
    *,
    layouts: Mapping[str, BlockLayout] | None = None,
    masks: Mapping[str, ArrayLike] | None = None,
    names: Mapping[str, str] | None = None,
    residual: str = "error",
    include: Iterable[str] = (),
    skip: Iterable[str] = (),
    input_shapes: InputShapes | None = None,
    values: Values | None = None,
    calibrate: Inputs | None = None,
    run: Run | None = None,
    seed: int | None = None,
    say: Callable[[str], None] = logger.warning,
) -> tuple[Checkpoint, dict[str, BoolArray]]:
    """Return the checkpoint that `from_onnx` writes, and the weights that are left in it.

    Parameters
    ----------
    src, layouts, masks, names, residual, include, skip, input_shapes, values, calibrate, run, seed
        As `from_onnx`.
    say : callable, default a warning of the log
        Is told, in a sentence each, what was decided that could have been meant otherwise.

    Returns
    -------
    Checkpoint
    dict of str to ndarray of bool
        By layer, before anything is folded or taken out: which weights are stored and not zero.
    """
    from masktools.network.onnx.reader import load_onnx, read_onnx

    check_wishes(layouts, masks, residual)
    check_calibration(layouts, values, calibrate, run)
    if names is not None:
        check_layers("names", names)
    layouts, masks, named = _chosen(layouts, masks, NamedLayers.of(skip, include))
    seed = _as_seed(seed)
    path = _path(src)
    source = None if path is None else _hash(path)
    model = load_onnx(src, input_shapes, say)
    network = _renamed(Network.of(read_onnx(model)), names or {})
    forms = transposed_layers(model, names or {})
    layouts, masks = _fitted(network, model, forms, layouts, masks, say)
    network, layouts = calibrated(network, layouts, residual, values, calibrate, run)
    stored = _stored(network, forms, layouts, masks, residual, say, named)
    kept = {name: layer.weight != 0 for name, layer in stored.items()}
    return replace(assemble(network, stored), source=source, seed=seed), kept


def from_torch(
    module: torch.nn.Module,
    example_input: Any,  # noqa: ANN401 - a tensor, or a tuple of them
    dst: str | os.PathLike[str],
    *,
    layouts: Mapping[str, BlockLayout] | None = None,
    masks: Mapping[str, ArrayLike] | None = None,
    residual: str = "error",
    include: Iterable[str] = (),
    skip: Iterable[str] = (),
    dynamic_shapes: Any = None,  # noqa: ANN401 - as torch.onnx.export takes them
    calibrate: Inputs | None = None,
    run: Run | None = None,
    seed: int | None = None,
) -> None:
    """Write a PyTorch module in evaluation mode as a checkpoint.

    Parameters
    ----------
    module : torch.nn.Module
        Its training flags are as before afterwards; nothing else is touched.
    example_input : torch.Tensor or tuple of torch.Tensor
        Of the shapes that the network is to take; the batch size stays open where that is sound.
    dst, layouts, masks, residual, include, skip, calibrate, run, seed
        As `from_onnx`; layers have the names of their parameters, without ``.weight``.
    dynamic_shapes : dict, tuple or list, default None
        Sizes to leave open, as `torch.onnx.export` takes them: ``({2: "height", 3: "width"},)``,
        an entry for each input. Axes of one name have one size. The module is captured at other
        sizes too, and must compute the same there. None fixes all but the batch.

    Raises
    ------
    TypeError, FormatError, GraphError, MaskError, CalibrationError
        As `from_onnx`; GraphError too where `torch.export` cannot capture the module, PyTorch
        cannot write it as ONNX, or fixes a size that `dynamic_shapes` leaves open, or the module
        branches by one.

    Notes
    -----
    Through `torch.export` and PyTorch's own writer of ONNX, which needs onnxscript: both keep
    the names of parameters. The file is not run, as in `from_onnx`.
    """
    from masktools.network.onnx.reader import load_onnx, read_onnx

    check_wishes(layouts, masks, residual)
    check_calibration(layouts, None, calibrate, run)
    layouts, masks, named = _chosen(layouts, masks, NamedLayers.of(skip, include))
    seed = _as_seed(seed)
    check_target(Path(dst))
    check_ending(Path(dst), *CHECKPOINT)
    tied = tied_layers(module)
    model = load_onnx(module_to_onnx(module, example_input, dynamic_shapes), say=logger.warning)
    network = Network.of(read_onnx(model))
    network = _renamed(network, {name: tied[name] for name in network.layers if name in tied})
    layouts, masks = untied(layouts, tied), untied(masks, tied)
    forms = transposed_layers(model, {})
    layouts, masks = _fitted(network, model, forms, layouts, masks, logger.warning)
    network, layouts = calibrated(network, layouts, residual, None, calibrate, run)
    stored = _stored(network, forms, layouts, masks, residual, logger.warning, named)
    write(dst, replace(assemble(network, stored), seed=seed))


def _fitted(
    network: Network,
    model: ModelProto,
    forms: Forms,
    layouts: Mapping[str, BlockLayout] | None,
    masks: Mapping[str, ArrayLike] | None,
    say: Callable[[str], None],
) -> tuple[Mapping[str, BlockLayout] | None, Mapping[str, ArrayLike] | None]:
    """Return layouts and masks as the network has their layers, and under its names for them."""
    weights = _weights(network)
    weights |= {name: form.to_file(weights[name]) for name, form in forms.items()}
    known = known_layers(model, network.layers, forms)
    if masks is not None:
        masks = spread_masks(fitted("mask", masks, known, weights, say), forms)
    if layouts is not None:
        layouts = spread_layouts(fitted("layout", layouts, known, weights, say), forms)
    return layouts, masks


def _chosen(
    layouts: Mapping[str, BlockLayout] | None,
    masks: Mapping[str, ArrayLike] | None,
    named: NamedLayers,
) -> tuple[Mapping[str, BlockLayout] | None, Mapping[str, ArrayLike] | None, NamedLayers]:
    """Return layouts and masks but those to skip, and the layers named for reading zeros."""
    if layouts is None and masks is None:
        return None, None, named
    if named.include:
        raise MaskError("include: masks and layouts name the layers themselves; leave it out")
    named.check({**(layouts or {}), **(masks or {})})
    return _without(layouts, named.skip), _without(masks, named.skip), NONE


def _without(
    given: Mapping[str, _Given] | None, names: Collection[str]
) -> dict[str, _Given] | None:
    if given is None:
        return None
    return {name: value for name, value in given.items() if name not in names}


def _stored(
    network: Network,
    forms: Forms,
    layouts: Mapping[str, BlockLayout] | None,
    masks: Mapping[str, ArrayLike] | None,
    residual: str,
    say: Callable[[str], None],
    named: NamedLayers,
) -> dict[str, Stored]:
    places = {name: f.to_layer(np.ones(f.shape, np.bool_)) for name, f in forms.items()}
    weights = _weights(network)
    return select(network.layers, weights, layouts, masks, residual, say, places, named)


def _weights(network: Network) -> dict[str, NDArray[Any]]:
    return {name: network.graph.constants[f"{name}.weight"] for name in network.layers}


def assemble(network: Network, stored: Mapping[str, Stored]) -> Checkpoint:
    """Return the checkpoint of a network: folded, shrunk, and its weights as they are stored.

    Parameters
    ----------
    network : Network
        Not changed.
    stored : mapping of str to Stored
        What is stored of every layer; stands for the graph's own weights. Not changed.
    """
    graph, stored = shrink(*fold(network, stored))
    constants = dict(graph.constants)
    sparse = {}
    for name, layer in stored.items():
        constants.pop(f"{name}.weight")
        weight = layer.sparse()
        if weight is None:
            constants[f"{name}.weight"] = layer.weight
        else:
            sparse[name] = weight
    return Checkpoint(replace(graph, constants=constants), sparse)


def _renamed(network: Network, names: Mapping[str, str]) -> Network:
    """Return the network with layers renamed, weights and biases with them."""
    if not names:
        return network
    graph, found = network.graph, network.layers
    unknown = [name for name in names if name not in found]
    if unknown:
        raise MaskError(
            f"names: {unknown[0]!r} is no layer of the network, which has {', '.join(found)}"
        )
    after = [names.get(name, name) for name in found]
    twice = [name for name in after if after.count(name) > 1]
    if twice:
        raise MaskError(f"names: two layers would be called {twice[0]!r}")
    new = {
        f"{old}.{part}": f"{name}.{part}"
        for old, name in names.items()
        for part in ("weight", "bias")
        if f"{old}.{part}" in graph.constants
    }
    nodes = tuple(
        replace(node, inputs=tuple(new.get(name, name) for name in node.inputs))
        for node in graph.nodes
    )
    constants = {new.get(name, name): array for name, array in graph.constants.items()}
    if len(constants) < len(graph.constants):
        raise MaskError(f"names: {', '.join(names.values())} are names of other constants too")
    shapes = {new.get(name, name): shape for name, shape in network.shapes.items()}
    return Network(replace(graph, nodes=nodes, constants=constants), shapes)


def _as_seed(seed: int | None) -> int | None:
    if seed is None:
        return None
    check_count("seed", seed, 0)
    return int(seed)


def _path(src: str | os.PathLike[str] | ModelProto) -> Path | None:
    return Path(src) if isinstance(src, str | os.PathLike) else None


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return f"sha256:{digest.hexdigest()}"
