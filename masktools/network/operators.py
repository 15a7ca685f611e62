"""The operators that a checkpoint may hold, and what each of them must look like.

One table serves the exporters, which write this normal form, and every reader. docs/format.md
gives the meaning of each operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from masktools.errors import GraphError
from masktools.network.graph import Node, integer, ints, where

Shape = tuple[int, ...]

ARITHMETIC = ("Add", "Sub", "Mul", "Div")
COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@dataclass(frozen=True)
class Kind:
    """What an attribute may be.

    Parameters
    ----------
    type : type
        int, float or str, of the value or of each entry.
    many : bool, default False
        A tuple of them.
    least : int, default None
        The smallest value; None where any will do.
    among : tuple of str or int, default ()
        The values that are allowed; empty where `least` says it.
    optional : bool, default False
        May be left out.
    """

    type: type
    many: bool = False
    least: int | None = None
    among: tuple[str | int, ...] = ()
    optional: bool = False

    def accepts(self, value: object) -> bool:
        """Return whether `value` is of this kind."""
        if self.many != isinstance(value, tuple):
            return False
        return all(self._accepts_one(v) for v in (value if isinstance(value, tuple) else (value,)))

    def _accepts_one(self, value: object) -> bool:
        if type(value) is not self.type:
            return False
        if isinstance(value, float) and not math.isfinite(value):
            return False
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return False
        if self.among and value not in self.among:
            return False
        return self.least is None or (isinstance(value, int) and value >= self.least)

    def __str__(self) -> str:
        if self.among:
            return "one of " + ", ".join(map(str, self.among))
        words = f"{self.type.__name__}s" if self.many else f"a finite {self.type.__name__}"
        return words if self.least is None else f"{words} of at least {self.least}"


@dataclass(frozen=True)
class Operator:
    """The inputs and attributes of an operator in the normal form.

    Parameters
    ----------
    inputs : (int, int)
        Fewest and most inputs; the second is 0 where there is no limit.
    attributes : mapping of str to Kind
        Every attribute, each of them written unless optional.
    constants : tuple of int, default ()
        Inputs that must be constants; all others must be values that a node or the caller makes,
        except in the arithmetic operators, where one of two may be a constant.
    check : callable, default None
        Checks what takes several attributes or the constants' shapes: called with the node and
        the shapes of its inputs (None unless constant), returns what is wrong or None.
    """

    inputs: tuple[int, int]
    attributes: Mapping[str, Kind] = field(default_factory=dict)
    constants: tuple[int, ...] = ()
    check: Callable[[Node, list[Shape | None]], str | None] | None = None


def check_node(node: Node, shapes: list[Shape | None]) -> None:
    """Raise `GraphError` unless one node is in the normal form.

    Parameters
    ----------
    node : Node
    shapes : list of tuple of int or None
        Of each input: its shape where it is a constant, else None.

    Raises
    ------
    GraphError
        Naming the node, its operator, and the attribute or tensor that is wrong.
    """
    operator = operator_of(node)
    least, most = operator.inputs
    if len(node.inputs) < least or (most and len(node.inputs) > most):
        raise GraphError(f"{where(node)}: it has {len(node.inputs)} inputs")
    _check_attributes(node, operator.attributes)
    constant = {index for index, shape in enumerate(shapes) if shape is not None}
    missing = sorted({c for c in operator.constants if c < len(shapes)} - constant)
    if missing:
        raise GraphError(f"{where(node)}: input {node.inputs[missing[0]]!r} must be a constant")
    spare = sorted(constant - set(operator.constants))
    if spare and (node.op not in ARITHMETIC or len(spare) == len(shapes)):
        raise GraphError(f"{where(node)}: input {node.inputs[spare[0]]!r} must not be a constant")
    if len(node.outputs) != 1 and node.op != "Split":
        raise GraphError(f"{where(node)}: it has {len(node.outputs)} outputs")
    wrong = operator.check(node, shapes) if operator.check else None
    if wrong:
        raise GraphError(f"{where(node)}: {wrong}")


def operator_of(node: Node) -> Operator:
    """Return the entry of `OPERATORS` for a node.

    Raises
    ------
    GraphError
        Naming the node, if its operator is not supported.
    """
    if node.op not in OPERATORS:
        raise GraphError(f"{where(node)}: operator {node.op!r} is not supported")
    return OPERATORS[node.op]


def _check_attributes(node: Node, kinds: Mapping[str, Kind]) -> None:
    for name, value in node.attributes.items():
        if name not in kinds:
            raise GraphError(f"{where(node)}: attribute {name}={value!r} is not supported")
        if not kinds[name].accepts(value):
            raise GraphError(
                f"{where(node)}: attribute {name} must be {kinds[name]}, got {value!r}"
            )
    for name, kind in kinds.items():
        if name not in node.attributes and not kind.optional:
            raise GraphError(f"{where(node)}: attribute {name} is missing")


def _check_window(node: Node, spatial: int) -> str | None:
    """Check strides, dilations and pads against the number of spatial axes."""
    if spatial not in (1, 2):
        return f"{spatial} spatial axes, but 1 or 2 are supported"
    for name, length in (("strides", spatial), ("dilations", spatial), ("pads", 2 * spatial)):
        if len(ints(node, name)) != length:
            return f"attribute {name} must have {length} entries, got {node.attributes[name]!r}"
    return None


def _check_conv(node: Node, shapes: list[Shape | None]) -> str | None:
    weight = shapes[1] or ()
    group = integer(node, "group")
    if min(weight, default=0) < 1:
        return f"weight {node.inputs[1]!r} has shape {weight}"
    if weight[0] % group:
        return f"attribute group={group} does not divide the {weight[0]} rows of its weight"
    return _check_window(node, len(weight) - 2) or _check_bias(node, shapes)


def _check_gemm(node: Node, shapes: list[Shape | None]) -> str | None:
    weight = shapes[1] or ()
    if len(weight) != 2 or min(weight) < 1:
        return f"weight {node.inputs[1]!r} must have shape (out, in), got {weight}"
    return _check_bias(node, shapes)


def _check_bias(node: Node, shapes: list[Shape | None]) -> str | None:
    rows = (shapes[1] or (0,))[0]
    if len(shapes) == 3 and shapes[2] != (rows,):
        return f"bias {node.inputs[2]!r} must have shape ({rows},), got {shapes[2]}"
    return None


def _check_batch_norm(node: Node, shapes: list[Shape | None]) -> str | None:
    if len(set(shapes[1:])) != 1 or len(shapes[1] or ()) != 1:
        return f"its constants must have one shape (C,), got {shapes[1:]}"
    return None


def _check_pool(node: Node, shapes: list[Shape | None]) -> str | None:
    kernel = ints(node, "kernel_shape")
    wrong = _check_window(node, len(kernel))
    if wrong:
        return wrong
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, ints(node, "dilations"), strict=True)]
    if any(pad >= size for pad, size in zip(ints(node, "pads"), extent * 2, strict=True)):
        return f"attribute pads={node.attributes['pads']!r} reaches past the window"
    return None


def _check_axes(node: Node, shapes: list[Shape | None]) -> str | None:
    axes = ints(node, "axes")
    if not axes or len(set(axes)) < len(axes):
        return f"attribute axes={axes!r} must name axes, each once"
    return None


def _check_mean(node: Node, shapes: list[Shape | None]) -> str | None:
    axes = ints(node, "axes")
    if axes not in ((2,), (2, 3)):
        return f"attribute axes={axes!r}, but only the mean over the image is supported"
    return None


def _check_perm(node: Node, shapes: list[Shape | None]) -> str | None:
    perm = ints(node, "perm")
    if sorted(perm) != list(range(len(perm))):
        return f"attribute perm={perm!r} is no permutation"
    return None


def _check_reshape(node: Node, shapes: list[Shape | None]) -> str | None:
    shape = ints(node, "shape")
    return f"attribute shape={shape!r} has several -1" if shape.count(-1) > 1 else None


def _check_split(node: Node, shapes: list[Shape | None]) -> str | None:
    parts = len(ints(node, "split"))
    return None if parts == len(node.outputs) else f"{parts} parts, {len(node.outputs)} outputs"


def _check_slice(node: Node, shapes: list[Shape | None]) -> str | None:
    lengths = {len(ints(node, name)) for name in ("starts", "ends", "axes", "steps")}
    if len(lengths) != 1:
        return "attributes starts, ends, axes, steps must be equally long"
    if 0 in ints(node, "steps"):
        return "attribute steps must not be 0"
    return _check_axes(node, shapes)


def _check_pad(node: Node, shapes: list[Shape | None]) -> str | None:
    pads = ints(node, "pads")
    return f"attribute pads={pads!r} must come in pairs" if len(pads) % 2 else None


def _check_resize(node: Node, shapes: list[Shape | None]) -> str | None:
    given = [name for name in ("scales", "sizes") if name in node.attributes]
    if len(given) != 1:
        return "attributes scales and sizes: exactly one must be given"
    axes = ints(node, "axes")
    target = node.attributes[given[0]]
    if (
        not isinstance(target, tuple)
        or len(target) != len(axes)
        or not all(0 < float(n) < 2**31 for n in target)
    ):
        return f"attribute {given[0]}={target!r} must hold a positive number for each of {axes}"
    crop = node.attributes["coordinate_transformation_mode"] == "tf_crop_and_resize"
    for name in ("roi", "extrapolation_value"):
        if (name in node.attributes) != crop:
            return f"attribute {name} goes with tf_crop_and_resize, and only with it"
    if crop and given != ["sizes"]:
        return "attribute sizes goes with tf_crop_and_resize, not scales"
    roi = node.attributes.get("roi", ())
    if crop and (not isinstance(roi, tuple) or len(roi) != 2 * len(axes)):
        return f"attribute roi={roi!r} must have {2 * len(axes)} entries"
    return _check_axes(node, shapes)


_INTS = Kind(int, many=True)
_FLOAT = Kind(float)
_FLAG = Kind(int, among=(0, 1))
_AXIS = Kind(int, least=0)
_AXES = Kind(int, many=True, least=0)
_SIZES = Kind(int, many=True, least=1)
_WINDOW = {"strides": _SIZES, "pads": Kind(int, many=True, least=0), "dilations": _SIZES}
_POOL = {"kernel_shape": _SIZES, **_WINDOW, "ceil_mode": _FLAG}
_BOUND = Kind(float, optional=True)
_RESIZE = {
    "axes": _AXES,
    "scales": Kind(float, many=True, optional=True),
    "sizes": Kind(int, many=True, least=1, optional=True),
    "mode": Kind(str, among=("nearest",)),
    "coordinate_transformation_mode": Kind(str, among=COORDINATES),
    "nearest_mode": Kind(str, among=ROUNDINGS),
    "roi": Kind(float, many=True, optional=True),
    "extrapolation_value": Kind(float, optional=True),
}
_PAD = {
    "mode": Kind(str, among=("constant", "reflect", "edge", "wrap")),
    "pads": _INTS,
    "value": _FLOAT,
}
_ONE = (1, 1)

OPERATORS: Mapping[str, Operator] = {
    "Conv": Operator((2, 3), {**_WINDOW, "group": Kind(int, least=1)}, (1, 2), _check_conv),
    "Gemm": Operator((2, 3), {"transB": Kind(int, among=(1,))}, (1, 2), _check_gemm),
    "BatchNormalization": Operator((5, 5), {"epsilon": _FLOAT}, (1, 2, 3, 4), _check_batch_norm),
    **{op: Operator((2, 2)) for op in ARITHMETIC},
    "Identity": Operator(_ONE),
    "Relu": Operator(_ONE),
    "Sigmoid": Operator(_ONE),
    "HardSwish": Operator(_ONE),
    "GlobalAveragePool": Operator(_ONE),
    "Clip": Operator(_ONE, {"min": _BOUND, "max": _BOUND}),
    "LeakyRelu": Operator(_ONE, {"alpha": _FLOAT}),
    "HardSigmoid": Operator(_ONE, {"alpha": _FLOAT, "beta": _FLOAT}),
    "Softmax": Operator(_ONE, {"axis": _AXIS}),
    "MaxPool": Operator(_ONE, _POOL, (), _check_pool),
    "AveragePool": Operator(_ONE, {**_POOL, "count_include_pad": _FLAG}, (), _check_pool),
    "ReduceMean": Operator(_ONE, {"axes": _AXES, "keepdims": _FLAG}, (), _check_mean),
    "Concat": Operator((1, 0), {"axis": _AXIS}),
    "Split": Operator(_ONE, {"axis": _AXIS, "split": _SIZES}, (), _check_split),
    "Slice": Operator(
        _ONE, {"starts": _INTS, "ends": _INTS, "axes": _AXES, "steps": _INTS}, (), _check_slice
    ),
    "Pad": Operator(_ONE, _PAD, (), _check_pad),
    "Flatten": Operator(_ONE, {"axis": _AXIS}),
    "Reshape": Operator(_ONE, {"shape": Kind(int, many=True, least=-1)}, (), _check_reshape),
    "Squeeze": Operator(_ONE, {"axes": _AXES}, (), _check_axes),
    "Unsqueeze": Operator(_ONE, {"axes": _AXES}, (), _check_axes),
    "Transpose": Operator(_ONE, {"perm": _AXES}, (), _check_perm),
    "Resize": Operator(_ONE, _RESIZE, (), _check_resize),
}
