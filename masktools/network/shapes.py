"""The shape of every tensor of a network, for given shapes of its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from masktools import limits
from masktools.errors import GraphError
from masktools.network.graph import Graph, Node, Shape, where
from masktools.network.operators import operator_of

# What an open batch counts as where any size would do: not 1, which broadcasting would hide.
OPEN_BATCH = 2


def shapes_of(
    graph: Graph, weights: Mapping[str, Shape] | None = None, batch: int = OPEN_BATCH
) -> dict[str, Shape]:
    """Return the shape of every tensor when an open batch has `batch` samples.

    Parameters
    ----------
    graph : Graph
        In the normal form of docs/format.md.
    weights : mapping of str to tuple of int, default none
        Shapes of the weights that are sparse, by constant's name.
    batch : int, default OPEN_BATCH

    Raises
    ------
    GraphError
        As `infer_shapes`.
    """
    given = {v.name: tuple(batch if n is None else n for n in v.shape) for v in graph.inputs}
    return infer_shapes(graph, given, weights)


def infer_shapes(
    graph: Graph, inputs: Mapping[str, Shape], weights: Mapping[str, Shape] | None = None
) -> dict[str, Shape]:
    """Return the shape of every tensor that flows through the network.

    Parameters
    ----------
    graph : Graph
        In the normal form of docs/format.md.
    inputs : mapping of str to tuple of int
        The shape of each input of the graph.
    weights : mapping of str to tuple of int, default none
        Shapes of constants that `graph.constants` does not hold: the sparse weights.

    Returns
    -------
    dict of str to tuple of int
        By name: inputs, constants, and the outputs of all nodes.

    Raises
    ------
    GraphError
        If an input is missing or does not fit what the graph declares; or, naming the node, if
        shapes do not fit each other.

    Examples
    --------
    >>> from masktools.network.graph import Value
    >>> flatten = Node("flat", "Flatten", ("x",), ("y",), {"axis": 1})
    >>> graph = Graph((Value("x", (None, 2, 3)),), (Value("y", (None, 6)),), (flatten,))
    >>> infer_shapes(graph, {"x": (5, 2, 3)})["y"]
    (5, 6)
    """
    shapes: dict[str, Shape] = {name: array.shape for name, array in graph.constants.items()}
    shapes.update(weights or {})
    for value in graph.inputs:
        if value.name not in inputs:
            raise GraphError(f"input {value.name!r}: its shape is not given")
        given = tuple(inputs[value.name])
        if len(given) != len(value.shape) or any(
            n < 1 or want not in (None, n) for n, want in zip(given, value.shape, strict=True)
        ):
            raise GraphError(f"input {value.name!r}: expected {value.shape}, got {given}")
        shapes[value.name] = given
    for node in graph.nodes:
        shapes.update(zip(node.outputs, output_shapes(node, shapes), strict=True))
    return shapes


def output_shapes(node: Node, shapes: Mapping[str, Shape]) -> list[Shape]:
    """Return the shapes of a node's outputs.

    Parameters
    ----------
    node : Node
        In the normal form.
    shapes : mapping of str to tuple of int
        The shape of each of its inputs.

    Raises
    ------
    GraphError
        Naming the node, if the shapes do not fit.
    """
    given = [shapes[name] for name in node.inputs]
    _check_ranks(node, given)
    try:
        made = operator_of(node).shape(node, given)
    except (ValueError, IndexError, ArithmeticError) as error:
        raise GraphError(
            f"{where(node)}: inputs of shape {_numbers(given)} do not fit: {error}"
        ) from error
    for shape in made:
        if min(shape, default=1) < 1 or max(shape, default=1) >= 2**31:
            raise GraphError(
                f"{where(node)}: inputs of shape {_numbers(given)} "
                f"make an {'empty' if min(shape) < 1 else 'oversized'} output {_numbers([shape])}"
            )
    _check_ranks(node, made)
    return made


def _numbers(shapes: Sequence[Shape]) -> str:
    return ", ".join(str(tuple(map(int, shape))) for shape in shapes)


def _check_ranks(node: Node, shapes: Sequence[Shape]) -> None:
    rank = max(map(len, shapes), default=0)
    if rank > limits.RANK:
        raise GraphError(f"{where(node)}: a tensor of {rank} axes; {limits.RANK} are supported")


def pixels_inside(
    size: int, pixels: int, kernel: int, stride: int, dilation: int, pad: int
) -> NDArray[np.int64]:
    """Return, for each tap of one axis, how many output pixels read inside the image by it.

    Parameters
    ----------
    size, pixels : int
        Of the image and of the output along the axis.
    kernel, stride, dilation : int
    pad : int
        Before the first pixel of the image.

    Returns
    -------
    ndarray of int64, shape (kernel,)

    Examples
    --------
    >>> pixels_inside(size=4, pixels=4, kernel=3, stride=1, dilation=1, pad=1).tolist()
    [3, 4, 3]
    """
    # Of the pixels p, those with 0 <= start + p * stride < size. Taps beyond the image may be any
    # number of 64 bits away: as Python's integers they cannot overflow.
    size, pixels, pad = int(size), int(pixels), int(pad)
    counts = np.zeros(kernel, np.int64)
    for tap in range(kernel):
        start = tap * dilation - pad
        first = max(-(start // stride), 0)
        last = min((size - 1 - start) // stride, pixels - 1)
        counts[tap] = max(last - first + 1, 0)
    return counts
