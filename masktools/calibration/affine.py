"""Where a layer's shift and scale go: into its own values, or into the BatchNormalization after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.calibration.linear import Float64
from masktools.errors import GraphError
from masktools.network.graph import Graph, Node, real
from masktools.network.layers import Layer

Array = NDArray[Any]


@dataclass(frozen=True)
class Place:
    """A layer's node, and the normalisation that alone reads what it makes.

    Parameters
    ----------
    layer : str
    node : Node
        It has a bias, unless a normalisation follows.
    norm : Node or None
        None where something else reads the output, or it is an output of the network.
    """

    layer: str
    node: Node
    norm: Node | None

    @property
    def weight(self) -> str:
        """The name of the layer's weight."""
        return self.node.inputs[1]

    def bias(self, constants: Mapping[str, Array]) -> Float64:
        """Return the bias of each row; zeros where there is none."""
        if len(self.node.inputs) > 2:
            return constants[self.node.inputs[2]].astype(np.float64)
        return np.zeros(len(constants[self.weight]))

    def gain(self, constants: Mapping[str, Array]) -> Float64:
        """Return the factor of each row in the normalisation; 1 where there is no normalisation."""
        if self.norm is None:
            return np.ones(len(constants[self.weight]))
        scale, _, _, variance = (
            constants[name].astype(np.float64) for name in self.norm.inputs[1:]
        )
        return np.asarray(scale / np.sqrt(variance + real(self.norm, "epsilon")))

    @property
    def output(self) -> str:
        """The name of the layer's output."""
        return self.node.outputs[0]

    @property
    def axis(self) -> int:
        """The axis of the output that its rows lie along."""
        return 1 if self.node.op == "Conv" else -1

    def read_as(
        self, output: Array, constants: Mapping[str, Array], source: Mapping[str, Array]
    ) -> Array:
        """Return the output that would be read the same if the normalisation were the source's.

        Parameters
        ----------
        output : ndarray of float32
            Of the layer; not changed.
        constants, source : mapping of str to ndarray
            Of the network that made it, and of the source.
        """
        if self.norm is None or constants is source:
            return output
        mean, variance, old_mean, old_variance = (
            known[name].astype(np.float64).reshape(-1, *(1,) * (output.ndim - 2))
            for known in (constants, source)
            for name in self.norm.inputs[3:5]
        )
        epsilon = real(self.norm, "epsilon")
        scale = np.sqrt((old_variance + epsilon) / (variance + epsilon))
        return np.asarray((output - mean) * scale + old_mean)

    def shifted(self, constants: Mapping[str, Array], shift: Float64) -> dict[str, Array]:
        """Return the constants that add a number to each row of the layer.

        Parameters
        ----------
        constants : mapping of str to ndarray
            Not changed.
        shift : ndarray of float64, shape (rows,)
        """
        if self.norm is not None:
            mean = self.norm.inputs[3]
            return {mean: (constants[mean] - shift).astype(np.float32)}
        return {self.node.inputs[2]: (self.bias(constants) + shift).astype(np.float32)}

    def matched(
        self, constants: Mapping[str, Array], scale: Float64, have: Float64, want: Float64
    ) -> dict[str, Array]:
        """Return the constants that give each row of the layer another mean and spread.

        Parameters
        ----------
        constants : mapping of str to ndarray
            Not changed.
        scale : ndarray of float64, shape (rows,)
            The spread wanted / that of the layer's output; above 0.
        have, want : ndarray of float64, shape (rows,)
            Means of the output as it is, and as it is to be.

        Notes
        -----
        Where a normalisation follows, it takes up both, and no weight changes; else they are
        folded into weight and bias.
        """
        if self.norm is not None:
            mean, variance = (constants[name].astype(np.float64) for name in self.norm.inputs[3:5])
            epsilon = real(self.norm, "epsilon")
            spread = np.maximum((variance + epsilon) / np.square(scale) - epsilon, 0)
            return {
                self.norm.inputs[3]: (have - (want - mean) / scale).astype(np.float32),
                self.norm.inputs[4]: spread.astype(np.float32),
            }
        weight = constants[self.weight]
        per_row = scale.reshape(-1, *(1,) * (weight.ndim - 1))
        return {
            self.weight: (weight * per_row).astype(np.float32),
            self.node.inputs[2]: (want + (self.bias(constants) - have) * scale).astype(np.float32),
        }


def places(graph: Graph, layers: Mapping[str, Layer]) -> tuple[Graph, dict[str, Place]]:
    """Return the graph with a place for the bias of every layer that can be fitted, and these.

    Parameters
    ----------
    graph : Graph
        In the normal form. Not changed.
    layers : mapping of str to Layer
        Of the graph.

    Returns
    -------
    Graph
        That computes the same: layers without bias or normalisation have a bias of zeros.
    dict of str to Place
        In the order of execution. A layer whose weight or bias several nodes read has none.
    """
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    border = {value.name for value in graph.outputs}
    owners = {layer.weight: name for name, layer in layers.items()}
    constants, nodes, found = dict(graph.constants), list(graph.nodes), {}
    for at, node in enumerate(graph.nodes):
        layer = owners.get(node.inputs[1]) if node.op in ("Conv", "Gemm") else None
        if layer is None or any(len(readers[name]) > 1 for name in node.inputs[1:]):
            continue
        norm = None if node.outputs[0] in border else _norm(node, readers, layers[layer])
        if norm is None and len(node.inputs) == 2:
            bias = f"{layer}.bias"
            if bias in constants:
                continue
            constants[bias] = np.zeros(layers[layer].shape[0], np.float32)
            node = nodes[at] = replace(node, inputs=(*node.inputs, bias))
        found[layer] = Place(layer, node, norm)
    return replace(graph, nodes=tuple(nodes), constants=constants), found


def _norm(node: Node, readers: Mapping[str, list[Node]], layer: Layer) -> Node | None:
    """Return the normalisation that alone reads a layer's output, and its own statistics."""
    after = readers.get(node.outputs[0], [])
    # Of a matrix product, only `taps` tells whether axis 1 of its output is that of the rows.
    by_row = node.op == "Conv" or int(layer.taps.sum()) == 1
    if len(after) != 1 or after[0].op != "BatchNormalization" or not by_row:
        return None
    alone = all(len(readers[name]) == 1 for name in after[0].inputs[3:5])
    return after[0] if alone else None


def with_values(graph: Graph, values: Mapping[str, Array]) -> Graph:
    """Return the graph with some of its constants replaced.

    Parameters
    ----------
    graph : Graph
        In the normal form. Not changed.
    values : mapping of str to ndarray of float32
        By the constant's name. ``<layer>.bias`` is added where the layer has no bias.

    Raises
    ------
    GraphError
        If a name is neither, or a shape differs: naming both.
    """
    constants, nodes = dict(graph.constants), list(graph.nodes)
    for name, array in values.items():
        if name not in constants:
            weight = f"{name.removesuffix('.bias')}.weight"
            at = next((i for i, n in enumerate(nodes) if n.inputs[1:] == (weight,)), None)
            if at is None or not name.endswith(".bias"):
                raise GraphError(
                    f"calibrated value {name!r}: the network has no such constant; it was "
                    "calibrated on another one"
                )
            constants[name] = np.zeros(constants[weight].shape[:1], np.float32)
            nodes[at] = replace(nodes[at], inputs=(*nodes[at].inputs, name))
        if constants[name].shape != array.shape:
            raise GraphError(
                f"calibrated value {name!r}: it has the shape {array.shape}, but the network's "
                f"constant {constants[name].shape}; it was calibrated on another one"
            )
        constants[name] = array
    return replace(graph, nodes=tuple(nodes), constants=constants)
