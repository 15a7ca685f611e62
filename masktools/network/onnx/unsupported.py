"""Count the operators of a network that cannot be read, so that all are said at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from masktools.network.onnx.proto_nodes import with_branches

if TYPE_CHECKING:
    from onnx import NodeProto

_RECURRENT = (
    "it keeps a state from step to step, which cannot be run here; export the layers before and "
    "behind it, each as a network of its own"
)
_INTEGERS = (
    "it computes with integers; quantise in the QDQ form (QuantizeLinear, DequantizeLinear), or "
    "export the network before it was quantised"
)
# What to do about operators that networks often have, and that are not read.
WAYS_AROUND = {
    **dict.fromkeys(("GRU", "LSTM", "RNN"), _RECURRENT),
    **dict.fromkeys(
        (
            "ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv",
            "QLinearMatMul", "com.microsoft.QGemm", "com.microsoft.QLinearAdd",
            "com.microsoft.QLinearConcat", "com.microsoft.QLinearGlobalAveragePool",
        ),
        _INTEGERS,
    ),
}  # fmt: skip


def operator(proto: NodeProto) -> str:
    """Return a node's operator, with its domain where that is not ONNX's own."""
    return proto.op_type if proto.domain in ("", "ai.onnx") else f"{proto.domain}.{proto.op_type}"


def unsupported(
    nodes: Iterable[NodeProto],
    varying: Collection[str],
    rewritten: Collection[str],
    folded: Collection[str],
) -> str:
    """Return the operators among nodes that cannot be read, with their counts; empty for none.

    Parameters
    ----------
    nodes : iterable of NodeProto
        In execution order.
    varying : collection of str
        Tensors that depend on the network's inputs.
    rewritten, folded : collection of str
        Operators that are read, and those that are computed where their inputs are constants.
    """
    changing = set(varying)
    counts: Counter[str] = Counter()
    for node in nodes:
        op = operator(node)
        if op == "If":  # Its branch is read, or refused by itself.
            inner = (name for part in with_branches([node]) for name in part.input)
            changing.update(node.output if not changing.isdisjoint(inner) else ())
            continue
        changes = not changing.isdisjoint(node.input)
        if changes and op in ("Shape", "Size"):
            continue  # Known while the network is read.
        if op not in (rewritten if changes else folded):
            counts[op] += 1
        if changes:
            changing.update(node.output)
    return ", ".join(f"{op} ({number})" for op, number in sorted(counts.items()))
