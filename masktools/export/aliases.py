"""Find the other names of an ONNX file's layers in what its exporter left behind."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from masktools import limits
from masktools.errors import MaskError
from masktools.layout import BlockLayout
from masktools.names import Known, is_masked, match, module_path, unmatched
from masktools.network.layers import Layer, layer_name, names_layer
from masktools.network.onnx.forms import Phases

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.floating[Any]]

# Of torch.export: the modules around a node, and their classes.
_SCOPES = "pkg.torch.onnx.name_scopes"
_CLASSES = "pkg.torch.onnx.class_hierarchy"


def known_layers(
    model: ModelProto, layers: Mapping[str, Layer], forms: Mapping[str, Phases]
) -> dict[str, Known]:
    """Return the layers of a network with their other names.

    Parameters
    ----------
    model : onnx.ModelProto
        That the layers were read from.
    layers : mapping of str to Layer
    forms : mapping of str to Phases
        Of those that the file has as transposed convolutions: they are known as it has them.
    """
    nodes = {node.name: node for node in model.graph.node if node.name}
    constants = [tensor.name for tensor in model.graph.initializer]
    constants += [tensor.values.name for tensor in model.graph.sparse_initializer]
    constants += [n.output[0] for n in model.graph.node if n.op_type == "Constant" and n.output]
    parameters = {layer_name(name, "") for name in constants if names_layer(name)}
    known = {}
    for name, layer in layers.items():
        also = [
            other
            for node in layer.nodes
            if node in nodes
            for other in _names(nodes[node])
            if other != name
        ]
        shape, own = layer.shape, name
        if name in forms:
            shape, own = forms[name].shape, name.removesuffix(forms[name].mark)
            also.insert(0, own)
        known[name] = Known(shape, tuple(dict.fromkeys(also)), own not in parameters)
    return known


def fitted(
    what: str,
    given: Mapping[str, Any],
    known: Mapping[str, Known],
    weights: Mapping[str, FloatArray],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Return masks or layouts under the names that the network has for their layers.

    Parameters
    ----------
    what : str
        "mask" or "layout".
    given : mapping of str to array_like of bool or BlockLayout
    known, weights
        The network's layers, and their weights.
    say : callable
        Is told how names that differ were matched.

    Raises
    ------
    MaskError
        If a name belongs to no layer, or two names belong to one layer and differ.
    """
    keeps = {name: _kept(value) for name, value in given.items()}

    def fits(name: str, layer: str) -> bool:
        return is_masked(keeps[name], weights[layer])

    shapes = {name: keep.shape for name, keep in keeps.items()}
    found = match(shapes, known, fits)
    for line in (*found.notes, *found.guesses):
        say(f"{what}s were matched {line}")
    if found.unused:
        raise MaskError(f"{unmatched(what, shapes, known, found)}; skip= (--skip) passes them over")
    result = {}
    for layer, names in found.layers.items():
        result[layer] = given[names[0]]
        for other in names[1:]:
            if not np.array_equal(keeps[names[0]], keeps[other]):
                raise MaskError(
                    f"layers {names[0]!r} and {other!r} share their weight, but their {what}s "
                    "differ"
                )
    return result


def _kept(value: Any) -> BoolArray:  # noqa: ANN401 - a mask or a layout
    """Return which weights a mask or a layout keeps; its values are checked later."""
    if isinstance(value, BlockLayout):
        return value.to_mask()
    try:
        return np.asarray(value).astype(np.bool_)
    except ValueError:
        return np.zeros(0, np.bool_)


def _names(node: NodeProto) -> Iterator[str]:
    """Yield what a node tells about its module, the surest first."""
    # A bias keeps its name where pruning or folding has made the weight a new constant.
    if len(node.input) > 2 and node.input[2].endswith(".bias"):
        yield node.input[2].removesuffix(".bias")
    path = module_path(node.name)
    if path is not None:
        yield path
    scopes, classes = _said(node, _SCOPES), _said(node, _CLASSES)
    # The last scope is the operator. What a normalisation was folded into bears its name.
    if len(scopes) > 1 and scopes[-2] and not (classes[-2:-1] and "Norm" in classes[-2]):
        yield scopes[-2]
    if len(node.input) > 1 and not names_layer(node.input[1]):
        yield node.input[1]  # A parameter of another name, such as attention's in_proj_weight.


def _said(node: NodeProto, key: str) -> list[str]:
    """Return a list of texts among what the exporter has noted of a node."""
    for entry in node.metadata_props:
        if entry.key == key and len(entry.value) <= limits.NAME_LENGTH:
            try:
                value = ast.literal_eval(entry.value)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                return []
            return value if isinstance(value, list) and all(map(_is_text, value)) else []
    return []


def _is_text(value: object) -> bool:
    return isinstance(value, str)
