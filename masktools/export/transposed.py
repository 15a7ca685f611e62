"""Masks and layouts of transposed convolutions, as the network has these: see `Phases`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from masktools.checks import as_mask
from masktools.errors import MaskError
from masktools.layout import BlockLayout, DenseBlock
from masktools.network.onnx.forms import Phases

if TYPE_CHECKING:
    from onnx import ModelProto

Forms = Mapping[str, Phases]


def transposed_layers(model: ModelProto, names: Mapping[str, str]) -> dict[str, Phases]:
    """Return the layers that a file has as transposed convolutions, and how it has each.

    Parameters
    ----------
    model : onnx.ModelProto
    names : mapping of str to str
        Layers that are renamed, from their names in the file.
    """
    from masktools.network.onnx.reader import read_pass

    if all(node.op_type != "ConvTranspose" for node in model.graph.node):
        return {}
    found = {}
    for weight, readers in read_pass(model).weights.items():
        layer = weight.removesuffix(".weight")
        for use in readers:
            if isinstance(use.form, Phases):
                found[names.get(layer, layer)] = use.form
    return found


def spread_masks(masks: Mapping[str, ArrayLike], forms: Forms) -> dict[str, ArrayLike]:
    """Return masks with those of transposed convolutions in the shape of the network's layers.

    Raises
    ------
    MaskError
        If one of these has another shape than the file's weight.
    """
    spread = dict(masks)
    for name in masks.keys() & forms.keys():
        try:
            keep = as_mask(masks[name])
        except (MaskError, TypeError) as error:
            raise type(error)(f"layer {name!r}: {error}") from error
        _check(name, "mask", keep.shape, forms[name])
        spread[name] = forms[name].to_layer(keep)
    return spread


def spread_layouts(layouts: Mapping[str, BlockLayout], forms: Forms) -> dict[str, BlockLayout]:
    """Return layouts with those of transposed convolutions as blocks of the network's layers.

    A block of the file's weight is rows, which are input channels, times (output channel, tap).
    Of each tap it becomes a block: the rows of these output channels and the tap's phase, times
    these input channels. Taps of one phase and the same output channels make one block.

    Raises
    ------
    MaskError
        If one of these has another shape than the file's weight.
    """
    spread = dict(layouts)
    for name in layouts.keys() & forms.keys():
        layout, form = layouts[name], forms[name]
        _check(name, "layout", layout.shape, form)
        layout.check(full=True)
        blocks = [new for block in layout.blocks for new in _spread(block, form)]
        spread[name] = BlockLayout(form.layer_shape, blocks, form.groups)
    return spread


def _check(name: str, what: str, shape: tuple[int, ...], form: Phases) -> None:
    if shape != form.shape:
        raise MaskError(
            f"layer {name!r}: expected a {what} of shape {form.shape}, as the transposed "
            f"convolution has its weight, got {shape}"
        )


def _spread(block: DenseBlock, form: Phases) -> list[DenseBlock]:
    """Return the blocks of a layer that a block of the file's weight becomes."""
    inputs, outputs, *kernel = form.shape
    count, inside = int(np.prod(kernel)), inputs // form.groups
    phase_of, tap_of = _places(form, count)
    out, tap = np.divmod(block.columns.astype(np.int64), count)
    made = []
    for group in np.unique(block.rows // inside):
        own = block.rows[block.rows // inside == group].astype(np.int64) - group * inside
        joined: defaultdict[tuple[int, bytes], list[int]] = defaultdict(list)
        for t in np.unique(tap):
            joined[int(phase_of[t]), out[tap == t].tobytes()].append(int(tap_of[t]))
        for (phase, read), taps in joined.items():
            rows = (group * outputs + np.frombuffer(read, np.int64)) * form.rows + phase
            columns = own[:, None] * int(np.prod(form.taps)) + np.sort(taps)
            made.append(DenseBlock(rows, columns.ravel()))
    return made


def _places(form: Phases, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the phase of each tap of the file's window, and its tap in the layer's."""
    one: Any = Phases((1, 1, *form.shape[2:]), 1, form.strides, form.dilations)
    numbers = one.to_layer(np.arange(1, count + 1).reshape(one.shape)).reshape(form.rows, -1)
    phases, taps = np.nonzero(numbers)
    order = np.argsort(numbers[phases, taps])
    return phases[order], taps[order]
