"""Lower Conv and Gemm, the operators with weights, to steps."""

from __future__ import annotations

from typing import Any

from masktools.network.graph import Node, integer, ints
from runtime.plan.lowering.context import Context, Rows, border
from runtime.plan.lowering.windows import in_two_axes, sides, window_steps
from runtime.plan.steps import Convolution, MatMul, Product, Step


def _weighted(context: Context, node: Node) -> dict[str, Any]:
    bias = context.constant(node.inputs[2]) if len(node.inputs) == 3 else None
    return {**border(node), "weight": context.weight(node.inputs[1]), "bias": bias}


def _convolution(context: Context, node: Node) -> list[Step]:
    pads = ints(node, "pads")
    half = len(pads) // 2
    return [
        Convolution(
            **_weighted(context, node),
            strides=in_two_axes(window_steps(node, "strides")),
            dilations=in_two_axes(window_steps(node, "dilations")),
            pads=sides(pads[:half], pads[half:]),
            groups=integer(node, "group"),
        )
    ]


def _product(context: Context, node: Node) -> list[Step]:
    return [Product(**_weighted(context, node))]


def _matmul(context: Context, node: Node) -> list[Step]:
    return [MatMul(name=node.name, inputs=node.inputs, output=node.outputs[0])]


LAYERS: Rows = {"Conv": _convolution, "Gemm": _product, "MatMul": _matmul}
