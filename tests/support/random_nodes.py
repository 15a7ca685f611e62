"""Nodes of random networks: each function adds one.

Each is called with the draft of a network and one of its values, and returns the value that it
made, or None where the operator does not fit the value.
"""

from __future__ import annotations

import math

from masktools.network.operators import ARITHMETIC, COORDINATES, ROUNDINGS
from runtime.plan.steps import ACTIVATIONS

# Rows of weights about the widths of vectors, 4, 8 and 16, and about the sums of a few.
ROWS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 48)
FAR = 2**63 - 1
STEPWISE = ("Floor", "Ceil", "Round", "Sign")
COMPARISONS = ("Greater", "GreaterOrEqual", "Equal")
CONTINUOUS = tuple(op for op in ARITHMETIC if op not in (*COMPARISONS, "Where"))


# --- layers with weights -----------------------------------------------------------------------


def window(draft, sizes, kernel=None):
    """Return kernel, strides, dilations and pads that fit an image of the given sizes."""
    same = draft.chance(0.6)
    kernel = kernel or tuple(draft.pick((1, 1, 2, 3, 3, 3, 4, 5, 7)) for _ in sizes)
    if same or draft.chance(0.3):
        kernel = kernel[:1] * len(sizes)
    strides = tuple(1 if same else draft.pick((1, 1, 1, 2, 2, 3)) for _ in sizes)
    dilations = tuple(draft.pick((1, 1, 1, 1, 2, 3)) for _ in sizes)
    reach = [d * (k - 1) for k, d in zip(kernel, dilations, strict=True)]
    if same:
        begins = [r // 2 for r in reach]
        ends = [r - r // 2 for r in reach]
    else:
        begins = [draft.pick((0, 0, 1, 2, r // 2, r, 6)) for r in reach]
        ends = [draft.pick((0, 0, 1, 2, r // 2, r, 6)) for r in reach]
    for i, size in enumerate(sizes):
        ends[i] += max(0, reach[i] + 1 - size - begins[i] - ends[i])
    return kernel, strides, dilations, (*begins, *ends)


def weight(draft, shape, groups=1):
    """Add a weight of any form, or return one that another layer reads already."""
    if draft.chance(0.3):
        for name, tensor in draft.tensors.items():
            if tensor.kind == "weight" and (tensor.shape, tensor.groups) == (shape, groups):
                return name
    form = draft.pick(("dense", "dense", "blocks", "residual", "both"))
    form = "empty" if draft.chance(0.02) else form
    return draft.tensor(shape, "weight", form, groups, suffix=".weight")


def bias(draft, rows):
    return [draft.tensor((rows,))] if draft.chance(0.6) else []


def conv(draft, x, rows=None, kernel=None, groups=None):
    """A convolution, of one or two axes, in one or more groups."""
    shape = draft.shape(x)
    if len(shape) not in (3, 4):
        return None
    channels = shape[1]
    if groups is None:
        fitting = [g for g in (2, 3, 4, 8) if channels % g == 0]
        groups = draft.pick((1, 1, 1, channels, draft.pick(fitting or [1])))
    if rows is None:
        rows = groups * draft.pick((1, 1, 2)) if groups == channels > 1 else draft.pick(ROWS)
    rows = max(groups, rows // groups * groups)
    kernel, strides, dilations, pads = window(draft, shape[2:], kernel)
    layer = weight(draft, (rows, channels // groups, *kernel), groups)
    inputs = [x, layer, *bias(draft, rows)]
    return draft.node("Conv", inputs, strides=strides, dilations=dilations, pads=pads, group=groups)


def plain_conv(draft, x, rows, k):
    """A convolution that keeps the size of the map."""
    shape = draft.shape(x)
    spatial = len(shape) - 2
    layer = weight(draft, (rows, shape[1], *(k,) * spatial))
    return draft.node(
        "Conv", [x, layer, *bias(draft, rows)],
        strides=(1,) * spatial, dilations=(1,) * spatial, pads=(k // 2,) * 2 * spatial, group=1,
    )  # fmt: skip


def gemm(draft, x):
    shape = draft.shape(x)
    if len(shape) < 2 or shape[-1] > 600:
        return None
    rows = draft.pick(ROWS)
    return draft.node("Gemm", [x, weight(draft, (rows, shape[-1])), *bias(draft, rows)], transB=1)


def matmul(draft, x):
    """A product with another value that fits, or with the value itself, turned."""
    rank = len(draft.shape(x))
    if rank < 3 or draft.power(x) > 1:
        return None
    fitting = [
        name
        for name in draft.values
        if len(draft.shape(name)) == rank
        and draft.shape(name)[-2] == draft.shape(x)[-1]
        and draft.power(name) == 1
        and all(n == m or 1 in (n, m) for n, m in zip(draft.shape(name)[:-2], draft.shape(x)[:-2]))  # noqa: B905
    ]
    perm = (*range(rank - 2), rank - 1, rank - 2)
    other = draft.pick([None, *fitting]) or draft.node("Transpose", [x], perm=perm)
    return draft.node("MatMul", [x, other])


def batch_norm(draft, x):
    shape = draft.shape(x)
    if len(shape) < 2:
        return None
    kinds = ("apart", "normal", "normal", "positive")
    constants = [draft.tensor((shape[1],), kind) for kind in kinds]
    return draft.node("BatchNormalization", [x, *constants], epsilon=draft.pick((1e-5, 1e-3)))


def layer_norm(draft, x):
    axis, rank = draft.axis(x), len(draft.shape(x))
    if axis is None:
        return None
    shape = draft.shape(x)[axis:]
    if rank - axis > 3:
        return None
    constants = [
        draft.tensor(shape, kind) for kind in draft.pick(((), ("apart",), ("apart", "normal")))
    ]
    return draft.node("LayerNormalization", [x, *constants], axis=axis, epsilon=1.0)


# --- numbers -----------------------------------------------------------------------------------


def activation(draft, x):
    op = draft.pick(("Relu", *ACTIVATIONS))
    if op in ("Log", "Sqrt"):
        x = bounded(draft, x)
    if op == "Exp":
        x = draft.node("Clip", [x], min=-3.0, max=2.0)
    if op in STEPWISE:
        x = whole_and_a_part(draft, x)
    attributes = {
        "Clip": draft.pick(({}, {"min": -0.5}, {"max": 0.75}, {"min": 0.0, "max": 6.0})),
        "LeakyRelu": {"alpha": draft.pick((0.1, -0.5, 1.5))},
        "Elu": {"alpha": draft.pick((1.0, 0.3, -1.5))},
        "Gelu": {"approximate": draft.pick(("none", "tanh"))},
        "Swish": {"alpha": draft.pick((1.0, 1.702, -0.5))},
        "ThresholdedRelu": {"alpha": 0.0},  # where it has no step that rounding could cross
        "HardSigmoid": {"alpha": draft.pick((0.2, -0.3)), "beta": draft.pick((0.5, 0.25))},
    }
    return draft.node(op, [x], **attributes.get(op, {}))


def softmax(draft, x):
    axis = draft.axis(x)
    op = draft.pick(("Softmax", "Softmax", "LogSoftmax"))
    return None if axis is None else draft.node(op, [x], axis=axis)


def with_constant(draft, x):
    """Arithmetic of a value and a constant that broadcasts along some axes, in either order."""
    op = draft.pick(CONTINUOUS)
    first = op != "PRelu" and draft.chance(0.4)
    if op == "Div" and first:
        x = bounded(draft, x)
    constant = fitting_constant(draft, x)
    return draft.node(op, [constant, x] if first else [x, constant])


def fitting_constant(draft, x):
    """Add a constant that a value broadcasts with, along some axes."""
    shape = draft.shape(x)
    kept = [n if draft.chance(0.5) else 1 for n in shape[1:]]
    kept = draft.pick((kept, [1] * len(kept), [*kept[:1], *[1] * len(kept[1:])], list(shape[1:])))
    if not draft.is_open(x):
        kept = [draft.pick((1, shape[0])), *kept]
    elif draft.chance(0.3):
        kept = [1, *kept]
    while kept and kept[0] == 1 and draft.chance(0.5):
        kept = kept[1:]
    return draft.tensor(tuple(kept), "apart")


def bounded(draft, x):
    """Return a value between a half and one and a half: what may be divided by."""
    return draft.node("Add", [draft.node("Sigmoid", [x]), draft.tensor((1,), "ones")], half=True)


def with_value(draft, x):
    """Arithmetic of two values: the same one, one as large, or one that broadcasts."""
    op = draft.pick(("Add", "Add", *CONTINUOUS))
    others = [name for name in draft.values if draft.broadcasts(x, name)]
    y = x if draft.chance(0.1) else draft.pick(others)
    if op in ("Mul", "PRelu") and draft.power(x) + draft.power(y) > 3:
        op = "Add"
    if op == "Div":
        y = bounded(draft, y)
    turned = op not in ("Div", "PRelu") and draft.chance(0.5)
    return draft.node(op, [y, x] if turned else [x, y])


def comparison(draft, x):
    """A comparison with a constant, or with another value, that no rounding turns."""
    a, constant = draft.node("Clip", [x], min=-0.125, max=0.125), fitting_constant(draft, x)
    b = constant
    if draft.chance(0.4):
        y = draft.pick([name for name in draft.values if draft.broadcasts(x, name)])
        b = draft.node("Add", [draft.node("Clip", [y], min=-0.125, max=0.125), constant])
    return draft.node(draft.pick(COMPARISONS), [b, a] if draft.chance(0.5) else [a, b])


def whole_and_a_part(draft, x):
    """Zero or one and at least an eighth, at most three: no rounding crosses a step from there."""
    part = draft.node("Clip", [x], min=0.125, max=0.375)
    return draft.node("Add", [comparison(draft, x), part], half=True)


def choice(draft, x):
    """A value or a constant where a condition holds, which may be a constant too, else another."""
    others = [name for name in draft.values if draft.broadcasts(x, name)]

    def operand():
        return fitting_constant(draft, x) if draft.chance(0.4) else draft.pick(others)

    known = draft.chance(0.3)
    condition = fitting_constant(draft, x) if known else comparison(draft, x)
    chosen = [x if known or draft.chance(0.5) else operand(), operand()]
    return draft.node("Where", [condition, *(chosen if draft.chance(0.5) else chosen[::-1])])


# --- windows without weights -------------------------------------------------------------------


def pool(draft, x):
    shape = draft.shape(x)
    if len(shape) not in (3, 4):
        return None
    op = draft.pick(("MaxPool", "AveragePool"))
    if draft.chance(0.4):
        kernel = strides = (2,) * len(shape[2:])
        dilations, pads = (1,) * len(kernel), (0,) * 2 * len(kernel)
    else:
        kernel, strides, dilations, pads = window(draft, shape[2:])
    reach = [d * (k - 1) for k, d in zip(kernel, dilations, strict=True)] * 2
    pads = tuple(min(pad, r) for pad, r in zip(pads, reach, strict=True))
    attributes = {
        "kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads,
        "ceil_mode": draft.pick((0, 0, 1)),
    }  # fmt: skip
    if op == "AveragePool":
        attributes["count_include_pad"] = draft.pick((0, 1))
    made = draft.node(op, [x], **attributes)
    # What is the largest, or the mean, of no pixel at all is not for a network to ask.
    if made and not all(_reaches(draft, x, made, attributes, axis) for axis in range(len(kernel))):
        return draft.undo(made)
    return made


def _reaches(draft, x, made, attributes, axis):
    """Return whether each window along an axis has a tap inside the image."""
    size, windows = draft.shape(x)[2 + axis], draft.shape(made)[2 + axis]
    kernel, strides, dilations = (
        attributes[name][axis] for name in ("kernel_shape", "strides", "dilations")
    )
    firsts = [i * strides - attributes["pads"][axis] for i in range(windows)]
    return all(any(0 <= at + k * dilations < size for k in range(kernel)) for at in firsts)


def mean(draft, x):
    shape = draft.shape(x)
    if len(shape) not in (3, 4):
        return None
    if draft.chance(0.5):
        return draft.node("GlobalAveragePool", [x])
    axes = tuple(range(2, len(shape)))
    return draft.node("ReduceMean", [x], axes=axes, keepdims=draft.pick((0, 1)))


def reduction(draft, x):
    op = draft.pick(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2"))
    axes = draft.some_axes(x)
    count = math.prod(draft.shape(x)[axis] for axis in axes)
    if not axes or (op in ("ReduceSum", "ReduceL2") and count > 16):
        return None  # Numbers stay of order one.
    return draft.node(op, [x], axes=axes, keepdims=draft.pick((0, 1)))


# --- moves -------------------------------------------------------------------------------------


def concat(draft, x, axis=None):
    """Join a value with others, with itself, or with what is made of it."""
    axis = draft.axis(x) if axis is None else axis
    if axis is None:
        return None
    shape = draft.shape(x)
    others = [
        name
        for name in draft.values
        if len(draft.shape(name)) == len(shape)
        and all(a == b or i == axis for i, (a, b) in enumerate(zip(draft.shape(name), shape)))  # noqa: B905
    ]
    parts = [x, *(draft.pick(others) for _ in range(draft.pick((0, 1, 1, 2))))]
    if draft.chance(0.4):
        parts.append(activation(draft, x) or x)
    order = draft.random.permutation(len(parts))
    return draft.node("Concat", [parts[i] for i in order], axis=axis)


def split(draft, x):
    axis = draft.axis(x)
    if axis is None:
        return None
    size = draft.shape(x)[axis]
    count = draft.pick((1, 1, 2)) if size > 1 else 0
    cuts = {int(draft.random.integers(1, size)) for _ in range(count)}
    ends = [*sorted(cuts), size]
    parts = tuple(b - a for a, b in zip([0, *ends], ends))  # noqa: B905
    return draft.node("Split", [x], count=len(parts), axis=axis, split=parts)


def slice_(draft, x):
    shape = draft.shape(x)
    axes = draft.some_axes(x)
    if not axes:
        return None
    cuts = []
    for axis in axes:
        size = shape[axis]
        start = int(draft.random.integers(0, max(1, size // 2)))
        end = int(draft.random.integers(start + 1, size + 1))
        forms = [
            (start, end, 1), (start - size, FAR, 1), (0, end, draft.pick((1, 2, 3))),
            (-1, -FAR - 1, -1), (end - 1, start - 1 if start else -FAR - 1, draft.pick((-1, -2))),
        ]  # fmt: skip
        cuts.append(draft.pick(forms[:3] if draft.chance(0.7) else forms))
    starts, ends, steps = zip(*cuts, strict=True)
    return draft.node("Slice", [x], starts=starts, ends=ends, axes=axes, steps=steps)


def gather(draft, x):
    axis = draft.axis(x)
    if axis is None:
        return None
    size = draft.shape(x)[axis]
    indices = draft.random.integers(0, size, draft.pick((1, 2, size))).tolist()
    return draft.node("Gather", [x], axis=axis, indices=tuple(indices))


def pad(draft, x):
    shape = draft.shape(x)
    mode = draft.pick(("constant", "constant", "reflect", "edge", "wrap"))
    begins, ends = [0] * len(shape), [0] * len(shape)
    for axis in draft.some_axes(x):
        most = shape[axis] - 1 if mode == "reflect" else min(shape[axis], 3)
        begins[axis], ends[axis] = (int(draft.random.integers(0, most + 1)) for _ in range(2))
        if mode == "constant" and draft.chance(0.2) and shape[axis] > 2:
            begins[axis] = -1
    value = draft.pick((0.0, 0.5)) if mode == "constant" else 0.0
    return draft.node("Pad", [x], mode=mode, pads=(*begins, *ends), value=value)


def resize(draft, x):
    shape = draft.shape(x)
    axes = tuple(range(2, len(shape))) if len(shape) > 2 else ()
    axes = axes if axes and draft.chance(0.7) else draft.some_axes(x)
    if not axes:
        return None
    attributes = {"axes": axes, "mode": draft.pick(("nearest", "nearest", "linear", "cubic"))}
    coordinates = draft.pick(COORDINATES)
    if attributes["mode"] == "nearest":
        attributes["nearest_mode"] = draft.pick(ROUNDINGS)
    else:
        coordinates = draft.pick(COORDINATES[:-1])
    if attributes["mode"] == "cubic":
        attributes["cubic_coeff_a"] = draft.pick((-0.75, -0.5))
        attributes["exclude_outside"] = draft.pick((0, 1))
    attributes["coordinate_transformation_mode"] = coordinates
    crop = coordinates == "tf_crop_and_resize"
    if crop or draft.chance(0.4):
        attributes["sizes"] = tuple(draft.pick((1, 2, 3, 4, 7, 8, 2 * shape[a])) for a in axes)
    else:
        attributes["scales"] = tuple(draft.pick((2.0, 2.0, 1.0, 1.5, 0.625)) for _ in axes)
    if crop:
        attributes["roi"] = tuple(draft.pick((0.0, 0.1, -0.2)) for _ in axes)
        attributes["roi"] += tuple(draft.pick((1.0, 0.8, 1.3)) for _ in axes)
        attributes["extrapolation_value"] = draft.pick((0.0, 0.75))
    return draft.node("Resize", [x], **attributes)


def reshape(draft, x):
    """Join neighbouring axes, or part one; the batch stays by 0 or by -1."""
    shape = list(draft.shape(x))
    first = 1 if draft.is_open(x) else 0
    for _ in range(draft.pick((1, 1, 2))):
        at = int(draft.random.integers(first, len(shape))) if len(shape) > first else first
        if draft.chance(0.5) and at + 1 < len(shape):
            shape[at : at + 2] = [shape[at] * shape[at + 1]]
        elif at < len(shape):
            factors = [f for f in (2, 3, 4, 8, 16) if shape[at] % f == 0]
            factor = draft.pick(factors or [1])
            parts = [factor, shape[at] // factor]
            shape[at : at + 1] = draft.pick((parts, parts[::-1]))
    if len(shape) > 5:
        return None
    if draft.is_open(x):
        shape[0] = draft.pick((0, -1))
    if -1 not in shape and len(shape) > first and draft.chance(0.4):
        shape[int(draft.random.integers(first, len(shape)))] = -1
    return draft.node("Reshape", [x], shape=tuple(shape))


def flatten(draft, x):
    shape = draft.shape(x)
    return draft.node("Flatten", [x], axis=1 if draft.is_open(x) else draft.pick(range(len(shape))))


def squeeze(draft, x):
    ones = [axis for axis, n in enumerate(draft.shape(x)) if n == 1]
    ones = ones[: draft.pick((1, 2))] if len(draft.shape(x)) > 2 else []
    return draft.node("Squeeze", [x], axes=tuple(ones)) if ones else None


def unsqueeze(draft, x):
    rank = len(draft.shape(x))
    first = 1 if draft.is_open(x) else 0
    if rank > 4:
        return None
    return draft.node("Unsqueeze", [x], axes=(int(draft.random.integers(first, rank + 1)),))


def transpose(draft, x):
    first = 1 if draft.is_open(x) else 0
    rest = draft.random.permutation(range(first, len(draft.shape(x)))).tolist()
    return draft.node("Transpose", [x], perm=(*range(first), *rest))


def identity(draft, x):
    return draft.node("Identity", [x])
