"""Fix the sizes that an ONNX file leaves open, as the user says them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from masktools.errors import GraphError

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

# A size; or what leaves it as the file has it: None, -1, "?" or any name.
Wish: TypeAlias = "int | str | None"
# By input; or of the only input.
InputShapes: TypeAlias = "Mapping[str, Sequence[Wish]] | Sequence[Wish]"


def with_input_shapes(model: ModelProto, shapes: InputShapes) -> ModelProto:
    """Return the model with sizes of its inputs fixed.

    Parameters
    ----------
    model : onnx.ModelProto
        Not changed.
    shapes : mapping of str to sequence of int, str or None; or one such sequence
        By input, or of the only one: sizes, one for each axis. None, -1, ``"?"`` or a name leaves
        an axis as the file has it.

    Raises
    ------
    GraphError
        If there is no such input, a shape has another number of axes or a size below 1, or the
        file fixes another size.
    """
    import onnx

    weights = {tensor.name for tensor in model.graph.initializer}
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    inputs = {value.name: value for value in fixed.graph.input if value.name not in weights}
    has = "; it has " + ", ".join(f"{name} {_text(value)}" for name, value in inputs.items())
    if not isinstance(shapes, Mapping):
        if len(inputs) != 1:
            raise GraphError(f"input shape {_said(shapes)}: say which input it is of{has}")
        shapes = {next(iter(inputs)): shapes}
    for name, shape in shapes.items():
        if name not in inputs:
            raise GraphError(f"input shape of {name!r}: the network has no such input{has}")
        _fix(inputs[name], shape)
    return fixed


def _fix(value: ValueInfoProto, shape: Sequence[Wish]) -> None:
    dims = value.type.tensor_type.shape.dim
    where = f"input {value.name!r}: shape {_said(shape)} for {_text(value)}"
    if len(shape) != len(dims):
        raise GraphError(f"{where}: {len(shape)} axes, but the network's input has {len(dims)}")
    for axis, (dim, size) in enumerate(zip(dims, shape, strict=True)):
        if size is None or isinstance(size, str) or size == -1:
            continue
        if size < 1:
            raise GraphError(f"{where}: axis {axis} must have a size of at least 1, not {size}")
        if dim.dim_value > 0 and dim.dim_value != size:
            raise GraphError(f"{where}: the file fixes axis {axis} to {dim.dim_value}")
        dim.dim_value = size


def _text(value: ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    return (
        f"({', '.join(str(d.dim_value) if d.dim_value > 0 else d.dim_param or '?' for d in dims)})"
    )


def _said(shape: Sequence[Wish]) -> str:
    return ",".join("?" if size is None else str(size) for size in shape)
