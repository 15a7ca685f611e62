"""Operators that choose, repeat or order numbers: Concat, Split, Slice, Gather, Pad and others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from masktools import limits
from masktools.network.graph import Attribute, Node, Shape, integer, ints
from masktools.network.operators.operator import (
    AXES,
    AXIS,
    FLOAT,
    INTS,
    ONE,
    SIZES,
    Kind,
    Operator,
    check_axes,
    valid_axes,
)
from masktools.network.operators.rules import (
    Cutting,
    Flow,
    Known,
    Labels,
    Values,
    cut_attributes,
    no_constants,
    same_channels,
    same_constants,
    uncut,
)
from masktools.network.sizes import Size, is_signed, largest, least

# --- Concat and Split ---------------------------------------------------------------------------


def _concat_shape(node: Node, given: list[Shape]) -> list[Shape]:
    axis = integer(node, "axis")
    valid_axes((axis,), given[0])
    rest = {(*x[:axis], *x[axis + 1 :]) for x in given}
    if len(rest) > 1:
        raise ValueError(f"they must agree but for axis {axis}")
    return [(*given[0][:axis], sum(x[axis] for x in given), *given[0][axis + 1 :])]


def _concat_channels(flow: Flow, node: Node) -> list[Labels] | None:
    parts = [flow.labels[name] for name in node.inputs if name in flow.labels]
    if len(parts) < len(node.inputs):
        return None
    if node.attributes["axis"] == 1:
        return [np.concatenate(parts)]
    flow.ties.extend((parts[0], other) for other in parts[1:])
    return [parts[0]]


def _concat_constant(known: Known, node: Node) -> list[Values]:
    parts = [known.values[name] for name in node.inputs]
    if node.attributes["axis"] == 1:
        return [np.concatenate(parts)]
    equal = np.all([part == parts[0] for part in parts], axis=0)
    return [np.where(equal, parts[0], np.nan)]


def _check_split(node: Node, shapes: list[Shape | None]) -> str | None:
    parts = len(ints(node, "split"))
    return None if parts == len(node.outputs) else f"{parts} parts, {len(node.outputs)} outputs"


def _split_shape(node: Node, given: list[Shape]) -> list[Shape]:
    x, axis, parts = given[0], integer(node, "axis"), ints(node, "split")
    if x[axis] != sum(parts):
        raise ValueError(f"the parts {parts} must add up to axis {axis}")
    return [(*x[:axis], part, *x[axis + 1 :]) for part in parts]


def _split_channels(flow: Flow, node: Node) -> list[Labels] | None:
    if node.attributes["axis"] != 1:
        return same_channels(flow, node)
    return list(np.split(flow.labels[node.inputs[0]], _ends(node)))


def _split_constant(known: Known, node: Node) -> list[Values]:
    if node.attributes["axis"] != 1:
        return same_constants(known, node)
    return list(np.split(known.values[node.inputs[0]], _ends(node)))


def _ends(node: Node) -> Labels:
    """Return where each part of a Split but the last ends."""
    ends: Labels = np.cumsum(ints(node, "split"))[:-1]
    return ends


def _split_cut(cutting: Cutting, node: Node) -> Mapping[str, Attribute]:
    if node.attributes["axis"] != 1:
        return {}
    return {"split": tuple(int(cutting.kept[name].sum()) for name in node.outputs)}


# --- Slice --------------------------------------------------------------------------------------


def _check_slice(node: Node, shapes: list[Shape | None]) -> str | None:
    lengths = {len(ints(node, name)) for name in ("starts", "ends", "axes", "steps")}
    if len(lengths) != 1:
        return "attributes starts, ends, axes, steps must be equally long"
    if 0 in ints(node, "steps"):
        return "attribute steps must not be 0"
    return check_axes(node, shapes)


def slices(node: Node, shape: Shape) -> list[slice]:
    """Return the slice that a Slice node takes along each axis of an input."""
    cuts = [slice(None)] * len(shape)
    names = ("axes", "starts", "ends", "steps")
    for axis, start, end, step in zip(*(ints(node, name) for name in names), strict=True):
        # Counted from the end, -1 would be the last entry; before the first there is only None.
        stop = None if step < 0 and end < -shape[axis] else end
        cuts[axis] = slice(start, stop, step)
    return cuts


def _slice_shape(node: Node, given: list[Shape]) -> list[Shape]:
    return [tuple(map(_length, given[0], slices(node, given[0])))]


def _length(size: int, cut: slice) -> int:
    """Return how many entries of an axis a slice takes."""
    length = len(range(*cut.indices(int(size))))
    start, stop, step = cut.start or 0, cut.stop, cut.step or 1
    bounds = (start, size if stop is None else stop)
    if not isinstance(size, Size) or step < 1 or not all(map(is_signed, bounds)):
        return length  # As a formula only where signs do not depend on sizes.
    first = largest(size + start, 0) if start < 0 else start
    last = size if stop is None else size + stop if stop < 0 else least(size, stop)
    formula = (last - first + step - 1) // step
    return formula if int(formula) == length else length


def _slice_channels(flow: Flow, node: Node) -> list[Labels] | None:
    before = flow.labels.get(node.inputs[0])
    return None if before is None else [before[slices(node, flow.shapes[node.inputs[0]])[1]]]


def _slice_constant(known: Known, node: Node) -> list[Values]:
    return [known.values[node.inputs[0]][slices(node, known.shapes[node.inputs[0]])[1]]]


def _slice_cut(cutting: Cutting, node: Node) -> Mapping[str, Attribute]:
    x, axes = node.inputs[0], ints(node, "axes")
    kept = cutting.kept[x] if x in cutting.kept else np.ones(1, np.bool_)
    if 1 not in axes or kept.all():
        return {}
    start, end, _ = slices(node, cutting.shapes[x])[1].indices(len(kept))
    bounds = {"starts": int(kept[:start].sum()), "ends": int(kept[:end].sum())}
    at = axes.index(1)
    return {
        name: tuple(value if i == at else n for i, n in enumerate(ints(node, name)))
        for name, value in bounds.items()
    }


# --- Gather -------------------------------------------------------------------------------------


def _check_gather(node: Node, shapes: list[Shape | None]) -> str | None:
    count = len(ints(node, "indices"))
    if not 0 < count <= limits.INDICES:
        return f"attribute indices has {count} entries; 1 to {limits.INDICES} are supported"
    return None


def _gather_shape(node: Node, given: list[Shape]) -> list[Shape]:
    x, axis, indices = given[0], integer(node, "axis"), ints(node, "indices")
    valid_axes((axis,), x)
    if max(indices) >= x[axis]:
        raise ValueError(f"index {max(indices)} of {x[axis]} entries")
    return [(*x[:axis], len(indices), *x[axis + 1 :])]


def _gather_channels(flow: Flow, node: Node) -> list[Labels] | None:
    if node.attributes["axis"] != 1:
        return same_channels(flow, node)
    return [flow.labels[node.inputs[0]][list(ints(node, "indices"))]]


def _gather_constant(known: Known, node: Node) -> list[Values]:
    if node.attributes["axis"] != 1:
        return same_constants(known, node)
    return [known.values[node.inputs[0]][list(ints(node, "indices"))]]


def _gather_cut(cutting: Cutting, node: Node) -> Mapping[str, Attribute]:
    if node.attributes["axis"] != 1:
        return {}
    kept = cutting.kept[node.inputs[0]]
    after = np.cumsum(kept) - 1
    return {"indices": tuple(int(after[i]) for i in ints(node, "indices") if kept[i])}


# --- Pad, Transpose -----------------------------------------------------------------------------


def _check_pad(node: Node, shapes: list[Shape | None]) -> str | None:
    pads = ints(node, "pads")
    return f"attribute pads={pads!r} must come in pairs" if len(pads) % 2 else None


def _pad_shape(node: Node, given: list[Shape]) -> list[Shape]:
    x, pads = given[0], ints(node, "pads")
    if len(pads) != 2 * len(x):
        raise ValueError(f"{len(pads)} pads for {len(x)} axes")
    return [tuple(n + a + b for n, a, b in zip(x, pads, pads[len(x) :], strict=False))]


def _pads_channels(node: Node) -> bool:
    pads = ints(node, "pads")
    return bool(pads[1] or pads[1 + len(pads) // 2])


def _pad_channels(flow: Flow, node: Node) -> list[Labels] | None:
    return None if _pads_channels(node) else same_channels(flow, node)


def _pad_constant(known: Known, node: Node) -> list[Values] | None:
    if _pads_channels(node):
        return None
    value = known.values[node.inputs[0]]
    if node.attributes["mode"] == "constant":
        return [np.where(value == node.attributes["value"], value, np.nan)]
    return [value]


def _check_perm(node: Node, shapes: list[Shape | None]) -> str | None:
    perm = ints(node, "perm")
    if sorted(perm) != list(range(len(perm))):
        return f"attribute perm={perm!r} is no permutation"
    return None


def _transpose_shape(node: Node, given: list[Shape]) -> list[Shape]:
    perm = ints(node, "perm")
    if len(perm) != len(given[0]):
        raise ValueError(f"perm {perm} for {len(given[0])} axes")
    return [tuple(given[0][axis] for axis in perm)]


def _transpose_channels(flow: Flow, node: Node) -> list[Labels] | None:
    return same_channels(flow, node) if ints(node, "perm")[:2] == (0, 1) else None


_PAD = {
    "mode": Kind(str, among=("constant", "reflect", "edge", "wrap")),
    "pads": INTS,
    "value": FLOAT,
}

MOVEMENT: Mapping[str, Operator] = {
    "Concat": Operator(
        (1, 0),
        attributes={"axis": AXIS},
        shape=_concat_shape,
        channels=_concat_channels,
        constant=_concat_constant,
        cut=uncut,
    ),
    "Split": Operator(
        ONE,
        outputs=0,
        attributes={"axis": AXIS, "split": SIZES},
        check=_check_split,
        shape=_split_shape,
        channels=_split_channels,
        constant=_split_constant,
        cut=cut_attributes(_split_cut),
    ),
    "Slice": Operator(
        ONE,
        attributes={"starts": INTS, "ends": INTS, "axes": AXES, "steps": INTS},
        check=_check_slice,
        shape=_slice_shape,
        channels=_slice_channels,
        constant=_slice_constant,
        cut=cut_attributes(_slice_cut),
    ),
    "Gather": Operator(
        ONE,
        attributes={"axis": AXIS, "indices": Kind(int, many=True, least=0)},
        check=_check_gather,
        shape=_gather_shape,
        channels=_gather_channels,
        constant=_gather_constant,
        cut=cut_attributes(_gather_cut),
        version=2,
    ),
    "Pad": Operator(
        ONE,
        attributes=_PAD,
        check=_check_pad,
        shape=_pad_shape,
        channels=_pad_channels,
        constant=_pad_constant,
        cut=uncut,
    ),
    "Transpose": Operator(
        ONE,
        attributes={"perm": AXES},
        check=_check_perm,
        shape=_transpose_shape,
        channels=_transpose_channels,
        constant=no_constants,
        cut=uncut,
    ),
}
