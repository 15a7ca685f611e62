"""Lower sums, means, extremes and norms over axes."""

from __future__ import annotations

from typing import Any, Literal, cast

from masktools.network.graph import Node, ints
from runtime.plan.lowering.context import Context, Rows, border
from runtime.plan.steps import GlobalAveragePool, Reduce, Reshape, Step


def _global_average(context: Context, node: Node) -> list[Step]:
    return [GlobalAveragePool(**border(node))]


def _reduce(context: Context, node: Node) -> list[Step]:
    axes = tuple(sorted(ints(node, "axes")))
    context.sizes(node, axes)
    shape, output = context.shapes[node.inputs[0]], node.outputs[0]
    whole = node.attributes["keepdims"] == 1
    if not whole:
        kept = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
        output = context.between(node, kept)
    common: dict[str, Any] = {"name": node.name, "inputs": node.inputs, "output": output}
    op = cast("Literal['Sum', 'Mean', 'Max', 'Min', 'L2']", node.op.removeprefix("Reduce"))
    image = len(shape) in (3, 4) and axes == tuple(range(2, len(shape)))
    steps: list[Step] = [
        GlobalAveragePool(**common)
        if op == "Mean" and image
        else Reduce(**common, op=op, axes=axes)
    ]
    if not whole:
        steps.append(Reshape(name=node.name, inputs=(output,), output=node.outputs[0]))
    return steps


REDUCTIONS: Rows = {
    "GlobalAveragePool": _global_average,
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2"), _reduce),
}
