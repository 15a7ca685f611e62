"""Find the channels that can be removed from a network without changing its outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from masktools.export.shrink.constant import constant_channels
from masktools.export.stored import BoolArray, Stored
from masktools.network.channels import trace
from masktools.network.graph import Node, ints
from masktools.network.network import Network
from masktools.network.operators.rules import Flow, Labels
from masktools.network.operators.windows import padded


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that reads all channels of a tensor, one column or several for each.

    Parameters
    ----------
    node : Node
    channels, rows : ndarray of int64
        The group of tied channels that each input channel, and each row, belongs to.
    used : ndarray of bool, shape (rows, channels)
        Whether a row has a weight on a channel.
    """

    node: Node
    channels: Labels
    rows: Labels
    used: BoolArray

    @property
    def layer(self) -> str:
        """The name of the layer."""
        return self.node.inputs[1].removesuffix(".weight")


class Channels:
    """Who reads which channels of a network, and which of them are constant.

    Parameters
    ----------
    network : Network
    stored : mapping of str to Stored
        The weights by layer. Not changed.
    """

    def __init__(self, network: Network, stored: Mapping[str, Stored]) -> None:
        self.graph, self.shapes, self.stored = network.graph, network.shapes, dict(stored)
        self.values = constant_channels(self.graph, stored, self.shapes)
        self.flow: Flow = trace(self.graph, self.shapes)
        self.component = self.flow.components()
        self.groups = {name: self.component[made] for name, made in self.flow.labels.items()}
        self.count = int(self.component.max(initial=-1)) + 1
        self.fixed = self._mark(self.flow.fixed)
        self.readers: list[Reader] = []
        # Of each layer that may lose rows: the groups of its rows, and the tensor that it makes.
        self.made: dict[str, tuple[Labels, str]] = {}
        self.uses = Counter(name for node in self.graph.nodes for name in node.inputs)
        for node in self.graph.nodes:
            if node.op == "Slice" and self._skips(node):
                self._fix(node)
            if node.op in ("Conv", "Gemm"):
                self._add(node)

    def _add(self, node: Node) -> None:
        name = node.inputs[1].removesuffix(".weight")
        weight = self.stored[name].weight
        shared = self.uses[node.inputs[1]] > 1
        alone = node.attributes.get("group", 1) == 1
        if shared or not (alone or weight.shape[1] == 1):
            self._fix(node)
            return
        if len(self.shapes[node.inputs[0]]) != weight.ndim:
            return  # A matrix over another axis than the channels'.
        rows = self.component[self.flow.rows[name]]
        self.made[name] = (rows, node.outputs[0])
        if alone:
            used = (weight.reshape(*weight.shape[:2], -1) != 0).any(axis=2)
            self.readers.append(Reader(node, self.groups[node.inputs[0]], rows, used))

    def _mark(self, labels: list[Labels]) -> BoolArray:
        marked = np.zeros(self.count, np.bool_)
        for some in labels:
            marked[self.component[some]] = True
        return marked

    def _fix(self, node: Node) -> None:
        for name in (*node.inputs, *node.outputs):
            if name in self.groups:
                self.fixed[self.groups[name]] = True

    def _skips(self, node: Node) -> bool:
        steps = dict(zip(ints(node, "axes"), ints(node, "steps"), strict=True))
        return steps.get(1, 1) != 1

    def decide(self) -> tuple[BoolArray, BoolArray]:
        """Return which groups of channels can be removed, and which of those stand for others.

        Returns
        -------
        removable : ndarray of bool, shape (groups,)
            Whatever reads them finds a constant.
        standing : ndarray of bool, shape (groups,)
            The removable ones that stay: through them a layer that pads its input reads all
            constants, or a tensor would have no channel left.
        """
        candidates = ~self.fixed
        while True:
            removable = self._removable(candidates)
            standing, without = self._stand_for(removable)
            if not without.any():
                return removable, standing
            candidates &= ~without

    def _removable(self, candidates: BoolArray) -> BoolArray:
        """Return the largest set in which every reader that stays finds constants alone."""
        removable = candidates
        while True:
            wanted = np.zeros(self.count, np.bool_)
            for reader in self.readers:
                value = self.values[reader.node.inputs[0]]
                used = reader.used[~removable[reader.rows]].any(axis=0)
                wanted[reader.channels[used & np.isnan(value)]] = True
            if not (removable & wanted).any():
                return removable
            removable = removable & ~wanted

    def _stand_for(self, removable: BoolArray) -> tuple[BoolArray, BoolArray]:
        """Return the groups that must stand for others, and those that stay as none can."""
        constant = removable.copy()
        for rows, output in self.made.values():
            constant[rows[np.isnan(self.values[output])]] = False
        standing, without = (np.zeros(self.count, np.bool_) for _ in range(2))
        for reader in self.readers:
            value, group = self.values[reader.node.inputs[0]], reader.channels
            need = self.needed(reader, removable)
            if not padded(reader.node) or not need.any():
                continue
            able = need & constant[group]
            if not able.any():
                without[group[need]] = True
            elif not (able & standing[group]).any():
                standing[group[np.argmax(np.where(able, np.abs(value), -1.0))]] = True
        for group in self.groups.values():
            if len(group) and (removable & ~standing)[group].all():
                able = constant[group]
                if able.any():
                    standing[group[np.argmax(able)]] = True
                else:
                    without[group[0]] = True
        return standing, without

    def needed(self, reader: Reader, removable: BoolArray) -> BoolArray:
        """Return the removable channels that contribute something to a reader."""
        value = self.values[reader.node.inputs[0]]
        used = reader.used[~removable[reader.rows]].any(axis=0)
        found: BoolArray = removable[reader.channels] & used & (np.nan_to_num(value) != 0)
        return found
