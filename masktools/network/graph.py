"""The network as nodes in ONNX's operator vocabulary; docs/format.md gives their meaning."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

from numpy.typing import NDArray

from masktools.errors import GraphError
from masktools.network.sizes import Size

Shape = tuple[int, ...]
Attribute = int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]


@dataclass(frozen=True)
class Value:
    """A named tensor at the border of the network.

    `shape` holds None for the batch where any is accepted, and a `Size` where a size is open or
    follows from open ones: that is the number of an example.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"

    @property
    def shape_text(self) -> str:
        """The shape as people read it, with N for the batch and formulas for open sizes.

        Examples
        --------
        >>> Value("x", (None, 3, 32)).shape_text
        '(N, 3, 32)'
        """
        return "(" + ", ".join("N" if n is None else str(n) for n in self.shape) + ")"


@dataclass(frozen=True)
class Node:
    """One operator; optional inputs that are absent are left off the end."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """Nodes in execution order, and the constants that they read by name."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, NDArray[Any]] = field(default_factory=dict)


# --- what a node is called, and its attributes by type ------------------------------------------


class Named(Protocol):
    """Anything with a node's name and operator: a `Node`, or a node as an ONNX file has it."""

    @property
    def name(self) -> str:
        """The node's name."""

    @property
    def op(self) -> str:
        """The operator's name."""


def where(node: Named) -> str:
    """Return what an error calls a node.

    Examples
    --------
    >>> where(Node("conv1", "Conv", ("x",), ("y",)))
    "node 'conv1' (Conv)"
    """
    return f"node {node.name!r} ({node.op})"


def integer(node: Node, name: str, default: int | None = None) -> int:
    """Return an attribute that is an int.

    Raises
    ------
    GraphError
        If it is of another kind, or missing and there is no default.
    """
    value = node.attributes.get(name, default)
    if type(value) is not int:
        raise GraphError(f"{where(node)}: attribute {name} must be an int, got {value!r}")
    return value


def ints(node: Node, name: str) -> tuple[int, ...]:
    """Return an attribute that is a tuple of int.

    Raises
    ------
    GraphError
        If it is missing or of another kind.
    """
    value = node.attributes.get(name)
    if not isinstance(value, tuple):
        raise GraphError(f"{where(node)}: attribute {name} must be ints, got {value!r}")
    return tuple(v if isinstance(v, Size) else int(v) for v in value)


def real(node: Node, name: str, default: float | None = None) -> float:
    """Return an attribute that is a float.

    Raises
    ------
    GraphError
        If it is of another kind, or missing and there is no default.
    """
    value = node.attributes.get(name, default)
    if type(value) is not float:
        raise GraphError(f"{where(node)}: attribute {name} must be a float, got {value!r}")
    return value


# --- names that are free ------------------------------------------------------------------------


def numbered(wish: str, suffix: str = "") -> Iterator[str]:
    """Yield a name, then the same name with 1, 2, ... before its suffix, without end.

    Examples
    --------
    >>> from itertools import islice
    >>> list(islice(numbered("conv", ".weight"), 3))
    ['conv.weight', 'conv_1.weight', 'conv_2.weight']
    """
    yield wish + suffix
    for number in count(1):
        yield f"{wish}_{number}{suffix}"


def fresh(wish: str, *taken: Container[str]) -> str:
    """Return a name that nothing has yet: `wish` if that is free, else with a number.

    Parameters
    ----------
    wish : str
    *taken : container of str
        Names that are in use; any number of collections of them.

    Examples
    --------
    >>> fresh("y", {"x"}), fresh("y", {"y"}, {"y_1": 0})
    ('y', 'y_2')
    """
    return next(name for name in numbered(wish) if not any(name in names for names in taken))
