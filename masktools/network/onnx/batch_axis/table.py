"""The operators that are read wherever the batch is, and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from masktools.network.onnx.batch_axis.images import conv, pool
from masktools.network.onnx.batch_axis.movement import (
    along,
    concat,
    cut,
    gather,
    gather_nd,
    pad,
    repeat,
    sequence,
)
from masktools.network.onnx.batch_axis.places import Rewrite
from masktools.network.onnx.batch_axis.reshaping import (
    flatten,
    reshape,
    squeeze,
    transpose,
    unsqueeze,
)
from masktools.network.onnx.batch_axis.sums import (
    arithmetic,
    batch_norm,
    product,
    reduction,
    softmax,
    unary,
)
from masktools.network.onnx.node import Source
from masktools.network.onnx.reading import Pass, Rewrites
from masktools.network.operators import ARITHMETIC, OPERATORS
from masktools.network.operators.rules import same_shape


def with_any_batch_axis(rewrites: Rewrites) -> Rewrites:
    """Return rewrites that also read tensors whose batch is not their first axis.

    Parameters
    ----------
    rewrites : mapping of str to callable
        For tensors whose batch is the first axis.
    """
    return {op: _Rewrite(op, rewrite) for op, rewrite in rewrites.items()}


@dataclass(frozen=True)
class _Rewrite:
    """The rewrite of one operator, wherever the batch is."""

    op: str
    plain: Rewrite

    def __call__(self, ctx: Pass, source: Source) -> None:
        turned = [name for name in source.inputs if name in ctx.turned]
        handler = _HANDLERS.get(self.op)
        if self.op in OPERATORS and OPERATORS[self.op].shape is same_shape:
            handler = unary
        moves = self.op in ("Flatten", "Reshape", "Transpose", "Unsqueeze")
        if handler is None or not (turned or moves) or not handler(ctx, source, self.plain):
            source.inputs = [ctx.write_out(name, source.name) for name in source.inputs]
            self.plain(ctx, source)


_POOLS = ("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool")
_HANDLERS: Mapping[str, Callable[[Pass, Source, Rewrite], bool]] = {
    **dict.fromkeys((*ARITHMETIC, "And", "Less", "LessOrEqual", "Or", "Xor"), arithmetic),
    **dict.fromkeys(("Abs", "Cast", "Clip", "Dropout", "Identity", "Neg", "Not"), unary),
    **dict.fromkeys(("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"), reduction),
    **dict.fromkeys(_POOLS, pool),
    "BatchNormalization": batch_norm,
    "Concat": concat,
    "Conv": conv,
    "Expand": repeat,
    "Flatten": flatten,
    "Gather": gather,
    "GatherND": gather_nd,
    "Gemm": product,
    "LayerNormalization": along("-1", "all"),
    "MatMul": product,
    "Pad": pad,
    "Reshape": reshape,
    "Slice": cut,
    "Softmax": softmax,
    "Split": along("0"),
    "SplitToSequence": sequence,
    "Squeeze": squeeze,
    "Tile": repeat,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
