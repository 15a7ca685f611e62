"""How ONNX's layers, pools and other windows are written in the normal form."""

from __future__ import annotations

from math import prod
from typing import Any

from masktools.network.graph import Node, Shape
from masktools.network.onnx.node import Source
from masktools.network.onnx.reading import Pass
from masktools.network.onnx.rewrites.elementwise import Steps, powered
from masktools.network.shapes import output_shapes
from masktools.network.sizes import largest


def _window(
    ctx: Pass, source: Source, kernel: tuple[int, ...], x: str = ""
) -> dict[str, tuple[int, ...]]:
    """Return strides, dilations and explicit pads of a window over the first input, or over `x`."""
    size = ctx.shape(x or source.inputs[0])[2:]
    axes = len(kernel)
    if axes not in (1, 2) or len(size) != axes:
        raise source.refuse(
            f"{len(size)} spatial axes and a window of {axes}: one or two are supported"
        )
    strides = tuple(source.take("strides", (1,) * axes))
    dilations = tuple(source.take("dilations", (1,) * axes))
    pads = tuple(source.take("pads", (0,) * 2 * axes))
    auto = source.take("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            largest((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
            for n, s, d, k in zip(size, strides, dilations, kernel, strict=True)
        ]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = (*less, *more) if auto == "SAME_UPPER" else (*more, *less)
    elif auto == "VALID":
        pads = (0,) * 2 * axes
    elif auto != "NOTSET":
        raise source.refuse(f"attribute auto_pad={auto!r} is not supported")
    return {"strides": strides, "dilations": dilations, "pads": pads}


def conv(ctx: Pass, source: Source) -> None:
    """Write Conv with explicit pads, weight and bias named by its layer."""
    weight = ctx.constant_input(source, 1, "the weight")
    kernel = weight.shape[2:]
    if tuple(source.take("kernel_shape", kernel)) != kernel:
        raise source.refuse(f"attribute kernel_shape differs from its weight's {kernel}")
    window = _window(ctx, source, kernel)
    layer = ctx.keep_weight(source, weight)
    kept = [f"{layer}.weight"]
    if source.input(2):
        kept.append(ctx.keep(ctx.constant_input(source, 2, "the bias"), f"{layer}.bias"))
    group = source.take("group", 1)
    ctx.emit("Conv", source.inputs[:1], source.outputs[0], source.name, kept, **window, group=group)


def pool(ctx: Pass, source: Source) -> None:
    """Write MaxPool or AveragePool with every attribute and explicit pads."""
    if any(source.outputs[1:]):
        raise source.refuse(
            f"output {source.outputs[1]!r}, the places of the maxima, is read: not supported"
        )
    source.take("storage_order")  # Of the second output alone.
    kernel = tuple(source.attributes.get("kernel_shape", ()))
    size = ctx.shape(source.inputs[0])[2:]
    if len(kernel) == len(size) == 3 and kernel[1:] == (1, 1):
        _pool_first_axis(ctx, source, size)
        return
    _emit_pool(ctx, source, source.inputs[0], source.outputs[0])


def _pool_first_axis(ctx: Pass, source: Source, size: Shape) -> None:
    """Write a pool along the first of three axes: on images whose columns are the two others.

    So PyTorch's exporters write LocalResponseNorm, the channels as the first axis.
    """
    x, y = source.inputs[0], source.outputs[0]
    kernel, strides, dilations = (
        tuple(source.take(name, (1, 1, 1))) for name in ("kernel_shape", "strides", "dilations")
    )
    pads = tuple(source.take("pads", (0,) * 6))
    known = (len(strides), len(dilations), len(pads)) == (3, 3, 6)
    if not known or strides[1:] != (1, 1) or any(pads[1:3] + pads[4:]):
        raise source.refuse(
            f"strides={strides}, pads={pads}: of three spatial axes only the first may be pooled"
        )
    source.attributes |= {
        "kernel_shape": kernel[:2],
        "strides": strides[:2],
        "dilations": dilations[:2],
        "pads": (pads[0], 0, pads[3], 0),
    }
    flat, made = ctx.fresh(f"{y}_columns"), ctx.fresh(f"{y}_pooled")
    ctx.emit(
        "Reshape", [x], flat, f"{source.name}_join",
        shape=(0, ctx.shape(x)[1], size[0], size[1] * size[2]),
    )  # fmt: skip
    _emit_pool(ctx, source, flat, made)
    after = (0, *ctx.shape(made)[1:3], *size[1:])
    ctx.emit("Reshape", [made], y, f"{source.name}_part", shape=after)


def _emit_pool(ctx: Pass, source: Source, x: str, y: str) -> None:
    kernel = tuple(source.take("kernel_shape", ()))
    attributes = {
        "kernel_shape": kernel,
        **_window(ctx, source, kernel, x),
        "ceil_mode": source.take("ceil_mode", 0),
    }
    if source.op == "AveragePool":
        attributes["count_include_pad"] = source.take("count_include_pad", 0)
    ctx.emit(source.op, [x], y, source.name, **attributes)


def lp_pool(ctx: Pass, source: Source) -> None:
    """Write LpPool as the root of a sum of powers: an average times the size of the window."""
    order = float(source.take("p", 2))
    kernel = tuple(source.take("kernel_shape", ()))
    ceil = source.take("ceil_mode", 0)
    mean = ctx.fresh(f"{source.outputs[0]}_mean")
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        **_window(ctx, source, kernel),
        "ceil_mode": ceil,
        "count_include_pad": 1,
    }
    x = _size_to_the(ctx, source, order)
    if ceil:
        attributes |= {"pads": _to_the_end(ctx, source, x, attributes), "ceil_mode": 0}
    ctx.emit("AveragePool", [x], mean, source.name, **attributes)
    summed = Steps(ctx, source).add("Mul", mean, float(prod(kernel)))
    _end_with_root(ctx, source, summed, order)


def _to_the_end(ctx: Pass, source: Source, x: str, attributes: dict[str, Any]) -> tuple[int, ...]:
    """Return pads as far as the last windows of a pool with `ceil_mode` hang over the image.

    An average leaves out what lies beyond the padding; of a sum of powers zeros change nothing.
    """
    pool = Node(source.name, "AveragePool", (x,), ("",), attributes)
    shape, counts = ctx.shape(x)[2:], output_shapes(pool, {x: ctx.shape(x)})[0][2:]
    before = attributes["pads"][: len(shape)]
    ends = zip(
        counts, attributes["strides"], attributes["dilations"], attributes["kernel_shape"],
        shape, before, strict=False,  # What has too many entries is refused with the node.
    )  # fmt: skip
    behind = (largest((c - 1) * s + d * (k - 1) + 1 - n - p, 0) for c, s, d, k, n, p in ends)
    return (*before, *behind)


def global_lp_pool(ctx: Pass, source: Source) -> None:
    """Write GlobalLpPool as the root of the sum of powers over all axes of the image."""
    order = float(source.take("p", 2))
    axes = tuple(range(2, len(ctx.shape(source.inputs[0]))))
    if not axes:
        raise source.refuse("there is no image")
    summed = ctx.fresh(f"{source.outputs[0]}_sum")
    powers = [_size_to_the(ctx, source, order)]
    ctx.emit("ReduceSum", powers, summed, source.name, axes=axes, keepdims=1)
    _end_with_root(ctx, source, summed, order)


def _size_to_the(ctx: Pass, source: Source, order: float) -> str:
    """Return the power of the size of each number."""
    x = source.inputs[0]
    if order < 1:
        raise source.refuse(f"attribute p={order:g} must be at least 1")
    x = x if order % 2 == 0 else Steps(ctx, source).add("LeakyRelu", x, alpha=-1)
    return x if order == 1 else powered(ctx, source, x, order)


def _end_with_root(ctx: Pass, source: Source, x: str, order: float) -> None:
    ctx.remove(source, x if order == 1 else powered(ctx, source, x, 1 / order))


def local_response(ctx: Pass, source: Source) -> None:
    """Write LRN: each number by a power of the mean square of its neighbours among the channels."""
    alpha, beta = source.take("alpha", 1e-4), source.take("beta", 0.75)
    bias, size = source.take("bias", 1.0), source.take("size", 0)
    x, y, shape = source.inputs[0], source.outputs[0], ctx.shape(source.inputs[0])
    if len(shape) < 2 or size < 1:
        raise source.refuse(f"attribute size={size} for a value of shape {shape}")
    steps = Steps(ctx, source)
    column, mean, spread = (ctx.fresh(f"{y}_{end}") for end in ("column", "mean", "spread"))
    # The channels become the rows of an image.
    square = steps.add("Mul", x, x)
    ctx.emit("Reshape", [square], column, source.name, shape=(0, 1, shape[1], -1))
    ctx.emit(
        "AveragePool", [column], mean, source.name, kernel_shape=(size, 1), strides=(1, 1),
        dilations=(1, 1), pads=((size - 1) // 2, 0, size // 2, 0), ceil_mode=0, count_include_pad=1,
    )  # fmt: skip
    ctx.emit("Reshape", [mean], spread, source.name, shape=(0, *shape[1:]))
    scale = steps.add("Add", steps.add("Mul", spread, float(alpha)), float(bias))
    steps.end("Div", x, powered(ctx, source, scale, float(beta)))
