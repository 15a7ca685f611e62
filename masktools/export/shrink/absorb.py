"""Move what constant channels contribute into the layers that read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.export.shrink.constant import constant_channels
from masktools.export.shrink.edit import with_channel, without
from masktools.export.shrink.removable import Channels
from masktools.export.stored import BoolArray, Stored
from masktools.network.graph import Graph, Node, numbered
from masktools.network.operators.rules import Values
from masktools.network.operators.windows import padded


def absorb(
    channels: Channels, removable: BoolArray, standing: BoolArray
) -> tuple[Graph, dict[str, Stored]]:
    """Return the network in which no layer reads a removable channel, except standing ones.

    Parameters
    ----------
    channels : Channels
        Not changed.
    removable, standing : ndarray of bool
        As `Channels.decide` returns them.

    Returns
    -------
    Graph
        Of the same shapes as before.
    dict of str to Stored
    """
    stored = dict(channels.stored)
    graph, values = _standing_rows(channels, standing)
    constants = dict(graph.constants)
    nodes = {node.name: node for node in graph.nodes}
    for name, (rows, _) in channels.made.items():
        stored[name] = without(stored[name], rows=standing[rows])
    for reader in channels.readers:
        taken = removable[reader.channels]
        if not taken.any():
            continue
        weight = stored[reader.layer].weight
        matrix = weight.reshape(*weight.shape[:2], -1)
        value = np.where(taken, np.nan_to_num(channels.values[reader.node.inputs[0]]), 0.0)
        moved = np.einsum("rct,c->rt", matrix, value, dtype=np.float64)
        moved[removable[reader.rows]] = 0
        rest = without(stored[reader.layer], channels=taken)
        if padded(reader.node) and moved.any():
            able = taken & standing[reader.channels]
            size = np.where(able, np.abs(np.nan_to_num(values[reader.node.inputs[0]])), 0.0)
            channel = int(np.argmax(size))
            moved /= values[reader.node.inputs[0]][channel]
            stored[reader.layer] = with_channel(rest, channel, moved.astype(np.float32))
            continue
        stored[reader.layer] = rest
        if moved.any():
            node = nodes[reader.node.name]
            bias = moved.sum(axis=1)
            if len(node.inputs) > 2:
                bias += constants[node.inputs[2]]
            nodes[node.name] = _biased(channels, node, bias, constants)
    return replace(
        graph, nodes=tuple(nodes[node.name] for node in graph.nodes), constants=constants
    ), stored


def _standing_rows(channels: Channels, standing: BoolArray) -> tuple[Graph, Mapping[str, Values]]:
    """Return the network in which standing rows have no weights, only a bias.

    The bias is 1 wherever that leaves something to read at every layer that reads it; else the
    value that the row had.
    """
    weights = dict(channels.stored)
    for name, (rows, _) in channels.made.items():
        weights[name] = without(weights[name], rows=standing[rows])
    ones = standing.copy()
    while True:
        graph = _with_bias(channels, standing, ones)
        values = constant_channels(graph, weights, channels.shapes)
        failed = np.zeros_like(ones)
        for reader in channels.readers:
            value = values[reader.node.inputs[0]]
            if padded(reader.node):
                failed[reader.channels[np.isnan(value) | (value == 0)]] = True
        if not (failed & ones).any():
            return graph, values
        ones &= ~failed


def _with_bias(channels: Channels, standing: BoolArray, ones: BoolArray) -> Graph:
    constants = dict(channels.graph.constants)
    nodes = []
    for node in channels.graph.nodes:
        name = node.inputs[1].removesuffix(".weight") if len(node.inputs) > 1 else ""
        if node.op in ("Conv", "Gemm") and name in channels.made:
            rows, output = channels.made[name]
            if standing[rows].any():
                bias = np.zeros(len(rows), np.float32)
                if len(node.inputs) > 2:
                    bias = constants[node.inputs[2]].copy()
                bias[standing[rows]] = channels.values[output][standing[rows]]
                bias[ones[rows]] = 1
                node = _biased(channels, node, bias, constants)
        nodes.append(node)
    return replace(channels.graph, nodes=tuple(nodes), constants=constants)


def _biased(
    channels: Channels, node: Node, bias: NDArray[Any], constants: dict[str, NDArray[Any]]
) -> Node:
    """Return a layer's node with a bias of its own."""
    own = {name for name in node.inputs if channels.uses[name] == 1}
    wish = f"{node.inputs[1].removesuffix('.weight')}.bias"
    name = next(name for name in numbered(wish) if name in own or name not in constants)
    constants[name] = bias.astype(np.float32)
    return replace(node, inputs=(*node.inputs[:2], name))
