"""Read an ONNX file at example sizes, where it leaves sizes open, and compare what comes out."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from masktools import limits
from masktools.errors import FormatError, GraphError
from masktools.network.graph import Graph, Node, fresh, where
from masktools.network.onnx.precision import FLOATS, casts_alone, dtype_of
from masktools.network.onnx.reading import Pass
from masktools.network.onnx.rewrites.table import REWRITES
from masktools.network.sizes import Size, is_name, spelled

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

Sizes: TypeAlias = Mapping[str, int]  # by the name of an open size

OLDEST_OPSET = 9

# Two sizes to try an open batch with: a size in the file equals them by chance less easily than 1.
BATCHES = (7, 11)

# Examples of open sizes, tried until the network works: the first of them, and how much larger the
# next is. Networks that halve images seven times take these; sound needs more.
EXAMPLES = ((256, 128), (256, 0), (1024, 0), (2**14, 0))
# How much larger the sizes are that the first are compared with, and how much more each next one:
# what two sizes differ by changes too. Those of the last need not work.
FURTHER = ((128, 256), (77, 77))
HINT = "give the sizes by --input-shape (input_shapes=), or leave them out of dynamic_shapes="


class Reading:
    """A model with the parts of it that are the same for every size.

    Parameters
    ----------
    model : onnx.ModelProto

    Attributes
    ----------
    inputs : dict of str to tuple of int, str or None
        The inputs' shapes: None for an open batch, the name of any other open size.
    fixed : set of int
        First sizes that the file fixes.
    open_batch : set of str
        The inputs whose first size is open.
    """

    def __init__(self, model: ModelProto) -> None:
        self._graph = model.graph
        self._opset = _opset(model)
        self._weights = dict(_initializers(model.graph))
        self.inputs = _inputs(model.graph, self._weights)
        self.fixed = {s[0] for s in self.inputs.values() if isinstance(s[0], int)}
        self.open_batch = {name for name, shape in self.inputs.items() if shape[0] is None}
        sizes = (size for shape in self.inputs.values() for size in shape)
        self.names = tuple(dict.fromkeys(size for size in sizes if isinstance(size, str)))

    def at(self, batch: int, sizes: Sizes, everywhere: Collection[str] = ()) -> Pass:
        """Return the network at a batch size where it is open, or in the inputs `everywhere`."""

        def size(name: str, axis: int, given: int | str | None) -> int:
            if axis == 0 and (given is None or name in everywhere):
                return batch
            return given if isinstance(given, int) else Size.open(str(given), sizes[str(given)])

        shapes = {
            name: tuple(size(name, axis, given) for axis, given in enumerate(shape))
            for name, shape in self.inputs.items()
        }
        said = None if self.open_batch else next(iter(self.fixed), None)
        return Pass(self._graph, self._opset, self._weights, shapes, said, REWRITES)

    def first(self) -> tuple[Sizes, Pass]:
        """Return examples of the open sizes at which the network works, and the network there."""
        if not self.names:
            return {}, self.at(BATCHES[0], {})
        examples = [
            {name: least + number * step for number, name in enumerate(self.names)}
            for least, step in EXAMPLES
        ]
        errors: list[GraphError] = []
        for sizes in examples:
            found = self._try(sizes)
            if isinstance(found, Pass):
                return sizes, found
            errors.append(found)
        if len(set(map(str, errors))) == 1:
            raise errors[0]  # It has nothing to do with the sizes.
        tried = "; ".join(_said(sizes) for sizes in examples)
        raise GraphError(f"{errors[0]}; the file leaves sizes open, tried were {tried}; {HINT}")

    def _try(self, sizes: Sizes) -> Pass | GraphError:
        try:
            return self.at(BATCHES[0], sizes)
        except GraphError as error:
            return error


def check_open(reading: Reading, sizes: Sizes, first: Pass) -> None:
    """Raise `GraphError` unless the network is the same at other sizes than the examples.

    Parameters
    ----------
    reading : Reading
    sizes, first
        As `Reading.first` returns them.
    """
    alike = len(set(sizes.values())) == 1  # It may be that the network works with these alone.
    for more, step in FURTHER if reading.names else ():
        steps = (more + (0 if alike else number * step) for number in range(len(sizes)))
        larger = {name: size + by for (name, size), by in zip(sizes.items(), steps, strict=True)}
        try:
            second = reading.at(BATCHES[0], larger)
        except GraphError as error:
            if (more, step) == FURTHER[-1]:
                continue  # Many networks take no odd sizes.
            raise GraphError(
                f"the file leaves sizes open, but the network works only at some, such as "
                f"{_said(sizes)}; at {_said(larger)}: {error}; {HINT}"
            ) from error
        wrong = difference(first, second, None)
        if wrong:
            raise GraphError(f"{wrong}, which the file leaves open; {HINT}")


def difference(first: Pass, second: Pass, batch: Collection[str] | None) -> str | None:
    """Describe what two readings differ in, or return None.

    Parameters
    ----------
    first, second : Pass
    batch : collection of str or None
        The inputs that have another batch; the first axes of what follows from them may differ.
        None where other open sizes differ instead; sizes that follow from these may differ.
    """
    what = "the sizes of the input" if batch is None else "the batch size"
    for ours, theirs in zip(first.graph.nodes, second.graph.nodes, strict=False):
        if _form(ours) != _form(theirs):
            return f"{where(ours)} depends on {what}"
    if len(first.graph.nodes) != len(second.graph.nodes):
        return f"the number of nodes depends on {what}"
    wrong = None if batch is None else _mixed(first, second, batch)
    if wrong:
        return wrong
    for name, array in first.graph.constants.items():
        # NaN is told where weights are checked; here it would differ from itself.
        if not np.array_equal(array, second.graph.constants[name], equal_nan=True):
            reader = next(node for node in first.graph.nodes if name in node.inputs)
            return f"{where(reader)}: constant {name!r} depends on {what}"
    for one, other in zip(first.graph.outputs, second.graph.outputs, strict=True):
        if batch is None and spelled(one.shape) != spelled(other.shape):
            return f"the shape of output {one.name!r} follows by no formula from {what}"
    return None


def following(graph: Graph, inputs: Collection[str]) -> set[str]:
    """Return the tensors that are some inputs, or follow from them."""
    found = set(inputs)
    for node in graph.nodes:
        if not found.isdisjoint(node.inputs):
            found.update(node.outputs)
    return found


def _mixed(first: Pass, second: Pass, batch: Collection[str]) -> str | None:
    follow = following(first.graph, batch)
    name = next(iter(batch))
    batches = (first.shapes[name][0], second.shapes[name][0])
    for name in (output for node in first.graph.nodes for output in node.outputs):
        one, other = first.shapes[name], second.shapes[name]
        expected = batches if name in follow else (*one[:1], *one[:1])
        if one[:1] + other[:1] != expected or one[1:] != other[1:]:
            return f"tensor {name!r} of shape {one} mixes the images of a batch"
    return None


def _form(node: Node) -> object:
    attributes = {k: spelled(v) if isinstance(v, tuple) else v for k, v in node.attributes.items()}
    return node.name, node.op, node.inputs, node.outputs, attributes


def _said(sizes: Sizes) -> str:
    return ", ".join(f"{name} = {size}" for name, size in sizes.items())


# --- what a file holds --------------------------------------------------------------------------


def _opset(model: ModelProto) -> int:
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset < OLDEST_OPSET:
        raise FormatError(f"operator set {opset} is too old: {OLDEST_OPSET} or newer is needed")
    return int(opset)


def _initializers(graph: GraphProto) -> Iterable[tuple[str, NDArray[Any]]]:
    from onnx import numpy_helper

    for tensor in graph.initializer:
        yield tensor.name, numpy_helper.to_array(tensor)
    claimed = 0
    for sparse in graph.sparse_initializer:
        name, dims = sparse.values.name, tuple(sparse.dims)
        values = numpy_helper.to_array(sparse.values)
        at = numpy_helper.to_array(sparse.indices)
        claimed += prod(dims) * values.itemsize
        if min(dims, default=1) < 0 or claimed > limits.room(graph.ByteSize()):
            raise GraphError(
                f"sparse initializer {name!r}: {dims} is no shape that can be read; with those "
                f"before it, it claims {claimed} bytes"
            )
        dense = np.zeros(dims, values.dtype)
        try:
            dense[np.unravel_index(at, dims) if at.ndim == 1 else tuple(at.T)] = values
        except (ValueError, IndexError) as error:
            raise GraphError(f"sparse initializer {name!r}: {error}") from error
        yield name, dense


def _inputs(
    graph: GraphProto, weights: Mapping[str, Any]
) -> dict[str, tuple[int | str | None, ...]]:
    """Return the inputs' shapes: None where the first size is open, a name where another is."""
    from onnx import TensorProto

    inputs: dict[str, tuple[int | str | None, ...]] = {}
    names: dict[str, str] = {}
    for value in graph.input:
        if value.name in weights:
            continue
        tensor = value.type.tensor_type
        if dtype_of(value) is None or not (
            tensor.elem_type in FLOATS or casts_alone(graph, value.name)
        ):
            raise GraphError(_refused(value.name, TensorProto.DataType.Name(tensor.elem_type)))
        dims = tensor.shape.dim
        if not dims:
            raise GraphError(f"input {value.name!r}: shape () has no batch, or is not said")
        sizes: list[int | str | None] = [d.dim_value if d.dim_value > 0 else None for d in dims]
        for axis in range(1, len(dims)):
            if sizes[axis] is None:
                sizes[axis] = _name(dims[axis].dim_param, f"{value.name}_{axis}", names)
        inputs[value.name] = tuple(sizes)
    return inputs


def _refused(name: str, kind: str) -> str:
    todo = "export the network in float32"
    if "INT" in kind:
        todo = (
            "whole numbers are read only where a Cast to float alone reads them; others, such as "
            "token ids, lead into an embedding, which cannot be run: export what comes behind it"
        )
    return f"input {name!r}: dtype {kind.lower()}, but only float32 is supported; {todo}"


def _name(said: str, otherwise: str, names: dict[str, str]) -> str:
    """Return the name of an open size: the file's, if it has one; sizes of one name are equal."""
    # Some exporters write the same word for every size that is open.
    known = said[:1].isalpha() and said.lower() not in ("none", "unknown", "dynamic")
    if known and said in names:
        return names[said]
    wish = re.sub(r"[^0-9a-zA-Z]+", "_", said if known else otherwise).strip("_")
    name = fresh(wish if is_name(wish) else f"size_{wish}", names.values())
    names[said if known else name] = name
    return name
