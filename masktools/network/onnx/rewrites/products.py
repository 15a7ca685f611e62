"""How ONNX's matrix products are written in the normal form: as layers, or MatMul of values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.network.onnx.forms import SAME, TRANSPOSED
from masktools.network.onnx.node import Source
from masktools.network.onnx.reading import Pass
from masktools.network.onnx.rewrites.einsum import matmul_terms, product


def gemm(ctx: Pass, source: Source) -> None:
    """Write Gemm with its weight as (out, in), `alpha` in it, and only a row as bias."""
    weight, x = ctx.constant(source.input(1)), source.inputs[0]
    alpha, beta = source.take("alpha", 1.0), source.take("beta", 1.0)
    turned = source.take("transB", 0)
    if source.take("transA", 0):
        x = _transposed(ctx, source, x)
    if weight is None:
        made, addend = source.outputs[0], source.input(2) if beta else ""
        factor = source.inputs[1]
        factor = _transposed(ctx, source, factor) if turned else factor
        product = ctx.fresh(f"{made}_product") if addend or alpha != 1 else made
        _emit_matmul(ctx, source, x, factor, product)
        if alpha != 1:
            plain, product = product, ctx.fresh(f"{made}_scaled") if addend else made
            scale = ctx.keep(np.array(alpha), f"{source.name}.alpha")
            ctx.emit("Mul", [plain], product, f"{source.name}_alpha", [scale])
        if addend:
            _add(ctx, source, product, addend, beta)
        return
    weight = weight if turned else weight.T
    if alpha != 1:
        weight = np.float32(alpha) * weight
    layer = ctx.keep_weight(source, weight, SAME if turned else TRANSPOSED)
    kept, made, rows = [f"{layer}.weight"], source.outputs[0], len(weight)
    addend = source.input(2) if beta else ""
    bias = ctx.constant(addend)
    if bias is not None and (bias.size == 1 or bias.shape[-1] == bias.size == rows):
        whole = np.broadcast_to(np.float32(beta) * bias.ravel(), (rows,))
        kept.append(ctx.keep(whole, f"{layer}.bias"))
        addend = ""
    product = ctx.fresh(f"{made}_product") if addend else made
    ctx.emit("Gemm", [x], product, source.name, kept, transB=1)
    if addend:
        _add(ctx, source, product, addend, beta)


def _transposed(ctx: Pass, source: Source, x: str) -> str:
    """Return a value with its last two axes in the other order."""
    turned, rank = ctx.fresh(f"{x}_transposed"), len(ctx.shape(x))
    perm = (*range(rank - 2), rank - 1, rank - 2)
    ctx.emit("Transpose", [x], turned, f"{source.name}_transpose", perm=perm)
    return turned


def _add(ctx: Pass, source: Source, product: str, addend: str, beta: float) -> None:
    """Add the third input of a Gemm, times beta, to its product."""
    made, constant = source.outputs[0], ctx.constant(addend)
    if constant is not None:
        whole = ctx.keep(np.float32(beta) * constant, f"{source.name}.C")
        ctx.emit("Add", [product], made, f"{source.name}_add", [whole])
        return
    if beta != 1:
        factor, plain = ctx.keep(np.array(beta), f"{source.name}.beta"), addend
        addend = ctx.fresh(f"{made}_addend")
        ctx.emit("Mul", [plain], addend, f"{source.name}_scale", [factor])
    ctx.emit("Add", [product, addend], made, f"{source.name}_add")


def matmul(ctx: Pass, source: Source) -> None:
    """Write a product with a constant as the layer that it is, one of two values as MatMul."""
    weight, made = ctx.constant(source.input(1)), source.outputs[0]
    left = ctx.constant(source.input(0))
    if left is not None:
        _with_stack(ctx, source, 0, left)
        return
    if weight is None:
        _emit_matmul(ctx, source, source.inputs[0], source.inputs[1], made)
        return
    rank = len(ctx.shape(source.inputs[0]))
    if (
        weight.ndim > 2
        and rank >= weight.ndim
        and weight.size == weight[(0,) * (weight.ndim - 2)].size
    ):
        weight = weight.reshape(weight.shape[-2:])  # One matrix for all.
    if weight.ndim > 2:
        _with_stack(ctx, source, 1, weight)
        return
    if rank < 2:
        raise source.refuse(f"a value of {rank} axis has no batch beside what is multiplied")
    vector = weight.ndim == 1
    layer = ctx.keep_weight(source, np.atleast_2d(weight.T), SAME if vector else TRANSPOSED)
    product = ctx.fresh(f"{made}_product") if vector else made
    kept = [f"{layer}.weight"]
    ctx.emit("Gemm", source.inputs[:1], product, source.name, kept, transB=1)
    if vector:
        ctx.emit("Squeeze", [product], made, f"{source.name}_squeeze", axes=(rank - 1,))


def _with_stack(ctx: Pass, source: Source, index: int, constant: NDArray[Any]) -> None:
    """Multiply by a constant left factor, or by a constant matrix for each place of some axes."""
    rank = len(ctx.shape(source.inputs[1 - index]))
    if not 2 <= constant.ndim <= rank or rank < 3:
        raise source.refuse(
            f"factors of {rank} and {constant.ndim} axes, the second of a constant: only a value "
            "of three axes or more and a constant of two to as many are supported"
        )
    product(ctx, source, *matmul_terms(rank, constant.shape, left=index == 0))


def _emit_matmul(ctx: Pass, source: Source, a: str, b: str, made: str) -> None:
    ctx.emit("MatMul", [a, b], made, source.name)
