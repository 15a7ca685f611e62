"""Nodes of a checkpoint's graph to steps, one node at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import numpy as np

from masktools.network.graph import Node, integer, ints, real
from runtime.plan.lowering_context import Context, Shape, border
from runtime.plan.lowering_moves import MOVES
from runtime.plan.steps import (
    Activate,
    Activation,
    Arithmetic,
    Array,
    Convolution,
    GlobalAveragePool,
    Pool,
    Product,
    Reshape,
    ScaleShift,
    Softmax,
    Step,
)

# Strides and dilations that a plan holds at most: every image is smaller.
LARGEST_STEP = 2**28


def lower(context: Context, node: Node) -> list[Step]:
    """Return the steps that do what a node says, the last of them making its output.

    Parameters
    ----------
    context : Context
        Shapes of values between the steps of one node are added to it.
    node : Node
        In the normal form of docs/format.md.

    Returns
    -------
    list of Step
        Empty where the node changes nothing: its output is its input.

    Raises
    ------
    PlanError
        If the node works across a batch of any size.
    """
    return (MOVES.get(node.op) or _MAKERS[node.op])(context, node)


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    """Return sizes along y and x of a window that may have x alone."""
    return (1, values[0]) if len(values) == 1 else (values[0], values[1])


def _sides(begins: tuple[int, ...], ends: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return pads as top, left, bottom, right."""
    if len(begins) == 1:
        return (0, begins[0], 0, ends[0])
    return (begins[0], begins[1], ends[0], ends[1])


def _steps(node: Node, name: str) -> tuple[int, ...]:
    """Return strides or dilations; those that leave every image at once, as one that does so."""
    return tuple(min(step, LARGEST_STEP) for step in ints(node, name))


def _weighted(context: Context, node: Node) -> dict[str, Any]:
    bias = context.constant(node.inputs[2]) if len(node.inputs) == 3 else None
    return {**border(node), "weight": context.weight(node.inputs[1]), "bias": bias}


def _convolution(context: Context, node: Node) -> list[Step]:
    pads = ints(node, "pads")
    half = len(pads) // 2
    return [
        Convolution(
            **_weighted(context, node),
            strides=_pair(_steps(node, "strides")),
            dilations=_pair(_steps(node, "dilations")),
            pads=_sides(pads[:half], pads[half:]),
            groups=integer(node, "group"),
        )
    ]


def _product(context: Context, node: Node) -> list[Step]:
    return [Product(**_weighted(context, node))]


def _batch_norm(context: Context, node: Node) -> list[Step]:
    scale, shift, mean, variance = (
        context.constant(name).astype(np.float64) for name in node.inputs[1:]
    )
    with np.errstate(all="ignore"):  # A variance below -epsilon gives NaN, as ONNX would.
        scale = scale / np.sqrt(variance + real(node, "epsilon"))
    return [ScaleShift(**border(node), scale=scale, shift=shift - mean * scale)]


def _arithmetic(context: Context, node: Node) -> list[Step]:
    op = cast("Literal['Add', 'Sub', 'Mul', 'Div']", node.op)
    name, output, shapes = node.name, node.outputs[0], context.shapes
    first = node.inputs[0] in context.checkpoint.graph.constants
    if not first and node.inputs[1] not in context.checkpoint.graph.constants:
        return [Arithmetic(name=name, inputs=node.inputs, output=output, op=op)]
    constant, value = (context.constant(node.inputs[not first]), node.inputs[first])
    channels = _by_channel(constant, shapes[value]) if shapes[value] == shapes[output] else None
    if channels is not None and op == "Mul":
        return [ScaleShift(name=name, inputs=(value,), output=output, scale=channels, shift=None)]
    if channels is not None and (op == "Add" or (op == "Sub" and not first)):
        shift = channels if op == "Add" else -channels
        return [ScaleShift(name=name, inputs=(value,), output=output, scale=None, shift=shift)]
    return [
        Arithmetic(
            name=name,
            inputs=(value,),
            output=output,
            op=op,
            constant=constant,
            constant_first=first,
        )
    ]


def _by_channel(constant: Array, shape: Shape) -> Array | None:
    """Return a constant as one number per channel, or None where it varies along other axes."""
    channels = shape[1] if len(shape) > 1 else None
    if channels is None or constant.ndim > len(shape):
        return None
    full = (1,) * (len(shape) - constant.ndim) + constant.shape
    if any(n != 1 for axis, n in enumerate(full) if axis != 1) or full[1] not in (1, channels):
        return None
    return np.broadcast_to(constant.ravel(), channels)


def _activate(context: Context, node: Node) -> list[Step]:
    op = node.op
    if op == "Clip":
        if not node.attributes:
            return []
        limits = (real(node, "min", -np.inf), real(node, "max", np.inf))
        activation = Activation("Clip", *limits)
    elif op == "LeakyRelu":
        activation = Activation("LeakyRelu", real(node, "alpha"))
    elif op == "HardSigmoid":
        activation = Activation("HardSigmoid", real(node, "alpha"), real(node, "beta"))
    else:
        activation = Activation(cast("Literal['Relu', 'Sigmoid', 'HardSwish']", op))
    return [Activate(**border(node), activation=activation)]


def _pool(context: Context, node: Node) -> list[Step]:
    kernel, pads = ints(node, "kernel_shape"), ints(node, "pads")
    strides, dilations = _steps(node, "strides"), _steps(node, "dilations")
    half = len(kernel)
    image = context.sizes(node, tuple(range(2, 2 + half)))[2:]
    windows = cast("tuple[int, ...]", context.shapes[node.outputs[0]][2:])
    # Under ceil_mode the last window may hang over the padding.
    last = [
        (windows[i] - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1 - pads[i] - image[i]
        for i in range(half)
    ]
    ends = tuple(max(given, reached) for given, reached in zip(pads[half:], last, strict=True))
    counted = pads if node.attributes.get("count_include_pad") else (0,) * len(pads)
    return [
        Pool(
            **border(node),
            op=cast("Literal['MaxPool', 'AveragePool']", node.op),
            kernel=_pair(kernel),
            strides=_pair(strides),
            dilations=_pair(dilations),
            pads=_sides(pads[:half], ends),
            counted=_sides(counted[:half], counted[half:]),
        )
    ]


def _mean(context: Context, node: Node) -> list[Step]:
    if node.op == "GlobalAveragePool" or node.attributes["keepdims"]:
        return [GlobalAveragePool(**border(node))]
    shape = context.shapes[node.inputs[0]]
    mean = context.between(node, shape[:2] + (1,) * (len(shape) - 2))
    return [
        GlobalAveragePool(name=node.name, inputs=node.inputs, output=mean),
        Reshape(name=node.name, inputs=(mean,), output=node.outputs[0]),
    ]


def _softmax(context: Context, node: Node) -> list[Step]:
    context.sizes(node, (integer(node, "axis"),))
    return [Softmax(**border(node), axis=integer(node, "axis"))]


_MAKERS: Mapping[str, Callable[[Context, Node], list[Step]]] = {
    "Conv": _convolution,
    "Gemm": _product,
    "BatchNormalization": _batch_norm,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _arithmetic),
    **dict.fromkeys(
        ("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish"), _activate
    ),
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "ReduceMean"), _mean),
    "Softmax": _softmax,
}
