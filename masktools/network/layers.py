"""The layers of a network: their names, roles, and the multiplications that they cost."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from masktools.checks import as_mask
from masktools.errors import GraphError, MaskError
from masktools.network.graph import Graph, Node, Shape, integer, ints
from masktools.network.shapes import pixels_inside, shapes_of

# The ending of layers that a file has as transposed convolutions: their weight is another tensor.
PHASES = ".phases"

# Of layers that stay dense unless they are asked for.
ROLES = {
    "first": "the first layer",
    "classifier": "the classifier",
    "depthwise": "a depthwise convolution",
}

_PARAMETER = re.compile(r"\.(weight(_orig)?|parametrizations\.weight\.original\d*)$")


def layer_name(parameter: str, node: str) -> str:
    """Return the name of the layer whose weight is a given parameter.

    Parameters
    ----------
    parameter : str
        The weight's name in the file.
    node : str
        The name of the node that reads it; may be empty.

    Returns
    -------
    str
        The parameter without ``.weight`` (or what pruning tools make of it); where the file keeps
        no such names the node, or the parameter as it is if the node has no name either.

    Examples
    --------
    >>> layer_name("layer1.0.conv1.weight", "/layer1/0/Conv"), layer_name("onnx::Conv_20", "Conv_3")
    ('layer1.0.conv1', 'Conv_3')
    """
    stem = _PARAMETER.sub("", parameter)
    return stem if stem != parameter else node or parameter


def names_layer(parameter: str) -> bool:
    """Return whether a parameter's name contains the name of its layer.

    Parameters
    ----------
    parameter : str

    Examples
    --------
    >>> names_layer("conv1.weight"), names_layer("conv1.weight_mask")
    (True, False)
    """
    return _PARAMETER.search(parameter) is not None


@dataclass(frozen=True, eq=False)
class Layer:
    """A weight, and the nodes that read it.

    Parameters
    ----------
    name : str
        The weight's name without ``.weight``; with it where another weight is called so.
    shape : tuple of int
        (out, in / groups, kh, kw), (out, in / groups, k) or (out, in).
    groups : int
        Convolution groups.
    role : str
        ``"first"`` where it reads an input of the network, ``"classifier"`` where a matrix makes
        an output of it, ``"depthwise"`` where each group has one input channel; else empty.
    nodes : tuple of str
        Names of the nodes, in execution order; several where layers share weights.
    taps : ndarray of int64, shape ``shape[2:]``
        How often a weight at each place of the window is multiplied, for one sample: the output
        pixels at which it lies on the image, added up over the nodes. Weights on padding are not
        counted.
    pixels : int
        Output pixels for one sample, added up over the nodes: how often each weight is multiplied,
        on the image or on padding.
    weight : str
        The name of the constant.
    """

    name: str
    shape: tuple[int, ...]
    groups: int
    role: str
    nodes: tuple[str, ...]
    taps: NDArray[np.int64]
    pixels: int = 0
    weight: str = ""

    @property
    def column_cost(self) -> NDArray[np.int64]:
        """Multiplications that a kept weight of each column costs, shape (columns,)."""
        return np.broadcast_to(self.taps, self.shape[1:]).ravel()

    def multiplications(self, mask: ArrayLike | None = None, padding: bool = False) -> int:
        """Return the multiplications for one sample, counting those inside the image.

        Parameters
        ----------
        mask : array_like of bool, shape `shape`, default None
            The weights that are kept; None for all.
        padding : bool, default False
            Count those by padding too, as the paper does.

        Raises
        ------
        MaskError
            If the mask has another shape.
        """
        if mask is None:
            # Not by column: a sparse weight may claim more of them than fit into memory.
            channels = self.shape[0] * self.shape[1]
            return channels * (self.pixels * self.taps.size if padding else int(self.taps.sum()))
        keep = as_mask(mask)
        if keep.shape != self.shape:
            raise MaskError(
                f"layer {self.name!r}: expected a mask of shape {self.shape}, got {keep.shape}"
            )
        if padding:
            return int(np.count_nonzero(keep)) * self.pixels
        return int((keep.reshape(self.shape[0], -1).sum(axis=0) * self.column_cost).sum())


def layers(graph: Graph, weights: Mapping[str, Shape] | None = None) -> dict[str, Layer]:
    """Return the layers that have weights, in execution order.

    Parameters
    ----------
    graph : Graph
        In the normal form of docs/format.md.
    weights : mapping of str to tuple of int, default none
        Shapes of the weights that are sparse, by constant's name.

    Returns
    -------
    dict of str to Layer
        Layers that share a weight are one.

    Raises
    ------
    GraphError
        If the shapes do not fit, or a weight is read as a matrix and as a convolution.
    """
    return layers_of(graph, shapes_of(graph, weights))


def layers_of(graph: Graph, shapes: Mapping[str, Shape]) -> dict[str, Layer]:
    """Return the layers of a graph whose shapes are known.

    Parameters
    ----------
    graph : Graph
    shapes : mapping of str to tuple of int
        Of every tensor.

    Raises
    ------
    GraphError
        As `layers`.
    """
    users: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.op in ("Conv", "Gemm"):
            users.setdefault(node.inputs[1], []).append(node)
    near_input, near_output = _near_border(graph)
    found = {}
    for weight, nodes in users.items():
        name, shape = weight.removesuffix(".weight"), shapes[weight]
        name = weight if name in users else name
        groups = {integer(node, "group", 1) for node in nodes}
        if len(groups) > 1:
            raise GraphError(f"layer {name!r}: it is read with {sorted(groups)} groups")
        group = groups.pop()
        role = ""
        if group > 1 and shape[1] == 1:
            role = "depthwise"
        elif any(node.op == "Gemm" and node.outputs[0] in near_output for node in nodes):
            role = "classifier"
        elif any(node.inputs[0] in near_input for node in nodes):
            role = "first"
        taps, pixels = np.zeros(shape[2:], np.int64), 0
        for node in nodes:
            image, output = shapes[node.inputs[0]], shapes[node.outputs[0]]
            taps += _taps(node, image, output, shape)
            pixels += math.prod(map(int, image[1:-1] if node.op == "Gemm" else output[2:]))
        readers = tuple(node.name for node in nodes)
        found[name] = Layer(name, shape, group, role, readers, taps, pixels, weight)
    return found


def _near_border(graph: Graph) -> tuple[set[str], set[str]]:
    """Return the tensors before the first layers, and those after the last."""
    first = {value.name for value in graph.inputs}
    for node in graph.nodes:
        if node.op not in ("Conv", "Gemm") and first.intersection(node.inputs):
            first.update(node.outputs)
    last = {value.name for value in graph.outputs}
    for node in reversed(graph.nodes):
        if node.op not in ("Conv", "Gemm") and last.intersection(node.outputs):
            last.update(node.inputs)
    return first, last


def _taps(node: Node, image: Shape, output: Shape, weight: Shape) -> NDArray[np.int64]:
    if node.op == "Gemm":
        return np.array(np.prod(image[1:-1], dtype=np.int64))
    taps = np.ones((), np.int64)
    strides, dilations, pads = (ints(node, name) for name in ("strides", "dilations", "pads"))
    for i, size in enumerate(image[2:]):
        inside = pixels_inside(
            size, output[i + 2], weight[i + 2], strides[i], dilations[i], pads[i]
        )
        taps = np.multiply.outer(taps, inside)
    return np.asarray(taps)
