"""The network of a conversion, wherever it comes from."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from masktools.checkpoint import Checkpoint
from masktools.network.graph import Graph

if TYPE_CHECKING:
    from onnx import ModelProto

    from masktools.network.input_shapes import InputShapes


def read_graph(
    network: Graph | Checkpoint | ModelProto | str | os.PathLike[str],
    input_shapes: InputShapes | None,
) -> Graph:
    """Return the graph of a network, with the sizes of its inputs that are given.

    Parameters
    ----------
    network : Graph, Checkpoint, onnx.ModelProto or path of an ONNX file
        Not changed.
    input_shapes : mapping of str to sequence of int, or one such sequence; or None
        As `export.from_onnx`.

    Raises
    ------
    TypeError
        If there are input shapes for a network that was read already.
    FormatError, GraphError
        As `read_onnx`.
    """
    if isinstance(network, Graph | Checkpoint) and input_shapes is not None:
        raise TypeError("input_shapes is for ONNX files: this network was read already")
    if isinstance(network, Graph):
        return network
    if isinstance(network, Checkpoint):
        sparse = {f"{name}.weight": part.to_dense() for name, part in network.sparse.items()}
        return replace(network.graph, constants={**network.graph.constants, **sparse})
    from masktools.network.onnx.reader import read_onnx

    return read_onnx(network, input_shapes)
