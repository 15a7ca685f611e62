"""The open sizes of a network, and the network with numbers in their place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from masktools.errors import GraphError
from masktools.network.graph import Attribute, Graph, Node, Shape, Value, where
from masktools.network.input_shapes import InputShapes, given_sizes
from masktools.network.sizes import Size, evaluate


def open_sizes(inputs: Iterable[Value]) -> dict[str, int]:
    """Return the open sizes of a network's inputs besides the batch: examples by name.

    Examples
    --------
    >>> open_sizes([Value("x", (None, 3, Size.open("height", 256), 32))])
    {'height': 256}
    """
    sizes = (size for value in inputs for size in value.shape)
    return {repr(size): int(size) for size in sizes if isinstance(size, Size)}


def sizes_of(inputs: Iterable[Value], shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Return what the open sizes are where inputs have some shapes.

    Parameters
    ----------
    inputs : iterable of Value
    shapes : mapping of str to tuple of int
        Of each input, with as many axes as it has.

    Raises
    ------
    GraphError
        If one size would have two values.
    """
    sizes: dict[str, int] = {}
    for value in inputs:
        for size, given in zip(value.shape, shapes[value.name], strict=True):
            if isinstance(size, Size) and sizes.setdefault(repr(size), given) != given:
                raise GraphError(
                    f"input {value.name!r}: expected shape {value.shape_text}, got "
                    f"{tuple(shapes[value.name])}: {size!r} is {sizes[repr(size)]} before"
                )
    return sizes


def with_input_shapes(graph: Graph, shapes: InputShapes) -> Graph:
    """Return a network at sizes that a user gives; those not given are the examples.

    Parameters
    ----------
    graph : Graph
        Not changed.
    shapes : mapping of str to sequence of int, str or None; or one such sequence
        As `masktools.network.input_shapes.given_sizes` takes them.

    Raises
    ------
    GraphError
        If they do not fit the inputs.
    """
    given = given_sizes(shapes, {value.name: value.shape for value in graph.inputs})
    named = [value for value in graph.inputs if value.name in given]
    whole = {
        value.name: tuple(
            int(size or own or 1) for size, own in zip(given[value.name], value.shape, strict=True)
        )
        for value in named
    }
    return fixed(graph, open_sizes(graph.inputs) | sizes_of(named, whole))


def fixed(graph: Graph, sizes: Mapping[str, int]) -> Graph:
    """Return a network with numbers in the place of its open sizes.

    Parameters
    ----------
    graph : Graph
        Not changed.
    sizes : mapping of str to int
        The value of each open size, by name.

    Raises
    ------
    GraphError
        If a formula divides by 0, naming the node.
    """
    return replace(
        graph,
        inputs=tuple(_value(value, sizes) for value in graph.inputs),
        outputs=tuple(_value(value, sizes) for value in graph.outputs),
        nodes=tuple(_node(node, sizes) for node in graph.nodes),
    )


def _value(value: Value, sizes: Mapping[str, int]) -> Value:
    return replace(value, shape=tuple(_number(size, sizes) for size in value.shape))


def _number(size: int | None, sizes: Mapping[str, int]) -> int | None:
    return evaluate(repr(size), sizes) if isinstance(size, Size) else size


def _node(node: Node, sizes: Mapping[str, int]) -> Node:
    def attribute(value: Attribute) -> Attribute:
        if not isinstance(value, tuple) or not any(isinstance(v, Size) for v in value):
            return value
        return tuple(evaluate(repr(v), sizes) if isinstance(v, Size) else v for v in value)  # type: ignore[return-value] # of one type, as before

    try:
        return replace(node, attributes={k: attribute(v) for k, v in node.attributes.items()})
    except GraphError as error:
        raise GraphError(f"{where(node)}: {error}") from error
