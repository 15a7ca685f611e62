"""Lower functions of one number, arithmetic, Where, BatchNormalization and Softmax."""

from __future__ import annotations

import math
from typing import cast, get_args

import numpy as np

from masktools.network.graph import Node, integer, real
from masktools.network.operators.elementwise import GELU_CUBE
from runtime.plan.lowering.context import Context, Rows, Shape, border
from runtime.plan.steps import (
    ACTIVATIONS,
    Activate,
    Activation,
    ActivationOp,
    Arithmetic,
    ArithmeticOp,
    Array,
    Normalize,
    ScaleShift,
    Softmax,
    Step,
    Where,
)

# The attributes that an activation takes as alpha and beta, and what an absent one counts as;
# activations that are not named here have none.
_PARAMETERS: dict[str, tuple[tuple[str, float | None], ...]] = {
    "Clip": (("min", -np.inf), ("max", np.inf)),
    "LeakyRelu": (("alpha", None),),
    "HardSigmoid": (("alpha", None), ("beta", None)),
    "Elu": (("alpha", None),),
    "ThresholdedRelu": (("alpha", None),),
}


def _activate(context: Context, node: Node) -> list[Step]:
    if node.op == "Clip" and not node.attributes:
        return []
    given = [real(node, name, default) for name, default in _PARAMETERS.get(node.op, ())]
    return [Activate(**border(node), activation=Activation(cast("ActivationOp", node.op), *given))]


def _swish(context: Context, node: Node) -> list[Step]:
    activation = Activation("Swish", real(node, "alpha"), 0.0)
    return [Activate(**border(node), activation=activation)]


def _gelu(context: Context, node: Node) -> list[Step]:
    """By the error function; or approximately, x * sigmoid of twice what ONNX gives to tanh."""
    twice = 2 * math.sqrt(2 / math.pi)
    approximate = Activation("Swish", twice, twice * GELU_CUBE)
    exact = node.attributes["approximate"] == "none"
    return [Activate(**border(node), activation=Activation("Gelu") if exact else approximate)]


def _batch_norm(context: Context, node: Node) -> list[Step]:
    scale, shift, mean, variance = (
        context.constant(name).astype(np.float64) for name in node.inputs[1:]
    )
    with np.errstate(all="ignore"):  # A variance below -epsilon gives NaN, as ONNX would.
        scale = scale / np.sqrt(variance + real(node, "epsilon"))
    return [ScaleShift(**border(node), scale=scale, shift=shift - mean * scale)]


def _arithmetic(context: Context, node: Node) -> list[Step]:
    op = cast("ArithmeticOp", node.op)
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


def _where(context: Context, node: Node) -> list[Step]:
    known = context.checkpoint.graph.constants
    condition, a, b = (context.constant(name) if name in known else None for name in node.inputs)
    inputs = tuple(name for name in node.inputs if name not in known)
    constants = (condition, a, b)
    return [Where(name=node.name, inputs=inputs, output=node.outputs[0], constants=constants)]


def _by_channel(constant: Array, shape: Shape) -> Array | None:
    """Return a constant as one number per channel, or None where it varies along other axes."""
    channels = shape[1] if len(shape) > 1 else None
    if channels is None or constant.ndim > len(shape):
        return None
    full = (1,) * (len(shape) - constant.ndim) + constant.shape
    if any(n != 1 for axis, n in enumerate(full) if axis != 1) or full[1] not in (1, channels):
        return None
    return np.broadcast_to(constant.ravel(), channels)


def _softmax(context: Context, node: Node) -> list[Step]:
    context.sizes(node, (integer(node, "axis"),))
    logarithm = node.op == "LogSoftmax"
    return [Softmax(**border(node), axis=integer(node, "axis"), logarithm=logarithm)]


def _layer_norm(context: Context, node: Node) -> list[Step]:
    axis = integer(node, "axis")
    context.sizes(node, (axis,))
    scale, shift = (*(context.constant(name) for name in node.inputs[1:]), None, None)[:2]
    epsilon = real(node, "epsilon")
    return [Normalize(**border(node), axis=axis, epsilon=epsilon, scale=scale, shift=shift)]


ELEMENTWISE: Rows = {
    **dict.fromkeys(ACTIVATIONS, _activate),
    "Swish": _swish,
    "Gelu": _gelu,
    **dict.fromkeys(get_args(ArithmeticOp), _arithmetic),
    "Where": _where,
    "Identity": lambda context, node: [],
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
}
