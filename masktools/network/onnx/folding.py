"""Compute what follows from the constants of an ONNX graph alone, by onnx's own evaluator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from masktools.network.layers import names_layer
from masktools.network.onnx.folding_cost import FoldingCost
from masktools.network.onnx.node import Source

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Array = NDArray[Any]

# onnx evaluates these from this operator set on; they meant the same before, with fewer choices.
_QUANTIZING = ("DequantizeLinear", "QuantizeLinear")
_QUANTIZING_FROM = 19


class Folding:
    """The constants of a network: what the file holds, and what follows from that alone.

    Parameters
    ----------
    held : mapping of str to ndarray
        The file's own.
    opset : int

    Attributes
    ----------
    values : dict of str to ndarray
        All that are known so far.
    """

    def __init__(self, held: Mapping[str, Array], opset: int) -> None:
        self.values: dict[str, Array] = dict(held)
        self._opset = opset
        self._cost = FoldingCost(held)
        self._origins: dict[str, str] = {}

    def origin(self, name: str) -> str:
        """Return the constant of the file that a constant was made of, above all."""
        return self._origins.get(name, name)

    def fold(self, proto: NodeProto, source: Source, values: Sequence[Array | None]) -> list[Array]:
        """Evaluate a node whose inputs are known, and keep what it makes.

        Parameters
        ----------
        proto : NodeProto
        source : Source
            The same node.
        values : sequence of ndarray or None
            Its inputs; None where one is left out.

        Returns
        -------
        list of ndarray
            The outputs that the node names.

        Raises
        ------
        GraphError
            If it cannot be computed, or costs too much.
        """
        self._cost.check(source, values)
        feeds = {n: v for n, v in zip(proto.input, values, strict=True) if v is not None}
        try:
            made = [np.asarray(value) for value in self.evaluate(proto, feeds)]
        except Exception as error:
            raise source.refuse(f"its constants cannot be computed: {error}") from error
        # A weight keeps its name through what is done to it: a mask, a norm, a transposition.
        origins = {self.origin(name): feeds[name].size for name in feeds}
        origin = max(origins, key=lambda name: (names_layer(name), origins[name]), default="")
        for name, value in zip(filter(None, proto.output), made, strict=True):
            self.values[name] = value
            if origin and source.op not in ("Shape", "Size"):
                self._origins[name] = origin
        return made

    def evaluate(self, proto: NodeProto, feeds: Mapping[str, Array]) -> Sequence[Array]:
        """Return the outputs of a node by its operator set, without keeping them."""
        from onnx.reference import ReferenceEvaluator

        opset = self._opset
        if proto.op_type in _QUANTIZING:
            opset = max(opset, _QUANTIZING_FROM)
        made: Sequence[Array] = ReferenceEvaluator(_alone(proto, opset)).run(None, dict(feeds))
        return made


def _alone(proto: NodeProto, opset: int) -> ModelProto:
    """Return the model that is one node: alone it would be taken for one of the newest set."""
    from onnx import TensorProto, helper

    inputs, outputs = (
        [helper.make_tensor_value_info(n, TensorProto.UNDEFINED, None) for n in names if n]
        for names in (proto.input, proto.output)
    )
    graph = helper.make_graph([proto], "alone", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
