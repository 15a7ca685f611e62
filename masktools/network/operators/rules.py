"""The arguments of an operator's rules, and the rules that most operators share.

A rule answers one question about a node: which shapes it makes, where its channels come from,
which of them are constant, and what is left of it once channels are taken out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from masktools.network.graph import Attribute, Node, Shape, fresh

Labels = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
# Of each channel: its value at every pixel, or NaN where it depends on the input or the pixel.
Values = NDArray[np.float64]


@dataclass
class Flow:
    """Where the channels of every tensor come from.

    A label stands for a channel as a layer, or an input, made it. Operators pass labels on; where
    they combine channels one by one, labels are tied.

    Parameters
    ----------
    constants : collection of str
        Names of the tensors that do not flow.
    shapes : mapping of str to tuple of int
        Of every tensor.
    labels : dict of str to ndarray of int64
        For each tensor of two or more axes, the label of each entry of axis 1.
    rows : dict of str to ndarray of int64
        For each layer, the labels of its rows.
    made : list of (str, int)
        For each label the layer and its row, or the tensor and its channel.
    ties : list of (ndarray, ndarray)
        Labels that are tied, pair by pair.
    fixed : list of ndarray
        Labels whose channels must stay where they are: the network's inputs and outputs, and
        what an operator combines in another way.
    """

    constants: Collection[str] = ()
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    labels: dict[str, Labels] = field(default_factory=dict)
    rows: dict[str, Labels] = field(default_factory=dict)
    made: list[tuple[str, int]] = field(default_factory=list)
    ties: list[tuple[Labels, Labels]] = field(default_factory=list)
    fixed: list[Labels] = field(default_factory=list)

    def new(self, name: str, count: int) -> Labels:
        """Return labels for the rows of a layer, or the channels of a tensor."""
        start = len(self.made)
        self.made.extend((name, row) for row in range(count))
        return np.arange(start, start + count)

    def components(self) -> Labels:
        """Return for each label the number of the group of tied labels that it is in."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        a, b = (
            np.concatenate([np.empty(0, np.int64), *(pair[side] for pair in self.ties)])
            for side in (0, 1)
        )
        size = len(self.made)
        joined = coo_array((np.ones(len(a), np.int8), (a, b)), (size, size))
        component: Labels = connected_components(joined, directed=False)[1].astype(np.int64)
        return component


@dataclass(frozen=True, eq=False)
class Known:
    """The channels that are known to be constant, and their values, before a node.

    Parameters
    ----------
    constants : mapping of str to ndarray
    weights : mapping of str to ndarray
        The weight of each layer by its constant's name; stands for the one in `constants`.
    shapes : mapping of str to tuple of int
        Of every tensor.
    values : mapping of str to ndarray of float64, shape (channels,)
        Of every tensor so far: each channel's constant value, NaN where it is not constant.
    """

    constants: Mapping[str, NDArray[Any]]
    weights: Mapping[str, NDArray[Any]]
    shapes: Mapping[str, Shape]
    values: Mapping[str, Values]

    def unknown(self, name: str) -> Values:
        """Return NaN for each channel of a tensor."""
        shape = self.shapes[name]
        return np.full(shape[1] if len(shape) > 1 else 0, np.nan)


@dataclass(frozen=True, eq=False)
class Cutting:
    """The channels that stay, and the constants of the graph while channels are taken out.

    Parameters
    ----------
    before : mapping of str to ndarray
        The constants as they were.
    uses : Counter of str
        How many nodes' inputs a tensor is.
    kept : mapping of str to ndarray of bool
        Of each tensor the entries of axis 1 that stay.
    shapes : mapping of str to tuple of int
        Of every tensor as they were.
    constants : dict of str to ndarray
        What is left of the constants.
    cut_weight : callable
        Keeps some rows and some input channels of a weight, told by its constant's name, and
        notes its convolution groups afterwards: ``cut_weight(name, rows, channels, groups)``.
    """

    before: Mapping[str, NDArray[Any]]
    uses: Counter[str]
    kept: Mapping[str, BoolArray]
    shapes: Mapping[str, Shape]
    constants: dict[str, NDArray[Any]]
    cut_weight: Callable[[str, BoolArray, BoolArray, int], None]

    def store(self, name: str, array: NDArray[Any]) -> str:
        """Store a constant that was cut, under a new name if other nodes read it too."""
        new = fresh(name, self.constants) if self.uses[name] > 1 else name
        self.constants[new] = array
        return new


ShapeRule: TypeAlias = Callable[[Node, list[Shape]], list[Shape]]
ChannelRule: TypeAlias = Callable[[Flow, Node], "list[Labels] | None"]
ConstantRule: TypeAlias = Callable[[Known, Node], "list[Values] | None"]
CutRule: TypeAlias = Callable[[Cutting, Node], Node]


# --- rules that most operators share ------------------------------------------------------------


def same_shape(node: Node, given: list[Shape]) -> list[Shape]:
    """Return the shape of the first input."""
    return [given[0]]


def same_channels(flow: Flow, node: Node) -> list[Labels] | None:
    """Return the labels of the first input: each channel is passed on."""
    before = flow.labels.get(node.inputs[0])
    return None if before is None else [before] * len(node.outputs)


def same_constants(known: Known, node: Node) -> list[Values]:
    """Return the values of the first input: a constant channel keeps its value."""
    return [known.values[node.inputs[0]]] * len(node.outputs)


def no_constants(known: Known, node: Node) -> None:
    """Return None: no channel is known to be constant."""
    return


def uncut(cutting: Cutting, node: Node) -> Node:
    """Return the node as it is: what it does follows from the shape of its input."""
    return node


def cut_attributes(
    rule: Callable[[Cutting, Node], Mapping[str, Attribute]],
) -> CutRule:
    """Return the rule of an operator of which only attributes change.

    Parameters
    ----------
    rule : callable
        Returns those that change, with their new values.
    """

    def cut(cutting: Cutting, node: Node) -> Node:
        return replace(node, attributes={**node.attributes, **rule(cutting, node)})

    return cut
