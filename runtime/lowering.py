"""Nodes of a checkpoint's graph to steps, one node at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import numpy as np

from masktools.checkpoint import Checkpoint
from masktools.graph import Node
from masktools.shapes import slices
from runtime.errors import PlanError
from runtime.positions import padded_positions, resized_positions
from runtime.steps import (
    Activate,
    Activation,
    Arithmetic,
    Array,
    Concat,
    Convolution,
    Gather,
    GlobalAveragePool,
    Pad,
    Pool,
    Product,
    Reshape,
    ScaleShift,
    Slice,
    Softmax,
    Step,
    Transpose,
    Weight,
)

Shape = tuple[int | None, ...]


class Lowering:
    """What turning a node into steps needs to know.

    Parameters
    ----------
    checkpoint : Checkpoint
        For the constants that nodes read.
    shapes : dict of str to tuple of int or None
        Of every value; None is the batch. Values between the steps of one node are added.
    """

    def __init__(self, checkpoint: Checkpoint, shapes: dict[str, Shape]) -> None:
        self.checkpoint = checkpoint
        self.shapes = shapes

    def __call__(self, node: Node) -> list[Step]:
        """Return the steps that do what a node says, the last of them making its output.

        Parameters
        ----------
        node : Node
            In the normal form of docs/format.md.

        Returns
        -------
        list of Step
            Empty where the node changes nothing: its output is its input.

        Raises
        ------
        PlanError
            If the node cuts a batch of any size.
        """
        return _MAKERS[node.op](self, node)

    def constant(self, name: str) -> Array:
        """Return a dense constant."""
        return self.checkpoint.graph.constants[name]

    def weight(self, name: str) -> Weight:
        """Return a layer's weight, dense or sparse."""
        dense = self.checkpoint.graph.constants.get(name)
        return self.checkpoint.sparse[name.removesuffix(".weight")] if dense is None else dense

    def between(self, node: Node, shape: Shape) -> str:
        """Return a new value between two steps of a node."""
        name = f"{node.outputs[0]}~"
        while name in self.shapes:
            name += "~"
        self.shapes[name] = shape
        return name

    def sizes(self, node: Node, axes: tuple[int, ...]) -> tuple[int, ...]:
        """Return the input's shape where a node works along `axes`; an open batch counts as 1."""
        shape = self.shapes[node.inputs[0]]
        if any(shape[axis] is None for axis in axes):
            raise PlanError(f"node {node.name!r} ({node.op}): it cuts a batch of any size")
        return tuple(1 if n is None else n for n in shape)


def _ints(node: Node, name: str) -> tuple[int, ...]:
    return cast("tuple[int, ...]", node.attributes[name])


def _int(node: Node, name: str) -> int:
    return cast("int", node.attributes[name])


def _float(node: Node, name: str, default: float = 0.0) -> float:
    return cast("float", node.attributes.get(name, default))


def _border(node: Node) -> dict[str, Any]:
    return {"name": node.name, "inputs": node.inputs[:1], "output": node.outputs[0]}


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    """Return sizes along y and x of a window that may have x alone."""
    return (1, values[0]) if len(values) == 1 else (values[0], values[1])


def _sides(begins: tuple[int, ...], ends: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return pads as top, left, bottom, right."""
    if len(begins) == 1:
        return (0, begins[0], 0, ends[0])
    return (begins[0], begins[1], ends[0], ends[1])


def _weighted(lowering: Lowering, node: Node) -> dict[str, Any]:
    bias = lowering.constant(node.inputs[2]) if len(node.inputs) == 3 else None
    return {**_border(node), "weight": lowering.weight(node.inputs[1]), "bias": bias}


def _convolution(lowering: Lowering, node: Node) -> list[Step]:
    pads = _ints(node, "pads")
    half = len(pads) // 2
    return [
        Convolution(
            **_weighted(lowering, node),
            strides=_pair(_ints(node, "strides")),
            dilations=_pair(_ints(node, "dilations")),
            pads=_sides(pads[:half], pads[half:]),
            groups=_int(node, "group"),
        )
    ]


def _product(lowering: Lowering, node: Node) -> list[Step]:
    return [Product(**_weighted(lowering, node))]


def _batch_norm(lowering: Lowering, node: Node) -> list[Step]:
    scale, shift, mean, variance = (
        lowering.constant(name).astype(np.float64) for name in node.inputs[1:]
    )
    with np.errstate(all="ignore"):  # A variance below -epsilon gives NaN, as ONNX would.
        scale = scale / np.sqrt(variance + _float(node, "epsilon"))
    return [ScaleShift(**_border(node), scale=scale, shift=shift - mean * scale)]


def _arithmetic(lowering: Lowering, node: Node) -> list[Step]:
    op = cast("Literal['Add', 'Sub', 'Mul', 'Div']", node.op)
    name, output, shapes = node.name, node.outputs[0], lowering.shapes
    first = node.inputs[0] in lowering.checkpoint.graph.constants
    if not first and node.inputs[1] not in lowering.checkpoint.graph.constants:
        return [Arithmetic(name=name, inputs=node.inputs, output=output, op=op)]
    constant, value = (lowering.constant(node.inputs[not first]), node.inputs[first])
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


def _activate(lowering: Lowering, node: Node) -> list[Step]:
    op = node.op
    if op == "Clip":
        if not node.attributes:
            return []
        limits = (_float(node, "min", -np.inf), _float(node, "max", np.inf))
        activation = Activation("Clip", *limits)
    elif op == "LeakyRelu":
        activation = Activation("LeakyRelu", _float(node, "alpha"))
    elif op == "HardSigmoid":
        activation = Activation("HardSigmoid", _float(node, "alpha"), _float(node, "beta"))
    else:
        activation = Activation(cast("Literal['Relu', 'Sigmoid', 'HardSwish']", op))
    return [Activate(**_border(node), activation=activation)]


def _pool(lowering: Lowering, node: Node) -> list[Step]:
    kernel, pads = _ints(node, "kernel_shape"), _ints(node, "pads")
    strides, dilations = _ints(node, "strides"), _ints(node, "dilations")
    half = len(kernel)
    image = lowering.sizes(node, tuple(range(2, 2 + half)))[2:]
    windows = cast("tuple[int, ...]", lowering.shapes[node.outputs[0]][2:])
    # Under ceil_mode the last window may hang over the padding.
    last = [
        (windows[i] - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1 - pads[i] - image[i]
        for i in range(half)
    ]
    ends = tuple(max(given, reached) for given, reached in zip(pads[half:], last, strict=True))
    counted = pads if node.attributes.get("count_include_pad") else (0,) * len(pads)
    return [
        Pool(
            **_border(node),
            op=cast("Literal['MaxPool', 'AveragePool']", node.op),
            kernel=_pair(kernel),
            strides=_pair(strides),
            dilations=_pair(dilations),
            pads=_sides(pads[:half], ends),
            counted=_sides(counted[:half], counted[half:]),
        )
    ]


def _mean(lowering: Lowering, node: Node) -> list[Step]:
    if node.op == "GlobalAveragePool" or node.attributes["keepdims"]:
        return [GlobalAveragePool(**_border(node))]
    shape = lowering.shapes[node.inputs[0]]
    mean = lowering.between(node, shape[:2] + (1,) * (len(shape) - 2))
    return [
        GlobalAveragePool(name=node.name, inputs=node.inputs, output=mean),
        Reshape(name=node.name, inputs=(mean,), output=node.outputs[0]),
    ]


def _concat(lowering: Lowering, node: Node) -> list[Step]:
    if len(node.inputs) == 1:
        return []
    return [
        Concat(name=node.name, inputs=node.inputs, output=node.outputs[0], axis=_int(node, "axis"))
    ]


def _split(lowering: Lowering, node: Node) -> list[Step]:
    axis, start = _int(node, "axis"), 0
    lowering.sizes(node, (axis,))
    if len(node.outputs) == 1:
        return []
    parts: list[Step] = []
    for output, size in zip(node.outputs, _ints(node, "split"), strict=True):
        cut = {"axes": (axis,), "starts": (start,), "ends": (start + size,), "steps": (1,)}
        parts.append(Slice(name=node.name, inputs=node.inputs, output=output, **cut))
        start += size
    return parts


def _slice(lowering: Lowering, node: Node) -> list[Step]:
    axes = _ints(node, "axes")
    shape = lowering.sizes(node, axes)
    cuts = slices(node, shape)
    ranges = {axis: range(*cuts[axis].indices(shape[axis])) for axis in axes}
    ranges = {axis: r for axis, r in ranges.items() if r != range(shape[axis])}
    if not ranges:
        return []
    if any(r.step < 0 for r in ranges.values()):
        indices = tuple(np.array(r, np.int32) for r in ranges.values())
        return [Gather(**_border(node), axes=tuple(ranges), indices=indices)]
    return [
        Slice(
            **_border(node),
            axes=tuple(ranges),
            starts=tuple(r.start for r in ranges.values()),
            ends=tuple(min(r.stop, r[-1] + 1) for r in ranges.values()),
            steps=tuple(r.step for r in ranges.values()),
        )
    ]


def _pad(lowering: Lowering, node: Node) -> list[Step]:
    pads = _ints(node, "pads")
    rank = len(pads) // 2
    axes = tuple(a for a in range(rank) if pads[a] or pads[a + rank])
    if not axes:
        return []
    shape = lowering.sizes(node, axes)
    mode = str(node.attributes["mode"])
    if mode == "constant":
        return [Pad(**_border(node), pads=pads, value=_float(node, "value"))]
    indices = tuple(padded_positions(mode, shape[a], pads[a], pads[a + rank]) for a in axes)
    return [Gather(**_border(node), axes=axes, indices=indices)]


def _resize(lowering: Lowering, node: Node) -> list[Step]:
    axes = _ints(node, "axes")
    ins, outs = lowering.sizes(node, axes), lowering.shapes[node.outputs[0]]
    scales = cast("tuple[float, ...] | None", node.attributes.get("scales"))
    roi = cast("tuple[float, ...]", node.attributes.get("roi", (0.0, 1.0) * len(axes)))
    modes = (
        str(node.attributes["coordinate_transformation_mode"]),
        str(node.attributes["nearest_mode"]),
    )
    indices = tuple(
        resized_positions(
            modes,
            ins[axis],
            cast("int", outs[axis]),
            None if scales is None else scales[i],
            (roi[i], roi[i + len(axes)]),
        )
        for i, axis in enumerate(axes)
    )
    if all(np.array_equal(at, np.arange(ins[a])) for at, a in zip(indices, axes, strict=True)):
        return []
    fill = _float(node, "extrapolation_value")
    return [Gather(**_border(node), axes=axes, indices=indices, fill=fill)]


def _transpose(lowering: Lowering, node: Node) -> list[Step]:
    perm = _ints(node, "perm")
    if perm == tuple(range(len(perm))):
        return []
    return [Transpose(**_border(node), perm=perm)]


def _reshape(lowering: Lowering, node: Node) -> list[Step]:
    if lowering.shapes[node.inputs[0]] == lowering.shapes[node.outputs[0]]:
        return []
    return [Reshape(**_border(node))]


def _softmax(lowering: Lowering, node: Node) -> list[Step]:
    return [Softmax(**_border(node), axis=_int(node, "axis"))]


_MAKERS: Mapping[str, Callable[[Lowering, Node], list[Step]]] = {
    "Conv": _convolution,
    "Gemm": _product,
    "BatchNormalization": _batch_norm,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _arithmetic),
    **dict.fromkeys(
        ("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish"), _activate
    ),
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "ReduceMean"), _mean),
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
    "Resize": _resize,
    "Transpose": _transpose,
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _reshape),
    "Softmax": _softmax,
    "Identity": lambda lowering, node: [],
}
