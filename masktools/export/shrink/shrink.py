"""Take constant channels out of a network.

A row that keeps no weight makes a channel that is the same at every pixel: its bias, after
refilling most networks have many. Such channels, and those that nobody reads, leave the network
with the rows that make them and the columns that read them, through additions, concatenations and
whatever else passes channels on.

What a constant channel contributed to a layer moves into that layer: into the bias where it is the
same at every pixel. Where the layer pads its input it is less at the border: one constant channel
stays for all (a row without columns, whose bias is 1) and is read through the sum of their taps.
"""

from __future__ import annotations

from collections.abc import Mapping

from masktools.export.shrink.absorb import absorb
from masktools.export.shrink.cut import cut
from masktools.export.shrink.removable import Channels
from masktools.export.stored import Stored
from masktools.network.graph import Graph
from masktools.network.network import Network


def shrink(network: Network, stored: Mapping[str, Stored]) -> tuple[Graph, dict[str, Stored]]:
    """Return the network without the channels that it can do without; its outputs are equal.

    Parameters
    ----------
    network : Network
        Without BatchNormalization. Not changed.
    stored : mapping of str to Stored
        The weights by layer, which stand for the graph's own. Not changed.

    Returns
    -------
    Graph
    dict of str to Stored

    Notes
    -----
    A channel stays where a skip add joins it to one that is alive, where it is an output, where
    an operator mixes channels (a softmax over them, a transposition), and in convolutions of
    several groups that are not depthwise, or whose weights several nodes share.
    """
    channels = Channels(network, stored)
    removable, standing = channels.decide()
    if not removable.any():
        return network.graph, dict(stored)
    graph, stored = absorb(channels, removable, standing)
    gone = removable & ~standing
    kept = {name: ~gone[group] for name, group in channels.groups.items()}
    return cut(graph, stored, kept, network.shapes)
