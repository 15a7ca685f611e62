"""Sizes that a PyTorch module leaves open: whether it computes the same at all of them.

PyTorch captures what a module does at its example. Where the module asks for a size, as in
``if x.shape[3] % 2``, it captures one of the branches, and its ONNX no longer says for which sizes.
So the module is captured at other sizes too, among them those just beyond what PyTorch found, and
must be the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from masktools.errors import GraphError

if TYPE_CHECKING:
    import torch
    from onnx import GraphProto
    from torch.onnx import ONNXProgram

LARGEST = 2**14  # PyTorch says "any" by very large sizes too.

Inputs: TypeAlias = tuple[Any, ...]
Sizes: TypeAlias = Mapping[str, int]
Capture: TypeAlias = "Callable[[Inputs], ONNXProgram]"


def check_wishes(
    graph: GraphProto,
    module: torch.nn.Module,
    inputs: Inputs,
    dynamic_shapes: Any,  # noqa: ANN401 - as torch.onnx.export takes them
) -> None:
    """Raise `GraphError` where PyTorch fixed a size that is to stay open: it does so in silence.

    Parameters
    ----------
    graph : GraphProto
        As PyTorch wrote the module.
    module : torch.nn.Module
    inputs : tuple
        The example.
    dynamic_shapes : dict, tuple or list
    """
    given = inspect.signature(module.forward).bind(*inputs).arguments
    by_name = isinstance(dynamic_shapes, Mapping)
    wishes = _open_axes(given if by_name else tuple(given.values()), dynamic_shapes)
    called: dict[str, str] = {}  # What an open size is called, by its name in the file.
    for value, axes in zip(graph.input, wishes, strict=True):
        for axis, name in axes.items():
            where = (
                f"input {value.name!r}: dynamic_shapes leaves axis {axis} open, but PyTorch finds"
            )
            dim = value.type.tensor_type.shape.dim[axis]
            if dim.dim_value:
                raise GraphError(
                    f"{where} that the module works at a size of {dim.dim_value} alone; leave the "
                    "axis out"
                )
            other = called.setdefault(dim.dim_param, name)
            if other != name:
                raise GraphError(
                    f"{where} that the sizes {other} and {name} must be equal; give them one name"
                )


def check_same(program: ONNXProgram, inputs: Inputs, capture: Capture) -> None:
    """Raise `GraphError` where a module computes something else at other sizes.

    Parameters
    ----------
    program : ONNXProgram
        The module, captured at its example.
    inputs : tuple
        The example.
    capture : callable
        Captures it at another example.
    """
    dims = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in program.model_proto.graph.input
    ]
    example = dict(_named(dims, [tensor.shape for tensor in _tensors(inputs)]))
    first = {str(own[0]) for own in dims if own}
    form = _form(program.model_proto.graph)
    for sizes, must_work in _others(example, first, _bounds(program, dims)):
        shapes = ([sizes.get(str(dim), dim) for dim in shape] for shape in dims)
        said = ", ".join(f"{name} = {size}" for name, size in sizes.items())
        try:
            other = capture(tuple(_resized(part, shapes) for part in inputs))
        except GraphError as error:
            if must_work:
                raise GraphError(
                    f"dynamic_shapes leaves sizes open, but the module does not work at {said}: "
                    f"{error}"
                ) from error
            continue
        if _form(other.model_proto.graph) != form:
            raise GraphError(
                f"dynamic_shapes leaves sizes open, but the module computes something else at "
                f"{said} than at its example: it asks for its sizes; leave them out"
            )


def _others(
    example: Sizes, first: Collection[str], bounds: Sequence[tuple[str, int]]
) -> Iterator[tuple[Sizes, bool]]:
    """Yield sizes to compare the example with, and whether the module must work there.

    Parameters
    ----------
    example : mapping of str to int
    first : collection of str
        The names of first axes: of batches.
    bounds : sequence of (str, int)
    """
    batches = {name: 2 * size for name, size in example.items() if name in first}
    images = {name: size for name, size in example.items() if name not in first}
    multiples: dict[str, int] = {}
    largest = max(images.values(), default=0)
    for name, size in images.items():  # Multiples, for networks that halve images, in rising order.
        multiples[name] = size * (max([1, *(n // size for n in multiples.values())]) + 1)
    yield {**batches, **multiples}, True
    odd = {name: size + 1 for name, size in batches.items()}
    falling = {name: largest + 77 + 2 * (len(images) - i) for i, name in enumerate(images)}
    # Of each size another parity, whatever the largest has.
    falling = {name: size + 1 - (size + images[name]) % 2 for name, size in falling.items()}
    yield {**odd, **falling}, False
    if len(images) > 1:  # All alike.
        yield {**batches, **dict.fromkeys(images, max(multiples.values()))}, False
    for name, size in bounds:
        yield {**example, name: size}, False


def _bounds(program: ONNXProgram, dims: Sequence[Sequence[int | str]]) -> list[tuple[str, int]]:
    """Return sizes just beyond those at which PyTorch found that the module does what it did."""
    captured = program.exported_program
    assert captured is not None
    given = captured.graph_signature.user_inputs
    values = [node.meta.get("val") for node in captured.graph.nodes if node.name in given]
    shapes = [value.shape for value in values if hasattr(value, "shape")]
    names = dict(_named(dims, shapes))
    symbols = {str(size): name for name, size in names.items()}
    found = []
    for symbol, limits in captured.range_constraints.items():
        name, lower, upper = symbols.get(str(symbol)), limits.lower, limits.upper
        if name is not None and lower.is_Integer and lower > 1:
            found.append((name, int(lower) - 1))
        if name is not None and upper.is_Integer and upper < LARGEST:
            found.append((name, int(upper) + 1))
    return found


def _named(dims: Sequence[Sequence[int | str]], shapes: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Yield the open sizes by name, as shapes have them."""
    for own, shape in zip(dims, shapes, strict=True):
        for dim, size in zip(own, shape, strict=True):
            if isinstance(dim, str):
                yield dim, size


def _form(graph: GraphProto) -> object:
    """Return what a graph computes: not its shapes, nor what PyTorch notes beside."""
    nodes = [
        (
            n.op_type,
            n.domain,
            *n.input,
            "->",
            *n.output,
            *(a.SerializeToString() for a in n.attribute),
        )
        for n in graph.node
    ]
    return nodes, {tensor.name: tensor.SerializeToString() for tensor in graph.initializer}


def _tensors(example: Any) -> Iterator[torch.Tensor]:  # noqa: ANN401
    from torch import Tensor

    if isinstance(example, Tensor):
        yield example
    elif isinstance(example, (Mapping, tuple, list)):
        for part in example.values() if isinstance(example, Mapping) else example:
            yield from _tensors(part)


def _resized(example: Any, shapes: Iterator[list[Any]]) -> Any:  # noqa: ANN401
    """Return an example of other sizes, those of its tensors in order."""
    from torch import Tensor

    if isinstance(example, Tensor):
        return example.new_zeros(next(shapes))
    if isinstance(example, Mapping):
        return {name: _resized(part, shapes) for name, part in example.items()}
    if isinstance(example, (tuple, list)):
        return type(example)(_resized(part, shapes) for part in example)
    return example


def _open_axes(example: Any, wish: Any) -> Iterator[dict[int, str]]:  # noqa: ANN401
    """Yield the axes of each tensor that are to stay open in any case, and what they are called."""
    from torch import Tensor
    from torch.export import Dim

    if isinstance(example, Tensor):
        sizes = wish.items() if isinstance(wish, Mapping) else enumerate(wish or ())
        free = (None, Dim.AUTO, Dim.STATIC)  # With AUTO, PyTorch decides.
        wished = {axis: n for axis, n in sizes if not isinstance(n, int) and n not in free}
        yield {axis: getattr(n, "__name__", str(n)) for axis, n in wished.items()}
    elif isinstance(example, Mapping):
        for name, part in example.items():
            yield from _open_axes(part, None if wish is None else wish[name])
    elif isinstance(example, (tuple, list)):
        for place, part in enumerate(example):
            yield from _open_axes(part, None if wish is None else wish[place])
