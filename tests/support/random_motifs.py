"""Nodes that networks have together, like those of `random_nodes`; and how often each is drawn."""

from __future__ import annotations

import math

from random_nodes import (
    ROWS,
    activation,
    batch_norm,
    choice,
    comparison,
    concat,
    conv,
    flatten,
    gather,
    gemm,
    identity,
    layer_norm,
    matmul,
    mean,
    pad,
    plain_conv,
    pool,
    reduction,
    reshape,
    resize,
    slice_,
    softmax,
    split,
    squeeze,
    transpose,
    unsqueeze,
    with_constant,
    with_value,
)


def skip(draft, x):
    """A branch of convolutions, added to what it began with: written over it where it can be."""
    shape = draft.shape(x)
    if len(shape) not in (3, 4):
        return None
    branch = x
    for _ in range(draft.pick((1, 1, 2))):
        branch = plain_conv(draft, branch, shape[1], draft.pick((1, 3))) if branch else None
    if branch is None:
        return None
    made = draft.node("Add", [branch, x] if draft.chance(0.5) else [x, branch])
    return activation(draft, made) if made and draft.chance(0.5) else made


def shuffle(draft, x):
    """Channels dealt out anew: through rank 5 and back."""
    shape = draft.shape(x)
    groups = [g for g in (2, 3, 4) if len(shape) == 4 and shape[1] % g == 0]
    if not groups or not draft.is_open(x):
        return None
    g = draft.pick(groups)
    parted = draft.node("Reshape", [x], shape=(0, g, shape[1] // g, *shape[2:]))
    turned = draft.node("Transpose", [parted], perm=(0, 2, 1, 3, 4))
    return draft.node("Reshape", [turned], shape=(0, -1, *shape[2:]))


def gate(draft, x):
    shape = draft.shape(x)
    if len(shape) not in (3, 4) or draft.power(x) > 2:
        return None
    pooled = draft.node("GlobalAveragePool", [x])
    return draft.node("Mul", [x, draft.node("Sigmoid", [plain_conv(draft, pooled, shape[1], 1)])])


def joined_conv(draft, x):
    """A concatenation along any axis, then a convolution that reads beyond its borders."""
    if len(draft.shape(x)) not in (3, 4):
        return None
    rank = len(draft.shape(x))
    joined = concat(draft, x, draft.pick((1, 2, rank - 1, None)))
    return joined and conv(draft, joined, kernel=(3,) * (rank - 2))


def conv_pool(draft, x):
    """A convolution whose activation and pooling it may take in."""
    shape = draft.shape(x)
    if len(shape) != 4 or min(shape[2:]) < 2:
        return None
    made = plain_conv(draft, x, draft.pick(ROWS), draft.pick((1, 3, 5)))
    made = made and draft.node("Relu", [made])
    op = draft.pick(("MaxPool", "AveragePool"))
    more = {"count_include_pad": 0} if op == "AveragePool" else {}
    return made and draft.node(
        op, [made], kernel_shape=(2, 2), strides=(2, 2), dilations=(1, 1), pads=(0,) * 4,
        ceil_mode=0, **more,
    )  # fmt: skip


def moved_conv(draft, x):
    """A view or a copy of a value, then a convolution of that."""
    moved = draft.pick((slice_, transpose, reshape, pad, resize, split))(draft, x)
    return moved and (conv(draft, moved) or moved)


def classifier(draft, x):
    shape = draft.shape(x)
    if len(shape) < 3 or math.prod(shape[1:]) > 600 or not draft.is_open(x):
        return None
    return gemm(draft, draft.node("Flatten", [x], axis=1))


# How often each is drawn.
MAKERS = {
    conv: 14, gemm: 4, matmul: 3, batch_norm: 3, layer_norm: 3, activation: 8, softmax: 4,
    with_constant: 7, with_value: 5, comparison: 3, choice: 5,
    pool: 5, mean: 2, reduction: 4, concat: 7, split: 4, slice_: 4, gather: 2, pad: 3, resize: 3,
    reshape: 3,
    flatten: 1, squeeze: 3, unsqueeze: 1, transpose: 3, identity: 1, skip: 5, shuffle: 2, gate: 2,
    joined_conv: 12, conv_pool: 4, moved_conv: 6, classifier: 3,
}  # fmt: skip
