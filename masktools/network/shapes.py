"""The shape of every tensor of a network, for given shapes of its inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools import limits
from masktools.errors import GraphError
from masktools.network.graph import Graph, Node, integer, ints, where

Shape = tuple[int, ...]


def infer_shapes(
    graph: Graph, inputs: Mapping[str, Shape], weights: Mapping[str, Shape] | None = None
) -> dict[str, Shape]:
    """Return the shape of every tensor that flows through the network.

    Parameters
    ----------
    graph : Graph
        In the normal form of docs/format.md.
    inputs : mapping of str to tuple of int
        The shape of each input of the graph.
    weights : mapping of str to tuple of int, default none
        Shapes of constants that `graph.constants` does not hold: the sparse weights.

    Returns
    -------
    dict of str to tuple of int
        By name: inputs, constants, and the outputs of all nodes.

    Raises
    ------
    GraphError
        If an input is missing or does not fit what the graph declares; or, naming the node, if
        shapes do not fit each other.

    Examples
    --------
    >>> from masktools.network.graph import Value
    >>> flatten = Node("flat", "Flatten", ("x",), ("y",), {"axis": 1})
    >>> graph = Graph((Value("x", (None, 2, 3)),), (Value("y", (None, 6)),), (flatten,))
    >>> infer_shapes(graph, {"x": (5, 2, 3)})["y"]
    (5, 6)
    """
    shapes: dict[str, Shape] = {name: array.shape for name, array in graph.constants.items()}
    shapes.update(weights or {})
    for value in graph.inputs:
        if value.name not in inputs:
            raise GraphError(f"input {value.name!r}: its shape is not given")
        given = tuple(inputs[value.name])
        if len(given) != len(value.shape) or any(
            n < 1 or want not in (None, n) for n, want in zip(given, value.shape, strict=True)
        ):
            raise GraphError(f"input {value.name!r}: expected {value.shape}, got {given}")
        shapes[value.name] = given
    for node in graph.nodes:
        shapes.update(zip(node.outputs, output_shapes(node, shapes), strict=True))
    return shapes


def output_shapes(node: Node, shapes: Mapping[str, Shape]) -> list[Shape]:
    """Return the shapes of a node's outputs.

    Parameters
    ----------
    node : Node
        In the normal form.
    shapes : mapping of str to tuple of int
        The shape of each of its inputs.

    Raises
    ------
    GraphError
        Naming the node, if the shapes do not fit.
    """
    given = [shapes[name] for name in node.inputs]
    _check_ranks(node, given)
    try:
        made = _RULES[node.op](node, given)
    except (ValueError, IndexError) as error:
        raise GraphError(
            f"{where(node)}: inputs of shape {', '.join(map(str, given))} do not fit: {error}"
        ) from error
    for shape in made:
        if min(shape, default=1) < 1 or max(shape, default=1) >= 2**31:
            raise GraphError(
                f"{where(node)}: inputs of shape {', '.join(map(str, given))} "
                f"make an {'empty' if min(shape) < 1 else 'oversized'} output {shape}"
            )
    _check_ranks(node, made)
    return made


def _check_ranks(node: Node, shapes: Sequence[Shape]) -> None:
    rank = max(map(len, shapes), default=0)
    if rank > limits.RANK:
        raise GraphError(f"{where(node)}: a tensor of {rank} axes; {limits.RANK} are supported")


def _windows(node: Node, spatial: Sequence[int], kernel: Sequence[int]) -> Shape:
    strides, dilations, pads = (ints(node, name) for name in ("strides", "dilations", "pads"))
    if not len(spatial) == len(kernel) == len(strides):
        raise ValueError(f"{len(spatial)} spatial axes for a window of {len(kernel)}")
    if math.prod(kernel) > limits.TAPS:
        raise ValueError(f"a window of {tuple(kernel)} has more than {limits.TAPS} taps")
    ceil = node.attributes.get("ceil_mode", 0)
    sizes = []
    for i, size in enumerate(spatial):
        padded = size + pads[i] + pads[i + len(spatial)]
        if padded >= 2**31:
            raise ValueError(f"an image of {padded} pixels along an axis, with its padding")
        room = padded - dilations[i] * (kernel[i] - 1) - 1
        if room < 0:
            raise ValueError("the window is larger than the padded image")
        count = (-(-room // strides[i]) if ceil else room // strides[i]) + 1
        if ceil and (count - 1) * strides[i] >= size + pads[i]:
            count -= 1  # A last window that would start in the padding is left out.
        sizes.append(count)
    return tuple(sizes)


def _same(node: Node, given: list[Shape]) -> list[Shape]:
    return [given[0]]


def _broadcast(node: Node, given: list[Shape]) -> list[Shape]:
    return [np.broadcast_shapes(*given)]


def _conv(node: Node, given: list[Shape]) -> list[Shape]:
    image, weight = given[:2]
    group = integer(node, "group")
    if len(image) != len(weight) or image[1] != weight[1] * group:
        raise ValueError(f"expected {weight[1] * group} channels")
    return [(image[0], weight[0], *_windows(node, image[2:], weight[2:]))]


def _gemm(node: Node, given: list[Shape]) -> list[Shape]:
    x, weight = given[:2]
    if len(x) < 2 or x[-1] != weight[1]:
        raise ValueError(f"expected {weight[1]} features on the last axis")
    return [(*x[:-1], weight[0])]


def _batch_norm(node: Node, given: list[Shape]) -> list[Shape]:
    if given[0][1] != given[1][0]:
        raise ValueError(f"expected {given[1][0]} channels")
    return [given[0]]


def _pool(node: Node, given: list[Shape]) -> list[Shape]:
    x = given[0]
    return [(*x[:2], *_windows(node, x[2:], ints(node, "kernel_shape")))]


def _global_pool(node: Node, given: list[Shape]) -> list[Shape]:
    if len(given[0]) < 3:
        raise ValueError("there is no image")
    return [(*given[0][:2], *(1 for _ in given[0][2:]))]


def _reduce_mean(node: Node, given: list[Shape]) -> list[Shape]:
    x, axes = given[0], _valid(ints(node, "axes"), given[0])
    if axes != set(range(2, len(x))):
        raise ValueError("only the mean over the image is supported")
    return [(*x[:2], *(1 for _ in axes if node.attributes["keepdims"]))]


def _concat(node: Node, given: list[Shape]) -> list[Shape]:
    axis = integer(node, "axis")
    _valid((axis,), given[0])
    rest = {(*x[:axis], *x[axis + 1 :]) for x in given}
    if len(rest) > 1:
        raise ValueError(f"they must agree but for axis {axis}")
    return [(*given[0][:axis], sum(x[axis] for x in given), *given[0][axis + 1 :])]


def _split(node: Node, given: list[Shape]) -> list[Shape]:
    x, axis, parts = given[0], integer(node, "axis"), ints(node, "split")
    if x[axis] != sum(parts):
        raise ValueError(f"the parts {parts} must add up to axis {axis}")
    return [(*x[:axis], part, *x[axis + 1 :]) for part in parts]


def _slice(node: Node, given: list[Shape]) -> list[Shape]:
    shape = []
    for size, cut in zip(given[0], slices(node, given[0]), strict=True):
        shape.append(len(range(*cut.indices(size))))
    return [tuple(shape)]


def slices(node: Node, shape: Shape) -> list[slice]:
    """Return what a Slice node takes of each axis of an input of the given shape."""
    cuts = [slice(None)] * len(shape)
    names = ("axes", "starts", "ends", "steps")
    for axis, start, end, step in zip(*(ints(node, name) for name in names), strict=True):
        # Counted from the end, -1 would be the last entry; before the first there is only None.
        stop = None if step < 0 and end < -shape[axis] else end
        cuts[axis] = slice(start, stop, step)
    return cuts


def _pad(node: Node, given: list[Shape]) -> list[Shape]:
    x, pads = given[0], ints(node, "pads")
    if len(pads) != 2 * len(x):
        raise ValueError(f"{len(pads)} pads for {len(x)} axes")
    return [tuple(n + a + b for n, a, b in zip(x, pads, pads[len(x) :], strict=False))]


def _softmax(node: Node, given: list[Shape]) -> list[Shape]:
    _valid((integer(node, "axis"),), given[0])
    return [given[0]]


def _flatten(node: Node, given: list[Shape]) -> list[Shape]:
    axis = integer(node, "axis")
    if axis > len(given[0]):
        raise ValueError(f"axis {axis} for {len(given[0])} axes")
    return [(math.prod(given[0][:axis]), math.prod(given[0][axis:]))]


def _reshape(node: Node, given: list[Shape]) -> list[Shape]:
    x = given[0]
    shape = [x[i] if n == 0 else n for i, n in enumerate(ints(node, "shape"))]
    if -1 in shape:
        known = -math.prod(shape)
        shape[shape.index(-1)] = math.prod(x) // known if known else 0
    if math.prod(shape) != math.prod(x):
        raise ValueError(f"it cannot become {ints(node, 'shape')}")
    return [tuple(shape)]


def _squeeze(node: Node, given: list[Shape]) -> list[Shape]:
    axes = _valid(ints(node, "axes"), given[0])
    if any(given[0][axis] != 1 for axis in axes):
        raise ValueError(f"axes {sorted(axes)} must have size 1")
    return [tuple(n for axis, n in enumerate(given[0]) if axis not in axes)]


def _unsqueeze(node: Node, given: list[Shape]) -> list[Shape]:
    axes = ints(node, "axes")
    sizes, rank = iter(given[0]), len(given[0]) + len(axes)
    _valid(axes, (1,) * rank)
    return [tuple(1 if axis in axes else next(sizes) for axis in range(rank))]


def _transpose(node: Node, given: list[Shape]) -> list[Shape]:
    perm = ints(node, "perm")
    if len(perm) != len(given[0]):
        raise ValueError(f"perm {perm} for {len(given[0])} axes")
    return [tuple(given[0][axis] for axis in perm)]


def _resize(node: Node, given: list[Shape]) -> list[Shape]:
    shape: list[Any] = list(given[0])
    axes = ints(node, "axes")
    _valid(axes, given[0])
    scales = node.attributes.get("scales")
    for i, axis in enumerate(axes):
        if isinstance(scales, tuple):
            shape[axis] = int(np.floor(np.float32(shape[axis]) * np.float32(scales[i])))
        else:
            shape[axis] = ints(node, "sizes")[i]
    return [tuple(shape)]


def _valid(axes: Sequence[int], shape: Shape) -> set[int]:
    if any(axis >= len(shape) for axis in axes):
        raise ValueError(f"axes {tuple(axes)} for {len(shape)} axes")
    return set(axes)


_RULES: Mapping[str, Callable[[Node, list[Shape]], list[Shape]]] = {
    **dict.fromkeys(
        ("Relu", "Sigmoid", "HardSwish", "Identity", "Clip", "LeakyRelu", "HardSigmoid"),
        _same,
    ),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _broadcast),
    "Conv": _conv,
    "Gemm": _gemm,
    "BatchNormalization": _batch_norm,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    "ReduceMean": _reduce_mean,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
    "Flatten": _flatten,
    "Softmax": _softmax,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Resize": _resize,
}


def pixels_inside(
    size: int, pixels: int, kernel: int, stride: int, dilation: int, pad: int
) -> NDArray[np.int64]:
    """Return, for each tap of one axis, how many output pixels read inside the image by it.

    Parameters
    ----------
    size, pixels : int
        Of the image and of the output along the axis.
    kernel, stride, dilation : int
    pad : int
        Before the first pixel of the image.

    Returns
    -------
    ndarray of int64, shape (kernel,)

    Examples
    --------
    >>> pixels_inside(size=4, pixels=4, kernel=3, stride=1, dilation=1, pad=1).tolist()
    [3, 4, 3]
    """
    # Of the pixels p, those with 0 <= start + p * stride < size. Taps beyond the image may be any
    # number of 64 bits away: as Python's integers they cannot overflow.
    counts = np.zeros(kernel, np.int64)
    for tap in range(kernel):
        start = tap * dilation - pad
        first = max(-(start // stride), 0)
        last = min((size - 1 - start) // stride, pixels - 1)
        counts[tap] = max(last - first + 1, 0)
    return counts
