"""Read a quantised ONNX model as the one of float32 that it approximates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from masktools.errors import GraphError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

# Operators that hand on numbers as they are: whether rounded before or after is the same.
_MOVED = "Concat Flatten Identity MaxPool Reshape Slice Squeeze Transpose Unsqueeze"
_MOVING = frozenset(_MOVED.split())
_CLIP_INPUTS = 11  # The operator set in which the bounds of Clip became inputs.


def dequantised(model: ModelProto, say: Callable[[str], None] | None = None) -> ModelProto:
    """Return a model that does not round the values between its layers to integers.

    Parameters
    ----------
    model : onnx.ModelProto
        Not changed; returned as it is where there is nothing to do.
    say : callable, default None
        Is told what was changed, in a sentence.

    Raises
    ------
    GraphError
        If integers are read by an operator that computes with them, or a scale is no one number.

    Notes
    -----
    Of a QuantizeLinear stays the range: what lies beyond is cut off, as quantising does, and a
    Relu that was left out for that reason is still there. Weights, which are constants, are
    computed by onnx where they are folded, rounded as they are.
    """
    import onnx
    from onnx import helper

    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
    if not any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        return model
    constants = dict(_constants(model.graph))
    known = set(constants)
    steps: dict[str, tuple[float, float]] = {}  # By tensor of integers: scale and zero point.
    nodes = []
    found = onnx.ModelProto()
    found.CopyFrom(model)
    for node in found.graph.node:
        if all(name in known or not name for name in node.input):
            known.update(node.output)
        elif node.op_type == "QuantizeLinear":
            scale, zero, lowest, highest = _range(node, constants)
            steps[node.output[0]] = scale, zero
            bounds = {"min": (lowest - zero) * scale, "max": (highest - zero) * scale}
            made = helper.make_node("Clip", node.input[:1], node.output, node.name)
            for name, bound in bounds.items():
                if opset >= _CLIP_INPUTS:
                    made.input.append(f"{node.output[0]}.{name}")
                    tensor = helper.make_tensor(made.input[-1], 1, (), [bound])
                    found.graph.initializer.append(tensor)
                else:
                    made.attribute.append(helper.make_attribute(name, bound))
            node.CopyFrom(made)
        elif not steps.keys().isdisjoint(node.input):
            _follow(node, steps, constants)
        nodes.append(node)
    whole = next((value.name for value in found.graph.output if value.name in steps), None)
    if whole is not None:
        raise GraphError(f"output {whole!r} is of integers; add a DequantizeLinear behind it")
    if not steps:
        return model
    del found.graph.value_info[:]
    if say is not None:
        say(
            f"{_count(model.graph, steps)} values are quantised (QuantizeLinear): here they keep "
            "their range, but are not rounded; outputs differ from those of the quantised network "
            "by what its rounding made, about half a step of each scale"
        )
    return found


def _count(graph: GraphProto, steps: Mapping[str, object]) -> int:
    return sum(n.op_type == "QuantizeLinear" and n.output[0] in steps for n in graph.node)


def _constants(graph: GraphProto) -> Iterator[tuple[str, Any]]:
    """Yield what the file holds by name, as tensors that are not unpacked."""
    yield from ((tensor.name, tensor) for tensor in graph.initializer)
    yield from ((tensor.values.name, None) for tensor in graph.sparse_initializer)
    for node in graph.node:
        if node.op_type == "Constant":
            yield node.output[0], next((a.t for a in node.attribute if a.name == "value"), None)


def _step(node: NodeProto, constants: Mapping[str, Any]) -> tuple[float, float, np.dtype[Any]]:
    """Return the scale, the zero point and the type of the integers."""
    from onnx import helper, numpy_helper

    arrays: list[NDArray[Any]] = []
    for name in node.input[1:3]:
        tensor = constants.get(name)
        if tensor is None or max(tensor.dims, default=1) > 1:
            raise GraphError(
                f"node {node.name!r} ({node.op_type}): input {name!r} must be one constant number "
                "where activations are quantised"
            )
        arrays.append(numpy_helper.to_array(tensor).ravel())
    said = next((a.i for a in node.attribute if a.name == "output_dtype" and a.i), None)
    if len(arrays) < 2:
        kind = np.dtype(helper.tensor_dtype_to_np_dtype(said)) if said else np.dtype(np.uint8)
        arrays.append(np.zeros(1, kind))
    return float(arrays[0][0]), float(arrays[1][0]), arrays[1].dtype


def _range(node: NodeProto, constants: Mapping[str, Any]) -> tuple[float, float, int, int]:
    """Return scale, zero point, and the least and the largest integer."""
    scale, zero, kind = _step(node, constants)
    if kind.kind not in "iu":
        raise GraphError(
            f"node {node.name!r} (QuantizeLinear): values of {kind} are not supported, only of "
            "integers of 8 bits or more; export the network before it was quantised"
        )
    limits = np.iinfo(kind)
    return scale, zero, int(limits.min), int(limits.max)


def _follow(
    node: NodeProto, steps: dict[str, tuple[float, float]], constants: Mapping[str, Any]
) -> None:
    """Let a node read numbers in the place of integers."""
    from onnx import helper

    read = {steps.get(name) for name in node.input if name not in constants and name}
    step = steps.get(node.input[0])
    if node.op_type == "DequantizeLinear":
        if step is None or _step(node, constants)[:2] != step:
            raise GraphError(
                f"node {node.name!r} (DequantizeLinear): its scale and zero point differ from "
                "those of its input; export the network before it was quantised"
            )
        plain = helper.make_node("Identity", node.input[:1], node.output, node.name)
        node.CopyFrom(plain)
    elif node.op_type in _MOVING and len(read) == 1 and step is not None:
        steps[node.output[0]] = step
    else:
        raise GraphError(
            f"node {node.name!r} ({node.op_type}): it computes with integers, which is not "
            "supported; quantise in the QDQ form (QuantizeLinear, DequantizeLinear), or export the "
            "network before it was quantised"
        )
