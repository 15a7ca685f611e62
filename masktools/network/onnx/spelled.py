"""Find functions of one number that exporters spell out, and write each as the one node it is.

PyTorch writes x * sigmoid(x) for SiLU, Gelu by Erf or Tanh in several orders, and Softplus with a
Where for large numbers. What nodes between two values do is not compared with these by its form: it
is evaluated, by the rules of the operators, and compared with what each function makes of the same
numbers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.network.graph import Attribute, Node, Shape
from masktools.network.operators import ARITHMETIC, OPERATORS
from masktools.network.operators.elementwise import FUNCTIONS
from masktools.network.operators.rules import Known, Values

# The last node of what is looked for, and the most nodes of it: Gelu by Tanh has nine or ten.
_ENDS = ("Mul", "Div", "Log", "Clip", "Where")
_LONGEST = 12
_AT = np.concatenate([np.linspace(-12, 12, 97), [-40, -20, -1e-3, 1e-3, 20, 40]])
# Where a threshold may lie anywhere, close to zero too.
_EVERYWHERE = np.concatenate([_AT, np.geomspace(1e-8, 100, 321), -np.geomspace(1e-8, 100, 321)])
_ONE, _MINUS_ONE = (int(np.flatnonzero(value == _AT)[0]) for value in (1, -1))
# The file's constants are rounded to float32 at best, and some to ten digits.
_RELATIVE, _OF_X = 1e-6, 1e-7

Function = tuple[str, dict[str, Attribute]]
_KNOWN: tuple[Function, ...] = (
    ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    ("HardSwish", {}),
    ("Softplus", {}),
    ("Gelu", {"approximate": "none"}),
    ("Gelu", {"approximate": "tanh"}),
    ("Mish", {}),
)


def unspelled(
    nodes: Sequence[Node],
    constants: Mapping[str, NDArray[Any]],
    shapes: Mapping[str, Shape],
    outputs: Collection[str],
) -> list[Node]:
    """Return the nodes, with one in place of those that spell out a function of one number.

    Parameters
    ----------
    nodes : sequence of Node
        In execution order, in the normal form. Not changed.
    constants : mapping of str to ndarray
    shapes : mapping of str to tuple of int
        Of every value.
    outputs : collection of str
        Of the network: these stay, and so does what other nodes read.
    """
    left: list[Node | None] = list(nodes)
    made_by = {name: at for at, node in enumerate(nodes) for name in node.outputs}
    readers: defaultdict[str, set[int]] = defaultdict(set)
    for at, node in enumerate(nodes):
        for name in node.inputs:
            readers[name].add(at)

    def follows_from(value: str, region: Collection[int]) -> bool:
        """Return whether a value is made, element by element, for a region's nodes alone."""
        node = left[made_by[value]] if value in made_by else None
        if node is None or value in outputs or not readers[value] <= set(region):
            return False
        return _is_by_element(node, constants, shapes)

    for at, node in enumerate(nodes):
        if node.op not in _ENDS or not _is_by_element(node, constants, shapes):
            continue
        for root, region in _regions(at, left, made_by, constants, follows_from):
            found = _function(
                root, [n for n in map(left.__getitem__, sorted(region)) if n], constants
            )
            if found is None:
                continue
            for inner in region:
                left[inner] = None
            left[at] = Node(node.name, found[0], (root,), node.outputs, found[1])
            readers[root] = readers[root] - set(region) | {at}
            break
    return [node for node in left if node is not None]


def _is_by_element(
    node: Node, constants: Mapping[str, NDArray[Any]], shapes: Mapping[str, Shape]
) -> bool:
    """Return whether a node maps numbers of one shape, one by one."""
    if node.op not in FUNCTIONS and node.op not in ARITHMETIC:
        return False
    shape = shapes[node.outputs[0]]
    return all(
        constants[name].size == 1 if name in constants else shapes[name] == shape
        for name in node.inputs
    )


def _regions(
    end: int,
    nodes: Sequence[Node | None],
    made_by: Mapping[str, int],
    constants: Mapping[str, NDArray[Any]],
    follows_from: Any,  # noqa: ANN401 - a function of a value and a region
) -> Iterator[tuple[str, list[int]]]:
    """Yield what alone a node's output follows from, with the nodes between; far ones last."""
    region: list[int] = []
    open_: set[str] = set()
    at = end
    while len(region) < _LONGEST:
        node = nodes[at]
        assert node is not None
        region.append(at)
        open_ = (open_ - set(node.outputs)) | {n for n in node.inputs if n not in constants}
        if len(open_) == 1 and len(region) > 1:
            yield next(iter(open_)), list(region)
        # The latest first: by then all that reads it is in the region.
        latest = max(open_, key=lambda name: made_by.get(name, -1))
        if not follows_from(latest, region):
            return
        at = made_by[latest]


def _function(
    root: str, region: Sequence[Node], constants: Mapping[str, NDArray[Any]]
) -> Function | None:
    """Return the function that nodes compute of a value, if it is one that is known."""
    numbers = {
        name: constants[name].reshape(()) for n in region for name in n.inputs if name in constants
    }
    with np.errstate(all="ignore"):
        result = _values_of_nodes(root, region, numbers, _AT)
        candidates = [*_KNOWN, *_swish(float(result[_ONE]))]
        chooses = any(node.op == "Where" for node in region)
        if chooses:
            candidates += _bent(float(result[_MINUS_ONE]), numbers.values())
        found = next((f for f in candidates if _equal(result, _values_of(f, _AT), _AT)), None)
        if found and chooses:
            result = _values_of_nodes(root, region, numbers, _EVERYWHERE)
            same = _equal(result, _values_of(found, _EVERYWHERE), _EVERYWHERE)
            return found if same else None
        return found


def _values_of_nodes(
    root: str, region: Sequence[Node], numbers: Mapping[str, NDArray[Any]], at: Values
) -> Values:
    """Return the output of nodes at some numbers."""
    values: dict[str, Values] = {root: at}
    shape = (1, len(at))
    known = Known(numbers, {}, defaultdict(lambda: shape), values)
    for node in region:
        made = OPERATORS[node.op].constant(known, node)
        assert made is not None, node.op
        values[node.outputs[0]] = made[0]
    return values[region[-1].outputs[0]]


def _bent(at_minus_one: float, numbers: Iterable[NDArray[Any]]) -> Iterator[Function]:
    """Yield functions that are x from some number on, with what they are at -1."""
    yield "Relu", {}
    if math.isfinite(at_minus_one):
        yield "LeakyRelu", {"alpha": float(np.float32(-at_minus_one))}
        yield "Elu", {"alpha": float(np.float32(at_minus_one / math.expm1(-1)))}
    for number in numbers:
        if math.isfinite(number):
            yield "ThresholdedRelu", {"alpha": float(number)}


def _swish(at_one: float) -> Iterator[Function]:
    """Yield the x * sigmoid(alpha x) that is `at_one` at 1; no alpha near 0, which is a product."""
    if 0 < at_one < 1 and abs(at_one - 0.5) > 0.01:
        yield "Swish", {"alpha": float(np.float32(math.log(at_one / (1 - at_one))))}


def _values_of(function: Function, at: Values) -> Values:
    op, attributes = function
    known = Known({}, {}, {"x": (1, len(at))}, {"x": at})
    made = OPERATORS[op].constant(known, Node("", op, ("x",), ("y",), attributes))
    assert made is not None, op
    return made[0]


def _equal(result: Values, wanted: Values, at: Values) -> bool:
    return bool(np.all(abs(result - wanted) <= _RELATIVE * abs(wanted) + _OF_X * abs(at)))
