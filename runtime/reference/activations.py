"""Activations, in NumPy: what the other backends' are compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.plan import steps as s

Array = NDArray[Any]


def activated(activation: s.Activation | None, x: Array) -> Array:
    """Return an array with the activation applied, or as it is without one."""
    if activation is None:
        return x
    constants = x.dtype.type(activation.alpha), x.dtype.type(activation.beta)
    return ACTIVATIONS[activation.op](x, *constants)


def _sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))  # exp of a large x would overflow
    return np.asarray(np.where(x >= 0, x.dtype.type(1), small) / (1 + small))


def _swish(x: Array, alpha: Any, beta: Any) -> Array:  # noqa: ANN401
    # A cube overflows early, and would be NaN times 0.
    return np.asarray(x * _sigmoid(alpha * x + beta * x**3 if beta else alpha * x))


def _mish(x: Array) -> Array:
    return np.asarray(x * np.tanh(np.logaddexp(x, x.dtype.type(0))))


def _error_function(x: Array) -> Array:
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x), x.dtype)


def _gelu(x: Array) -> Array:
    # The complement keeps the digits that 1 + erf(x / sqrt(2)) loses where x is below zero.
    wide = x.astype(np.float64)
    complement = np.vectorize(math.erfc, otypes=[np.float64])(-wide / math.sqrt(2))
    return np.asarray(wide * complement / 2, x.dtype)


# For each activation, the function that computes it.
ACTIVATIONS: Mapping[str, Callable[[Array, Any, Any], Array]] = {
    "Relu": lambda x, alpha, beta: np.maximum(x, 0),
    "Clip": lambda x, alpha, beta: np.minimum(np.maximum(x, alpha), beta),
    "LeakyRelu": lambda x, alpha, beta: np.where(x >= 0, x, alpha * x),
    "Sigmoid": lambda x, alpha, beta: _sigmoid(x),
    "HardSigmoid": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    "HardSwish": lambda x, alpha, beta: x * np.clip(x / 6 + x.dtype.type(0.5), 0, 1),
    "Softplus": lambda x, alpha, beta: np.logaddexp(x, x.dtype.type(0)),
    "Elu": lambda x, alpha, beta: np.where(x >= 0, x, alpha * np.expm1(x)),
    "Tanh": lambda x, alpha, beta: np.tanh(x),
    "Erf": lambda x, alpha, beta: _error_function(x),
    "Gelu": lambda x, alpha, beta: _gelu(x),
    "Swish": _swish,
    "Mish": lambda x, alpha, beta: _mish(x),
    "Exp": lambda x, alpha, beta: np.exp(x),
    "Log": lambda x, alpha, beta: np.log(x),
    "Sqrt": lambda x, alpha, beta: np.sqrt(x),
    "ThresholdedRelu": lambda x, alpha, beta: np.where(x <= alpha, 0, x),
    "Sin": lambda x, alpha, beta: np.sin(x),
    "Cos": lambda x, alpha, beta: np.cos(x),
    "Floor": lambda x, alpha, beta: np.floor(x),
    "Ceil": lambda x, alpha, beta: np.ceil(x),
    "Round": lambda x, alpha, beta: np.rint(x),
    "Sign": lambda x, alpha, beta: np.sign(x),
}
