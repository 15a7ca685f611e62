"""Functions of one number, and what scales numbers: BatchNormalization, Softmax."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from masktools.network.graph import Node, Shape, integer
from masktools.network.operators.arithmetic import CLOSE
from masktools.network.operators.operator import AXIS, FLOAT, ONE, Kind, Operator, valid_axes
from masktools.network.operators.rules import (
    Flow,
    Known,
    Labels,
    Values,
    no_constants,
    same_channels,
    same_constants,
    same_shape,
    uncut,
)

Function: TypeAlias = Callable[[Values, Mapping[str, Any]], Any]

# --- functions of one number --------------------------------------------------------------------


def _function(of: Function, **attributes: Kind) -> Operator:
    """Return the row of a function of one number.

    Parameters
    ----------
    of : callable
        The function in float64, called with an array and the node's attributes.
    **attributes
        The attributes that the operator has.
    """

    def constant(known: Known, node: Node) -> list[Values]:
        return [of(known.values[node.inputs[0]], node.attributes)]

    return Operator(
        ONE,
        attributes=attributes,
        shape=same_shape,
        channels=same_channels,
        constant=constant,
        cut=uncut,
    )


# Gelu by tanh takes it of x + GELU_CUBE * x^3.
GELU_CUBE = 0.044715


def _each(function: Callable[[float], float], x: Values) -> Values:
    """Return what a function of Python makes of each number."""
    return np.array([function(value) for value in x.ravel()], np.float64).reshape(x.shape)


def _gated(x: Values, z: Values) -> Values:
    """Return x * sigmoid(z), where exp cannot overflow."""
    small = np.exp(-np.abs(z))
    return np.asarray(x * np.where(z >= 0, 1, small) / (1 + small))


def _gelu(x: Values, attributes: Mapping[str, Any]) -> Values:
    if attributes["approximate"] == "none":
        return x * _each(math.erfc, -x / math.sqrt(2)) / 2
    return _gated(x, math.sqrt(8 / math.pi) * (x + GELU_CUBE * x**3))


def _stepwise(function: Callable[[Values], Values], x: Values) -> Values:
    """Return a function of known values: NaN where rounding to float32 could turn it."""
    exact = x == x.astype(np.float32)
    sure = exact | (function(x * (1 - CLOSE)) == function(x * (1 + CLOSE)))
    return np.where(sure, function(x), np.nan)


_BOUND = Kind(float, optional=True)

FUNCTIONS: Mapping[str, Operator] = {
    "Relu": _function(lambda x, a: np.maximum(x, 0)),
    "Clip": _function(
        lambda x, a: np.clip(x, a.get("min", -np.inf), a.get("max", np.inf)),
        min=_BOUND,
        max=_BOUND,
    ),
    "LeakyRelu": _function(lambda x, a: np.where(x < 0, a["alpha"] * x, x), alpha=FLOAT),
    "Sigmoid": _function(lambda x, a: 1 / (1 + np.exp(-x))),
    "HardSigmoid": _function(
        lambda x, a: np.clip(a["alpha"] * x + a["beta"], 0, 1), alpha=FLOAT, beta=FLOAT
    ),
    "HardSwish": _function(lambda x, a: x * np.clip(x / 6 + 0.5, 0, 1)),
    "Softplus": replace(_function(lambda x, a: np.logaddexp(x, 0)), version=2),
    "Elu": replace(
        _function(lambda x, a: np.where(x < 0, a["alpha"] * np.expm1(x), x), alpha=FLOAT),
        version=2,
    ),
    "Tanh": replace(_function(lambda x, a: np.tanh(x)), version=2),
    "Erf": replace(_function(lambda x, a: _each(math.erf, x)), version=2),
    "Gelu": replace(_function(_gelu, approximate=Kind(str, among=("none", "tanh"))), version=2),
    "Swish": replace(_function(lambda x, a: _gated(x, a["alpha"] * x), alpha=FLOAT), version=2),
    "Mish": replace(_function(lambda x, a: x * np.tanh(np.logaddexp(x, 0))), version=2),
    "Exp": replace(_function(lambda x, a: np.exp(x)), version=2),
    "Log": replace(_function(lambda x, a: np.log(x)), version=2),
    "Sqrt": replace(_function(lambda x, a: np.sqrt(x)), version=2),
    "ThresholdedRelu": replace(
        _function(lambda x, a: np.where(x <= a["alpha"], 0, x), alpha=FLOAT), version=2
    ),
    "Sin": replace(_function(lambda x, a: np.sin(x)), version=2),
    "Cos": replace(_function(lambda x, a: np.cos(x)), version=2),
    "Floor": replace(_function(lambda x, a: _stepwise(np.floor, x)), version=2),
    "Ceil": replace(_function(lambda x, a: _stepwise(np.ceil, x)), version=2),
    "Round": replace(_function(lambda x, a: _stepwise(np.rint, x)), version=2),
    "Sign": replace(_function(lambda x, a: _stepwise(np.sign, x)), version=2),
}


# --- normalisations -----------------------------------------------------------------------------


def _check_batch_norm(node: Node, shapes: list[Shape | None]) -> str | None:
    if len(set(shapes[1:])) != 1 or len(shapes[1] or ()) != 1:
        return f"its constants must have one shape (C,), got {shapes[1:]}"
    return None


def _batch_norm_shape(node: Node, given: list[Shape]) -> list[Shape]:
    if given[0][1] != given[1][0]:
        raise ValueError(f"expected {given[1][0]} channels")
    return [given[0]]


def _layer_norm_shape(node: Node, given: list[Shape]) -> list[Shape]:
    x, axis = given[0], integer(node, "axis")
    valid_axes((axis,), x)
    if any(shape != x[axis:] for shape in given[1:]):
        raise ValueError(f"expected constants of shape {x[axis:]}")
    return [x]


def _layer_norm_channels(flow: Flow, node: Node) -> list[Labels] | None:
    return same_channels(flow, node) if integer(node, "axis") > 1 else None


def _layer_norm_constant(known: Known, node: Node) -> list[Values] | None:
    """Return the shift of channels that are zero; the mean of others is rounded."""
    if integer(node, "axis") < 2:
        return None
    shift = known.constants[node.inputs[2]].ravel() if len(node.inputs) > 2 else np.zeros(1)
    made = float(shift[0]) if (shift == shift[0]).all() else np.nan
    return [np.where(known.values[node.inputs[0]] == 0, made, np.nan)]


def _softmax_shape(node: Node, given: list[Shape]) -> list[Shape]:
    valid_axes((integer(node, "axis"),), given[0])
    return [given[0]]


def _softmax_channels(flow: Flow, node: Node) -> list[Labels] | None:
    return None if node.attributes["axis"] == 1 else same_channels(flow, node)


_SOFTMAX = Operator(
    ONE,
    attributes={"axis": AXIS},
    shape=_softmax_shape,
    channels=_softmax_channels,
    constant=no_constants,
    cut=uncut,
)

ELEMENTWISE: Mapping[str, Operator] = {
    **FUNCTIONS,
    "Identity": Operator(
        ONE, shape=same_shape, channels=same_channels, constant=same_constants, cut=uncut
    ),
    "BatchNormalization": Operator(
        (5, 5),
        attributes={"epsilon": FLOAT},
        constants=(1, 2, 3, 4),
        check=_check_batch_norm,
        shape=_batch_norm_shape,
        channels=same_channels,
        constant=no_constants,  # folded, or made a product and a sum, before channels are cut
        cut=uncut,
    ),
    "LayerNormalization": Operator(
        (1, 3),
        attributes={"axis": AXIS, "epsilon": FLOAT},
        constants=(1, 2),
        shape=_layer_norm_shape,
        channels=_layer_norm_channels,
        constant=_layer_norm_constant,
        cut=uncut,
        version=2,
    ),
    "Softmax": _SOFTMAX,
    "LogSoftmax": replace(_SOFTMAX, version=2),
}
