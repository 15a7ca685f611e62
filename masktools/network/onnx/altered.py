"""ONNX models with calibrated values in the place of those that the file has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from masktools.errors import GraphError
from masktools.network.graph import Graph
from masktools.network.onnx.forms import Phases, Rearranged, Use
from masktools.network.onnx.reader import read_pass

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def with_values(model: ModelProto, values: Mapping[str, NDArray[np.float32]]) -> ModelProto:
    """Return the model with calibrated values in the place of its own.

    Parameters
    ----------
    model : onnx.ModelProto
        As `load_onnx` returns it. Not changed.
    values : mapping of str to ndarray of float32
        Weights and biases of layers, means and variances of batch normalisations, by the
        constant's name in the graph that `read_onnx` returns.

    Raises
    ------
    GraphError
        If a value is none of these.
    """
    import onnx

    known = read_pass(model)
    altered = onnx.ModelProto()
    altered.CopyFrom(model)
    writer = _Writer(altered)
    for name, array in values.items():
        if name in known.weights:
            for output, form, index in known.weights[name]:
                writer.replace(output, index, form.to_file(array))
        elif not _biased(known.graph, name, array, known.weights, writer):
            _normalised(known.graph, name, array, writer)
    writer.finish()
    return altered


class _Writer:
    """Nodes by their first output, and the nodes to put behind them."""

    def __init__(self, model: ModelProto) -> None:
        self._graph = model.graph
        self._nodes = {node.output[0]: node for node in model.graph.node if node.output}
        self._behind: dict[str, NodeProto] = {}

    def replace(self, output: str, index: int, array: NDArray[Any]) -> None:
        """Let the node that makes a value read another constant."""
        node = self._nodes[output]
        # The graph's weight of a Gemm has its factor in it.
        factor = next((a.f for a in node.attribute if a.name == "alpha"), 1.0)
        node.input[index] = self._constant(f"{output}.{index}", array / np.float32(factor))

    def shift(self, output: str, by: NDArray[Any]) -> None:
        """Add a constant to what a node makes."""
        from onnx import helper

        node = self._nodes[output]
        node.output[0] = f"{output}.unshifted"
        constant = self._constant(f"{output}.shift", by)
        self._behind[node.output[0]] = helper.make_node("Add", [node.output[0], constant], [output])

    def makes(self, output: str, op: str) -> bool:
        """Return whether a node of this operator makes a value."""
        return output in self._nodes and self._nodes[output].op_type == op

    def finish(self) -> None:
        """Put the nodes in order."""
        ordered = []
        for node in self._graph.node:
            ordered.append(node)
            if node.output and node.output[0] in self._behind:
                ordered.append(self._behind[node.output[0]])
        del self._graph.node[:]
        self._graph.node.extend(ordered)

    def _constant(self, name: str, array: NDArray[Any]) -> str:
        from onnx import numpy_helper

        whole = np.ascontiguousarray(array, np.float32)
        self._graph.initializer.append(numpy_helper.from_array(whole, name))
        return name


def _biased(
    graph: Graph,
    name: str,
    array: NDArray[np.float32],
    weights: Mapping[str, list[Use]],
    writer: _Writer,
) -> bool:
    """Shift the layer whose bias a name is; return whether there is one."""
    own = f"{name.removesuffix('.bias')}.weight"
    for node in graph.nodes:
        if node.op in ("Conv", "Gemm") and node.inputs[1:] in ((node.inputs[1], name), (own,)):
            before = graph.constants.get(name, np.zeros_like(array)).astype(np.float64)
            axes = graph.constants[node.inputs[1]].ndim - 2
            for output, form, _ in weights[node.inputs[1]]:
                if isinstance(form, Phases) and form.rows > 1:
                    raise GraphError(
                        f"calibrated value {name!r}: a transposed convolution has one bias for all "
                        "phases; calibrate without it"
                    )
                if isinstance(form, Rearranged):
                    raise GraphError(
                        f"calibrated value {name!r}: the file has its layer as a product that "
                        "takes no bias; calibrate without it"
                    )
                writer.shift(output, (array - before).reshape(-1, *(1,) * axes))
            return True
    return False


def _normalised(graph: Graph, name: str, array: NDArray[np.float32], writer: _Writer) -> None:
    found = False
    for node in graph.nodes:
        if name in node.inputs[3:5] and writer.makes(node.outputs[0], "BatchNormalization"):
            writer.replace(node.outputs[0], 3 + node.inputs[3:5].index(name), array)
            found = True
    if not found:
        raise GraphError(f"calibrated value {name!r}: the file has no such weight, bias or mean")
